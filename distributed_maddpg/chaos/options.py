"""The options of `distributed-maddpg chaos`, and the settings of its jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distributed_maddpg.benchmarks.options import check_numbers
from distributed_maddpg.chaos.faults import parse_kinds
from distributed_maddpg.config import MADDPGConfig

_REPORT, _EVALUATION, _CHECKPOINT = 10_000, 25_000, 100_000
KEEP_CHECKPOINTS = 3


@dataclass(frozen=True)
class ChaosOptions:
    """The faults, and the job that they are injected into."""

    minutes: float = 3.0
    """About how long the job under faults takes; no fault is injected after that."""
    seed: int = 5
    """Seed of the faults, and of the two jobs."""
    preset: str = "default"
    """Settings of the job."""
    num_workers: int = 2
    """Rollout workers."""
    env_steps: int = 0
    """Length of both jobs; 0: measured with a short job, so that the job without faults takes 45 % of
    `minutes`."""
    kinds: str = ""
    """Kinds of faults, with commas between them; default: all."""
    final_episodes: int = 1000
    """Greedy episodes of the evaluation that ends each job."""
    timeout_s: float = 60.0
    """ray.timeout_s of the jobs: frozen processes are replaced after an eighth, replay buffers sooner."""
    deadline_s: float = 60.0
    """A recovery that takes longer counts as a hang; a restart of the whole job may take twice as long."""

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            BadInput: naming the option, its value and the remedy.
        """
        limited = ("minutes", "num_workers", "final_episodes", "timeout_s", "deadline_s")
        check_numbers(self, positive=limited, below=10**6)
        check_numbers(self, positive=(), not_negative=("seed", "env_steps"))
        MADDPGConfig.preset(self.preset)
        parse_kinds(self.kinds)


@dataclass(frozen=True)
class JobSettings:
    """The settings of the jobs, which depend on their length."""

    env_steps: int
    report_interval_env_steps: int
    evaluation_interval_env_steps: int
    checkpoint_interval_env_steps: int
    snapshot_interval_s: float
    timeout_s: float

    @staticmethod
    def of(options: ChaosOptions, env_steps: int) -> JobSettings:
        """Return the settings for a length: short jobs report, evaluate and save more often."""
        return JobSettings(
            env_steps=env_steps,
            report_interval_env_steps=max(1_000, min(_REPORT, env_steps // 20)),
            evaluation_interval_env_steps=max(1_000, min(_EVALUATION, env_steps // 12)),
            checkpoint_interval_env_steps=max(2_000, min(_CHECKPOINT, env_steps // 6)),
            snapshot_interval_s=5.0,
            timeout_s=options.timeout_s,
        )

    def stall_timeout_s(self, options: ChaosOptions) -> float:
        """Return how long a job may report nothing before it counts as stalled."""
        return 2 * options.deadline_s + self.timeout_s

    def to_arguments(self, options: ChaosOptions) -> list[str]:
        """Return the options of `distributed-maddpg train`."""
        values: dict[str, Any] = {
            "preset": options.preset,
            "seed": options.seed,
            "num-workers": options.num_workers,
            "pacing.total-env-steps": self.env_steps,
            "pacing.report-interval-env-steps": self.report_interval_env_steps,
            "pacing.evaluation-interval-env-steps": self.evaluation_interval_env_steps,
            "pacing.checkpoint-interval-env-steps": self.checkpoint_interval_env_steps,
            "evaluation.final-episodes": options.final_episodes,
            "ray.timeout-s": self.timeout_s,
            "ray.snapshot-interval-s": self.snapshot_interval_s,
            "keep-checkpoints": KEEP_CHECKPOINTS,
        }
        return [word for name, value in values.items() for word in (f"--{name}", str(value))]
