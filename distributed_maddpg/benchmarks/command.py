"""Options of `distributed-maddpg benchmark`, and what each kind measures (floor F5)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from distributed_maddpg.benchmarks.measure import machine
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput

Kind = Literal["env", "rollout", "learner", "train"]


@dataclass(frozen=True)
class BenchmarkOptions:
    """How a measurement is made."""

    preset: str = "paper"
    """Settings to measure with: networks, batch, environment, pacing."""
    num_envs: int = 1024
    """Environment copies for env and rollout."""
    batch_size: int = 0
    """Transitions per update for learner; 0: the preset's."""
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """Device of the learner."""
    num_threads: int = 1
    """Threads of the learner on the CPU."""
    num_workers: int = 1
    """Rollout workers for train; 0 for one process without Ray."""
    env_steps: int = 200_000
    """Length of the job for train."""
    seconds: float = 1.0
    """Length of one repeat."""
    repeats: int = 5
    """Repeats; the figure is their median."""
    seed: int = 0
    """Seed."""

    def __post_init__(self) -> None:
        """Check the options."""
        for name in ("num_envs", "num_threads", "env_steps", "seconds", "repeats"):
            if not 0 < getattr(self, name) < 10**9:
                raise BadInput(name, getattr(self, name), "must be positive, and below 10^9")
        for name in ("batch_size", "num_workers", "seed"):
            if getattr(self, name) < 0:
                raise BadInput(name, getattr(self, name), "must not be negative")

    def settings(self) -> MADDPGConfig:
        """Return the settings to measure with."""
        base = MADDPGConfig.preset(self.preset)
        batch_size = self.batch_size or base.learner.batch_size
        return dataclasses.replace(
            base,
            seed=self.seed,
            num_workers=self.num_workers,
            learner=dataclasses.replace(
                base.learner, device=self.device, num_threads=self.num_threads, batch_size=batch_size
            ),
            pacing=dataclasses.replace(
                base.pacing, total_env_steps=self.env_steps, evaluation_interval_env_steps=0
            ),
        )


def run_benchmark(kind: Kind, options: BenchmarkOptions) -> dict[str, Any]:
    """Measure one kind; return plain numbers.

    Raises:
        BadInput: if the options cannot be used on this machine.
    """
    config = options.settings()
    return {"benchmark": kind, **_measure(kind, config, options), "machine": machine()}


def _measure(kind: Kind, config: MADDPGConfig, options: BenchmarkOptions) -> dict[str, Any]:
    # Imported by kind: the learner's needs torch, and only train may need Ray.
    if kind == "env":
        from distributed_maddpg.benchmarks.env import benchmark_env  # noqa: PLC0415

        return benchmark_env(config, options.num_envs, options.seconds, options.repeats)
    if kind == "rollout":
        from distributed_maddpg.benchmarks.rollout import benchmark_rollout  # noqa: PLC0415

        return benchmark_rollout(config, options.num_envs, options.seconds, options.repeats)
    if kind == "learner":
        from distributed_maddpg.benchmarks.learner import benchmark_learner  # noqa: PLC0415

        return benchmark_learner(config, options.seconds, options.repeats)
    from distributed_maddpg.benchmarks.train import benchmark_train  # noqa: PLC0415

    return benchmark_train(config)
