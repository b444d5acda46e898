"""One random stream per environment copy, and its state as an array of six integers.

The stream of copy i is numpy's `Generator(PCG64(SeedSequence(seed, spawn_key=(i,))))`, independent of the
number of copies. Its packed form is `[state_hi, state_lo, inc_hi, inc_lo, has_uint32, uinteger]`, uint64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from distributed_maddpg.seeding import pack_generator, restore_generator
from distributed_maddpg.types import checked_array

UintArray = npt.NDArray[np.uint64]


def stream(seed: int, copy: int) -> np.random.Generator:
    """Return the generator of one copy."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(copy,))))


def unpack(packed: UintArray) -> np.random.Generator:
    """Return a PCG64 generator in the given state, [6] uint64."""
    generator = np.random.Generator(np.random.PCG64(0))
    restore_generator(generator, packed)
    return generator


def initial_generator_states(seed: int, num_envs: int) -> UintArray:
    """Return the initial states of all copies' streams, [E, 6] uint64."""
    return np.stack([pack_generator(stream(seed, copy)) for copy in range(num_envs)])


def checked_generator_states(
    state: Mapping[str, npt.NDArray[Any]], num_envs: int, name: str = "generator_state"
) -> UintArray:
    """Validate and return a copy of a saved state's packed generators, [E, 6] uint64.

    Raises:
        ValueError: for a wrong shape or type, or a value that no PCG64 state has.
    """
    packed: UintArray = checked_array(dict(state), name, (num_envs, 6), np.uint64)
    for row in packed:
        unpack(row)
    return packed
