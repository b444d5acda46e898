"""The random stream of each environment copy, and its form as six plain numbers (floor F2; numpy only).

A stream is numpy's `Generator(PCG64(SeedSequence(seed, spawn_key=(i,))))` for copy i, whatever the number of
copies. Its packed form is `[state_hi, state_lo, inc_hi, inc_lo, has_uint32, uinteger]`, uint64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

UintArray = npt.NDArray[np.uint64]
WIDTH = 6
_LOW = (1 << 64) - 1


def stream(seed: int, copy: int) -> np.random.Generator:
    """Return the generator of one copy."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(copy,))))


def pack(generator: np.random.Generator) -> UintArray:
    """Return the state of a PCG64 generator, [6] uint64."""
    state: dict[str, Any] = dict(generator.bit_generator.state)
    value, increment = state["state"]["state"], state["state"]["inc"]
    return np.array(
        [
            value >> 64,
            value & _LOW,
            increment >> 64,
            increment & _LOW,
            state["has_uint32"],
            state["uinteger"],
        ],
        np.uint64,
    )


def unpack(packed: UintArray) -> np.random.Generator:
    """Return a PCG64 generator in the given state, [6] uint64."""
    value_hi, value_lo, inc_hi, inc_lo, has_uint32, uinteger = (int(number) for number in packed)
    generator = np.random.Generator(np.random.PCG64(0))
    generator.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": value_hi << 64 | value_lo, "inc": inc_hi << 64 | inc_lo},
        "has_uint32": has_uint32,
        "uinteger": uinteger,
    }
    return generator


def pack_all(seed: int, num_envs: int) -> UintArray:
    """Return the first states of all copies' streams, [E, 6] uint64."""
    return np.stack([pack(stream(seed, copy)) for copy in range(num_envs)])


def checked(packed: npt.NDArray[Any], num_envs: int) -> UintArray:
    """Return a copy of saved states after checking that they are possible ones.

    Args:
        packed: [E, 6] uint64.
        num_envs: E.

    Returns:
        [E, 6] uint64.

    Raises:
        ValueError: if the shape, the type or a value cannot be PCG64's.
    """
    packed = np.asarray(packed)
    if packed.shape != (num_envs, WIDTH) or packed.dtype != np.uint64:
        raise ValueError(
            f"generator_state has shape {packed.shape} and type {packed.dtype}, "
            f"expected ({num_envs}, {WIDTH}) uint64"
        )
    odd, flag, half = packed[:, 3] & np.uint64(1), packed[:, 4], packed[:, 5]
    if not odd.all() or (flag > 1).any() or (half > 0xFFFFFFFF).any():
        raise ValueError("generator_state holds values that no PCG64 generator has")
    states: UintArray = packed.copy()
    return states
