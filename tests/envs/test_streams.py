import numpy as np
import pytest

from distributed_maddpg.envs import streams
from distributed_maddpg.seeding import pack_generator


def test_pack_and_unpack_continue_a_stream_exactly():
    generator = streams.stream(3, 1)
    generator.integers(5, dtype=np.uint32)  # leaves half of 64 bits behind
    copy = streams.unpack(pack_generator(generator))
    assert copy.bit_generator.state == generator.bit_generator.state
    assert copy.integers(1000, size=5).tolist() == generator.integers(1000, size=5).tolist()


def test_stream_is_numpys_generator_for_seed_and_copy():
    expected = np.random.Generator(np.random.PCG64(np.random.SeedSequence(7, spawn_key=(4,))))
    assert streams.stream(7, 4).random() == expected.random()


def test_stream_of_a_copy_does_not_depend_on_their_number():
    assert (streams.initial_generator_states(9, 2) == streams.initial_generator_states(9, 5)[:2]).all()
    assert len({row.tobytes() for row in streams.initial_generator_states(9, 5)}) == 5


@pytest.mark.parametrize(
    ("column", "value"), [(3, 2), (4, 2), (5, 2**32)], ids=["even increment", "flag", "half too large"]
)
def test_checked_refuses_states_no_generator_has(column, value):
    packed = streams.initial_generator_states(0, 3)
    packed[1, column] = value
    with pytest.raises(ValueError, match="no PCG64 generator has"):
        streams.checked_generator_states({"generator_state": packed}, 3)


def test_checked_refuses_other_shapes_and_types_and_copies():
    packed = streams.initial_generator_states(0, 3)
    with pytest.raises(ValueError, match=r"generator_state has shape \(3, 6\)"):
        streams.checked_generator_states({"generator_state": packed}, 2)
    with pytest.raises(ValueError, match="type int64"):
        streams.checked_generator_states({"generator_state": packed.astype(np.int64)}, 3)
    copied = streams.checked_generator_states({"generator_state": packed}, 3)
    assert (copied == packed).all()
    assert not np.shares_memory(copied, packed)
