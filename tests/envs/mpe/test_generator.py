"""The compiled random draws against numpy's."""

import numba
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distributed_maddpg.envs import streams
from distributed_maddpg.envs.mpe import generator as compiled_generator
from distributed_maddpg.seeding import pack_generator


@numba.njit  # not cached: numba does not notice changes of the package
def next_index(packed, size):
    return compiled_generator.next_index(packed, size)


@numba.njit  # not cached: numba does not notice changes of the package
def next_uniform(packed, low, high):
    return compiled_generator.next_uniform(packed, low, high)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**64), size=st.integers(1, 2**31), draws=st.lists(st.booleans(), max_size=30))
def test_draws_equal_numpys_in_any_mixture(seed, size, draws):
    generator = streams.stream(seed, 0)
    packed = pack_generator(generator)
    for is_index in draws:
        if is_index:
            assert next_index(packed, size) == generator.integers(size)
        else:
            assert next_uniform(packed, -0.9, 0.9) == generator.uniform(-0.9, 0.9)
    assert (packed == pack_generator(generator)).all()


@pytest.mark.parametrize("size", [2, 3, 6, 2**31 + 1, 2**32 - 1])
def test_index_equals_numpys_where_draws_are_rejected(size):
    generator = streams.stream(1, 0)  # half of all draws are rejected for 2**31 + 1
    packed = pack_generator(generator)
    drawn = [int(next_index(packed, size)) for _ in range(500)]
    assert drawn == [int(generator.integers(size)) for _ in range(500)]
    assert (packed == pack_generator(generator)).all()


def test_index_of_one_landmark_draws_nothing():
    packed = streams.initial_generator_states(0, 1)[0]
    before = packed.copy()
    assert next_index(packed, 1) == 0
    assert (packed == before).all()
