"""Whichever process is killed or hangs, an asynchronous run goes on to its end, and its counts are exact."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from distributed_maddpg.config import MADDPGConfig

ray = pytest.importorskip("ray")
from tests.support.processes import gone  # noqa: E402
from tests.support.watched import Watched, counters, updates_earned  # noqa: E402

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

_INTERVAL_S = 1.0
_MAX_FRAGMENTS = 2 * 16
"""A worker's calls under way, times the fragments of one."""
_WORKERS = ("rollout worker 0", "rollout worker 1")


@pytest.fixture
def start(make_runner: Callable[..., Any], endless: Callable[..., MADDPGConfig]) -> Callable[..., Watched]:
    """Return a function that starts a run with two workers and trains until it has something to lose."""

    def started(**changes: Any) -> Watched:
        settings = {"num_workers": 2, "replay": {"capacity": 200_000}, **changes}
        settings["ray"] = {"timeout_s": 60.0, "snapshot_interval_s": _INTERVAL_S, **changes.get("ray", {})}
        watched = Watched(make_runner(endless(**settings)))
        supervisor = watched.runner._supervisor
        watched.until(lambda: watched.runner.pacer.updates >= 50 and supervisor.all_ready)
        watched.until(lambda: supervisor.snapshots and supervisor.snapshots[0]["updates"] > 0)
        return watched

    return started


def _kinds(names: tuple[str, ...]) -> dict[str, int]:
    found: dict[str, int] = {}
    for process in names:
        kind = process.rstrip(" 01").replace(" ", "_")
        found[kind] = found.get(kind, 0) + 1
    return found


def _check_end(watched: Watched, names: tuple[str, ...]) -> dict[str, Any]:
    """Finish the run; check its counts and what it tells; return `fault_tolerance`."""
    runner, version = watched.runner, watched.runner._latest_version
    total = watched.finish()
    assert runner.pacer.env_steps == total
    assert runner.pacer.updates == updates_earned(runner, total)
    [result] = runner.results()
    faults = result["fault_tolerance"]
    assert result["num_env_steps_sampled_lifetime"] == total
    assert result["num_updates_lifetime"] == runner.pacer.updates
    assert {name: faults[name] for name in counters()} == counters(**_kinds(names))
    assert faults["num_healthy_workers"] == 2
    assert sorted(watched.happened("lost")) == sorted(watched.happened("recovered")) == sorted(names)
    lost = len([process for process in names if process in _WORKERS])
    stuck = 2 if "replay buffer" in names else lost  # a push of either may have failed with it
    assert 0 <= faults["env_steps_lost"] <= stuck * _MAX_FRAGMENTS * 32
    state = runner.learner_state(0)
    assert state["updates"] == runner.pacer.updates
    assert all(np.isfinite(array).all() for array in state.values())
    assert watched.versions == sorted(watched.versions), "the learner's version never goes back"
    acting = [watched.ask(process, lambda actor: actor._weights_version) for process in _WORKERS]
    assert min(acting) > version, "weights arrive after the loss"
    return dict(faults)


@pytest.mark.parametrize(
    "names", [_WORKERS[1:], pytest.param(_WORKERS, marks=pytest.mark.slow)], ids=["one", "all"]
)
def test_killed_workers_are_replaced_by_others(start: Callable[..., Watched], names: tuple[str, ...]) -> None:
    watched = start()
    first = watched.pids()
    killed = watched.hit(signal.SIGKILL, *names)
    seconds = watched.until_back(*names)
    print(f"{len(names)} rollout workers back after {seconds:.1f} s")
    faults = _check_end(watched, names)
    assert faults["updates_lost"] == 0
    kept = {process: number for process, number in first.items() if process not in names}
    assert kept == {process: number for process, number in watched.pids().items() if process not in names}
    assert not set(killed.values()) & set(watched.pids().values())
    # What a successor sees is its own: the numbers that this environment shows are never the same twice.
    stored, inserted = watched.rows(), watched.runner._supervisor._rings[0].inserted
    assert len(stored) == inserted >= watched.runner.pacer.env_steps
    assert len(np.unique(stored[:, :3], axis=0)) == len(stored)


