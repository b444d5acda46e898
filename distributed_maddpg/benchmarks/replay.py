"""Minibatches and rows per second of the replay buffer in one process, beside bare numpy (floor F5)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from distributed_maddpg.benchmarks.measure import rates
from distributed_maddpg.benchmarks.result import Measurement, compare
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import env_spec
from distributed_maddpg.replay import ReplayBuffer, make_replay_buffer
from distributed_maddpg.types import FloatArray

_BATCHES_PER_CALL = 8
_INDEX_SETS = 16


def benchmark_replay(config: MADDPGConfig, seconds: float, repeats: int) -> Measurement:
    """Measure sampling from a full ring and storing fragments into it.

    The ceilings are `numpy.take` with indices drawn beforehand, and a plain copy, both into memory that is
    reused.
    """
    spec = env_spec(config.env.id, config.env.backend, config.env.kwargs)
    capacity, width, batch = config.replay.capacity, spec.transitions.width, config.learner.batch_size
    rng = np.random.default_rng(config.seed)
    fragment = rng.standard_normal((config.rollout.fragment_env_steps, width), dtype=np.float32)
    full = np.resize(fragment, (capacity, width))
    buffer = make_replay_buffer(config, spec)
    buffer.add(full)
    turns = rates(
        {
            "sample": _sample(buffer, batch),
            "take": _take(full, batch, rng),
            "add": _add(buffer, fragment),
            "copy": _copy(full, fragment),
        },
        seconds=seconds,
        repeats=repeats,
    )
    return compare(
        {"batches_per_s": turns["sample"], "ingest_rows_per_s": turns["add"]},
        {"take_batches_per_s": turns["take"], "copy_rows_per_s": turns["copy"]},
        [("batches_per_s", "take_batches_per_s"), ("ingest_rows_per_s", "copy_rows_per_s")],
        {
            "capacity": capacity,
            "row_bytes": 4 * width,
            "batch_size": batch,
            "batches_per_call": _BATCHES_PER_CALL,
            "rows_per_add": len(fragment),
        },
    )


def _sample(buffer: ReplayBuffer, batch: int) -> Callable[[], int]:
    return lambda: len(buffer.sample(_BATCHES_PER_CALL, batch))


def _take(rows: FloatArray, batch: int, rng: np.random.Generator) -> Callable[[], int]:
    # Several sets, so that the rows taken are no more in the cache than those of a draw.
    indices = rng.integers(0, len(rows), (_INDEX_SETS, _BATCHES_PER_CALL * batch))
    out = np.empty((_BATCHES_PER_CALL * batch, rows.shape[1]), np.float32)

    def take() -> int:
        for index in indices:
            np.take(rows, index, axis=0, out=out, mode="clip")
        return _BATCHES_PER_CALL * len(indices)

    return take


def _add(buffer: ReplayBuffer, fragment: FloatArray) -> Callable[[], int]:
    def add() -> int:
        buffer.add(fragment)
        return len(fragment)

    return add


def _copy(rows: FloatArray, fragment: FloatArray) -> Callable[[], int]:
    places = len(rows) // len(fragment)
    calls = 0

    def copy() -> int:
        nonlocal calls
        start = calls % places * len(fragment)
        rows[start : start + len(fragment)] = fragment
        calls += 1
        return len(fragment)

    return copy
