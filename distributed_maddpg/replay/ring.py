"""The memory of the replay buffer: a ring that one process writes and others on its node read.

There is no lock. The writer announces in `reserved` how far it is about to write, writes, and then counts the
rows in `inserted`. A reader copies rows and looks at `reserved` afterwards: whatever that announcement covers
may have changed under the copy, and is drawn again. So a torn row can be copied but never returned. `epoch`
changes where these two numbers go back: when the ring forgets its rows, or a new writer mends them.

Rows are numbered in the order in which they are added; number n stands at place n modulo capacity.

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
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from distributed_maddpg.types import FloatArray, StoredRows

_INSERTED, _RESERVED, _TOKEN, _FIRST, _EPOCH = range(5)
"""`_FIRST` is the number of the first row since the ring forgot all; `_EPOCH` is odd while it does."""
_HEADER_WORDS = 5
_HEADER_BYTES = mmap.PAGESIZE
_CHUNK_BYTES = 1 << 20  # more takes fresh memory for each, and three times as long
_MAX_ROWS = 1 << 62
_MAX_REDRAWS = 10_000
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
        self._header = np.zeros(_HEADER_WORDS, np.int64)
        self._lock = threading.Lock()
        """Held while rows change, and while a snapshot copies them; readers do without."""
        self._snapshots: list[weakref.ref[RingSnapshot]] = []

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
        """Return the ring at an address, to read; None where it cannot be reached from this process.

        Its own address leads to this process: others find the memory there after the writer has died.
        """
        return Ring._attach(address, os.O_RDONLY, mmap.ACCESS_READ)

    @staticmethod
    def attach_as_writer(address: RingAddress) -> Ring | None:
        """Return the ring at an address, to write; None where it cannot be reached from this process.

        The old writer must be dead, killed in the middle of `add` or not; readers may go on. Where it may
        have left a torn row over a stored one, a copy of a whole row is put; a ring without any is emptied.
        """
        ring = Ring._attach(address, os.O_RDWR, mmap.ACCESS_DEFAULT)
        if ring is not None:
            ring._repair_torn_rows()
        return ring

    @staticmethod
    def _attach(address: RingAddress, flags: int, access: int) -> Ring | None:
        try:
            # Where that process is another one, its file may be anything: a pipe must not hold us up.
            flags |= os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
            file = os.open(f"/proc/{address.process}/fd/{address.file}", flags)
        except OSError:
            return None
        ring = Ring(0, address.width)
        weakref.finalize(ring, os.close, file)
        try:
            ring._map(file, address.capacity, address.width, access)
        except (OSError, ValueError):  # another file, on another node
            return None
        ring.address = replace(address, process=os.getpid(), file=file)
        return ring if ring._header[_TOKEN] == address.token else None

    def _map(self, file: int, capacity: int, width: int, access: int = mmap.ACCESS_DEFAULT) -> None:
        memory = mmap.mmap(file, _HEADER_BYTES + capacity * width * 4, access=access)
        self._header = np.frombuffer(memory, np.int64, _HEADER_WORDS)
        self.rows = np.frombuffer(memory, np.float32, offset=_HEADER_BYTES).reshape(capacity, width)

    @property
    def inserted(self) -> int:
        """Rows ever added: the number of the next one."""
        return int(self._header[_INSERTED])

    @property
    def epoch(self) -> int:
        """Changes when the ring forgets rows or mends them: who follows it then starts at 0 again."""
        return int(self._header[_EPOCH])

    @property
    def capacity(self) -> int:
        """Rows the ring can hold."""
        return len(self.rows)

    @property
    def size(self) -> int:
        """Rows held now."""
        _, oldest, inserted = self._stored_range()
        return inserted - oldest

    def add(self, rows: FloatArray) -> None:
        """Copy rows `[n, width]` in, over the oldest where it is full; for one process alone.

        Raises:
            ValueError: if the rows have another width, or are more than the ring holds.
        """
        if rows.ndim != 2 or rows.shape[1] != self.rows.shape[1]:
            raise ValueError(f"rows have shape {rows.shape}, expected [n, {self.rows.shape[1]}]")
        if len(rows) > self.capacity:
            raise ValueError(f"{len(rows)} rows do not fit into a ring of {self.capacity}")
        inserted, reserved = self.inserted, self.inserted + len(rows)
        start = inserted % self.capacity
        before_wrap = min(len(rows), self.capacity - start)
        self._header[_RESERVED] = reserved
        with self._lock:  # large copies bypass the order of stores; a locked instruction does not let them
            if self._snapshots:
                self._copy_before_overwrite(reserved - self.capacity)
            self.rows[start : start + before_wrap] = rows[:before_wrap]
            self.rows[: len(rows) - before_wrap] = rows[before_wrap:]
            self._header[_INSERTED] = reserved

    def snapshot(self) -> RingSnapshot:
        """Return the contents of this moment, to be read while rows are added; for the writer's process.

        Raises:
            ValueError: if another process writes this ring.
        """
        if not self.rows.flags.writeable:
            raise ValueError("only the process that writes a ring can fix its contents")
        with self._lock:
            _, oldest, inserted = self._stored_range()
            snapshot = RingSnapshot(self, oldest, inserted)
            self._snapshots.append(weakref.ref(snapshot))
        return snapshot

    def clear(self, first: int) -> None:
        """Forget all rows; the next one gets number `first`. For the writer alone; snapshots keep theirs.

        Raises:
            ValueError: if no row can have that number.
        """
        if not 0 <= first <= _MAX_ROWS:
            raise ValueError(f"a ring cannot start at row {first}")
        with self._lock:
            self._copy_before_overwrite(_MAX_ROWS)
            changing = self.epoch | 1  # odd already if a writer died right here
            self._header[_EPOCH] = changing
            self._header[_FIRST] = first
            self._header[_INSERTED] = first
            self._header[_RESERVED] = first
            self._header[_EPOCH] = changing + 1

    def restore(self, stored: StoredRows) -> None:
        """Take over what a ring held.

        If it was as large as this one, each row gets its number and place again, and the same generator draws
        the same rows. Otherwise the newest rows that fit are numbered from 0.

        Raises:
            ValueError: if that is no ring's contents, or of another width. What is found out as the chunks
                arrive, or raised by them, leaves the ring empty.
        """
        num_rows, inserted = stored.num_rows, stored.inserted
        if not 0 <= num_rows <= inserted <= _MAX_ROWS:
            raise ValueError(f"{num_rows} rows cannot be stored of {inserted} inserted")
        self.clear(stored.first_number(self.capacity))
        try:
            self._add_newest(stored)
        except BaseException:
            self.clear(0)
            raise

    def sample(self, rng: np.random.Generator, count: int) -> FloatArray:
        """Return a copy of `count` uniform rows, `[count, width]`, whatever the writer does meanwhile.

        Raises:
            ValueError: if the ring is empty.
            RuntimeError: if the writer stopped in the middle of overwriting the whole ring.
        """
        rows = np.empty((count, self.rows.shape[1]), np.float32)
        changed = self._draw_once(rng, rows)
        for _ in range(_MAX_REDRAWS):
            if len(changed) == 0:
                return rows
            again = np.empty((len(changed), rows.shape[1]), np.float32)
            still = self._draw_once(rng, again)
            rows[changed] = again
            changed = changed[still]
        raise RuntimeError("the replay ring was left half written")

    def read_from(self, position: int) -> tuple[FloatArray, int]:
        """Return a copy of the newest rows, for a reader that follows the ring.

        Rows that are overwritten, before or under the copy, are missing at its front.

        Args:
            position: number of the first row wanted; what the last call returned, or 0. One that the ring has
                not reached (it was restored) counts as 0.

        Returns:
            (rows `[n, width]` in their order, number of the row after the last).
        """
        while True:
            epoch, oldest, inserted = self._stored_range()
            first = position if oldest <= position <= inserted else oldest
            rows = np.empty((inserted - first, self.rows.shape[1]), np.float32)
            self._copy(first, rows)
            oldest_unchanged = int(self._header[_RESERVED]) - self.capacity
            if self.epoch == epoch:
                return rows[max(0, oldest_unchanged - first) :], inserted

    def _stored_range(self) -> tuple[int, int, int]:
        """Return epoch, number of the oldest row and number after the newest one, all of one moment."""
        while True:
            epoch, inserted, first = self.epoch, self.inserted, int(self._header[_FIRST])
            if epoch % 2:
                return epoch, inserted, inserted
            if self.epoch == epoch:
                return epoch, max(first, inserted - self.capacity), inserted

    def _draw_once(self, rng: np.random.Generator, out: FloatArray) -> npt.NDArray[np.intp]:
        """Fill `into [n, width]` with uniform rows; return the places in it whose row changed meanwhile.

        Raises:
            ValueError: if the ring is empty.
        """
        epoch, oldest, inserted = self._stored_range()
        if oldest == inserted:
            raise ValueError("cannot sample from an empty replay buffer")
        index = rng.integers(0, inserted - oldest, len(out))
        if 0 < oldest and inserted - oldest < self.capacity:
            index = (index + oldest) % self.capacity
        # "clip" skips a checking pass over the indices, which are in range by construction.
        np.take(self.rows, index, axis=0, out=out, mode="clip")
        # In this order: who lowers `reserved` changes the epoch before.
        written = int(self._header[_RESERVED]) - inserted
        if self.epoch != epoch:
            return np.arange(len(out))
        if written <= 0:
            return np.zeros(0, np.intp)
        return np.flatnonzero((index - inserted) % self.capacity < written)

    def _copy(self, first: int, out: FloatArray) -> None:
        """Copy the rows numbered `first` and on to `into [n, width]`."""
        start = first % self.capacity
        before_wrap = min(len(out), self.capacity - start)
        out[:before_wrap] = self.rows[start : start + before_wrap]
        out[before_wrap:] = self.rows[: len(out) - before_wrap]

    def _copy_before_overwrite(self, before: int) -> None:
        """Have each snapshot copy its rows up to number `before`, and forget those that need no more."""
        self._snapshots = [
            reference
            for reference in self._snapshots
            if (snapshot := reference()) is not None and snapshot._copy_before_overwrite(before)
        ]

    def _add_newest(self, stored: StoredRows) -> None:
        """Add the newest rows that fit, after checking what cannot be checked before they arrive."""
        skipped, arrived = max(0, stored.num_rows - self.capacity), 0
        for chunk in stored.chunks:
            if chunk.ndim != 2 or chunk.shape[1] != self.rows.shape[1] or chunk.dtype != np.float32:
                raise ValueError(
                    f"stored rows have shape {chunk.shape} and type {chunk.dtype}, "
                    f"expected [n, {self.rows.shape[1]}] float32"
                )
            fitting = chunk[max(0, skipped - arrived) :]
            arrived += len(chunk)
            if arrived > stored.num_rows:
                break
            for start in range(0, len(fitting), self.capacity):
                self.add(fitting[start : start + self.capacity])
        if arrived != stored.num_rows:
            more = "or more " if arrived > stored.num_rows else ""
            raise ValueError(f"{arrived} {more}rows are stored where {stored.num_rows} are announced")

    def _repair_torn_rows(self) -> None:
        """Undo a dead writer's unfinished work; the announcement that hides it from readers goes last."""
        epoch, oldest, inserted = self._stored_range()
        if epoch % 2:  # it died while forgetting all
            return self.clear(inserted)
        reserved = int(self._header[_RESERVED])
        if reserved == inserted:
            return
        oldest_whole = max(oldest, reserved - self.capacity)
        if oldest < oldest_whole and inserted <= oldest_whole:
            return self.clear(inserted)
        torn = np.arange(oldest, oldest_whole)
        whole = inserted - 1 - torn % max(1, inserted - oldest_whole)
        with self._lock:
            self.rows[torn % self.capacity] = self.rows[whole % self.capacity]
            # Who copied a torn row before sees this change, or else the announcement still there.
            self._header[_EPOCH] = epoch + 2
            self._header[_RESERVED] = inserted


