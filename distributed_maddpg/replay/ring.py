"""Memory of the replay buffer: a lock-free ring with one writer process and readers on the same node.

The writer sets `reserved` to the row number up to which it is about to write, writes the rows, and then sets
`inserted`. A reader copies rows and reads `reserved` afterwards: rows in the reserved range may have changed
during the copy, and are drawn again. So a torn row may be copied but is never returned. `epoch` changes
whenever these two numbers may go back: when the ring is cleared, or when a new writer repairs torn rows.

Rows are numbered in the order of insertion; row number n is stored at index n modulo capacity.

This requires that other processors see stores in program order. x86 guarantees that, ARM does not; on other
machines the memory stays private (`docs/decisions/0009-shared-ring.md`).
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

from distributed_maddpg.types import FloatArray, RingCounters, StoredTransitions

_INSERTED, _RESERVED, _TOKEN, _FIRST, _EPOCH = range(5)
"""`_FIRST` is the number of the first row since the ring was cleared; `_EPOCH` is odd while it is cleared."""
_HEADER_WORDS = 5
_HEADER_BYTES = mmap.PAGESIZE
_CHUNK_BYTES = 1 << 20  # larger chunks allocate fresh memory each time and take three times as long
_MAX_ROWS = 1 << 62
_MAX_REDRAWS = 10_000
DEAD_WRITER = "the replay buffer was cleared, or its writer died while it overwrote all rows"
_ORDERED_STORES = platform.machine().lower() in ("x86_64", "amd64")


@dataclass(frozen=True)
class RingAddress:
    """Where another process of the same node finds a ring: an anonymous open file of its owner."""

    process: int
    file: int
    token: int
    """Stored in the ring's header; detects a process of the same pid on another node."""
    capacity: int
    width: int


