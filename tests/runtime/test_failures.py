"""What cannot be mended ends the run soon with one line that names it; nothing of it stays behind."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distributed_maddpg import MADDPG, MADDPGConfig
from distributed_maddpg.checkpoint.folder import Checkpoint, load_checkpoint
from distributed_maddpg.errors import BadInput, TrainingError, without_place
from distributed_maddpg.run.progress import Progress
from distributed_maddpg.run.training import train_run
from distributed_maddpg.types import FaultEvent
from tests.support.target import target_config

ray = pytest.importorskip("ray")
from tests.support.processes import go_on, gone, pid  # noqa: E402

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

_FAILING = "tests.support.failing:parallel_env"


def _failing(timeout_s: float = 60.0, **kwargs: Any) -> MADDPGConfig:
    return MADDPGConfig.from_dict(
        {
            "num_workers": 2,
            "env": {"id": _FAILING, "kwargs": kwargs},
            "algorithm": {"policy_head": "auto"},
            "exploration": {"kind": "auto"},
            "ray": {"timeout_s": timeout_s},
        },
        target_config(),
    )


def _until_it_fails(runner: Any) -> str:
    with pytest.raises(TrainingError) as raised:
        go_on(lambda: runner.run(lambda: False))
    return str(raised.value)


def test_an_environment_that_raises_at_once_ends_the_run_in_one_line(caplog: Any) -> None:
    with pytest.raises(TrainingError) as raised, MADDPG(_failing(fail_at=0, spared=os.getpid())) as algo:
        algo.train()
    assert caplog.messages == [], "it is not tried again"
    message = str(raised.value)
    assert re.fullmatch(
        "rollout worker [01] died: RuntimeError: boom at step 0, in copy 0 when it was reset", message
    )
    assert "\n" not in message


def test_too_few_workers_for_too_long_end_the_run_with_a_checkpoint(tmp_path: Path) -> None:
    config = _failing(timeout_s=30.0, fail_at=0, how="sleep", spared=os.getpid())
    message, checkpoint = _run_until_it_fails(config, tmp_path / "run", StringIO())
    ran = "only 0 of 2 rollout workers ran for 30 s (ray.timeout_s)"
    assert message == f"{ran}; the run needs 1 (ray.min_workers)"
    assert checkpoint.env_steps == 0


@pytest.mark.parametrize(
    ("victim", "name"),
    [("worker", "rollout worker 1"), ("learner", "learner"), ("replay", "replay buffer")],
)
def test_a_killed_process_ends_a_run_in_lock_step_by_name(
    make_runner: Callable[..., Any], endless: Callable[..., MADDPGConfig], victim: str, name: str
) -> None:
    runner = make_runner(endless(num_workers=2, sync=True))
    processes = runner._processes
    actors = {"worker": processes.workers[1], "learner": processes.learner, "replay": processes.replay}
    pids = [pid(actor) for actor in (*processes.workers, processes.learner, processes.replay)]
    runner.run(lambda: False)
    os.kill(pid(actors[victim]), signal.SIGKILL)
    started = time.monotonic()
    message = _until_it_fails(runner)
    assert message.startswith(f"{name} died: ") and "\n" not in message
    assert time.monotonic() - started < 300
    runner.close()
    assert gone(pids, within_s=120)


@pytest.mark.parametrize(("victim", "name"), [("worker", "rollout worker 0"), ("replay", "replay buffer")])
def test_a_silent_process_ends_a_run_in_lock_step_by_name(
    make_runner: Callable[..., Any], endless: Callable[..., MADDPGConfig], victim: str, name: str
) -> None:
    runner = make_runner(endless(num_workers=1, sync=True))
    processes = runner._processes
    stopped = pid(processes.workers[0] if victim == "worker" else processes.replay)
    pids = [pid(actor) for actor in (*processes.workers, processes.learner, processes.replay)]
    runner.run(lambda: False)
    # Only now, since the start may take longer. Whoever waits for the replay buffer gives up first.
    object.__setattr__(runner._config.ray, "timeout_s", 20.0 if victim == "worker" else 60.0)
    for actor in (*processes.workers, processes.learner):
        ray.get(actor.__ray_call__.remote(lambda self: setattr(self, "_timeout_s", 3.0)))
    os.kill(stopped, signal.SIGSTOP)
    try:
        started = time.monotonic()
        message = _until_it_fails(runner)
        assert message.startswith(f"{name} did not answer within ")
        assert time.monotonic() - started < 300
        runner.close()
        assert gone(pids, within_s=120)
    finally:
        if not gone([stopped], within_s=0.1):
            os.kill(stopped, signal.SIGCONT)


@pytest.mark.slow
@pytest.mark.parametrize("sync", [True, False])
def test_processes_that_do_not_start_in_time_are_named_and_ended(sync: bool) -> None:
    config = MADDPGConfig.from_dict(
        {"sync": sync}, _failing(timeout_s=20.0, fail_at=0, how="sleep", spared=os.getpid())
    )
    line = (
        r"^rollout worker 0 did not answer within 20 s$"
        if sync
        else r"^only 0 of 2 rollout workers ran for 20 s \(ray.timeout_s\); the run needs 1 \(ray.min_"
    )
    with pytest.raises(TrainingError, match=line), MADDPG(config) as algo:
        go_on(algo.train)
    deadline = time.monotonic() + 120
    while ray.available_resources().get("CPU") != 4.0 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ray.available_resources().get("CPU") == 4.0, "their CPUs are free again"


@pytest.mark.parametrize(
    ("settings", "field"),
    [({"sync": True}, "num_workers"), ({"ray": {"min_workers": 4}}, "ray.min_workers")],
)
def test_fewer_cpus_than_workers_that_are_needed_are_refused(settings: dict[str, Any], field: str) -> None:
    remedy = (
        r"needs 5 CPUs together with the learner, but the cluster has 4 \(.+: 4 CPUs\); lower it or add nodes"
    )
    with pytest.raises(BadInput, match=f"{field} = 4: {remedy}"):
        MADDPG(target_config(num_workers=4, **settings)).start()


def test_workers_that_find_no_cpu_are_done_without(
    make_runner: Callable[..., Any], endless: Callable[..., MADDPGConfig], caplog: Any
) -> None:
    runner = make_runner(endless(num_workers=5, ray={"min_workers": 2, "timeout_s": 60.0}))
    assert caplog.messages == [
        "the cluster has 4 CPUs: of 5 rollout workers, those without a CPU start when nodes are added"
    ]
    steps = [0] * 5
    collected = runner._on_collected

    def count(reports: Any) -> None:
        steps[reports[0].worker] += reports[0].env_steps
        collected(reports)

    runner._on_collected = count
    deadline = time.monotonic() + 300
    while runner._supervisor.healthy_workers < 3 or sum(steps) < 3200:
        assert time.monotonic() < deadline
        runner.run(lambda: False)
    assert runner._supervisor.healthy_workers == 3 == sum(own > 0 for own in steps)
    [result] = runner.results()
    assert result["fault_tolerance"]["num_healthy_workers"] == 3
    runner.drain()
    state = runner.capture(0, with_replay=False)
    assert state.env_steps == runner.pacer.env_steps == sum(steps)
    assert len({name.partition("/")[0] for name in state.stages if name.startswith("worker_")}) == 3


def _run_until_it_fails(config: MADDPGConfig, run_dir: Path, said: StringIO) -> tuple[str, Checkpoint]:
    """Run the whole command's work; return the error's line and the checkpoint that is left."""
    with pytest.raises(TrainingError) as raised:
        train_run(config, run_dir, Progress(said))
    [path] = (run_dir / "checkpoints").iterdir()
    message = str(raised.value)
    assert "\n" not in message
    return message, load_checkpoint(path)


def test_an_environment_that_raises_the_same_error_again_and_again_ends_the_run(tmp_path: Path) -> None:
    config = MADDPGConfig.from_dict({"num_workers": 1}, _failing(fail_at=60))
    message, checkpoint = _run_until_it_fails(config, tmp_path / "run", StringIO())
    error = "the same error 5 times: rollout worker 0 failed: RuntimeError: boom at step 60"
    assert re.fullmatch(rf"{error}, in copy \d at step \d+ of its episode", message)
    # Each life stores fragments of 4 x 8 steps, and counts those of calls that ended well.
    assert 0 < checkpoint.env_steps <= 5 * 59 * 8
    assert checkpoint.replay is not None and checkpoint.replay.num_rows >= checkpoint.env_steps


@pytest.mark.slow
def test_an_environment_that_raises_at_its_first_steps_again_and_again_ends_the_run(tmp_path: Path) -> None:
    config = MADDPGConfig.from_dict({"num_workers": 1}, _failing(fail_at=2, spared=os.getpid()))
    started = time.monotonic()
    message, checkpoint = _run_until_it_fails(config, tmp_path / "run", StringIO())
    error = (
        " 5 times: rollout worker 0 failed: RuntimeError: boom at step 2, in copy 0 at step 2 of its episode"
    )
    assert message.endswith(error)
    assert time.monotonic() - started >= 0 + 1 + 2 + 4, "its successors come after growing pauses"
    assert checkpoint.env_steps == 0


def test_an_environment_that_raises_once_in_a_while_is_survived(tmp_path: Path) -> None:
    config = MADDPGConfig.from_dict(
        {"pacing": {"total_env_steps": 6400}}, _failing(fail_at=30, folder=str(tmp_path), times=3)
    )
    with MADDPG(config) as algo:
        events: list[FaultEvent] = []
        algo.on_event = events.append
        while not algo.finished:
            result = algo.train()
    assert result["num_env_steps_sampled_lifetime"] == 6400
    assert result["num_updates_lifetime"] == 1 + (6400 - 320) // 8
    assert result["fault_tolerance"]["updates_lost"] == 0
    lines = [event.message.split(" ", 3)[3] for event in events if event.kind == "lost"]
    assert 1 <= len(lines) <= 3 and {without_place(line) for line in lines} == {
        "failed: RuntimeError: boom at step 30"
    }
    assert len(list(tmp_path.iterdir())) == 3


def test_a_learner_that_diverges_ends_the_run_and_leaves_the_weights_from_before(tmp_path: Path) -> None:
    config = target_config(num_workers=1, algorithm={"critic_lr": 1e14, "actor_lr": 1e14})
    message, checkpoint = _run_until_it_fails(config, tmp_path / "run", StringIO())
    assert re.match(r"learner: \w+ of even_0, odd_0 stopped being finite between updates \d+ and ", message)
    assert all(np.isfinite(array).all() for array in checkpoint.state.values() if array.dtype.kind == "f")
    assert checkpoint.env_steps > 0
