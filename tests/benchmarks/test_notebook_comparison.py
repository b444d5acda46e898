from __future__ import annotations

import sys
from pathlib import Path

import pytest

from distributed_maddpg.benchmarks.measurement import Measurement
from distributed_maddpg.benchmarks.notebook_comparison import (
    compare_with_notebook,
    compares_with_notebook,
    time_notebook,
)
from distributed_maddpg.benchmarks.options import BenchmarkOptions
from distributed_maddpg.errors import BadInput

PRINTS = 'print("warming up"); print(\'{"updates_per_s_with_sampling": %s, "%s": 450}\')'
JOB = "projected_seconds_for_5000_episodes"


def test_the_last_line_is_the_result(tmp_path: Path) -> None:
    script = tmp_path / "loop.py"
    script.write_text(PRINTS % (5, JOB))
    timed = time_notebook(f"{sys.executable} {script}")
    assert timed == {"updates_per_s_with_sampling": 5.0, JOB: 450.0}


@pytest.mark.parametrize("code", ["print(1)", "raise SystemExit(3)", "", "print('{')", PRINTS % (0, JOB)])
def test_another_output_is_refused_in_one_line(tmp_path: Path, code: str) -> None:
    script = tmp_path / "loop.py"
    script.write_text(code)
    with pytest.raises(BadInput, match=r"--beside = .*must print one JSON object with") as raised:
        time_notebook(f"{sys.executable} {script}")
    assert "\n" not in str(raised.value)


def test_a_command_that_is_not_there_is_refused() -> None:
    with pytest.raises(BadInput, match="--beside = 'no-such-program'"):
        time_notebook("no-such-program")


def test_the_mean_of_before_and_after_is_compared_with() -> None:
    timed = [{"updates_per_s_with_sampling": rate, JOB: 2000 / rate} for rate in (4.0, 5.0)]
    learner = Measurement({}, {"updates_per_s": 135.0})
    compare_with_notebook(learner, "learner", timed)
    assert learner.ratios == {"updates_per_s/notebook_updates_per_s": pytest.approx(30.0)}
    train = Measurement({}, {"total_s": 18.0})
    compare_with_notebook(train, "train", timed)
    assert train.ratios == {"total_s/notebook_total_s": pytest.approx(0.04)}


def test_only_what_the_notebook_does_too_is_compared_with_it() -> None:
    notebook = BenchmarkOptions(preset="notebook")
    assert compares_with_notebook("learner", BenchmarkOptions())
    assert compares_with_notebook("train", notebook)
    assert not compares_with_notebook("learner", BenchmarkOptions(num_seeds=2))
    assert not compares_with_notebook("train", BenchmarkOptions())
    assert not compares_with_notebook("env", notebook)
