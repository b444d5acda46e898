"""Rates are units over time, measured in turns."""

from __future__ import annotations

import time

from distributed_maddpg.benchmarks.measure import rates
from distributed_maddpg.benchmarks.result import spread


def test_rates_tell_fast_work_from_slow_and_take_turns() -> None:
    order: list[str] = []

    def work(name: str, units: int) -> int:
        order.append(name)
        time.sleep(0.002)
        return units

    measured = rates({"slow": lambda: work("slow", 1), "fast": lambda: work("fast", 100)}, 0.02, repeats=3)
    assert 50 < spread(measured["fast"])["median"] / spread(measured["slow"])["median"] < 200
    turns = [name for i, name in enumerate(order) if i == 0 or order[i - 1] != name]
    assert turns == ["slow", "fast"] * 4  # the warm-up, then three repeats
