"""All benchmarks, each in a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from distributed_maddpg.benchmarks.command import command_line
from distributed_maddpg.benchmarks.machine import machine
from distributed_maddpg.benchmarks.notebook_loop import compares_with_notebook
from distributed_maddpg.benchmarks.options import KINDS, BenchmarkOptions, Kind
from distributed_maddpg.errors import BadInput, TrainingError

_EXIT_GRACE_S = 30.0
_TRAIN_PRESETS = ("notebook", "paper")
_ENVS_PER_WORKER = "64,1024"


def run_all(
    options: BenchmarkOptions, note: Callable[[str], None], keep: Callable[[str, dict[str, Any]], None]
) -> dict[str, Any]:
    """Measure every kind; return all results, and every ratio once more by "kind: figure/ceiling".

    Each kind runs alone in a process of its own, because the threads and the memory that one leaves behind
    would disturb the next. The learner is also measured with several seeds, and on a GPU where there is one;
    `train` runs the jobs of the notebook and of the paper whole, unless a length is given.

    Args:
        options: how; the same for all kinds.
        note: told what is being measured.
        keep: given each result with its label at once, because the next one may fail.

    Raises:
        BadInput: if the options cannot be used for one of the kinds.
        TrainingError: if one of the kinds fails.
    """
    results = {}
    for kind, own in _plan(options):
        label = own.label(kind)
        note(f"measuring {label}")
        results[label] = _run(kind, own)
        keep(label, results[label])
    ratios = {
        f"{label}: {name}": value
        for label, result in results.items()
        for name, value in result["ratios"].items()
    }
    return {
        "benchmark": "all",
        "command": command_line("all", options),
        "ratios": ratios,
        "results": results,
        "machine": machine(),
    }


def _plan(options: BenchmarkOptions) -> list[tuple[Kind, BenchmarkOptions]]:
    """Return what to measure, and with which options."""
    length = 0 if options.env_steps == BenchmarkOptions().env_steps else options.env_steps
    learners: list[dict[str, Any]] = [{}, {"num_seeds": 4}]
    if machine()["gpu"] != "none":
        learners += [{"device": "cuda"}, {"device": "cuda", "num_seeds": 16}]
    changes: dict[Kind, list[dict[str, Any]]] = {
        "learner": learners,
        "train": [{"preset": preset, "env_steps": length} for preset in _TRAIN_PRESETS],
        "scaling": [{"envs_per_worker": options.envs_per_worker or _ENVS_PER_WORKER}],
    }
    plan = []
    for kind in KINDS:
        for change in changes.get(kind, [{}]):
            own = replace(options, **change)
            plan.append((kind, own if compares_with_notebook(kind, own) else replace(own, beside="")))
    return plan


def _run(kind: Kind, options: BenchmarkOptions) -> dict[str, Any]:
    module = [sys.executable, "-m", "distributed_maddpg"]
    arguments = ["benchmark", kind, "--json", *options.to_arguments()]
    # In a session of its own: a terminal's Ctrl-C would interrupt its cleaning up a second time.
    with subprocess.Popen(
        [*module, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate()
        except BaseException:
            _interrupt(process)
            raise
    if process.returncode != 0:
        line = (err.strip().splitlines() or ["ended without a word"])[-1].removeprefix("error: ")
        if process.returncode == 2:
            raise BadInput("benchmark", kind, line)
        raise TrainingError(f"benchmark {kind}: {line}")
    result: dict[str, Any] = json.loads(out)
    return result


def _interrupt(process: subprocess.Popen[str]) -> None:
    """Let a benchmark end its own Ray processes; kill it if it does not."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_EXIT_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
