"""Times the teaching notebook's loop with an external command, the option `--beside`."""

from __future__ import annotations

import json
import math
import shlex
import statistics
import subprocess
from collections.abc import Sequence

from distributed_maddpg.benchmarks.measurement import Measurement
from distributed_maddpg.benchmarks.options import BenchmarkOptions
from distributed_maddpg.errors import BadInput

_TIMEOUT_S = 600
UPDATES, JOB = "updates_per_s_with_sampling", "projected_seconds_for_5000_episodes"


def time_notebook(command: str) -> dict[str, float]:
    """Run a command; return the two figures of the JSON object on the last line it prints.

    Raises:
        BadInput: if it fails, or prints something else.
    """
    try:
        done = subprocess.run(
            shlex.split(command), capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        )
        figures = json.loads(done.stdout.strip().splitlines()[-1])
        timed = {name: float(figures[name]) for name in (UPDATES, JOB)}
        if not all(0 < value < math.inf for value in timed.values()):
            raise ValueError("figures must be positive")
        return timed
    except (OSError, subprocess.SubprocessError, ValueError, LookupError, TypeError) as error:
        line = " ".join(f"{type(error).__name__}: {error}".split())
        remedy = f'must print one JSON object with "{UPDATES}" and "{JOB}" ({line})'
        raise BadInput("--beside", command, remedy) from None


def compares_with_notebook(kind: str, options: BenchmarkOptions) -> bool:
    """Return whether a benchmark measures what the notebook does: one run's CPU updates, or its own job."""
    learner = kind == "learner" and options.num_seeds == 1 and options.device == "cpu"
    return learner or (kind == "train" and options.preset == "notebook")


def compare_with_notebook(measurement: Measurement, kind: str, timed: Sequence[dict[str, float]]) -> None:
    """Add the notebook's rate to a learner's measurement, its projected job to that of preset notebook.

    Args:
        measurement: gets a reference and a ratio.
        kind: which benchmark it is.
        timed: what `time_notebook` returned before and after the measurement; their mean counts.
    """
    figure, timed_figure = ("updates_per_s", UPDATES) if kind == "learner" else ("total_s", JOB)
    reference = statistics.mean(own[timed_figure] for own in timed)
    measurement.references[f"notebook_{figure}"] = reference
    measurement.ratios[f"{figure}/notebook_{figure}"] = measurement.figures[figure] / reference
