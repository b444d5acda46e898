from __future__ import annotations

import time
from collections.abc import Collection

import pytest

from distributed_maddpg.algo.fused.plan import PARTS
from distributed_maddpg.benchmarks.command import run_benchmark
from distributed_maddpg.benchmarks.options import BenchmarkOptions, Kind
from distributed_maddpg.benchmarks.profile import (
    REST,
    WORKER_PARTS,
    profile_worker,
)


def test_time_outside_every_part_is_the_rest() -> None:
    def collect() -> int:
        time.sleep(0.001)
        return 8

    rows = {row["part"]: row for row in profile_worker(collect, 4)}
    assert rows[REST]["share"] == pytest.approx(1.0)
    assert rows[REST]["microseconds"] >= 500, "two vector steps a call"


@pytest.mark.parametrize(("kind", "parts"), [("learner", PARTS[:-1]), ("rollout", WORKER_PARTS)])
def test_a_profile_shares_out_all_the_time(kind: Kind, parts: Collection[str]) -> None:
    options = BenchmarkOptions(batch_size=512, num_envs=512, seconds=0.02, repeats=1)
    rows = {row["part"]: row for row in run_benchmark(kind, options)["profile"]}
    assert sum(row["share"] for row in rows.values()) == pytest.approx(1.0)
    assert rows[REST]["microseconds"] >= 0
    assert all(rows[part]["microseconds"] > 0 for part in parts), "a name that has changed takes no time"
