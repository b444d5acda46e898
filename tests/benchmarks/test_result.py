from __future__ import annotations

import pytest

from distributed_maddpg.benchmarks.result import Measurement, Result, compare, spread


def test_spread_is_median_and_extremes() -> None:
    assert spread([3.0, 1.0, 8.0]) == {"median": 3.0, "min": 1.0, "max": 8.0}


def test_a_ratio_is_taken_turn_by_turn() -> None:
    # The machine slows down tenfold in the last two turns; the ratio does not notice.
    measured = compare(
        {"ours_per_s": [50.0, 5.0, 5.0], "other_per_s": [1.0, 2.0, 3.0]},
        {"most_per_s": [100.0, 10.0, 10.0]},
        [("ours_per_s", "most_per_s")],
        {"size": 3},
    )
    assert measured.figures == {"ours_per_s": 5.0, "other_per_s": 2.0}
    assert measured.ceilings == {"most_per_s": 10.0}
    assert measured.ratios == {"ours_per_s/most_per_s": 0.5}
    assert measured.spread["ours_per_s"] == {"median": 5.0, "min": 5.0, "max": 50.0}
    assert measured.spread["ours_per_s/most_per_s"] == {"median": 0.5, "min": 0.5, "max": 0.5}
    assert measured.settings == {"size": 3}


def test_every_result_has_the_same_keys() -> None:
    result = Result("env", "command", Measurement({"a": 1}, {"b_per_s": 2.0}), {"cores": 2}).to_dict()
    assert result == {
        "benchmark": "env",
        "command": "command",
        "settings": {"a": 1},
        "figures": {"b_per_s": 2.0},
        "ceilings": {},
        "ratios": {},
        "spread": {},
        "points": [],
        "profile": [],
        "machine": {"cores": 2},
    }


def test_turns_that_do_not_match_are_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        compare({"a": [1.0, 2.0]}, {"b": [1.0]}, [("a", "b")], {})