class Ring:
    """Rows `[capacity, width]` float32; new rows overwrite the oldest. Untouched memory is not committed."""

    def __init__(self, capacity: int, width: int) -> None:
        """Create an empty ring in private memory."""
        self.rows: FloatArray = np.zeros((capacity, width), np.float32)
        self.address: RingAddress | None = None
        """Where other processes find the ring; None for private memory."""
        self._header = np.zeros(_HEADER_WORDS, np.int64)
        self._lock = threading.Lock()
        """Held while rows change and while a snapshot copies them; readers do not take it."""
        self._snapshots: list[weakref.ref[RingSnapshot]] = []

    @staticmethod
    def shared(capacity: int, width: int) -> Ring:
        """Create an empty ring that other processes can attach to; private if the system cannot share memory.

        The memory is an anonymous file (memfd). It is freed when the last process that has it open ends, even
        if that is killed, and a container's small /dev/shm does not limit it.
        """
        if not (_ORDERED_STORES and sys.platform == "linux"):
            return Ring(capacity, width)
        ring = Ring(0, width)
        try:
            file = os.memfd_create("distributed-maddpg-replay", os.MFD_CLOEXEC)
            weakref.finalize(ring, os.close, file)
            os.ftruncate(file, _HEADER_BYTES + capacity * width * 4)
            ring._map(file, capacity, width)
        except OSError:  # a sandbox may forbid memfd
            return Ring(capacity, width)
        token = secrets.randbits(62)
        ring._header[_TOKEN] = token
        ring.address = RingAddress(os.getpid(), file, token, capacity, width)
        return ring

    @staticmethod
    def attach(address: RingAddress) -> Ring | None:
        """Return the ring at an address, read-only; None if this process cannot reach it.

        The returned ring's own address refers to this process, so others find the memory there after the
        writer died.
        """
        return Ring._attach(address, os.O_RDONLY, mmap.ACCESS_READ)

    @staticmethod
    def attach_as_writer(address: RingAddress) -> Ring | None:
        """Return the ring at an address, to write; None if this process cannot reach it.

        The previous writer must be dead; it may have died in the middle of `add`. Readers may continue
        meanwhile. A stored row that may be torn is replaced by a copy of a whole row; a ring without a whole
        row is cleared.
        """
        ring = Ring._attach(address, os.O_RDWR, mmap.ACCESS_DEFAULT)
        if ring is not None:
            ring._repair_torn_rows()
        return ring

    @staticmethod
    def _attach(address: RingAddress, flags: int, access: int) -> Ring | None:
        try:
            # Another process may have that pid, and any file under that number: a pipe must not block here.
            flags |= os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
            file = os.open(f"/proc/{address.process}/fd/{address.file}", flags)
        except OSError:
            return None
        ring = Ring(0, address.width)
        weakref.finalize(ring, os.close, file)
        try:
            ring._map(file, address.capacity, address.width, access)
        except (OSError, ValueError):  # another node's process has another file there
            return None
        ring.address = replace(address, process=os.getpid(), file=file)
        return ring if ring._header[_TOKEN] == address.token else None

    def _map(self, file: int, capacity: int, width: int, access: int = mmap.ACCESS_DEFAULT) -> None:
        memory = mmap.mmap(file, _HEADER_BYTES + capacity * width * 4, access=access)
        self._header = np.frombuffer(memory, np.int64, _HEADER_WORDS)
        self.rows = np.frombuffer(memory, np.float32, offset=_HEADER_BYTES).reshape(capacity, width)

    @property
    def inserted(self) -> int:
        """Total number of rows ever added; the number of the next row."""
        return int(self._header[_INSERTED])

    @property
    def epoch(self) -> int:
        """Changes when the ring is cleared or repaired; users of `read_from` then start at 0 again."""
        return int(self._header[_EPOCH])

    @property
    def capacity(self) -> int:
        """Maximum number of rows."""
        return len(self.rows)

    @property
    def size(self) -> int:
        """Number of rows stored."""
        _, oldest, inserted = self._stored_range()
        return inserted - oldest

    def add(self, rows: FloatArray) -> None:
        """Add rows `[n, width]`, overwriting the oldest if the ring is full; only for the writer process.

        Raises:
            ValueError: if the rows have another width, or exceed the capacity.
        """
        if rows.ndim != 2 or rows.shape[1] != self.rows.shape[1]:
            raise ValueError(f"rows have shape {rows.shape}, expected [n, {self.rows.shape[1]}]")
        if len(rows) > self.capacity:
            raise ValueError(f"{len(rows)} rows do not fit into a ring of {self.capacity}")
        inserted, reserved = self.inserted, self.inserted + len(rows)
        start = inserted % self.capacity
        before_wrap = min(len(rows), self.capacity - start)
        self._header[_RESERVED] = reserved
        with self._lock:  # large copies may use unordered stores; the lock's atomic instruction orders them
            if self._snapshots:
                self._copy_before_overwrite(reserved - self.capacity)
            self.rows[start : start + before_wrap] = rows[:before_wrap]
            self.rows[: len(rows) - before_wrap] = rows[before_wrap:]
            self._header[_INSERTED] = reserved

    def snapshot(self) -> RingSnapshot:
        """Return the current contents, to be read while rows are added; only for the writer process.

        Raises:
            ValueError: if another process writes this ring.
        """
        if not self.rows.flags.writeable:
            raise ValueError("only the process that writes a ring can take a snapshot of it")
        with self._lock:
            _, oldest, inserted = self._stored_range()
            snapshot = RingSnapshot(self, oldest, inserted)
            self._snapshots.append(weakref.ref(snapshot))
        return snapshot

    def clear(self, first: int) -> None:
        """Remove all rows; the next row gets number `first`.

        Only for the writer process. Snapshots keep their rows.

        Raises:
            ValueError: if no row can have that number.
        """
        if not 0 <= first <= _MAX_ROWS:
            raise ValueError(f"a ring cannot start at row {first}")
        with self._lock:
            self._copy_before_overwrite(_MAX_ROWS)
            changing = self.epoch | 1  # odd already if the previous writer died in `clear`
            self._header[_EPOCH] = changing
            self._header[_FIRST] = first
            self._header[_INSERTED] = first
            self._header[_RESERVED] = first
            self._header[_EPOCH] = changing + 1

    def restore(self, stored: StoredTransitions) -> None:
        """Load the contents of another ring.

        If it had the same capacity, each row gets its old number and index, and the same generator samples
        the same rows. Otherwise the newest rows that fit are numbered from 0.

        Raises:
            ValueError: if the contents are inconsistent or of another width. An error while chunks are read
                leaves the ring empty.
        """
        num_rows, inserted = stored.num_rows, stored.inserted
        if not 0 <= num_rows <= inserted <= _MAX_ROWS:
            raise ValueError(f"{num_rows} rows cannot be stored of {inserted} inserted ones")
        self.clear(stored.first_row_number(self.capacity))
        try:
            self._add_newest(stored)
        except BaseException:
            self.clear(0)
            raise

    def sample(self, rng: np.random.Generator, count: int) -> FloatArray:
        """Return a copy of `count` uniform rows, `[count, width]`; the writer may write meanwhile.

        Raises:
            ValueError: if the ring is empty.
            RuntimeError: if the writer died while it overwrote the whole ring.
        """
        return self.draw(rng, count).copied()

    def draw(self, rng: np.random.Generator, count: int) -> Draw:
        """Draw `count` uniform rows without reading them.

        Raises:
            ValueError: if the ring is empty.
        """
        epoch, oldest, inserted = self._stored_range()
        if oldest == inserted:
            raise ValueError("cannot sample from an empty replay buffer")
        index = rng.integers(0, inserted - oldest, count)
        if 0 < oldest and inserted - oldest < self.capacity:
            index = (index + oldest) % self.capacity
        return Draw(self, index, epoch, inserted, rng)

    def read_from(self, position: int) -> tuple[FloatArray, int]:
        """Return a copy of the rows from number `position` on, for a reader that follows the ring.

        Rows that were overwritten before or during the copy are left out.

        Args:
            position: number of the first row to read: 0, or what the last call returned. A number that the
                ring has not reached (it was restored) counts as 0.

        Returns:
            (rows `[n, width]` in order, number of the row after the last).
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
        """Return epoch, number of the oldest row and number of the next row, mutually consistent."""
        while True:
            epoch, inserted, first = self.epoch, self.inserted, int(self._header[_FIRST])
            if epoch % 2:
                return epoch, inserted, inserted
            if self.epoch == epoch:
                return epoch, max(first, inserted - self.capacity), inserted

    def _copy_drawn(self, draw: Draw, out: FloatArray) -> npt.NDArray[np.intp]:
        """Fill `out [n, width]` with drawn rows; return the indices in `out` of rows that changed since."""
        # "clip" skips numpy's bounds check; the indices are in range by construction.
        np.take(self.rows, draw.index, axis=0, out=out, mode="clip")
        # Read `reserved` before the epoch: a writer that lowers it changes the epoch first.
        written = int(self._header[_RESERVED]) - draw.inserted
        if self.epoch != draw.epoch:
            return np.arange(len(out))
        if written <= 0:
            return np.zeros(0, np.intp)
        return np.flatnonzero((draw.index - draw.inserted) % self.capacity < written)

    def _copy(self, first: int, out: FloatArray) -> None:
        """Copy rows into `out [n, width]`, starting with row number `first`."""
        start = first % self.capacity
        before_wrap = min(len(out), self.capacity - start)
        out[:before_wrap] = self.rows[start : start + before_wrap]
        out[before_wrap:] = self.rows[: len(out) - before_wrap]

    def _copy_before_overwrite(self, before: int) -> None:
        """Let each snapshot copy its rows below number `before`; drop finished snapshots."""
        self._snapshots = [
            reference
            for reference in self._snapshots
            if (snapshot := reference()) is not None and snapshot._copy_before_overwrite(before)
        ]

    def _add_newest(self, stored: StoredTransitions) -> None:
        """Add the newest rows that fit; validate the chunks as they are read."""
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
            raise ValueError(f"{arrived} {more}rows are stored, expected {stored.num_rows}")

    def _repair_torn_rows(self) -> None:
        """Undo a dead writer's unfinished write; reset `reserved`, which hides it from readers, last."""
        epoch, oldest, inserted = self._stored_range()
        if epoch % 2:  # the writer died in `clear`
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
            # A reader that copied a torn row sees either the new epoch or the old `reserved`.
            self._header[_EPOCH] = epoch + 2
            self._header[_RESERVED] = inserted