def test_a_killed_learner_goes_on_from_its_snapshot(start: Callable[..., Watched]) -> None:
    watched = start()
    watched.until(lambda: watched.runner.pacer.updates > 300)
    restored = _states_of_restored_learners(watched)
    safe = watched.updates_before(_INTERVAL_S + 2.0)
    before, version = watched.runner.pacer.updates, watched.runner._latest_version
    [killed] = watched.hit(signal.SIGKILL, "learner").values()
    seconds = watched.until_back("learner")
    print(f"learner back after {seconds:.1f} s")
    ((snapshot, state),) = restored
    for name, array in ray.get(state, timeout=300).items():
        if name != "weights_version":
            np.testing.assert_array_equal(array, snapshot[name], err_msg=name)
    assert watched.runner.learner_state(0)["weights_version"] >= version
    faults = _check_end(watched, ("learner",))
    assert faults["updates_lost"] <= before + 2 * watched.runner._updates_per_call - safe
    print(f"{faults['updates_lost']} of {before} updates lost")
    assert watched.pids()["learner"] != killed


def _states_of_restored_learners(watched: Watched) -> list[tuple[Any, Any]]:
    """Return a list that gets the snapshot and the first state of each learner restored from now on."""
    found: list[tuple[Any, Any]] = []
    supervisor = watched.runner._supervisor
    start_restoring = supervisor._start_restoring

    def note(process: str, actor: Any) -> list[Any]:
        calls = start_restoring(process, actor)
        if process == "learner":
            found.append((supervisor.snapshots[0], actor.get_state.remote(0)))
        return calls

    supervisor._start_restoring = note
    return found


def test_a_killed_replay_buffers_transitions_survive_it(start: Callable[..., Watched]) -> None:
    watched = start()
    pids = watched.pids()
    before, inserted = watched.runner._supervisor._rings[0].read_from(0)
    watched.hit(signal.SIGKILL, "replay buffer")
    seconds = watched.until_back("replay buffer")
    print(f"replay buffer back after {seconds:.1f} s")
    assert [event.message.split(" s", 1)[1] for event in watched.events if event.kind == "recovered"] == [
        ", with its transitions"
    ]
    faults = _check_end(watched, ("replay buffer",))
    assert faults["updates_lost"] == 0
    now = watched.pids()
    assert {process for process in now if now[process] != pids[process]} == {"replay buffer"}
    after = watched.rows()
    np.testing.assert_array_equal(after[:inserted], before)
    assert len(after) >= watched.runner.pacer.env_steps
    sampled_from = watched.ask("learner", lambda actor: actor._shared[0].inserted)
    assert sampled_from == len(after) == watched.runner._supervisor._rings[0].inserted


def test_everybody_killed_at_once_comes_back(start: Callable[..., Watched]) -> None:
    watched = start()
    before, inserted = watched.runner._supervisor._rings[0].read_from(0)
    names = (*_WORKERS, "learner", "replay buffer")
    watched.hit(signal.SIGKILL, *names)
    print(f"all back after {watched.until_back(*names):.1f} s")
    _check_end(watched, names)
    after = watched.rows()
    np.testing.assert_array_equal(after[:inserted], before)
    assert watched.ask("learner", lambda actor: actor._shared[0].inserted) == len(after)


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)],
    ids=["killed", "stopped"],
)
def test_an_evaluation_whose_process_is_lost_is_made_again(
    start: Callable[..., Watched], number: int
) -> None:
    pacing = {"total_env_steps": 10**9, "report_interval_env_steps": 64, "evaluation_interval_env_steps": 640}
    watched = start(pacing=pacing, evaluation={"episodes": 20})
    runner = watched.runner
    watched.until(lambda: bool(runner._evaluations[0]))  # its process is up
    runner.pop_evaluations(0)
    if number == signal.SIGKILL:  # in the middle
        object.__setattr__(runner._config.evaluation, "episodes", 4000)
        watched.until(lambda: runner._supervisor.num_pending("evaluator") > 0)
        [lost] = watched.hit(number, "evaluator").values()
    else:
        watched.until(lambda: not runner._supervisor.num_pending("evaluator"))
        [lost] = watched.hit(number, "evaluator").values()
        object.__setattr__(runner._config.ray, "timeout_s", 5.0)  # for this evaluation alone
        watched.until(lambda: runner._supervisor.num_pending("evaluator") > 0)
        object.__setattr__(runner._config.ray, "timeout_s", 60.0)
    asked = runner.pacer.evaluation_number
    object.__setattr__(runner._config.evaluation, "episodes", 20)
    watched.until_back("evaluator")
    assert gone([lost], within_s=120)
    runner.pop_evaluations(0)
    watched.until(lambda: bool(runner._evaluations[0]))
    [again, *_] = runner.pop_evaluations(0)
    assert runner.pacer.evaluation_number > asked
    assert again.updates > 0 and len(again.card.episodes.lengths) == 20
    assert watched.happened("lost") == watched.happened("recovered") == ["evaluator"]
    [result] = runner.results()
    assert result["fault_tolerance"]["num_evaluator_restarts"] == 1


