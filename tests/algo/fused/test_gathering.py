"""The fused update reads rows from a ring that another process writes."""

import ctypes
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from distributed_maddpg.algo.fused.update import FusedUpdate
from distributed_maddpg.replay import ring as ring_module
from distributed_maddpg.replay.ring import Ring, RingAddress
from distributed_maddpg.types import METRICS
from tests.algo.samples import CONTINUOUS, SMALL, make_batch
from tests.replay.test_ring import WRITER, needs_sharing

WIDTH = CONTINUOUS.transitions.width
BATCH = 150


def ring_of(rows, capacity=100):
    ring = Ring(capacity, WIDTH)
    for first in range(0, rows, 50):
        ring.add(make_batch(CONTINUOUS, 50, first).numpy())
    return ring


def learn(draw, updates=2, update=None):
    update = update or FusedUpdate(replace(SMALL, policy_head="gumbel"), CONTINUOUS, 7)
    metrics = np.zeros((len(METRICS), 3), np.float32)
    index = draw.index.reshape(updates, -1)
    readable = update.learn(draw.ring.rows, index, draw.counters(), [1.0] * updates, metrics)
    return readable, update, metrics


def test_the_drawn_rows_are_learned_from():
    ring = ring_of(250)
    draw = ring.draw(np.random.default_rng(1), 2 * BATCH)
    _, update, metrics = learn(draw)
    copied = replace(draw, ring=Ring(100, WIDTH))
    copied.ring.rows[:] = ring.rows
    _, again, same = learn(copied)
    np.testing.assert_array_equal(metrics, same)
    np.testing.assert_array_equal(rows_of(update), ring.rows[draw.index[BATCH:]])
    assert np.array_equal(update.policy.flat, again.policy.flat)


def rows_of(update):
    """Return the rows of the last update."""
    values = (ctypes.c_float * (BATCH * WIDTH)).from_address(int(update._plan["rows"][0]))
    return np.ctypeslib.as_array(values).reshape(-1, WIDTH)


def test_rows_of_an_unfinished_write_are_drawn_again():
    ring = ring_of(250)
    draw = ring.draw(np.random.default_rng(1), 2 * BATCH)
    ring.rows[50:90] = np.nan
    assert np.isnan(learn(draw)[2]).any()
    ring._header[ring_module._RESERVED] = 290  # the writer is at rows 250 to 289
    _, update, metrics = learn(draw)
    assert np.isfinite(metrics).all()
    places = {tuple(row): place for place, row in enumerate(ring.rows)}
    drawn = np.array([places[tuple(row)] for row in rows_of(update)])
    kept = (draw.index[BATCH:] < 50) | (draw.index[BATCH:] >= 90)
    np.testing.assert_array_equal(drawn[kept], draw.index[BATCH:][kept])
    assert len(set(drawn[~kept])) > 20  # of 60 rows


@pytest.mark.parametrize("first", [0, 1030])
def test_after_the_ring_was_cleared_only_new_rows_are_learned_from(first):
    ring = ring_of(250)
    draw = ring.draw(np.random.default_rng(1), 2 * BATCH)
    ring.clear(first)
    ring.rows[:] = np.nan
    ring.add(make_batch(CONTINUOUS, 40, 9).numpy())
    _, update, metrics = learn(draw)
    assert np.isfinite(metrics).all()
    assert len(np.unique(rows_of(update), axis=0)) > 30  # of 40


@pytest.mark.parametrize("lost", ["all", "cleared", "clearing"])
def test_rows_that_are_never_whole_are_reported(lost):
    ring = ring_of(250)
    draw = ring.draw(np.random.default_rng(1), 2 * BATCH)
    if lost == "all":
        ring._header[ring_module._RESERVED] = 350
    else:
        ring.clear(0)
    if lost == "clearing":
        ring._header[ring_module._EPOCH] += 1
    assert not learn(draw)[0]


@needs_sharing
@pytest.mark.parametrize("block", [100, 900])
def test_no_torn_row_is_learned_from_while_another_process_overwrites_the_ring(block):
    command = [sys.executable, "-c", WRITER, "1000", str(WIDTH), str(block)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        ring = Ring.attach(RingAddress(*map(int, writer.stdout.readline().split())))
        update = FusedUpdate(SMALL, CONTINUOUS, 7)
        rng, began, redrawn = np.random.default_rng(0), time.monotonic(), 0
        while (passed := time.monotonic() - began) < 1.5 or (not redrawn and passed < 60):
            draw = ring.draw(rng, BATCH)
            assert learn(draw, 1, update)[0]
            rows = rows_of(update)
            assert (rows == rows[:, :1]).all(), "a torn row"
            redrawn += (rows[:, 0] % 1000 != draw.index).sum()  # a row's number says where it is
        assert redrawn, "the two processes never met"
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()
