"""Normalisation over Ray: as in one process, the same for all workers, and kept when processes are lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import ray

from distributed_maddpg import MADDPG, MADDPGConfig
from tests.support.serial_runs import tiny

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def wild(**changes: Any) -> MADDPGConfig:
    env = {"kwargs": {"max_cycles": 5}, "normalise": True}
    return tiny("tests.support.wild:parallel_env", **{"env": env, **changes})


def digest(config: MADDPGConfig) -> str:
    with MADDPG(config) as algo:
        while not algo.finished:
            algo.train()
        return algo.weights_digest()


def test_one_worker_in_lock_step_learns_what_one_process_learns() -> None:
    assert digest(wild(num_workers=1, sync=True)) == digest(wild())


def test_two_workers_in_lock_step_add_up_to_one_mean_and_resume_exactly(tmp_path: Any) -> None:
    config = wild(num_workers=2, sync=True)
    with MADDPG(config) as algo:
        algo.train()
        path = algo.save(tmp_path / "third")
        while not algo.finished:
            algo.train()
        whole, captured = algo.weights_digest(), algo.capture()
        rows = np.concatenate(list(captured.replay.chunks)).astype(np.float64)[:, :6]
    moments = {name: captured.state[f"moments/{name}"] for name in ("count", "mean", "squares")}
    assert moments["count"].tolist() == [len(rows)] * 8 == [240] * 8
    np.testing.assert_allclose(moments["mean"][:6], rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments["squares"][:6] / 240, rows.var(axis=0), rtol=1e-9, atol=1e-18)
    with MADDPG.from_checkpoint(path, env_id=config.env.id) as algo:
        while not algo.finished:
            algo.train()
        assert algo.weights_digest() == whole


def test_all_that_is_counted_is_normalised_by_though_processes_are_lost(
    make_runner: Callable[..., Any],
) -> None:
    pacing = {"total_env_steps": 10**9, "report_interval_env_steps": 160}
    runner = make_runner(wild(num_workers=2, pacing=pacing, replay={"capacity": 10**6}))
    for process, restarts in (
        ("workers", "num_rollout_worker_restarts"),
        ("learner", "num_learner_restarts"),
    ):
        assert runner.run(lambda: False)
        lost = getattr(runner._processes, process)
        ray.kill(lost[0] if process == "workers" else lost, no_restart=True)
        while runner.results()[0]["fault_tolerance"][restarts] == 0:
            assert runner.run(lambda: False)
    runner.drain()
    state = runner.capture(0, True)
    assert state.stages["moments/count"].tolist() == [state.env_steps] * 8
    acting = runner.weights(0).policies
    width = (state.stages["learner/normaliser"].shape[1] - 1) // 2
    assert np.array_equal(acting[:, -2 * width :], state.stages["learner/normaliser"][:, :-1])
    means = state.stages["moments/mean"][: 2 * width].reshape(2, width)
    np.testing.assert_allclose(acting[:, -2 * width : -width], means, rtol=0.05, atol=0.05)
