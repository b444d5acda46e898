"""Where a stage's time goes, in parts named after their purpose."""

from __future__ import annotations

import cProfile
import pstats
import time
from collections.abc import Callable, Mapping
from typing import Any

from distributed_maddpg.learner import Learner

_LEARNER_CALLS, _WORKER_CALLS = 10, 20
REST = "Python and the rest"

WORKER_PARTS = {
    "policies' forward pass": ("policy.py", "logits"),
    "exploration noise": ("exploration.py", "_gumbel_noise"),
    "actions from logits": ("exploration.py", "relaxed"),
    "environment": ("vector_env.py", "step"),
    "episode statistics": ("episode_log.py", "step"),
}
"""Functions (file, name) by purpose, their callees included; most of the rest is packing."""


def profile_learner(learner: Learner, learn: Callable[[], int]) -> list[dict[str, Any]]:
    """Return the parts of the time that the fused update's threads spend on an update.

    Args:
        learner: that makes the updates.
        learn: makes some updates and returns how many.
    """
    learner.pop_time_spent()
    updates, seconds = 0, 0.0
    for _ in range(_LEARNER_CALLS):
        threads, started = learner.num_threads, time.perf_counter()
        updates += learn()
        seconds += threads * (time.perf_counter() - started)
    parts = {part: 1e6 * spent for part, spent in learner.pop_time_spent().items()}
    return _shares(parts, 1e6 * seconds, updates)


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
