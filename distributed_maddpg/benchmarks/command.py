"""What each kind of `distributed-maddpg benchmark` measures."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from distributed_maddpg.benchmarks.machine import machine
from distributed_maddpg.benchmarks.notebook_loop import (
    compare_with_notebook,
    compares_with_notebook,
    time_notebook,
)
from distributed_maddpg.benchmarks.options import BenchmarkOptions, Kind
from distributed_maddpg.benchmarks.result import Measurement, Result
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput


def run_benchmark(kind: Kind, options: BenchmarkOptions) -> dict[str, Any]:
    """Measure one kind; return plain numbers under the keys of `result.Result`.

    Args:
        kind: any but "all", which `suite.run_all` measures.
        options: how.

    Raises:
        BadInput: if the options cannot be used on this machine.
        TrainingError: if a stage of a job fails.
    """
    settings = options.settings()
    beside = options.beside if compares_with_notebook(kind, options) else ""
    timed = [time_notebook(beside)] if beside else []
    measurement = _MEASURES[kind](settings, options)
    measurement.settings["preset"] = options.preset
    if beside:
        with suppress(BadInput):  # once was well; a long measurement must not be lost for it
            timed.append(time_notebook(beside))
        compare_with_notebook(measurement, kind, timed)
    return Result(kind, command_line(kind, options), measurement, machine()).to_dict()


def command_line(kind: Kind, options: BenchmarkOptions) -> str:
    """Return the command that measures this anew."""
    return shlex.join(["distributed-maddpg", "benchmark", kind, *options.to_arguments()])


# Imported by kind: the learner's needs torch, and only train and scaling may need Ray.


def _env(config: MADDPGConfig, options: BenchmarkOptions) -> Measurement:
    from distributed_maddpg.benchmarks.env import benchmark_env  # noqa: PLC0415

    return benchmark_env(config, options.num_envs, options.seconds, options.repeats)


def _rollout(config: MADDPGConfig, options: BenchmarkOptions) -> Measurement:
    from distributed_maddpg.benchmarks.rollout import benchmark_rollout  # noqa: PLC0415

    return benchmark_rollout(config, options.num_envs, options.seconds, options.repeats)


def _replay(config: MADDPGConfig, options: BenchmarkOptions) -> Measurement:
    from distributed_maddpg.benchmarks.replay import benchmark_replay  # noqa: PLC0415

    return benchmark_replay(config, options.seconds, options.repeats)


def _learner(config: MADDPGConfig, options: BenchmarkOptions) -> Measurement:
    from distributed_maddpg.benchmarks.learner import benchmark_learner  # noqa: PLC0415

    return benchmark_learner(config, options.num_seeds, options.seconds, options.repeats)


def _train(config: MADDPGConfig, options: BenchmarkOptions) -> Measurement:
    from distributed_maddpg.benchmarks.train import benchmark_train  # noqa: PLC0415

    return benchmark_train(config, options.seconds)


def _scaling(config: MADDPGConfig, options: BenchmarkOptions) -> Measurement:
    from distributed_maddpg.benchmarks.scaling import benchmark_scaling  # noqa: PLC0415

    return benchmark_scaling(
        config, options.worker_counts(), options.env_counts(), options.seconds, options.repeats
    )


_MEASURES: dict[str, Callable[[MADDPGConfig, BenchmarkOptions], Measurement]] = {
    "env": _env,
    "rollout": _rollout,
    "replay": _replay,
    "learner": _learner,
    "train": _train,
    "scaling": _scaling,
}