@pytest.mark.parametrize("process", [_WORKERS[0], "learner", "replay buffer"])
def test_a_stopped_process_is_replaced_and_ended(start: Callable[..., Watched], process: str) -> None:
    watched = start(ray={"timeout_s": 48.0})
    stopped = watched.hit(signal.SIGSTOP, process)
    started = time.monotonic()
    watched.until(lambda: process in watched.happened("lost"))
    silent_s = time.monotonic() - started
    watched.until_back(process)
    assert gone(stopped.values(), within_s=120)
    print(f"{process}: noticed after {silent_s:.1f} s, back after {time.monotonic() - started:.1f} s")
    assert silent_s < 48.0 / 2
    _check_end(watched, (process,))
    [line] = [event.message for event in watched.events if event.kind == "lost"]
    assert line.startswith(f"{process} did not answer within ")
    deadline = time.monotonic() + 120
    while ray.available_resources().get("CPU") != 1.0 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ray.available_resources().get("CPU") == 1.0, "of 4, two workers and the learner have one each"


def test_a_learner_that_did_not_meet_the_new_replay_buffer_is_told_of_it_again(
    start: Callable[..., Watched],
) -> None:
    watched = start()
    watched.ask("learner", lambda actor: setattr(actor, "_timeout_s", 0.0))  # every answer comes too late
    watched.hit(signal.SIGKILL, "replay buffer")
    watched.until(lambda: "replay buffer" in watched.happened("recovered"))
    end = time.monotonic() + 1.0
    watched.until(lambda: time.monotonic() > end)
    watched.ask("learner", lambda actor: setattr(actor, "_timeout_s", 30.0))
    _check_end(watched, ("replay buffer",))


def _without_sharing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the driver reach no ring, as where the replay buffer is on another node."""
    from distributed_maddpg.runtime import supervisor

    monkeypatch.setattr(supervisor.Ring, "attach", staticmethod(lambda address: None))


def test_where_memory_is_out_of_reach_copied_transitions_come_back(
    start: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    _without_sharing(monkeypatch)
    watched = start()
    supervisor = watched.runner._supervisor
    watched.until(lambda: supervisor._copied_up_to[0] > 0)
    watched.until(lambda: not supervisor.num_pending("replay buffer"))
    copied = supervisor._row_copies[0].read_from(0)[0]
    np.testing.assert_array_equal(watched.rows()[: len(copied)], copied)
    before, env_steps = watched.updates, watched.runner.pacer.env_steps
    assert before and supervisor._rings == [None]
    watched.hit(signal.SIGKILL, "replay buffer")
    watched.until_back("replay buffer")
    [line] = [event.message for event in watched.events if event.kind == "recovered"]
    rows = int(line.split(", with ")[1].split(" ")[0].replace(",", ""))
    assert rows >= len(copied) and line.endswith(" transitions of a snapshot")
    after = watched.rows()
    np.testing.assert_array_equal(after[: len(copied)], copied)
    print(f"{rows} of {env_steps} transitions came back")
    _check_end(watched, ("replay buffer",))


def test_transitions_that_are_gone_are_collected_anew_before_learning_goes_on(
    start: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    _without_sharing(monkeypatch)
    watched = start()
    supervisor, runner = watched.runner._supervisor, watched.runner
    supervisor._snapshot_interval_s = float("inf")  # nothing more is copied
    watched.until(lambda: not supervisor.num_pending("replay buffer"))
    watched.until(lambda: runner.pacer.updates > int(supervisor.snapshots[0]["updates"]) + 100)
    supervisor._row_copies[0].clear(0)
    watched.hit(signal.SIGKILL, "learner", "replay buffer")
    watched.until_back("learner", "replay buffer")
    beginning = "replay buffer was replaced after "
    [line] = [event.message for event in watched.events if event.message.startswith(beginning)]
    assert line.endswith(", without its transitions")
    _check_end(watched, ("learner", "replay buffer"))
