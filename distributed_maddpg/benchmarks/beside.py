"""Times an external command beside a measurement, the option `--beside`: the notebook's loop, or a peer."""

from __future__ import annotations

import json
import math
import re
import shlex
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from distributed_maddpg.benchmarks.measurement import Measurement
from distributed_maddpg.benchmarks.options import BenchmarkOptions
from distributed_maddpg.errors import BadInput

_TIMEOUT_S = 600
UPDATES, JOB = "updates_per_s_with_sampling", "projected_seconds_for_5000_episodes"
_NOTEBOOK = {"learner": {"updates_per_s": UPDATES}, "train": {"total_s": JOB}}
_PEER = {
    "learner": {"updates_per_s": "updates_per_s"},
    "train": {"learning_env_steps_per_s": "env_steps_per_s", "learning_updates_per_s": "updates_per_s"},
}
"""By benchmark, our figures and the names of theirs."""


class Timed(NamedTuple):
    """What a command printed."""

    name: str
    """"notebook", or the peer's in small letters."""
    description: str
    """The peer and its versions, for display."""
    figures: dict[str, float]
    """By the names of ours that they are compared with."""


def time_command(kind: str, options: BenchmarkOptions) -> Timed:
    """Run the command of `--beside`; return the figures of the JSON object on the last line it prints.

    An object with a "name" is a peer's: with "version", the rates, and for display "versions", "threads" and
    "environment". Another one is the notebook's.

    Raises:
        BadInput: if it fails, or prints something else, or what is not comparable.
    """
    command = options.beside
    needed = f"{' and '.join(_NOTEBOOK[kind].values())}, or name and {' and '.join(_PEER[kind].values())}"
    try:
        done = subprocess.run(
            shlex.split(command), capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        )
        printed = json.loads(done.stdout.strip().splitlines()[-1])
        name = re.sub(r"[^a-z0-9]+", "_", str(printed.get("name", "notebook")).lower())
        names = (_PEER if "name" in printed else _NOTEBOOK)[kind]
        figures = {ours: float(printed[theirs]) for ours, theirs in names.items()}
        if not all(0 < value < math.inf for value in figures.values()):
            raise ValueError("figures must be positive")
        timed = Timed(name, _description(printed), figures)
    except (OSError, subprocess.SubprocessError, ValueError, LookupError, TypeError, AttributeError) as error:
        line = " ".join(f"{type(error).__name__}: {error}".split())
        raise BadInput("--beside", command, f"must print one JSON object with {needed} ({line})") from None
    if name == "notebook" and not compares_with_notebook(kind, options):
        remedy = "times the notebook's loop, which is compared with learner and train --preset notebook only"
        raise BadInput("--beside", command, remedy)
    return timed


def _description(printed: Mapping[str, Any]) -> str:
    """Return a peer, its versions and what it ran on, in one line; empty for the notebook."""
    if "name" not in printed:
        return ""
    versions = ", ".join(f"{name} {version}" for name, version in dict(printed.get("versions", {})).items())
    parts = [f"{printed['name']} {printed.get('version', '')}".strip()]
    parts += [f"with {versions}"] if versions else []
    parts += [f"on {printed['environment']}"] if "environment" in printed else []
    parts += [f"{printed['threads']} threads"] if "threads" in printed else []
    return ", ".join(parts)


def has_comparison(kind: str, options: BenchmarkOptions) -> bool:
    """Return whether a benchmark can be compared: one run's CPU updates, or a job."""
    return (kind == "learner" and options.num_seeds == 1 and options.device == "cpu") or kind == "train"


def compares_with_notebook(kind: str, options: BenchmarkOptions) -> bool:
    """Return whether a benchmark measures what the notebook does: one run's CPU updates, or its own job."""
    return has_comparison(kind, options) and (kind == "learner" or options.preset == "notebook")


def compare(measurement: Measurement, timed: Sequence[Timed]) -> None:
    """Add a command's figures and the ratios of ours to them.

    Args:
        measurement: gets references and ratios.
        timed: what `time_command` returned before and after the measurement; their mean counts.
    """
    name, description, figures = timed[0]
    for figure in [each for each in figures if each in measurement.figures]:
        reference = f"{name}_{figure}"
        measurement.references[reference] = statistics.mean(own.figures[figure] for own in timed)
        ratio = measurement.figures[figure] / measurement.references[reference]
        measurement.ratios[f"{figure}/{reference}"] = ratio
    if description:
        measurement.settings["beside"] = description
