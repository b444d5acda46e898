"""The compiled random draws against numpy's, and what the hot path relies on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distributed_maddpg.envs import adversary_kernel as kernel
from distributed_maddpg.envs import streams
from distributed_maddpg.seeding import pack_generator


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**64), size=st.integers(1, 2**31), draws=st.lists(st.booleans(), max_size=30))
def test_draws_equal_numpys_in_any_mixture(seed, size, draws):
    generator = streams.stream(seed, 0)
    packed = pack_generator(generator)
    for is_index in draws:
        if is_index:
            assert kernel._next_index(packed, size) == generator.integers(size)
        else:
            assert kernel._next_coordinate(packed) == generator.uniform(-1, 1)
    assert (packed == pack_generator(generator)).all()


@pytest.mark.parametrize("size", [2, 3, 6, 2**31 + 1, 2**32 - 1])
def test_index_equals_numpys_where_draws_are_rejected(size):
    generator = streams.stream(1, 0)  # half of all draws are rejected for 2**31 + 1
    packed = pack_generator(generator)
    drawn = [int(kernel._next_index(packed, size)) for _ in range(500)]
    assert drawn == [int(generator.integers(size)) for _ in range(500)]
    assert (packed == pack_generator(generator)).all()


def test_index_of_one_landmark_draws_nothing():
    packed = streams.initial_generator_states(0, 1)[0]
    before = packed.copy()
    assert kernel._next_index(packed, 1) == 0
    assert (packed == before).all()


def test_nearest_keeps_equally_far_points_in_order_and_pads_with_zeros():
    points = np.array([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.5, 0.0]])
    row = np.full(10, np.nan, np.float32)
    kernel._write_nearest(row, points, 0.0, 0.0, 3)
    assert row.tolist() == [0.0, 1.0, 1.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    kernel._write_nearest(row[:4], points, 0.0, 0.0, 4)
    assert row[:4].tolist() == [0.5, 0.0, 0.0, 1.0]
