"""Derives independent random streams from one seed."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

StreamName = Literal["env", "exploration", "replay", "learner", "evaluation", "response"]
_STREAM_KEYS: dict[StreamName, int] = {name: key for key, name in enumerate(get_args(StreamName))}
"""Warning: another order of the names changes the random streams of every run."""


def seed_sequence(
    seed: int, stream: StreamName, index: int = 0, incarnation: int = 0
) -> np.random.SeedSequence:
    """Return the seed sequence of one stream.

    Args:
        seed: of the run.
        stream: its name, after what draws from it.
        index: of the worker, or of the evaluation.
        incarnation: 0 for the first process; a replacement has another number, so that it does not repeat
            the stream.
    """
    suffix = (incarnation,) if incarnation else ()
    return np.random.SeedSequence(seed, spawn_key=(_STREAM_KEYS[stream], index, *suffix))


def generator(seed: int, stream: StreamName, index: int = 0, incarnation: int = 0) -> np.random.Generator:
    """Return a PCG64 generator for one stream; the arguments are those of `seed_sequence`."""
    return np.random.Generator(np.random.PCG64(seed_sequence(seed, stream, index, incarnation)))


def integer_seed(seed: int, stream: StreamName, index: int = 0, incarnation: int = 0) -> int:
    """Return a 63-bit integer seed for libraries that take only integers (torch, environments)."""
    return int(seed_sequence(seed, stream, index, incarnation).generate_state(1, np.uint64)[0] >> 1)


def pack_generator(rng: np.random.Generator) -> npt.NDArray[np.uint64]:
    """Return a PCG64 state as `[6]` uint64: state high, low, increment high, low, has_uint32, uinteger."""
    state = rng.bit_generator.state
    halves = [half for word in state["state"].values() for half in (word >> 64, word & (1 << 64) - 1)]
    return np.array([*halves, state["has_uint32"], state["uinteger"]], np.uint64)


def restore_generator(rng: np.random.Generator, packed: npt.NDArray[np.uint64]) -> None:
    """Set a PCG64 generator to a state `[6]` that `pack_generator` returned.

    Raises:
        ValueError: if a PCG64 generator cannot have that state.
    """
    if packed.shape != (6,) or packed.dtype != np.uint64:
        raise ValueError(
            f"generator state has shape {packed.shape} and type {packed.dtype}, expected (6,) uint64"
        )
    state_hi, state_lo, inc_hi, inc_lo, has_uint32, uinteger = (int(word) for word in packed)
    if inc_lo % 2 == 0 or has_uint32 > 1 or uinteger >= 2**32:
        raise ValueError("generator state holds values that no PCG64 generator has")
    rng.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": state_hi << 64 | state_lo, "inc": inc_hi << 64 | inc_lo},
        "has_uint32": has_uint32,
        "uinteger": uinteger,
    }
