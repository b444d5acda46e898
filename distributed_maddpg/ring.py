"""The memory of the replay buffer: a ring that one process writes and others on its node read (floor F2).

There is no lock. The writer announces in `reserved` how far it is about to write, writes, and then counts the
rows in `inserted`. A reader copies rows and looks at `reserved` afterwards: whatever that announcement covers
may have changed under the copy, and is drawn again. So a torn row can be copied but never returned.

This needs stores that other processors see in the order in which they were made, which x86 promises and ARM
does not: elsewhere the memory stays private (`docs/decisions/0009-shared-ring.md`).
"""

from __future__ import annotations

import mmap
import os
import platform
import secrets
import sys
import threading
import weakref
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from distributed_maddpg.types import FloatArray

_INSERTED, _RESERVED, _TOKEN = 0, 1, 2
_HEADER_BYTES = mmap.PAGESIZE
_MOST_REDRAWS = 10_000
_ORDERED_STORES = platform.machine().lower() in ("x86_64", "amd64")


@dataclass(frozen=True)
class RingAddress:
    """Where another process of the same node finds a ring: an open file of its owner, without a name."""

    process: int
    file: int
    token: int
    """Written in the ring's head, because another node may have a process of the same number."""
    capacity: int
    width: int


class Ring:
    """Rows `[capacity, width]` float32, the newest over the oldest; memory is taken as it is written."""

    def __init__(self, capacity: int, width: int) -> None:
        """Create an empty ring in private memory."""
        self.rows: FloatArray = np.zeros((capacity, width), np.float32)
        self.address: RingAddress | None = None
        """Where others find it; None while the memory is private."""
        self._header = np.zeros(3, np.int64)
        self._fence = threading.Lock()

    @staticmethod
    def shared(capacity: int, width: int) -> Ring:
        """Create an empty ring that other processes can attach to; private where the system cannot share.

        The memory is an open file without a name: it is gone with the last process that has it open, however
        that ends, and a container's small /dev/shm does not limit it.
        """
        if not (_ORDERED_STORES and sys.platform == "linux"):
            return Ring(capacity, width)
        ring = Ring(0, width)
        try:
            file = os.memfd_create("distributed-maddpg-replay", os.MFD_CLOEXEC)
            weakref.finalize(ring, os.close, file)
            os.ftruncate(file, _HEADER_BYTES + capacity * width * 4)
            ring._map(file, capacity, width)
        except OSError:  # a sandbox may forbid it
            return Ring(capacity, width)
        token = secrets.randbits(62)
        ring._header[_TOKEN] = token
        ring.address = RingAddress(os.getpid(), file, token, capacity, width)
        return ring

    @staticmethod
    def attach(address: RingAddress) -> Ring | None:
        """Return the ring at an address, to read; None where it cannot be reached from this process."""
        try:
            # Where that process is another one, its file may be anything: a pipe must not hold us up.
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
            file = os.open(f"/proc/{address.process}/fd/{address.file}", flags)
        except OSError:
            return None
        ring = Ring(0, address.width)
        try:
            ring._map(file, address.capacity, address.width, mmap.ACCESS_READ)
        except (OSError, ValueError):  # another file, on another node
            return None
        finally:
            os.close(file)
        ring.address = address
        return ring if ring._header[_TOKEN] == address.token else None

    def _map(self, file: int, capacity: int, width: int, access: int = mmap.ACCESS_DEFAULT) -> None:
        memory = mmap.mmap(file, _HEADER_BYTES + capacity * width * 4, access=access)
        self._header = np.frombuffer(memory, np.int64, 3)
        self.rows = np.frombuffer(memory, np.float32, offset=_HEADER_BYTES).reshape(capacity, width)

    @property
    def inserted(self) -> int:
        """Rows ever added."""
        return int(self._header[_INSERTED])

    @property
    def capacity(self) -> int:
        """Rows the ring can hold."""
        return len(self.rows)

    @property
    def size(self) -> int:
        """Rows held now."""
        return min(self.inserted, self.capacity)

    def add(self, rows: FloatArray) -> None:
        """Copy rows `[n, width]` in, over the oldest where it is full; for one process alone.

        Raises:
            ValueError: if the rows have another width, or are more than the ring holds.
        """
        if rows.ndim != 2 or rows.shape[1] != self.rows.shape[1]:
            raise ValueError(f"rows have shape {rows.shape}, expected [n, {self.rows.shape[1]}]")
        if len(rows) > self.capacity:
            raise ValueError(f"{len(rows)} rows do not fit into a ring of {self.capacity}")
        inserted = self.inserted
        start = inserted % self.capacity
        before_wrap = min(len(rows), self.capacity - start)
        self._header[_RESERVED] = inserted + len(rows)
        with self._fence:  # large copies bypass the order of stores; a locked instruction does not let them
            pass
        self.rows[start : start + before_wrap] = rows[:before_wrap]
        self.rows[: len(rows) - before_wrap] = rows[before_wrap:]
        self._header[_INSERTED] = inserted + len(rows)

    def restore(self, rows: FloatArray, inserted: int) -> None:
        """Take over the contents `[size, width]` of a ring that had `inserted` rows added.

        Raises:
            ValueError: if they do not fit this ring.
        """
        if rows.shape != (min(inserted, self.capacity), self.rows.shape[1]):
            raise ValueError(
                f"{rows.shape} rows of {inserted} inserted do not fit a ring of {self.rows.shape}"
            )
        self._header[_RESERVED] = inserted + self.capacity  # everything may change
        self.rows[: len(rows)] = rows
        self._header[:2] = inserted

    def sample(self, rng: np.random.Generator, count: int) -> FloatArray:
        """Return a copy of `count` uniform rows, `[count, width]`, whatever the writer does meanwhile.

        Raises:
            ValueError: if the ring is empty.
            RuntimeError: if the writer stopped in the middle of overwriting the whole ring.
        """
        if self.size == 0:
            raise ValueError("cannot sample from an empty replay buffer")
        rows = np.empty((count, self.rows.shape[1]), np.float32)
        changed = self._draw(rng, rows)
        for _ in range(_MOST_REDRAWS):
            if len(changed) == 0:
                return rows
            again = np.empty((len(changed), rows.shape[1]), np.float32)
            still = self._draw(rng, again)
            rows[changed] = again
            changed = changed[still]
        raise RuntimeError("the replay ring was left half written")

    def read_since(self, position: int) -> tuple[FloatArray, int]:
        """Return a copy of the newest rows, for a reader that follows the ring.

        Rows are numbered from 0 in the order in which they were added. Those that are overwritten, before or
        under the copy, are missing at its front.

        Args:
            position: number of the first row wanted; what the last call returned, or 0. One that the ring has
                not reached (it was restored) counts as 0.

        Returns:
            (rows `[n, width]` in their order, number of the row after the last).
        """
        inserted, capacity = self.inserted, self.capacity
        oldest = max(0, inserted - capacity)
        first = position if oldest <= position <= inserted else oldest
        rows = np.empty((inserted - first, self.rows.shape[1]), np.float32)
        start = first % capacity
        before_wrap = min(len(rows), capacity - start)
        rows[:before_wrap] = self.rows[start : start + before_wrap]
        rows[before_wrap:] = self.rows[: len(rows) - before_wrap]
        oldest_unchanged = int(self._header[_RESERVED]) - capacity
        return rows[max(0, oldest_unchanged - first) :], inserted

    def _draw(self, rng: np.random.Generator, into: FloatArray) -> npt.NDArray[np.intp]:
        """Fill `into [n, width]` with uniform rows; return the places whose row changed meanwhile."""
        inserted = self.inserted
        index = rng.integers(0, min(inserted, self.capacity), len(into))
        # "clip" skips a checking pass over the indices, which are in range by construction.
        np.take(self.rows, index, axis=0, out=into, mode="clip")
        written = int(self._header[_RESERVED]) - inserted
        if written <= 0:
            return np.zeros(0, np.intp)
        return np.flatnonzero((index - inserted) % self.capacity < written)
