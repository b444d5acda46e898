"""Where a stage's time goes, by profilers, in parts named after their purpose."""

from __future__ import annotations

import cProfile
import os
import pstats
import time
from collections.abc import Callable, Mapping
from typing import Any

_LEARNER_CALLS, _WORKER_CALLS = 2, 20  # the profiler of torch takes a second for each
REST = "Python and the rest"

LEARNER_PARTS = {
    "matrix products": ("aten::bmm", "aten::baddbmm", "aten::baddbmm_", "aten::mm", "aten::addmm"),
    "activations and their gradients": (
        "aten::clamp_min_",
        "aten::relu_",
        "aten::threshold_backward",
        "aten::_softmax",
        "aten::sigmoid",
        "aten::addcmul",
    ),
    "noise": ("aten::uniform_", "aten::log_", "aten::neg_"),
    "copies": ("aten::copy_", "aten::cat", "aten::index", "aten::index_select", "aten::zero_", "aten::fill_"),
    "optimiser and targets": ("aten::_fused_adam_", "aten::lerp_", "aten::linalg_vector_norm"),
    "sums": ("aten::sum", "aten::mean"),
}
"""Operations of torch by purpose; all others count as other operations."""

WORKER_PARTS = {
    "policies' forward pass": ("policy.py", "logits"),
    "exploration noise": ("exploration.py", "_gumbel_noise"),
    "actions from logits": ("exploration.py", "relaxed"),
    "environment": ("simple_adversary.py", "step"),
    "episode statistics": ("episode_log.py", "step"),
}
"""Functions (file, name) by purpose, their callees included; most of the rest is packing."""


def profile_learner(learn: Callable[[], int]) -> list[dict[str, Any]]:
    """Return the parts of an update's time on the CPU, by torch's profiler.

    Args:
        learn: makes some updates and returns how many.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it prints a banner on stderr
    from torch.profiler import ProfilerActivity, profile  # noqa: PLC0415 (only this profile needs it)

    learn()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        started = time.perf_counter()
        updates = sum(learn() for _ in range(_LEARNER_CALLS))
        seconds = time.perf_counter() - started
    self_us = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    return _shares(group_operations(self_us), 1e6 * seconds, updates)


def group_operations(self_us: Mapping[str, float]) -> dict[str, float]:
    """Return the time of torch's operations by part.

    Args:
        self_us: microseconds in each operation itself, by its name.
    """
    parts = {part: sum(self_us.get(name, 0.0) for name in names) for part, names in LEARNER_PARTS.items()}
    operations = sum(value for name, value in self_us.items() if name.startswith("aten::"))
    return {**parts, "other operations": operations - sum(parts.values())}


def profile_worker(collect: Callable[[], int], env_steps_per_step: int) -> list[dict[str, Any]]:
    """Return the parts of a vector step's time, by Python's profiler.

    Args:
        collect: takes some vector steps and returns how many env steps they were.
        env_steps_per_step: E.
    """
    collect()
    profiler = cProfile.Profile()
    started = time.perf_counter()
    with profiler:
        env_steps = sum(collect() for _ in range(_WORKER_CALLS))
    seconds = time.perf_counter() - started
    functions: dict[Any, Any] = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    parts = {
        part: 1e6 * sum(own[3] for key, own in functions.items() if key[0].endswith(file) and key[2] == name)
        for part, (file, name) in WORKER_PARTS.items()
    }
    return _shares(parts, 1e6 * seconds, env_steps // env_steps_per_step)


def _shares(parts: Mapping[str, float], total_us: float, units: int) -> list[dict[str, Any]]:
    """Return the time of each part per unit and as a share, and the rest."""
    parts = {**parts, REST: total_us - sum(parts.values())}
    return [
        {"part": part, "microseconds": value / units, "share": value / total_us}
        for part, value in parts.items()
    ]
