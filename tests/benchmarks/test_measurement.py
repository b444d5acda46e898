"""Rates are units over time, measured in turns, and summarised in one shape."""

from __future__ import annotations

import time

import pytest

from distributed_maddpg.benchmarks.measurement import compare, rates, spread


def test_spread_is_median_and_extremes() -> None:
    assert spread([3.0, 1.0, 8.0]) == {"median": 3.0, "min": 1.0, "max": 8.0}


def test_a_ratio_is_taken_turn_by_turn() -> None:
    # The machine slows down tenfold in the last two turns; the ratio does not notice.
    measured = compare(
        {
            "ours_per_s": [50.0, 5.0, 5.0],
            "other_per_s": [1.0, 2.0, 3.0],
            "most_per_s": [100.0, 10.0, 10.0],
        },
        references=["most_per_s"],
        ratios=["ours_per_s/most_per_s"],
        settings={"size": 3},
    )
    assert measured.figures == {"ours_per_s": 5.0, "other_per_s": 2.0}
    assert measured.references == {"most_per_s": 10.0}
    assert measured.ratios == {"ours_per_s/most_per_s": 0.5}
    assert measured.spread["ours_per_s"] == {"median": 5.0, "min": 5.0, "max": 50.0}
    assert measured.spread["ours_per_s/most_per_s"] == {"median": 0.5, "min": 0.5, "max": 0.5}
    assert measured.settings == {"size": 3}


def test_turns_that_do_not_match_are_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        compare({"a": [1.0, 2.0], "b": [1.0]}, ["b"], ["a/b"], {})


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
