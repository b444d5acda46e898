"""Both roots train alike; the asynchronous one keeps its counts and reports how far apart its parts are."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from distributed_maddpg import MADDPG, MADDPGConfig
from distributed_maddpg.checkpoint.saver import SavingOptions
from distributed_maddpg.pacing import Pacer
from distributed_maddpg.preflight import check
from distributed_maddpg.run.progress import Progress
from distributed_maddpg.run.resume import checkpoints_to_resume
from distributed_maddpg.run.training import RunOptions, train_seeds
from distributed_maddpg.trainer import train_together
from tests.support.target import target_config

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

_SHORT = {"total_env_steps": 960, "learning_starts": 320, "report_interval_env_steps": 320}


def _finish(config: MADDPGConfig) -> tuple[str, list[dict[str, Any]], Any]:
    """Train to the end; return digest of the weights, results and the last scorecard."""
    with MADDPG(config) as algo:
        results = []
        while not algo.finished:
            results.append(algo.train())
        return algo.weights_digest(), results, algo.evaluate(10)


def test_one_worker_in_lock_step_learns_what_the_serial_root_learns() -> None:
    config = target_config(pacing=_SHORT)
    over_ray = MADDPGConfig.from_dict({"num_workers": 1, "sync": True}, config)
    serial, ray = _finish(config), _finish(over_ray)
    assert serial[0] == ray[0]
    assert serial[2] == ray[2]


def test_runs_side_by_side_in_lock_step_learn_what_each_seed_does_alone() -> None:
    config = target_config(num_workers=1, sync=True, seed=4, pacing=_SHORT)
    runs = MADDPG.for_seeds(config, 2)
    with runs[0]:
        while not runs[0].finished:
            results = train_together(runs)
        got = [(run.weights_digest(), own, run.evaluate(10)) for run, own in zip(runs, results, strict=True)]
    for run, (digest, result, card) in zip(runs, got, strict=True):
        alone = _finish(MADDPGConfig.from_dict({"num_workers": 0}, run.config))
        assert (digest, card) == (alone[0], alone[2])
        assert result["env_runners"] == alone[1][-1]["env_runners"]


def test_asynchronous_runs_side_by_side_are_saved_at_one_moment_and_go_on_together(tmp_path: Path) -> None:
    pacing = {"total_env_steps": 12_000, "report_interval_env_steps": 400, "learning_starts": 320}
    pacing |= {"checkpoint_interval_env_steps": 2_000, "env_steps_per_update": 64}
    config = target_config(num_workers=2, pacing=pacing)
    train_seeds(config, 2, tmp_path, Progress(StringIO()), options=RunOptions(SavingOptions(keep=0)))
    folders = [tmp_path / f"seed_{seed}" / "checkpoints" for seed in (0, 1)]
    first, second = (sorted(path.name for path in folder.iterdir()) for folder in folders)
    assert first == second and len(first) > 2
    for folder in folders:
        shutil.rmtree(folder / "step_12000")
    checkpoints = checkpoints_to_resume(list(map(str, folders)), True, print)
    counts = [(each.env_steps, each.updates, each.replay and each.replay.inserted) for each in checkpoints]
    assert counts[0] == counts[1]
    summary = train_seeds(config, 2, tmp_path, Progress(StringIO()), checkpoints)
    assert summary["finished"] and summary["runs"][0]["updates"] == 1 + (12_000 - 320) // 64


def test_two_workers_in_lock_step_are_reproducible() -> None:
    pacing = {**_SHORT, "evaluation_interval_env_steps": 64}
    config = target_config(num_workers=2, sync=True, pacing=pacing)
    first, second = _finish(config), _finish(config)
    assert first[0] == second[0]
    assert [result["evaluation"] for result in first[1]] == [result["evaluation"] for result in second[1]]
    assert first[1][-1]["evaluation"], "they were made at all"


@pytest.fixture(scope="module")
def solved(ray_cluster: None) -> tuple[MADDPGConfig, list[dict[str, Any]], Any]:
    """Train asynchronously with two workers on a problem with a known best policy."""
    config = target_config(num_workers=2, pacing={"evaluation_interval_env_steps": 800})
    return config, *_finish(config)[1:]


Solved = tuple[MADDPGConfig, list[dict[str, Any]], Any]


def test_training_over_ray_finds_the_known_best_policy(solved: Solved) -> None:
    returns = solved[2]["agent_episode_returns_mean"]
    # Asynchronous, so not the same twice: measured -0.002 to -0.013.
    assert min(returns.values()) > -0.03, "0 is best, the best constant action gives -0.09"


def test_asynchronous_counts_are_exact(solved: Solved) -> None:
    config, results, _ = solved
    pacer = Pacer(config.pacing)
    pacer.collection_started(config.pacing.total_env_steps)
    pacer.collection_done(config.pacing.total_env_steps)
    assert results[-1]["num_env_steps_sampled_lifetime"] == config.pacing.total_env_steps
    assert results[-1]["num_updates_lifetime"] == pacer.updates_due()


def test_staleness_and_waiting_are_reported_per_worker(solved: Solved) -> None:
    weights = [result["weights"] for result in solved[1]]
    assert all(set(one["versions_behind"]) == {"worker_0", "worker_1"} for one in weights)
    assert max(one["versions_behind_max"] for one in weights) >= 1
    timers = solved[1][-1]["timers"]
    assert timers["learner_busy_s"] > 0 and "rollout_blocked_push_s" in timers


def test_evaluations_arrive_while_training_goes_on(solved: Solved) -> None:
    evaluated = [result["evaluation"] for result in solved[1] if result["evaluation"]]
    assert evaluated
    assert all(card["num_env_steps"] <= solved[0].pacing.total_env_steps for card in evaluated)


@pytest.fixture(scope="module")
def learner_bound(ray_cluster: None) -> Iterator[Any]:
    """Start a root with two workers and so many updates per step that slack is scarce."""
    from distributed_maddpg.runtime.driver import RayRunner

    pacing = {"total_env_steps": 10**9, "report_interval_env_steps": 64, "tolerance_updates": 8}
    env = {"kwargs": {"max_cycles": 100}}  # long episodes, so that reports are short
    config = target_config(num_workers=2, pacing=pacing, env=env)
    runner = RayRunner([config], check(config))
    yield runner
    runner.close()


def test_both_workers_share_what_the_pacing_allows(learner_bound: Any) -> None:
    for _ in range(20):
        learner_bound.run(lambda: False)
    asked = learner_bound._fragments_asked
    assert min(asked) > 0.3 * sum(asked), asked


def test_no_transition_passes_through_the_driver(learner_bound: Any, monkeypatch: Any) -> None:
    from distributed_maddpg.runtime import supervisor

    runner, answers = learner_bound, []
    wait, before = supervisor.wait_for_result, runner.pacer.env_steps

    def weigh(process: str, call: Any, timeout_s: float) -> Any:
        answer = wait(process, call, timeout_s)
        if process.startswith("rollout worker"):
            answers.append(len(pickle.dumps(answer)))
        return answer

    monkeypatch.setattr(supervisor, "wait_for_result", weigh)
    while runner.pacer.env_steps < before + 2_000:
        runner.run(lambda: False)
    collected = (runner.pacer.env_steps - before) * 13 * 4  # bytes
    assert answers and sum(answers) < 0.5 * collected


def test_counts_and_learner_belong_together_when_its_state_is_taken(learner_bound: Any) -> None:
    for _ in range(5):
        learner_bound.run(lambda: False)
        state = learner_bound.capture(0, with_replay=False)
        counts = state.stages["pacing/counts"]
        assert counts[:2].tolist() == [state.env_steps, state.updates]
        assert int(state.stages["learner/updates"]) == state.updates
    learner_bound.drain()
    state = learner_bound.capture(0, with_replay=False)
    pacer = learner_bound.pacer
    assert state.env_steps == pacer.env_steps > 0 and state.updates == pacer.updates > 0


def test_the_learner_works_on_while_a_result_is_taken(learner_bound: Any) -> None:
    learner_bound.run(lambda: False)
    before = learner_bound.pacer.updates
    for _ in range(30):
        learner_bound.results()
    assert learner_bound.pacer.updates > before
