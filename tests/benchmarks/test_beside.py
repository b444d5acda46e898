from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from distributed_maddpg.benchmarks.beside import (
    Timed,
    compare,
    compares_with_notebook,
    has_comparison,
    time_command,
)
from distributed_maddpg.benchmarks.command import run_benchmark
from distributed_maddpg.benchmarks.measurement import Measurement
from distributed_maddpg.benchmarks.options import BenchmarkOptions
from distributed_maddpg.benchmarks.tables import tables
from distributed_maddpg.errors import BadInput

JOB = "projected_seconds_for_5000_episodes"
NOTEBOOK = {"updates_per_s_with_sampling": 5, JOB: 450}
PEER: dict[str, Any] = {
    "name": "Some Peer",
    "version": "1.5",
    "versions": {"torch": "2.13.0"},
    "environment": "VMAS",
    "threads": 2,
    "env_steps_per_s": 4_000,
    "updates_per_s": 40,
}


def beside(folder: Path, printed: str, **options: Any) -> BenchmarkOptions:
    script = folder / "other.py"
    script.write_text(f"print('warming up')\n{printed}")
    return BenchmarkOptions(beside=f"{sys.executable} {script}", **options)


def prints(figures: dict[str, Any]) -> str:
    return f"print({json.dumps(figures)!r})"


def test_the_last_line_is_the_notebooks_result(tmp_path: Path) -> None:
    options = beside(tmp_path, prints(NOTEBOOK), preset="notebook")
    assert time_command("learner", options) == Timed("notebook", "", {"updates_per_s": 5.0})
    assert time_command("train", options) == Timed("notebook", "", {"total_s": 450.0})


def test_a_peer_is_compared_by_its_rates(tmp_path: Path) -> None:
    options = beside(tmp_path, prints(PEER))
    described = "Some Peer 1.5, with torch 2.13.0, on VMAS, 2 threads"
    assert time_command("learner", options) == Timed("some_peer", described, {"updates_per_s": 40.0})
    rates = {"learning_env_steps_per_s": 4000.0, "learning_updates_per_s": 40.0}
    assert time_command("train", options) == Timed("some_peer", described, rates)


@pytest.mark.parametrize(
    "code",
    [
        "print(1)",
        "raise SystemExit(3)",
        "print('{')",
        prints({**NOTEBOOK, "updates_per_s_with_sampling": 0}),
        prints({"name": "a peer without rates"}),
        prints({**PEER, "versions": 3}),
    ],
)
def test_another_output_is_refused_in_one_line(tmp_path: Path, code: str) -> None:
    with pytest.raises(BadInput, match=r"--beside = .*must print one JSON object with") as raised:
        time_command("learner", beside(tmp_path, code))
    assert "\n" not in str(raised.value)


def test_a_command_that_is_not_there_is_refused() -> None:
    with pytest.raises(BadInput, match="--beside = 'no-such-program'"):
        time_command("learner", BenchmarkOptions(beside="no-such-program"))


def test_the_notebook_beside_another_job_is_refused_before_the_job(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="compared with learner and train --preset notebook only"):
        run_benchmark("train", beside(tmp_path, prints(NOTEBOOK)))


def test_the_mean_of_before_and_after_is_compared_with() -> None:
    timed = [Timed("some_peer", "Some Peer 1.5", {"updates_per_s": rate}) for rate in (4.0, 5.0)]
    learner = Measurement({}, {"updates_per_s": 135.0, "gflops": 3.0})
    compare(learner, timed)
    assert learner.ratios == {"updates_per_s/some_peer_updates_per_s": pytest.approx(30.0)}
    assert learner.references == {"some_peer_updates_per_s": 4.5}
    assert learner.settings == {"beside": "Some Peer 1.5"}


def test_a_learner_is_measured_beside_a_peer(tmp_path: Path) -> None:
    options = beside(tmp_path, prints(PEER), batch_size=32, seconds=0.02, repeats=1, num_threads=1)
    result = run_benchmark("learner", options)
    ratio = result["figures"]["updates_per_s"] / 40
    assert result["ratios"]["updates_per_s/some_peer_updates_per_s"] == pytest.approx(ratio)
    figures, *_ = tables(result)
    assert any("some peer updates/s" in row for row in figures.rows)


def test_only_one_runs_updates_on_a_cpu_and_jobs_are_compared() -> None:
    notebook = BenchmarkOptions(preset="notebook")
    assert compares_with_notebook("learner", BenchmarkOptions())
    assert compares_with_notebook("train", notebook)
    assert not compares_with_notebook("train", BenchmarkOptions())
    assert has_comparison("train", BenchmarkOptions())
    for kind, options in (("learner", BenchmarkOptions(num_seeds=2)), ("env", notebook)):
        assert not has_comparison(kind, options) and not compares_with_notebook(kind, options)
