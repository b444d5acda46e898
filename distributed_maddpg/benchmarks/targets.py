"""The target of each stage, and whether a result reaches it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from distributed_maddpg.config import MADDPGConfig

NOT_MEASURED = "not measured"
_SGEMM = "gflops/sgemm_gflops"
_OVER_NOTEBOOK = "updates_per_s/notebook_updates_per_s"
_OVER_ONE_SEED = "updates_per_s/updates_of_one_seed_per_s"
_OVER_BENCHMARL = "learning_env_steps_per_s/benchmarl_learning_env_steps_per_s"
_MPE2, _NOTEBOOK_JOB = "env_steps_per_s/mpe2_env_steps_per_s", "total_s/notebook_total_s"


@dataclass(frozen=True)
class Target:
    """A lower bound of one figure or ratio, or an upper bound if `at_most`."""

    text: str
    benchmark: str
    key: str
    bound: float
    unit: str
    at_most: bool = False
    device: Literal["cpu", "cuda"] = "cpu"
    preset: str = "paper"
    num_seeds: int = 1
    num_threads: int = 0
    """Threads that the learner must have; 0: any number."""
    avx512: bool | None = None
    """Whether it is for processors with AVX-512 only, or without; None: for both."""

    def is_reached(self, value: float) -> bool:
        """Return whether a value is good enough."""
        return value <= self.bound if self.at_most else value >= self.bound


TARGETS = (
    Target("environment against MPE2", "env", _MPE2, 2_000, "x"),
    Target("slowest scenario against MPE2", "env", "times_mpe2_of_the_slowest_scenario", 1_000, "x"),
    Target("rollout worker", "rollout", "env_steps_per_s", 600_000, "env steps/s"),
    Target("learner on one core, AVX-512", "learner", _SGEMM, 0.6, "of sgemm", num_threads=1, avx512=True),
    Target(
        "learner on one core, other CPUs", "learner", _SGEMM, 0.8, "of sgemm", num_threads=1, avx512=False
    ),
    Target(
        "learner on two cores against the notebook's loop", "learner", _OVER_NOTEBOOK, 45, "x", num_threads=2
    ),
    Target("4 seeds against one, on a CPU", "learner", _OVER_ONE_SEED, 0.95, "x", num_seeds=4),
    Target("replay, minibatches of 1,024", "replay", "batches_per_s", 5_000, "batches/s"),
    Target("replay, rows stored while sampling", "replay", "ingest_rows_per_s", 1_000_000, "rows/s"),
    Target(
        "the notebook's job against its own loop",
        "train",
        _NOTEBOOK_JOB,
        1 / 25,
        "of its time",
        at_most=True,
        preset="notebook",
    ),
    Target("the paper's job", "train", "total_s", 60, "seconds", at_most=True),
    Target("the job of make train", "train", "total_s", 45, "seconds", at_most=True, preset="default"),
    Target("training against BenchMARL", "train", _OVER_BENCHMARL, 7, "x"),
    Target("start to the first env step", "train", "startup_s", 6, "seconds", at_most=True),
    Target("learner on a GPU", "learner", "updates_per_s", 5_000, "updates/s", device="cuda"),
    Target("16 seeds against one on a GPU", "learner", _OVER_ONE_SEED, 8, "x", device="cuda", num_seeds=16),
)


def is_comparable(result: Mapping[str, Any], preset: str = "paper", num_seeds: int = 1) -> bool:
    """Return whether a result is of the sizes that targets are stated for; a job must be whole."""
    settings, figures, usual = result["settings"], result["figures"], MADDPGConfig.preset(preset)
    sizes = (
        settings.get("preset", "paper"),
        settings.get("batch_size", usual.learner.batch_size),
        settings.get("num_seeds", 1),
        settings.get("env_kwargs", usual.env.kwargs),
    )
    whole = figures.get("env_steps", math.inf) >= usual.pacing.total_env_steps
    return sizes == (preset, usual.learner.batch_size, num_seeds, usual.env.kwargs) and whole


def measured(target: Target, results: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the value of a target's figure or ratio, from the first result that has it; None if none has."""
    for result in results:
        values = {**result["figures"], **result["ratios"]}
        if _fits(target, result) and target.key in values:
            return float(values[target.key])
    return None


def _fits(target: Target, result: Mapping[str, Any]) -> bool:
    settings, machine = result["settings"], result["machine"]
    device = str(settings.get("device", "cpu")).partition(":")[0]
    return (
        (result["benchmark"], device) == (target.benchmark, target.device)
        and target.avx512 in (None, machine.get("avx512"))
        and target.num_threads in (0, settings.get("num_threads"))
        and is_comparable(result, target.preset, target.num_seeds)
    )
