"""The teaching notebook's loop, timed beside by a command that is no part of this package."""

from __future__ import annotations

import json
import math
import shlex
import statistics
import subprocess
from collections.abc import Sequence

from distributed_maddpg.benchmarks.options import BenchmarkOptions
from distributed_maddpg.benchmarks.result import Measurement
from distributed_maddpg.errors import BadInput

_TIMEOUT_S = 600
_UPDATES, _JOB = "updates_per_s_with_sampling", "projected_seconds_for_5000_episodes"


def time_notebook(command: str) -> dict[str, float]:
    """Run the command; return what it prints last, one JSON object with the two figures that are used.

    Raises:
        BadInput: if it fails, or prints something else.
    """
    try:
        done = subprocess.run(
            shlex.split(command), capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        )
        figures = json.loads(done.stdout.strip().splitlines()[-1])
        timed = {name: float(figures[name]) for name in (_UPDATES, _JOB)}
        if not all(0 < value < math.inf for value in timed.values()):
            raise ValueError("figures must be positive")
        return timed
    except (OSError, subprocess.SubprocessError, ValueError, LookupError, TypeError) as error:
        line = " ".join(f"{type(error).__name__}: {error}".split())
        remedy = f'must print one JSON object with "{_UPDATES}" and "{_JOB}" ({line})'
        raise BadInput("beside", command, remedy) from None


def compares_with_notebook(kind: str, options: BenchmarkOptions) -> bool:
    """Whether the notebook's loop does what a benchmark measures: one run's updates, or its own job."""
    learner = kind == "learner" and options.num_seeds == 1 and options.device == "cpu"
    return learner or (kind == "train" and options.preset == "notebook")


def compare_with_notebook(measurement: Measurement, kind: str, timed: Sequence[dict[str, float]]) -> None:
    """Add the notebook's rate to a learner's measurement, its projected job to that of preset notebook.

    Args:
        measurement: gets a ceiling and a ratio.
        kind: which benchmark it is.
        timed: what `time_notebook` returned before and after.
    """
    figures, ceilings, ratios = measurement.figures, measurement.ceilings, measurement.ratios
    if kind == "learner":
        rate = statistics.mean(own[_UPDATES] for own in timed)
        ceilings["notebook_updates_per_s"] = rate
        ratios["updates_per_s/notebook_updates_per_s"] = figures["updates_per_s"] / rate
    else:
        projected_s = statistics.mean(own[_JOB] for own in timed)
        ceilings["notebook_total_s"] = projected_s
        ratios["total_s/notebook_total_s"] = figures["total_s"] / projected_s
