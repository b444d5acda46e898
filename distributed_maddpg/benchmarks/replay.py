"""Minibatches and rows per second through shared memory, sampling and storing at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from distributed_maddpg.benchmarks.measure import rates
from distributed_maddpg.benchmarks.result import Measurement, compare
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import env_spec
from distributed_maddpg.types import FloatArray

if TYPE_CHECKING:
    from distributed_maddpg.runtime.replay_load import LoadedReplay

_BATCHES_PER_CALL = 8
_INDEX_SETS = 16
_ROWS_PER_PUSH = 16_384
_HEAD_START_S = 0.1


def benchmark_replay(config: MADDPGConfig, seconds: float, repeats: int) -> Measurement:
    """Measure what a learner can sample of a full replay buffer in another process, and what that can store.

    Three processes: one pushes rows through Ray, one stores them, and this one samples, first while nobody
    pushes and then while they do. The ceiling is `numpy.take` in this process, with indices drawn beforehand
    and into memory that is reused.
    """
    # Imported here: no other stage's benchmark needs Ray.
    from distributed_maddpg.runtime.replay_load import loaded_replay  # noqa: PLC0415

    spec = env_spec(config.env.id, config.env.backend, config.env.kwargs)
    batch = config.learner.batch_size
    rows_per_push = min(_ROWS_PER_PUSH, config.replay.capacity)
    turns: dict[str, list[float]] = {"take": [], "alone": [], "sample": [], "ingest": []}
    with loaded_replay(config, spec, rows_per_push) as loaded:
        take = _take(loaded.shared.ring.rows.copy(), batch, np.random.default_rng(config.seed))
        alone = _sample(loaded, batch)
        for _ in range(repeats):
            idle = rates({"take": take, "alone": alone}, seconds=seconds, repeats=1)
            with loaded.pushing(2 * seconds + 5 * _HEAD_START_S):
                time.sleep(_HEAD_START_S)
                inserted, started = loaded.shared.inserted, time.perf_counter()
                sampled = rates({"sample": alone}, seconds=seconds, repeats=1)
                ingested = (loaded.shared.inserted - inserted) / (time.perf_counter() - started)
            for name, values in (*idle.items(), *sampled.items(), ("ingest", [ingested])):
                turns[name] += values
    return compare(
        {
            "batches_per_s": turns["sample"],
            "ingest_rows_per_s": turns["ingest"],
            "batches_without_ingest_per_s": turns["alone"],
        },
        {"take_batches_per_s": turns["take"]},
        [
            ("batches_per_s", "take_batches_per_s"),
            ("batches_without_ingest_per_s", "take_batches_per_s"),
        ],
        {
            "capacity": config.replay.capacity,
            "row_bytes": 4 * spec.transitions.width,
            "batch_size": batch,
            "batches_per_call": _BATCHES_PER_CALL,
            "rows_per_push": rows_per_push,
        },
    )


def _sample(loaded: LoadedReplay, batch: int) -> Callable[[], int]:
    return lambda: len(loaded.shared.sample(_BATCHES_PER_CALL, batch))


def _take(rows: FloatArray, batch: int, rng: np.random.Generator) -> Callable[[], int]:
    # Several sets, so that the rows taken are no more in the cache than those of a draw.
    indices = rng.integers(0, len(rows), (_INDEX_SETS, _BATCHES_PER_CALL * batch))
    out = np.empty((_BATCHES_PER_CALL * batch, rows.shape[1]), np.float32)

    def take() -> int:
        for index in indices:
            np.take(rows, index, axis=0, out=out, mode="clip")
        return _BATCHES_PER_CALL * len(indices)

    return take