@dataclass(frozen=True)
class Draw:
    """Rows drawn from a ring, whose writer may overwrite them before they are read."""

    ring: Ring
    index: npt.NDArray[np.int64]
    """[n] in the ring's rows."""
    epoch: int
    """That of the ring when they were drawn."""
    inserted: int
    """The number of the ring's next row then."""
    rng: np.random.Generator
    """What they were drawn with."""

    def counters(self) -> RingCounters:
        """Return the ring's counters, for compiled code that reads the rows itself."""
        places = (_EPOCH, _FIRST, _INSERTED, _RESERVED)
        return RingCounters(self.epoch, *(self.ring._header[place:] for place in places))

    @staticmethod
    def of(rows: FloatArray) -> Draw:
        """Return all of some rows `[n, width]` in their order, as if they were drawn."""
        ring = Ring(0, rows.shape[1])
        ring.rows = rows
        return Draw(ring, np.arange(len(rows)), ring.epoch, ring.inserted, np.random.default_rng())

    def copied(self) -> FloatArray:
        """Return a copy of the rows `[n, width]`; those that have changed are drawn again.

        Raises:
            ValueError: if the ring is empty now.
            RuntimeError: if the writer died while it overwrote the whole ring.
        """
        rows = np.empty((len(self.index), self.ring.rows.shape[1]), np.float32)
        changed = self.ring._copy_drawn(self, rows)
        for _ in range(_MAX_REDRAWS):
            if len(changed) == 0:
                return rows
            again = np.empty((len(changed), rows.shape[1]), np.float32)
            still = self.ring._copy_drawn(self.ring.draw(self.rng, len(changed)), again)
            rows[changed] = again
            changed = changed[still]
        raise RuntimeError(DEAD_WRITER)


