"""Runs the benchmark of one kind, or all of them one after another."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

from distributed_maddpg.benchmarks.beside import (
    compare,
    compares_with_notebook,
    has_comparison,
    time_command,
)
from distributed_maddpg.benchmarks.machine import machine
from distributed_maddpg.benchmarks.measurement import Measurement
from distributed_maddpg.benchmarks.options import KINDS, BenchmarkOptions, Kind, command_line, to_arguments
from distributed_maddpg.errors import BadInput, TrainingError

_EXIT_GRACE_S = 30.0
_TRAIN_PRESETS = ("notebook", "paper", "default")
_ENVS_PER_WORKER = "64,1024"
RESULT_KEYS = {"benchmark", "command", "machine", *(field.name for field in dataclasses.fields(Measurement))}
"""What every result has."""


def run_benchmark(kind: Kind, options: BenchmarkOptions) -> dict[str, Any]:
    """Measure one kind; return plain values under `RESULT_KEYS`.

    Args:
        kind: any but "all", which `run_all` measures.
        options: how.

    Raises:
        BadInput: if the options cannot be used on this machine.
        TrainingError: if a stage of a job fails.
    """
    settings = options.settings()
    beside = options.beside and has_comparison(kind, options)
    timed = [time_command(kind, options)] if beside else []
    # Imported by kind: the learner's module needs torch, and only those of whole jobs and replay need Ray.
    module = import_module(f"distributed_maddpg.benchmarks.{kind}")
    measurement: Measurement = module.measure(settings, options)
    measurement.settings["preset"] = options.preset
    if beside:
        with suppress(BadInput):  # it worked before; its failure now must not discard a long measurement
            timed.append(time_command(kind, options))
        compare(measurement, timed)
    return {
        "benchmark": kind,
        "command": command_line(f"benchmark {kind}", options),
        **dataclasses.asdict(measurement),
        "machine": machine(),
    }


def run_all(
    options: BenchmarkOptions, note: Callable[[str], None], keep: Callable[[str, dict[str, Any]], None]
) -> dict[str, Any]:
    """Measure every kind; return all results, and every ratio again by "kind: figure/reference".

    Each kind runs alone in a process of its own, because the threads and the memory that one leaves behind
    would disturb the next. The learner is also measured with several seeds, and on a GPU where there is one;
    `train` runs the jobs of the notebook and of the paper whole, unless a length is given.

    Args:
        options: how; the same for all kinds.
        note: takes a line about what is being measured.
        keep: takes each result with its label as soon as it is measured, because the next one may fail.

    Raises:
        BadInput: if the options cannot be used for one of the kinds.
        TrainingError: if one of the kinds fails.
    """
    results: dict[str, dict[str, Any]] = {}
    ratios: dict[str, float] = {}
    for kind, own in _plan(options):
        label = own.label(kind)
        note(f"measuring {label}")
        results[label] = _run_in_process(kind, own)
        keep(label, results[label])
        ratios |= {f"{label}: {name}": value for name, value in results[label]["ratios"].items()}
    return {
        "benchmark": "all",
        "command": command_line("benchmark all", options),
        "ratios": ratios,
        "results": results,
        "machine": machine(),
    }


def _plan(options: BenchmarkOptions) -> list[tuple[Kind, BenchmarkOptions]]:
    """Return what to measure, and with which options."""
    length = 0 if options.env_steps == BenchmarkOptions().env_steps else options.env_steps
    learners: list[dict[str, Any]] = [{}, {"num_seeds": 4}]
    if options.num_threads != 1:
        learners.insert(0, {"num_threads": 1, "beside": ""})
    if machine()["gpu"] != "none":
        learners += [{"device": "cuda"}, {"device": "cuda", "num_seeds": 16}]
    changes: dict[Kind, list[dict[str, Any]]] = {
        "learner": learners,
        "train": [{"preset": preset, "env_steps": length} for preset in _TRAIN_PRESETS],
        "growth": [{"num_threads": options.num_threads or 1}],
        "scaling": [{"envs_per_worker": options.envs_per_worker or _ENVS_PER_WORKER}],
    }
    plan = []
    for kind in KINDS:
        for change in changes.get(kind, [{}]):
            own = dataclasses.replace(options, **change)
            beside = own.beside if compares_with_notebook(kind, own) else ""
            plan.append((kind, dataclasses.replace(own, beside=beside)))
    return plan


def _run_in_process(kind: Kind, options: BenchmarkOptions) -> dict[str, Any]:
    command = [sys.executable, "-m", "distributed_maddpg", "benchmark", kind, "--json"]
    command += to_arguments(options)
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # In a session of its own: a terminal's Ctrl-C would interrupt its clean-up a second time.
    with subprocess.Popen(command, **pipes, start_new_session=True) as process:
        try:
            out, err = process.communicate()
        except BaseException:
            _interrupt(process)
            raise
    if process.returncode != 0:
        line = (err.strip().splitlines() or ["ended without a message"])[-1].removeprefix("error: ")
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
