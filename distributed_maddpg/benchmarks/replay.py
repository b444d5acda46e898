"""Minibatches and rows per second through shared memory, sampling and storing at once."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np

from distributed_maddpg.benchmarks.measurement import Measurement, compare, rates
from distributed_maddpg.benchmarks.options import BenchmarkOptions
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import env_spec
from distributed_maddpg.types import FloatArray

_BATCHES_PER_CALL = 8
_INDEX_SETS = 16
_ROWS_PER_PUSH = 16_384
_HEAD_START_S = 0.1


def measure(config: MADDPGConfig, options: BenchmarkOptions) -> Measurement:
    """Measure the rates of sampling from a full replay buffer in another process, and of storing in it.

    Three processes: one pushes rows through Ray, one stores them, and this one samples, first while no
    process pushes and then while one does. The reference is `numpy.take` in this process, with indices drawn
    beforehand and into memory that is reused.
    """
    # Imported here: no other stage's benchmark needs Ray.
    from distributed_maddpg.runtime.replay_load import loaded_replay  # noqa: PLC0415

    spec = env_spec(config.env.id, config.env.backend, config.env.kwargs)
    batch, seconds = config.learner.batch_size, options.seconds
    rows_per_push = min(_ROWS_PER_PUSH, config.replay.capacity)
    turns: dict[str, list[float]] = defaultdict(list)
    with loaded_replay(config, spec, rows_per_push) as loaded:
        shared = loaded.shared
        take = _take(shared.ring.rows.copy(), batch, np.random.default_rng(config.seed))

        def sample() -> int:
            return len(shared.sample(_BATCHES_PER_CALL, batch))

        for _ in range(options.repeats):
            idle = rates({"take_batches_per_s": take, "batches_without_ingest_per_s": sample}, seconds, 1)
            with loaded.pushing(2 * seconds + 5 * _HEAD_START_S):
                time.sleep(_HEAD_START_S)
                inserted, started = shared.inserted, time.perf_counter()
                busy = rates({"batches_per_s": sample}, seconds, 1)
                ingested = (shared.inserted - inserted) / (time.perf_counter() - started)
            for name, values in (*busy.items(), ("ingest_rows_per_s", [ingested]), *idle.items()):
                turns[name] += values
    return compare(
        turns,
        references=["take_batches_per_s"],
        ratios=[f"{name}/take_batches_per_s" for name in ("batches_per_s", "batches_without_ingest_per_s")],
        settings={
            "capacity": config.replay.capacity,
            "row_bytes": 4 * spec.transitions.width,
            "batch_size": batch,
            "batches_per_call": _BATCHES_PER_CALL,
            "rows_per_push": rows_per_push,
        },
    )


def _take(rows: FloatArray, batch: int, rng: np.random.Generator) -> Callable[[], int]:
    # Several sets, so that the rows taken are no more in the cache than those of a draw.
    indices = rng.integers(0, len(rows), (_INDEX_SETS, _BATCHES_PER_CALL * batch))
    out = np.empty((_BATCHES_PER_CALL * batch, rows.shape[1]), np.float32)

    def take() -> int:
        for index in indices:
            np.take(rows, index, axis=0, out=out, mode="clip")
        return _BATCHES_PER_CALL * len(indices)

    return take
