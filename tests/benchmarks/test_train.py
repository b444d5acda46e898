from __future__ import annotations

import pytest

from distributed_maddpg.benchmarks.command import run_benchmark
from distributed_maddpg.benchmarks.options import BenchmarkOptions


def test_train_counts_what_the_pacing_promises_and_shares_out_the_time() -> None:
    options = BenchmarkOptions(preset="notebook", num_workers=0, env_steps=6_000, seconds=0.02)
    result = run_benchmark("train", options)
    figures, point = result["figures"], result["points"][0]
    assert (figures["env_steps"], figures["updates"]) == (6_000, 21)
    assert figures["total_s"] > figures["startup_s"] >= 0
    for name in ("learning_env_steps_per_s", "learning_updates_per_s"):
        spread = result["spread"][name]
        assert spread["min"] <= figures[name] == spread["median"] <= spread["max"]
    assert point["workers"] == 0
    assert point["bottleneck"] in ("learner", "worker CPU")
    for stage in ("rollout", "learner"):
        shares = [value for name, value in point["shares"].items() if name.startswith(stage)]
        assert sum(shares) == pytest.approx(1.0, abs=0.01)


def test_a_job_that_never_learns_has_no_learning_rate() -> None:
    result = run_benchmark("train", BenchmarkOptions(num_workers=0, env_steps=1_000))
    assert result["figures"]["updates"] == 0
    assert result["figures"]["env_steps"] == 1_024  # whole fragments
    assert "learning_updates_per_s" not in result["figures"]
    # It lasts milliseconds: on a busy machine it may wait longer for a core than it works.
    assert result["points"][0]["bottleneck"] in ("worker CPU", "pacing")
