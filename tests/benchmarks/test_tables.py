from __future__ import annotations

from typing import Any

import pytest

from distributed_maddpg.benchmarks.tables import (
    SIMULATED,
    label,
    machine_text,
    number,
    settings_text,
    tables,
)
from distributed_maddpg.bottleneck import SHARES

MACHINE = {
    "cpu": "Chip",
    "cores": 2,
    "gpu": "none",
    "os": "Linux 6.1",
    "versions": {"python": "3.11.7", "numpy": "2.4.6"},
}


def result(**changes: Any) -> dict[str, Any]:
    """Return a small result of the benchmark env; changes are laid over it."""
    rates = {"median": 20_000.0, "min": 15_000.0, "max": 25_000.5}
    return {
        "benchmark": "env",
        "command": "distributed-maddpg benchmark env",
        "settings": {"num_envs": 1024, "preset": "paper"},
        "figures": {"env_steps_per_s": 20_000.0, "startup_s": 1.23456},
        "references": {"mpe2_env_steps_per_s": 8.0},
        "ratios": {"env_steps_per_s/mpe2_env_steps_per_s": 2_500.0},
        "spread": {"env_steps_per_s": rates},
        "points": [],
        "profile": [],
        "machine": MACHINE,
        **changes,
    }


def job(workers: int, bottleneck: str = "learner") -> dict[str, Any]:
    """Return one job of the benchmark scaling."""
    rates = {
        f"{kind}{name}": 1_000.0 * workers
        for kind in ("", "ideal_")
        for name in ("collect_env_steps_per_s", "env_steps_per_s")
    }
    efficiency = {"efficiency_collect_env_steps_per_s": 0.5, "efficiency_env_steps_per_s": 0.25}
    shares = {name: 0.125 for name in SHARES}
    named = {"bottleneck": bottleneck, "collect_bottleneck": "push"}
    return {
        "workers": workers,
        "num_envs": 64,
        "more_processes_than_cores": workers > 1,
        "updates_per_s": 80.5,
        "shares": shares,
        **rates,
        **efficiency,
        **named,
    }


def simulated() -> list[dict[str, Any]]:
    """Return the points of the benchmark scaling with simulated workers, each value a number of its own."""
    return [
        {"table": table} | {name: 10.0 * k + 0.5 for k, name in enumerate(columns)}
        for table, (_, columns) in SIMULATED.items()
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(17_736_280.3, "17,736,280"), (0.342_09, "0.3421"), (21.0, "21"), (80.456, "80.46")]
)
def test_numbers_are_readable(value: float, text: str) -> None:
    assert number(value) == text


def test_labels_name_units() -> None:
    assert label("mpe2_env_steps_per_s") == "mpe2 env steps/s"
    assert label("startup_s") == "startup, seconds"
    assert label("wait_ms") == "wait, milliseconds"
    assert label("sgemm_gflops") == "sgemm gflops"


def test_figures_stand_beside_what_they_are_compared_with() -> None:
    (table,) = tables(result())
    assert table.rows == [
        ("env steps/s", "20,000", "15,000", "25,000", "mpe2 env steps/s", "8", "2,500"),
        ("startup, seconds", "1.235", "", "", "", "", ""),
    ]
    assert all(len(row) == len(table.headers) for row in table.rows)


def test_jobs_have_rates_efficiency_and_shares() -> None:
    _, jobs, shares = tables(result(benchmark="scaling", points=[job(1), job(2, "push")]))
    assert jobs.rows[1] == ("2", "64", "yes", "2,000", "50 %", "push", "2,000", "80.5", "25 %", "push")
    assert shares.rows[0] == ("1", "64", *["12 %"] * len(SHARES))


def test_simulated_workers_have_a_table_for_each_kind_of_point() -> None:
    points = simulated()
    points.append({**points[-1], "workers": 1000, "reached": 0.25})
    _, edges, driver, _, jobs = tables(result(benchmark="scaling", points=points))
    assert [len(table.rows) for table in (edges, driver, jobs)] == [1, 1, 2]
    assert (driver.headers[0], driver.rows[0][0], jobs.rows[1][2]) == ("workers", "0.5", "1,000")
    assert jobs.rows[1][list(SIMULATED["jobs"][1]).index("reached")] == "25 %"


def test_scenarios_have_rates_and_their_ratio() -> None:
    rates = {"env_steps_per_s": 20_000.0, "mpe2_env_steps_per_s": 8.5, "times_mpe2": 2352.9}
    _, scenarios = tables(result(points=[{"scenario": "simple_tag", **rates}]))
    assert scenarios.headers == ("scenario", "env steps/s", "MPE2's", "ratio")
    assert scenarios.rows == [("simple_tag", "20,000", "8.5", "2,353")]


def test_machine_and_settings_in_a_line() -> None:
    assert machine_text(MACHINE) == "2 cores, Chip; GPU: none; Linux 6.1; python 3.11.7, numpy 2.4.6"
    settings = {"hidden": [64, 64], "flag": True, "steps": 25_600, "preset": "paper"}
    assert settings_text(settings) == "hidden = 64-64, flag = True, steps = 25,600, preset = paper"
