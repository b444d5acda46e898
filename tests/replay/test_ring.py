"""A ring that one process writes while another reads: no torn rows, no stale rows, no leaked memory."""

import gc
import itertools
import os
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distributed_maddpg.replay import ring as ring_module
from distributed_maddpg.replay.ring import Ring, RingAddress
from distributed_maddpg.types import StoredTransitions

needs_sharing = pytest.mark.skipif(
    not (ring_module._ORDERED_STORES and sys.platform == "linux"), reason="shares memory on Linux on x86 only"
)
WRITER = """
import sys
import numpy as np
from distributed_maddpg.replay.ring import Ring

capacity, width, block = map(int, sys.argv[1:])
ring, at = Ring.shared(capacity, width), 0
while True:  # until it is killed
    numbers = np.arange(at, at + block) % 16_000_000  # float32 counts that far exactly
    ring.add(np.repeat(numbers.astype(np.float32)[:, None], width, axis=1))
    if at == 0:
        print(*vars(ring.address).values(), flush=True)
    at += block
"""


def numbered(first, count, width):
    return np.repeat(np.arange(first, first + count, dtype=np.float32)[:, None], width, axis=1)


@needs_sharing
@pytest.mark.parametrize("block", [100, 900])
def test_no_row_is_torn_while_another_process_overwrites_the_ring(block, monkeypatch):
    rng, redrawn, copy = np.random.default_rng(0), [], Ring._copy_drawn

    def counting(self, draw, into):
        changed = copy(self, draw, into)
        redrawn.append(len(changed))
        return changed

    monkeypatch.setattr(Ring, "_copy_drawn", counting)
    command = [sys.executable, "-c", WRITER, "1000", "77", str(block)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        ring = Ring.attach(RingAddress(*map(int, writer.stdout.readline().split())))
        until, sampled = time.monotonic() + 1.5, 0
        while time.monotonic() < until or not any(redrawn):
            rows = ring.sample(rng, 512)
            assert (rows == rows[:, :1]).all(), "a torn row"
            sampled += len(rows)
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()
    assert sampled > 0 and sum(redrawn) > 0, "the two processes never met"


@needs_sharing
def test_rows_change_under_a_copy_and_are_drawn_again():
    ring, rng = Ring.shared(10, 2), np.random.default_rng(0)
    ring.add(numbered(0, 10, 2))
    take = np.take

    def take_while_a_writer_moves(*arguments, **keywords):
        result = take(*arguments, **keywords)
        if ring.inserted == 10:
            ring.add(numbered(100, 6, 2))  # over the six oldest, behind the reader's back
        return result

    np.take = take_while_a_writer_moves
    try:
        rows = ring.sample(rng, 200)
    finally:
        np.take = take
    assert set(rows[:, 0]) == {6, 7, 8, 9, *range(100, 106)}


@needs_sharing
def test_an_unfinished_write_hides_only_the_rows_it_may_have_changed():
    ring = Ring.shared(10, 2)
    ring.add(numbered(0, 10, 2))
    ring._header[1] = 14
    assert set(ring.sample(np.random.default_rng(0), 200)[:, 0]) == {4, 5, 6, 7, 8, 9}
    ring._header[1] = 20
    with pytest.raises(RuntimeError, match="died while it overwrote all rows"):
        ring.sample(np.random.default_rng(0), 1)


@needs_sharing
def test_an_attached_ring_is_the_same_memory():
    ring = Ring.shared(4, 3)
    other = Ring.attach(ring.address)
    ring.add(numbered(1, 3, 3))
    assert not other.rows.flags.writeable
    assert other.inserted == 3 and np.array_equal(other.rows[:3], numbered(1, 3, 3))


@needs_sharing
def test_attach_returns_none_for_a_missing_or_different_ring():
    ring = Ring.shared(4, 3)
    at = ring.address
    assert Ring.attach(replace(at, token=at.token + 1)) is None
    assert Ring.attach(replace(at, file=at.file + 1000)) is None
    assert Ring.attach(replace(at, capacity=10**6)) is None, "a smaller file"


@needs_sharing
def test_the_memory_goes_with_the_last_process_that_has_it():
    def shared_files():
        names = [f"/proc/self/fd/{file}" for file in os.listdir("/proc/self/fd")]
        return sum("distributed-maddpg-replay" in os.readlink(name) for name in names if os.path.exists(name))

    before, ring = shared_files(), Ring.shared(4, 3)
    assert shared_files() > before
    del ring
    assert shared_files() == before


def test_a_private_ring_has_no_address():
    assert Ring(4, 3).address is None
    assert (Ring(4, 3).capacity, Ring(4, 3).size) == (4, 0)


def test_a_follower_reads_every_row_once_and_in_order():
    ring, position, seen = Ring(10, 2), 0, []
    for first, count in ((0, 4), (4, 0), (4, 5), (9, 4), (13, 10)):  # wraps twice
        ring.add(numbered(first, count, 2))
        rows, position = ring.read_from(position)
        assert position == first + count and rows.shape == (count, 2)
        seen += list(rows[:, 1])
    assert seen == list(range(23))


def test_a_follower_that_fell_behind_gets_the_remaining_rows():
    ring = Ring(10, 2)
    for first in range(0, 28, 7):
        ring.add(numbered(first, 7, 2))
    for behind in (0, 3, 17):
        rows, position = ring.read_from(behind)
        assert np.array_equal(rows, numbered(18, 10, 2)) and position == 28


def test_a_follower_of_a_restored_ring_starts_again():
    ring = Ring(10, 2)
    ring.restore(StoredTransitions(15, 10, iter([numbered(5, 10, 2)])))
    rows, position = ring.read_from(40)
    assert position == 15
    assert np.array_equal(rows, numbered(5, 10, 2))


def test_what_a_follower_reads_is_a_copy():
    ring = Ring(4, 1)
    ring.add(numbered(0, 4, 1))
    rows, position = ring.read_from(0)
    ring.add(numbered(4, 4, 1))
    assert np.array_equal(rows, numbered(0, 4, 1)) and position == 4


@pytest.mark.parametrize("added", [3, 10])
def test_rows_that_change_under_a_followers_copy_are_left_out(added, monkeypatch):
    ring, empty = Ring(10, 2), np.empty
    ring.add(numbered(0, 10, 2))
    ring.add(numbered(10, 4, 2))

    def empty_while_a_writer_moves(*arguments, **keywords):
        if ring.inserted == 14:
            ring.add(numbered(14, added, 2))
        return empty(*arguments, **keywords)

    monkeypatch.setattr(np, "empty", empty_while_a_writer_moves)
    rows, position = ring.read_from(0)
    assert position == 14
    assert np.array_equal(rows, numbered(4 + added, 10 - added, 2))


def test_a_follower_skips_rows_of_an_unfinished_write():
    ring = Ring(10, 2)
    ring.add(numbered(0, 10, 2))
    ring._header[1] = 14
    assert np.array_equal(ring.read_from(0)[0], numbered(4, 6, 2))
    assert np.array_equal(ring.read_from(7)[0], numbered(7, 3, 2))


@needs_sharing
def test_a_follower_of_another_process_reads_no_torn_row_and_keeps_the_order():
    command = [sys.executable, "-c", WRITER, "1000", "77", "100"]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        ring = Ring.attach(RingAddress(*map(int, writer.stdout.readline().split())))
        until, position, complete = time.monotonic() + 1.0, 0, []
        while time.monotonic() < until:
            rows, newest = ring.read_from(position)
            assert (rows == np.arange(newest - len(rows), newest)[:, None] % 16_000_000).all()
            complete.append(len(rows) == min(newest - position, 1000))
            position = newest
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()
    assert not all(complete), "the two processes never met"


def all_of(snapshot, rows=3):
    return [row for chunk in snapshot.stored(rows).chunks for row in chunk[:, 0].tolist()]


def test_a_snapshot_is_unaffected_by_later_adds():
    ring = Ring(10, 2)
    ring.add(numbered(0, 7, 2))
    ring.add(numbered(7, 6, 2))
    snapshot = ring.snapshot()
    assert (snapshot.inserted, snapshot.num_rows) == (13, 10)
    assert np.array_equal(snapshot.read(2), numbered(3, 2, 2))
    for first in range(13, 49, 9):  # over everything, several times
        ring.add(numbered(first, 9, 2))
    assert np.array_equal(snapshot.read(3), numbered(5, 3, 2))
    assert np.array_equal(snapshot.read(100), numbered(8, 5, 2))
    assert snapshot.read(100).shape == (0, 2)
    assert all_of(ring.snapshot()) == list(range(39, 49))


WORK = st.one_of(
    st.tuples(st.just("add"), st.integers(0, 9)),
    st.tuples(st.just("add"), st.integers(0, 9)),
    st.tuples(st.just("take"), st.just(0)),
    st.tuples(st.just("read"), st.integers(1, 12)),
    st.tuples(st.just("restart"), st.integers(0, 30)),
)


@settings(max_examples=300, deadline=None)
@given(capacity=st.integers(1, 9), work=st.lists(WORK, max_size=40), turn=st.randoms(use_true_random=False))
def test_any_order_of_adds_and_reads_gives_the_snapshots_rows(capacity, work, turn):
    ring, model, value, taken = Ring(capacity, 2), deque(maxlen=capacity), 0, []
    for what, count in work:
        if what == "add":
            count = min(count, capacity)
            ring.add(numbered(value, count, 2))
            model.extend(range(value, value + count))
            value += count
        elif what == "restart":
            ring.clear(count)
            model.clear()
        elif what == "take":
            taken.append((ring.snapshot(), list(model), []))
        elif taken:
            snapshot, held, read = turn.choice(taken)
            rows = snapshot.read(count)
            assert len(rows) == min(count, len(held) - len(read)), "as many as asked for while there are"
            read += rows[:, 1].tolist()
        assert ring.size == len(model)
        assert ring.read_from(0)[0][:, 1].tolist() == list(model)
    for snapshot, held, read in taken:
        assert snapshot.num_rows == len(held)
        assert read + all_of(snapshot) == held


def test_snapshots_are_exact_while_another_thread_adds():
    ring, stop, block = Ring(4000, 64), threading.Event(), 1500
    ring.add(numbered(0, 4000, 64))

    def add():
        rows = numbered(4000, block, 64)
        while not stop.is_set():
            ring.add(rows)
            rows += block

    adder, moved = threading.Thread(target=add), 0
    adder.start()
    try:
        for _ in range(150):
            snapshot = ring.snapshot()
            rows = np.concatenate(list(snapshot.stored(700).chunks))
            first = snapshot.inserted - snapshot.num_rows
            assert np.array_equal(rows, numbered(first, 4000, 64))
            moved += ring.inserted > snapshot.inserted
    finally:
        stop.set()
        adder.join()
    assert moved, "the two threads never met"


def test_an_add_waits_for_the_copy_of_a_chunk():
    ring, copy, adders = Ring(10, 2), Ring._copy, []
    ring.add(numbered(0, 10, 2))
    snapshot = ring.snapshot()

    def copy_while_another_thread_adds(*arguments):
        adders.append(threading.Thread(target=ring.add, args=[numbered(10, 6, 2)]))
        adders[0].start()
        adders[0].join(0.1)
        copy(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ring, "_copy", copy_while_another_thread_adds)
        rows = snapshot.read(4)
    adders[0].join()
    assert np.array_equal(rows, numbered(0, 4, 2))
    assert all_of(snapshot) == [4, 5, 6, 7, 8, 9]


def test_a_snapshot_copies_only_rows_about_to_be_overwritten():
    ring = Ring(10, 2)
    ring.add(numbered(0, 10, 2))
    snapshot = ring.snapshot()
    snapshot.read(5)
    ring.add(numbered(10, 5, 2))
    assert not snapshot._copied
    ring.add(numbered(15, 2, 2))
    assert [piece[:, 0].tolist() for piece in snapshot._copied] == [[5, 6]]


def test_an_abandoned_or_finished_snapshot_is_dropped():
    ring = Ring(10, 2)
    ring.add(numbered(0, 10, 2))
    abandoned, finished, unread = ring.snapshot(), ring.snapshot(), ring.snapshot()
    all_of(finished)
    gone = weakref.ref(abandoned)
    del abandoned
    gc.collect()
    assert gone() is None
    ring.add(numbered(10, 1, 2))
    assert [reference() for reference in ring._snapshots] == [unread]


def test_a_snapshot_is_stored_in_chunks_of_1_mb():
    ring = Ring(30, 2**15)  # 128 kB a row
    ring.add(np.zeros((18, 2**15), np.float32))
    stored = ring.snapshot().stored()
    assert (stored.inserted, stored.num_rows) == (18, 18)
    assert [len(chunk) for chunk in stored.chunks] == [8, 8, 2]
    with pytest.raises(ValueError, match="cannot read 0 rows"):
        ring.snapshot().read(0)


def test_a_cleared_ring_has_only_rows_added_since():
    ring, rng = Ring(10, 2), np.random.default_rng(0)
    ring.add(numbered(100, 10, 2))
    ring.clear(17)
    assert (ring.inserted, ring.size) == (17, 0)
    assert all_of(ring.snapshot()) == []
    with pytest.raises(ValueError, match="empty"):
        ring.sample(rng, 1)
    for added in range(1, 14):
        ring.add(numbered(16 + added, 1, 2))
        held = list(range(max(17, 7 + added), 17 + added))
        assert (ring.inserted, ring.size) == (17 + added, len(held))
        assert set(ring.sample(rng, 300)[:, 0]) == set(held)
        assert ring.read_from(0)[0][:, 0].tolist() == held == all_of(ring.snapshot())
        assert ring.rows[(16 + added) % 10, 0] == 16 + added
    with pytest.raises(ValueError, match="cannot start at row -1"):
        ring.clear(-1)


@pytest.mark.parametrize("added", [4, 10, 13])
def test_a_draw_is_of_places_so_that_a_seed_gives_the_same_rows_in_every_version(added):
    ring = Ring(10, 2)
    for number in range(added):
        ring.add(numbered(number, 1, 2))
    places = np.random.default_rng(5).integers(0, min(added, 10), 40)
    assert np.array_equal(ring.sample(np.random.default_rng(5), 40), ring.rows[places])


@pytest.mark.parametrize("first", [0, 12, 95])
def test_a_sample_is_redrawn_if_the_ring_is_cleared_during_the_copy(first, monkeypatch):
    ring, take, epoch = Ring(10, 2), np.take, 0
    ring.add(numbered(0, 9, 2))

    def take_while_the_ring_restarts(*arguments, **keywords):
        result = take(*arguments, **keywords)
        if ring.epoch == epoch:
            ring.clear(first)
            ring.add(numbered(100, 3, 2))
        return result

    monkeypatch.setattr(np, "take", take_while_the_ring_restarts)
    assert set(ring.sample(np.random.default_rng(0), 200)[:, 0]) == {100, 101, 102}


@pytest.mark.parametrize("first", [0, 2, 95])
def test_a_follower_starts_again_if_the_ring_is_cleared_during_its_copy(first, monkeypatch):
    ring, copy = Ring(10, 2), Ring._copy
    ring.add(numbered(0, 5, 2))

    def copy_while_the_ring_restarts(*arguments):
        copy(*arguments)
        if ring.epoch == 0:
            ring.clear(first)
            ring.add(numbered(100, 3, 2))

    monkeypatch.setattr(Ring, "_copy", copy_while_the_ring_restarts)
    rows, position = ring.read_from(0)
    assert np.array_equal(rows, numbered(100, 3, 2)) and position == first + 3


def test_size_is_consistent_while_the_ring_is_cleared():
    class Header(np.ndarray):
        def __getitem__(self, word):
            value = np.ndarray.__getitem__(self, word)
            if word == ring_module._INSERTED and np.ndarray.__getitem__(self, ring_module._EPOCH) == 0:
                ring._header = self.view(np.ndarray)
                ring.clear(3)
                ring.add(numbered(0, 1, 2))
            return value

    ring = Ring(10, 2)
    ring.add(numbered(0, 9, 2))
    ring._header = ring._header.view(Header)
    assert ring.size == 1


@pytest.mark.parametrize("first", [0, 3, 50])
def test_no_step_of_clear_exposes_removed_rows(first):
    seen = []

    class Header(np.ndarray):
        def __setitem__(self, word, value):
            np.ndarray.__setitem__(self, word, value)
            seen.append(ring.read_from(0)[0][:, 0].tolist())

    ring = Ring(10, 2)
    ring.add(numbered(0, 9, 2))
    ring._header = ring._header.view(Header)
    ring.clear(first)
    assert len(seen) == 5 and not any(seen)


def test_readers_see_no_rows_while_the_ring_is_cleared():
    ring = Ring(10, 2)
    ring.add(numbered(0, 9, 2))
    ring._header[4] = 1
    assert ring.size == 0 and len(ring.read_from(0)[0]) == 0
    with pytest.raises(ValueError, match="empty"):
        ring.sample(np.random.default_rng(0), 1)


@pytest.mark.parametrize("inserted", [0, 4, 10, 23])
def test_a_restored_ring_has_every_row_in_its_place(inserted):
    old, new = Ring(10, 2), Ring(10, 2)
    for row in range(inserted):
        old.add(numbered(row, 1, 2))
    new.add(numbered(500, 10, 2))
    new.restore(old.snapshot().stored(4))
    assert (new.inserted, new.size) == (old.inserted, old.size)
    assert np.array_equal(new.rows[: new.size], old.rows[: old.size])


@pytest.mark.parametrize("capacity", [1, 4, 9, 11, 16, 40])
def test_restoring_into_another_capacity_keeps_the_newest_rows_and_renumbers_them(capacity):
    old, new = Ring(10, 2), Ring(capacity, 2)
    for row in range(23):
        old.add(numbered(row, 1, 2))
    new.restore(old.snapshot().stored(4))
    kept = min(capacity, 10)
    assert (new.inserted, new.size) == (kept, kept)
    assert np.array_equal(new.read_from(0)[0], numbered(23 - kept, kept, 2))


def test_one_chunk_may_be_larger_than_the_ring():
    ring = Ring(4, 2)
    ring.restore(StoredTransitions(11, 11, iter([numbered(0, 11, 2)])))
    assert (ring.inserted, all_of(ring.snapshot())) == (4, [7, 8, 9, 10])


def test_a_ring_is_restored_from_its_own_snapshot():
    ring = Ring(10, 2)
    for row in range(23):
        ring.add(numbered(row, 1, 2))
    stored = ring.snapshot().stored(4)
    ring.add(numbered(23, 5, 2))
    ring.restore(stored)
    assert (ring.inserted, ring.read_from(0)[0][:, 0].tolist()) == (23, list(range(13, 23)))


def failing():
    yield numbered(0, 2, 2)
    raise OSError("a bad disk")


@pytest.mark.parametrize(
    "inserted, num_rows, chunks, error",
    [
        (8, 5, [numbered(0, 4, 2)], "4 rows are stored, expected 5"),
        (8, 2**61, [], "cannot be stored of 8 inserted"),
        (2**61, 2**61, [numbered(0, 4, 2)], "4 rows are stored"),
        (2**63, 5, [], "cannot be stored"),
        (8, -1, [], "cannot be stored"),
        (8, 5, itertools.repeat(numbered(0, 4, 2)), "8 or more rows are stored, expected 5"),
        (8, 5, [numbered(0, 2, 2), numbered(2, 3, 3)], r"shape \(3, 3\)"),
        (8, 5, [np.zeros(5, np.float32)], r"shape \(5,\)"),
        (8, 5, [np.zeros((5, 2))], "float64"),
        (8, 5, failing(), "a bad disk"),
    ],
)
def test_damaged_contents_are_refused_and_leave_nothing_half_restored(inserted, num_rows, chunks, error):
    ring = Ring(10, 2)
    with pytest.raises((ValueError, OSError), match=error):
        ring.restore(StoredTransitions(inserted, num_rows, iter(chunks)))
    assert (ring.inserted, ring.size) == (0, 0)


@needs_sharing
def test_the_memory_is_reachable_through_any_attached_process():
    def shared_files():
        names = [f"/proc/self/fd/{file}" for file in os.listdir("/proc/self/fd")]
        return sum("distributed-maddpg-replay" in os.readlink(name) for name in names if os.path.exists(name))

    before, ring = shared_files(), Ring.shared(4, 3)
    ring.add(numbered(1, 3, 3))
    old = ring.address
    other = Ring.attach(old)
    assert other.address == replace(old, process=os.getpid(), file=other.address.file) != old
    del ring
    assert Ring.attach(old) is None
    third = Ring.attach(other.address)
    assert np.array_equal(third.rows[:3], numbered(1, 3, 3))
    with pytest.raises(ValueError, match="only the process that writes"):
        third.snapshot()
    del other, third
    assert shared_files() == before


@needs_sharing
def test_a_new_writer_continues_at_the_old_writers_position():
    ring = Ring.shared(10, 2)
    ring.add(numbered(0, 8, 2))
    reader = Ring.attach(ring.address)
    assert Ring.attach_as_writer(replace(reader.address, token=1)) is None
    new = Ring.attach_as_writer(reader.address)
    assert (new.epoch, new.address.file != reader.address.file) == (0, True)
    new.add(numbered(8, 5, 2))
    assert np.array_equal(reader.read_from(0)[0], numbered(3, 10, 2))


@needs_sharing
@settings(max_examples=200, deadline=None)
@given(data=st.data(), capacity=st.integers(1, 9), first=st.integers(0, 12), added=st.integers(0, 25))
def test_rows_that_an_unfinished_write_may_have_torn_are_replaced(data, capacity, first, added):
    ring, rng = Ring.shared(capacity, 2), np.random.default_rng(0)
    ring.clear(first)
    for number in range(first, first + added):
        ring.add(numbered(number, 1, 2))
    size, inserted = ring.size, ring.inserted
    unfinished = data.draw(st.integers(0, capacity))
    touched = np.arange(inserted, inserted + unfinished) % capacity
    whole = [n for n in range(inserted - size, inserted) if n % capacity not in touched]
    ring._header[1] = inserted + unfinished
    ring.rows[touched, 1] = -1
    new, reader = Ring.attach_as_writer(ring.address), Ring.attach(ring.address)
    assert (new.inserted, new._header[1]) == (inserted, inserted)
    assert new.size == (size if whole else 0)
    held = reader.read_from(0)[0]
    assert (held[:, 0] == held[:, 1]).all() and set(held[:, 0]) == set(whole)
    assert np.array_equal(held[len(held) - len(whole) :], numbered(inserted - len(whole), len(whole), 2))
    if whole:
        assert set(reader.sample(rng, 500)[:, 1]) == set(whole)
    new.add(numbered(inserted, capacity, 2))
    assert np.array_equal(reader.read_from(0)[0], numbered(inserted, capacity, 2))


@needs_sharing
def test_a_writer_that_died_in_clear_leaves_an_empty_ring():
    ring = Ring.shared(10, 2)
    ring.add(numbered(0, 10, 2))
    ring._header[3:] = 25, 1  # `first` and `epoch`, and no further
    new = Ring.attach_as_writer(ring.address)
    assert (new.size, new.epoch % 2) == (0, 0)
    new.add(numbered(50, 3, 2))
    assert all_of(new.snapshot()) == [50, 51, 52]


@needs_sharing
def test_a_torn_row_copied_before_its_repair_is_drawn_again(monkeypatch):
    ring, take = Ring.shared(10, 2), np.take
    ring.add(numbered(0, 10, 2))
    ring._header[1] = 14
    ring.rows[:4, 1] = -1
    reader = Ring.attach(ring.address)

    def take_and_repair(*arguments, **keywords):
        result = take(*arguments, **keywords)
        Ring.attach_as_writer(reader.address)
        return result

    monkeypatch.setattr(np, "take", take_and_repair)
    assert set(reader.sample(np.random.default_rng(0), 500)[:, 1]) == {4, 5, 6, 7, 8, 9}


@needs_sharing
def test_reserved_is_reset_only_after_torn_rows_are_replaced(monkeypatch):
    ring, seen = Ring.shared(10, 2), []

    class Rows(np.ndarray):
        def __setitem__(self, *arguments):
            seen.append((int(ring._header[1]), ring.epoch))
            np.ndarray.__setitem__(self, *arguments)

    ring.add(numbered(0, 10, 2))
    ring._header[1] = 14
    ring.rows = ring.rows.view(Rows)
    ring._repair_torn_rows()
    assert seen == [(14, 0)]
    assert (int(ring._header[1]), ring.epoch) == (10, 2)


NEW_WRITER = """
import sys
import numpy as np
from distributed_maddpg.replay.ring import Ring, RingAddress

address = RingAddress(*map(int, sys.argv[1:]))
ring = Ring.attach_as_writer(address) if address.process else Ring.shared(address.capacity, address.width)
held = ring.read_from(0)[0]
print(*vars(ring.address).values(), ring.size, (held == held[:, :1]).all(), flush=True)
numbers = (np.arange(ring.inserted, ring.inserted + 5600) % 5600).astype(np.float32)  # exact beyond 2**24
blocks = np.repeat(numbers[:, None], address.width, axis=1).reshape(8, 700, -1)
while True:  # until it is killed
    for block in blocks:
        ring.add(block)
"""


@contextmanager
def writing(address):
    """Start a process that attaches as writer, yield its first output, and kill it during its writes."""
    command = [sys.executable, "-c", NEW_WRITER, *map(str, vars(address).values())]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        *numbers, size, whole = writer.stdout.readline().split()
        yield RingAddress(*map(int, numbers)), int(size), whole == "True"
        time.sleep(0.02)
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()


@contextmanager
def reading(ring):
    """Sample in a thread; yield a list with one flag per draw: whether it had a torn row."""
    stop, torn = threading.Event(), []

    def read():
        rng = np.random.default_rng(0)
        while not stop.is_set():
            rows = ring.sample(rng, 128)
            torn.append(not (rows == rows[:, :1]).all())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield torn
    finally:
        stop.set()
        reader.join()


@needs_sharing
def test_a_ring_outlives_its_killed_writers_while_it_is_read():
    with writing(RingAddress(0, 0, 0, 1000, 77)) as (address, _, _):
        ring = Ring.attach(address)
        while ring.size < 1000:
            time.sleep(0.001)
    killed_at_work = int(ring._header[1]) > ring.inserted
    with reading(ring) as torn:
        for lives in range(60):
            with writing(ring.address) as (_, size, whole):
                assert (size, whole) == (1000, True)
            killed_at_work += int(ring._header[1]) > ring.inserted
            if lives >= 3 and killed_at_work >= 2:
                break
        new = Ring.attach_as_writer(ring.address)
        rows, inserted = new.read_from(0)
    assert killed_at_work >= 2, "no process was killed in the middle of a write"
    assert torn and not any(torn)
    assert rows.shape == (1000, 77) and (rows == rows[:, :1]).all()
    assert (rows[700:] == np.arange(inserted - 300, inserted)[:, None] % 5600).all()
