"""What each stage is meant to reach, and whether a result does (floor F5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

NOT_MEASURED = "not measured"
_BATCH_SIZE = 1024


@dataclass(frozen=True)
class Target:
    """The least value of one figure or ratio."""

    text: str
    benchmark: str
    key: str
    least: float
    unit: str
    device: Literal["cpu", "cuda"] = "cpu"


TARGETS = (
    Target("environment against MPE2", "env", "env_steps_per_s/mpe2_env_steps_per_s", 2_000, "x"),
    Target("rollout worker", "rollout", "env_steps_per_s", 600_000, "env steps/s"),
    Target("learner against sgemm (goal)", "learner", "gflops/sgemm_gflops", 0.6, "of sgemm"),
    # No result holds the notebook's rate: its loop is not part of this package.
    Target("learner against the teaching notebook's loop", "learner", "updates_per_s/notebook", 25, "x"),
    Target("replay, minibatches of 1,024", "replay", "batches_per_s", 5_000, "batches/s"),
    Target("replay, ingest", "replay", "ingest_rows_per_s", 1_000_000, "rows/s"),
    Target("learner on a GPU", "learner", "updates_per_s", 5_000, "updates/s", device="cuda"),
)


def comparable(result: Mapping[str, Any]) -> bool:
    """Whether a result is of the sizes that targets and peers are stated for."""
    settings = result["settings"]
    preset, batch_size = settings.get("preset", "paper"), settings.get("batch_size", _BATCH_SIZE)
    return (preset, batch_size) == ("paper", _BATCH_SIZE)


def measured(target: Target, results: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the value that a target is about, from the first result that has it; None if none has."""
    for result in results:
        device = str(result["settings"].get("device", "cpu")).partition(":")[0]
        values = {**result["figures"], **result["ratios"]}
        fits = comparable(result) and (result["benchmark"], device) == (target.benchmark, target.device)
        if fits and target.key in values:
            return float(values[target.key])
    return None
