"""The replay buffer: a ring of packed float32 rows (floor F3; numpy only)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.seeding import generator, pack_generator, restore_generator
from distributed_maddpg.types import EnvSpec, FloatArray


class ReplayBuffer:
    """Keeps the newest `capacity` transitions and draws uniform minibatches, with replacement.

    The ring is one array `[capacity, width]`; memory is taken from the system only as rows are written.
    """

    def __init__(self, capacity: int, width: int, rng: np.random.Generator) -> None:
        """Create an empty ring whose draws come from `rng`."""
        self._rows = np.zeros((capacity, width), np.float32)
        self._rng = rng
        self.inserted = 0
        """Rows ever added."""

    @property
    def capacity(self) -> int:
        """Rows the ring can hold."""
        return len(self._rows)

    @property
    def size(self) -> int:
        """Rows held now."""
        return min(self.inserted, self.capacity)

    @property
    def cursor(self) -> int:
        """Where the next row goes."""
        return self.inserted % self.capacity

    @property
    def size_bytes(self) -> int:
        """Memory of the full ring."""
        return self._rows.nbytes

    def add(self, rows: FloatArray) -> None:
        """Copy rows `[n, width]` into the ring, over the oldest where it is full.

        Raises:
            ValueError: if the rows have another width, or are more than the ring holds.
        """
        if rows.ndim != 2 or rows.shape[1] != self._rows.shape[1]:
            raise ValueError(f"rows have shape {rows.shape}, expected [n, {self._rows.shape[1]}]")
        if len(rows) > self.capacity:
            raise ValueError(f"{len(rows)} rows do not fit into a ring of {self.capacity}")
        start = self.cursor
        before_wrap = min(len(rows), self.capacity - start)
        self._rows[start : start + before_wrap] = rows[:before_wrap]
        self._rows[: len(rows) - before_wrap] = rows[before_wrap:]
        self.inserted += len(rows)

    def sample(self, num_batches: int, batch_size: int) -> FloatArray:
        """Return `[num_batches, batch_size, width]` uniform rows, a copy.

        Raises:
            ValueError: if the ring is empty.
        """
        if self.size == 0:
            raise ValueError("cannot sample from an empty replay buffer")
        index = self._rng.integers(0, self.size, num_batches * batch_size)
        batches = np.empty((num_batches * batch_size, self._rows.shape[1]), np.float32)
        # "clip" skips a checking pass over the indices, which are in range by construction.
        np.take(self._rows, index, axis=0, out=batches, mode="clip")
        return batches.reshape(num_batches, batch_size, -1)

    def get_state(self) -> dict[str, npt.NDArray[Any]]:
        """Return contents, cursor and generator as arrays; `set_state` continues exactly from here."""
        return {
            "rows": self._rows[: self.size].copy(),
            "inserted": np.array(self.inserted, np.int64),
            "generator": pack_generator(self._rng),
        }

    def set_state(self, state: dict[str, npt.NDArray[Any]]) -> None:
        """Take over what `get_state` returned.

        Raises:
            ValueError: if it does not fit this ring.
        """
        rows, inserted = state["rows"], int(state["inserted"])
        if rows.shape != (min(inserted, self.capacity), self._rows.shape[1]):
            raise ValueError(
                f"{rows.shape} rows of {inserted} inserted do not fit a ring of {self._rows.shape}"
            )
        self._rows[: len(rows)] = rows
        self.inserted = inserted
        restore_generator(self._rng, state["generator"])

    def check_valid(self) -> tuple[bool, str]:
        """Return whether the invariants hold, and which one does not."""
        if not 0 <= self.size <= self.capacity:
            return False, f"size {self.size} outside [0, {self.capacity}]"
        if not np.isfinite(self._rows[: self.size]).all():
            return False, "a stored row is not finite"
        if self._rows[self.size :].any():
            return False, "a row that was never written is not zero"
        return True, ""


def make_replay_buffer(config: MADDPGConfig, spec: EnvSpec) -> ReplayBuffer:
    """Build the replay buffer of a run."""
    return ReplayBuffer(config.replay.capacity, spec.transitions.width, generator(config.seed, "replay"))