class RingSnapshot:
    """What a ring held at one moment, its oldest rows first; `Ring.snapshot` makes it.

    The rows stay in the ring. Those that are overwritten before they were read are copied first, and as both
    happen in the order of their numbers, what was copied comes before what is still in the ring.
    """

    def __init__(self, ring: Ring, oldest: int, inserted: int) -> None:
        """Begin with the row numbered `oldest`."""
        self.inserted = inserted
        """Rows ever added at that moment."""
        self.num_rows = inserted - oldest
        """Rows held."""
        self._ring = ring
        self._copied: deque[FloatArray] = deque()
        self._next_row = oldest
        """The first row that is neither read nor rescued."""

    def read(self, max_rows: int) -> FloatArray:
        """Return a copy of the next rows `[n, width]`, as many as asked for while there are; then none.

        Another thread may add rows meanwhile; it waits for the copy of these.

        Raises:
            ValueError: if asked for none.
        """
        if max_rows < 1:
            raise ValueError(f"cannot read {max_rows} rows at a time")
        with self._ring._lock:
            unread = self.inserted - self._next_row + sum(map(len, self._copied))
            rows = np.empty((min(max_rows, unread), self._ring.rows.shape[1]), np.float32)
            filled = self._read_copied(rows)
            self._ring._copy(self._next_row, rows[filled:])
            self._next_row += len(rows) - filled
        return rows

    def stored(self, rows_per_chunk: int | None = None) -> StoredRows:
        """Return the whole of it, for a file; chunks of 1 MB unless told. Nothing may be read yet."""
        row_bytes = 4 * self._ring.rows.shape[1]
        chunks = self._chunks(rows_per_chunk or max(1, _CHUNK_BYTES // row_bytes))
        return StoredRows(self.inserted, self.num_rows, chunks)

    def _chunks(self, rows: int) -> Iterator[FloatArray]:
        while len(chunk := self.read(rows)):
            yield chunk

    def _read_copied(self, out: FloatArray) -> int:
        """Move rescued rows to the front of `into [n, width]`; return how many."""
        filled = 0
        while filled < len(out) and self._copied:
            piece = self._copied.popleft()
            taken = piece[: len(out) - filled]
            out[filled : filled + len(taken)] = taken
            filled += len(taken)
            if len(taken) < len(piece):
                self._copied.appendleft(piece[len(taken) :])
        return filled

    def _copy_before_overwrite(self, before: int) -> bool:
        """Copy the rows up to number `before`; return whether any are left in the ring. The lock is held."""
        count = min(before, self.inserted) - self._next_row
        if count > 0:
            rows = np.empty((count, self._ring.rows.shape[1]), np.float32)
            self._ring._copy(self._next_row, rows)
            self._copied.append(rows)
            self._next_row += count
        return self._next_row < self.inserted