class RingSnapshot:
    """The contents of a ring at one moment, oldest rows first; created by `Ring.snapshot`.

    Rows stay in the ring. Rows about to be overwritten before they are read are copied first. Both happen in
    the order of row numbers, so copied rows always precede the rows that are still in the ring.
    """

    def __init__(self, ring: Ring, oldest: int, inserted: int) -> None:
        """Start at the row numbered `oldest`."""
        self.inserted = inserted
        """Total number of rows ever added at that moment."""
        self.num_rows = inserted - oldest
        """Number of rows in the snapshot."""
        self._ring = ring
        self._copied: deque[FloatArray] = deque()
        self._next_row = oldest
        """Number of the first row that is neither read nor copied."""

    def read(self, max_rows: int) -> FloatArray:
        """Return a copy of the next rows `[n, width]`: `max_rows`, or what is left, or none at the end.

        Another thread may add rows meanwhile; it blocks during the copy.

        Raises:
            ValueError: if `max_rows` is less than 1.
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

    def stored(self, rows_per_chunk: int | None = None) -> StoredTransitions:
        """Return the whole snapshot in chunks, 1 MB each by default; only before the first `read`."""
        row_bytes = 4 * self._ring.rows.shape[1]
        chunks = self._chunks(rows_per_chunk or max(1, _CHUNK_BYTES // row_bytes))
        return StoredTransitions(self.inserted, self.num_rows, chunks)

    def _chunks(self, rows: int) -> Iterator[FloatArray]:
        while len(chunk := self.read(rows)):
            yield chunk

    def _read_copied(self, out: FloatArray) -> int:
        """Move copied rows to the front of `out [n, width]`; return their number."""
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
        """Copy rows below number `before`; return whether any are left. The caller holds the lock."""
        count = min(before, self.inserted) - self._next_row
        if count > 0:
            rows = np.empty((count, self._ring.rows.shape[1]), np.float32)
            self._ring._copy(self._next_row, rows)
            self._copied.append(rows)
            self._next_row += count
        return self._next_row < self.inserted
