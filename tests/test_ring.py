"""A ring that one process writes while another reads: no torn row, no stale one, nothing left behind."""

import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from distributed_maddpg import ring as ring_module
from distributed_maddpg.ring import Ring, RingAddress

needs_sharing = pytest.mark.skipif(
    not (ring_module._ORDERED_STORES and sys.platform == "linux"), reason="shares memory on Linux on x86 only"
)
WRITER = """
import sys
import numpy as np
from distributed_maddpg.ring import Ring

capacity, width, block = map(int, sys.argv[1:])
ring, at = Ring.shared(capacity, width), 0
while True:  # until it is killed
    ring.add(np.repeat(np.arange(at, at + block, dtype=np.float32)[:, None], width, axis=1))
    if at == 0:
        print(*vars(ring.address).values(), flush=True)
    at = (at + block) % 2**24  # what float32 counts exactly
"""


def numbered(first, count, width):
    return np.repeat(np.arange(first, first + count, dtype=np.float32)[:, None], width, axis=1)


@needs_sharing
@pytest.mark.parametrize("block", [100, 900])
def test_no_row_is_torn_while_another_process_overwrites_the_ring(block, monkeypatch):
    rng, redrawn, draw = np.random.default_rng(0), [], Ring._draw

    def counting(self, rng, into):
        changed = draw(self, rng, into)
        redrawn.append(len(changed))
        return changed

    monkeypatch.setattr(Ring, "_draw", counting)
    command = [sys.executable, "-c", WRITER, "1000", "77", str(block)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        ring = Ring.attach(RingAddress(*map(int, writer.stdout.readline().split())))
        until, sampled = time.monotonic() + 1.5, 0
        while time.monotonic() < until or not any(redrawn):
            rows = ring.sample(rng, 512)
            assert (rows == rows[:, :1]).all(), "a row of two halves"
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
def test_an_announced_write_that_never_ended_hides_only_the_rows_it_may_have_touched():
    ring = Ring.shared(10, 2)
    ring.add(numbered(0, 10, 2))
    ring._header[1] = 14
    assert set(ring.sample(np.random.default_rng(0), 200)[:, 0]) == {4, 5, 6, 7, 8, 9}
    ring._header[1] = 20
    with pytest.raises(RuntimeError, match="half written"):
        ring.sample(np.random.default_rng(0), 1)


@needs_sharing
def test_an_attached_ring_is_the_same_memory():
    ring = Ring.shared(4, 3)
    other = Ring.attach(ring.address)
    ring.add(numbered(1, 3, 3))
    assert not other.rows.flags.writeable
    assert other.inserted == 3 and np.array_equal(other.rows[:3], numbered(1, 3, 3))


@needs_sharing
def test_a_ring_that_is_not_there_or_not_the_same_is_not_attached():
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
        rows, position = ring.read_since(position)
        assert position == first + count and rows.shape == (count, 2)
        seen += list(rows[:, 1])
    assert seen == list(range(23))


def test_a_follower_that_fell_behind_gets_what_is_left():
    ring = Ring(10, 2)
    for first in range(0, 28, 7):
        ring.add(numbered(first, 7, 2))
    for behind in (0, 3, 17):
        rows, position = ring.read_since(behind)
        assert np.array_equal(rows, numbered(18, 10, 2)) and position == 28


def test_a_follower_of_a_restored_ring_starts_again():
    ring = Ring(10, 2)
    ring.restore(numbered(5, 10, 2), 15)
    rows, position = ring.read_since(40)
    assert position == 15
    assert set(rows[:, 0]) == set(range(5, 15))


def test_what_a_follower_reads_is_a_copy():
    ring = Ring(4, 1)
    ring.add(numbered(0, 4, 1))
    rows, position = ring.read_since(0)
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
    rows, position = ring.read_since(0)
    assert position == 14
    assert np.array_equal(rows, numbered(4 + added, 10 - added, 2))


def test_a_follower_leaves_out_what_an_unfinished_write_may_have_touched():
    ring = Ring(10, 2)
    ring.add(numbered(0, 10, 2))
    ring._header[1] = 14
    assert np.array_equal(ring.read_since(0)[0], numbered(4, 6, 2))
    assert np.array_equal(ring.read_since(7)[0], numbered(7, 3, 2))


@needs_sharing
def test_a_follower_of_another_process_reads_no_torn_row_and_keeps_the_order():
    command = [sys.executable, "-c", WRITER, "1000", "77", "100"]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        ring = Ring.attach(RingAddress(*map(int, writer.stdout.readline().split())))
        until, position, complete = time.monotonic() + 1.0, 0, []
        while time.monotonic() < until:
            rows, newest = ring.read_since(position)
            assert (rows == np.arange(newest - len(rows), newest)[:, None] % 2**24).all()
            complete.append(len(rows) == min(newest - position, 1000))
            position = newest
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()
    assert not all(complete), "the two processes never met"
