from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.replay.buffer import ReplayBuffer, make_replay_buffer
from distributed_maddpg.replay.ring import Ring
from distributed_maddpg.types import EnvSpec


def ring(capacity=5, width=2, seed=0):
    return ReplayBuffer(Ring(capacity, width), np.random.default_rng(seed))


def rows(first, count, width=2):
    """Return `count` rows numbered from `first`, each of one repeated number."""
    return np.repeat(np.arange(first, first + count, dtype=np.float32)[:, None], width, axis=1)


def contents(buffer):
    return buffer.ring.read_from(0)[0][:, 0].tolist()


def test_the_newest_rows_are_kept_over_a_wrap():
    buffer = ring(capacity=5)
    for first, count, kept in ((1, 3, [1, 2, 3]), (4, 4, [3, 4, 5, 6, 7]), (8, 5, [8, 9, 10, 11, 12])):
        buffer.add(rows(first, count))
        assert contents(buffer) == kept
    assert (buffer.size, buffer.inserted) == (5, 12)


def test_row_n_is_stored_at_index_n_modulo_capacity():
    buffer = ring(capacity=5)
    buffer.add(rows(1, 3))
    buffer.add(rows(4, 4))
    assert buffer.ring.rows[:, 0].tolist() == [6, 7, 3, 4, 5]


@settings(max_examples=60, deadline=None)
@given(capacity=st.integers(1, 12), counts=st.lists(st.integers(0, 12), max_size=12))
def test_any_sequence_of_adds_keeps_the_newest(capacity, counts):
    buffer, model, first = ring(capacity), deque(maxlen=capacity), 1
    for count in (min(count, capacity) for count in counts):
        buffer.add(rows(first, count))
        model.extend(range(first, first + count))
        first += count
        assert (contents(buffer), buffer.size) == (list(model), len(model))


def test_a_sample_holds_whole_stored_rows():
    buffer = ring(capacity=8, width=3)
    buffer.add(rows(1, 6, width=3))
    batches = buffer.sample(7, 11)
    assert (batches.shape, batches.dtype) == ((7, 11, 3), np.float32)
    assert (batches == batches[..., :1]).all()
    assert set(batches.ravel()) == {1, 2, 3, 4, 5, 6}


def test_every_row_is_drawn_equally_often():
    buffer = ring(capacity=10)
    buffer.add(rows(0, 7))
    buffer.add(rows(7, 8))
    counts = np.bincount(buffer.sample(100, 500)[..., 0].ravel().astype(int), minlength=15)
    assert not counts[:5].any()
    chi_square = ((counts[5:] - 5000) ** 2 / 5000).sum()
    assert chi_square < 27.9  # 9 degrees of freedom, p = 0.001


def test_a_sample_is_a_copy():
    buffer = ring()
    buffer.add(rows(1, 3))
    buffer.sample(1, 4)[:] = 99
    assert contents(buffer) == [1, 2, 3]


def test_rows_are_taken_as_a_copy():
    buffer, mine = ring(), rows(1, 3)
    buffer.add(mine)
    mine[:] = 99
    assert contents(buffer) == [1, 2, 3]


@pytest.mark.parametrize("inserted", [3, 5, 8])
def test_a_restored_ring_gives_the_same_next_sample_and_takes_the_same_place(inserted):
    old, new = ring(), ring(seed=9)
    for row in range(inserted):
        old.add(rows(row + 1, 1))
    old.sample(1, 3)
    new.add(rows(90, 4))
    new.ring.restore(old.ring.snapshot().stored(2))
    new.set_generator_state(old.generator_state())
    assert np.array_equal(old.sample(2, 6), new.sample(2, 6))
    old.add(rows(50, 2)), new.add(rows(50, 2))
    assert (new.inserted, contents(new)) == (old.inserted, contents(old))
    assert np.array_equal(old.sample(2, 6), new.sample(2, 6))


def test_a_snapshot_is_unaffected_by_later_adds():
    buffer = ring()
    buffer.add(rows(1, 3))
    stored = buffer.ring.snapshot().stored()
    buffer.add(rows(4, 5))
    assert (stored.inserted, stored.num_rows) == (3, 3)
    assert np.concatenate(list(stored.chunks))[:, 0].tolist() == [1, 2, 3]


def test_a_generator_state_is_a_copy():
    buffer = ring()
    buffer.add(rows(1, 3))
    state = buffer.generator_state()
    before = state.copy()
    first = buffer.sample(1, 9)
    assert np.array_equal(state, before)
    buffer.set_generator_state(state)
    assert np.array_equal(buffer.sample(1, 9), first)


@pytest.mark.parametrize("shape", [(3, 3), (3,), (1, 3, 2)])
def test_rows_of_another_width_are_refused(shape):
    with pytest.raises(ValueError, match=r"rows have shape .*, expected \[n, 2\]"):
        ring().add(np.zeros(shape, np.float32))


def test_more_rows_than_the_ring_holds_are_refused():
    with pytest.raises(ValueError, match="6 rows do not fit into a ring of 5"):
        ring().add(rows(0, 6))


def test_an_empty_ring_cannot_be_sampled():
    with pytest.raises(ValueError, match="empty"):
        ring().sample(1, 1)


def test_rows_of_another_width_are_not_restored():
    buffer = ring(capacity=4)
    buffer.add(rows(1, 4))
    with pytest.raises(ValueError, match=r"stored rows have shape \(4, 2\)"):
        ring(capacity=4, width=3).ring.restore(buffer.ring.snapshot().stored())


@pytest.mark.parametrize(
    "damaged",
    [
        np.zeros(6, np.int64),
        np.zeros(5, np.uint64),
        np.array([1, 1, 1, 2, 0, 0], np.uint64),
        np.array([1, 1, 1, 1, 2, 0], np.uint64),
        np.array([1, 1, 1, 1, 0, 2**32], np.uint64),
    ],
)
def test_an_impossible_generator_state_is_refused(damaged):
    buffer = ring()
    before = buffer.generator_state()
    with pytest.raises(ValueError, match="generator state"):
        buffer.set_generator_state(damaged)
    assert np.array_equal(buffer.generator_state(), before)


def test_an_extreme_generator_state_is_accepted():
    buffer, state = ring(), np.array([2**64 - 1, 0, 0, 1, 1, 2**32 - 1], np.uint64)
    buffer.set_generator_state(state)
    assert np.array_equal(buffer.generator_state(), state)


def test_a_runs_buffer_has_its_capacity_width_and_stream():
    config = MADDPGConfig.from_dict({"seed": 4, "replay": {"capacity": 20_000}})
    spec = EnvSpec(("a_0", "b_0"), (3, 2), (2, 1), ("continuous",) * 2)
    first, again = (make_replay_buffer(config, spec) for _ in range(2))
    assert first.ring.rows.shape == (20_000, 17)
    for buffer in (first, again):
        buffer.add(rows(0, 50, width=17))
    assert np.array_equal(first.sample(1, 9), again.sample(1, 9))
