"""numpy's PCG64 in compiled code: a reset draws what MPE2's `reset_world` draws from the same generator.

A generator is its packed state, [6] uint64, see `streams`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from distributed_maddpg.compilation import compiled_inline, compiled_part

UintArray = npt.NDArray[np.uint64]

_BIT_1, _BITS_11, _BITS_32, _BITS_58, _BITS_63, _BITS_64 = (np.uint64(n) for n in (1, 11, 32, 58, 63, 64))
_NO_BITS, _MASK_32 = np.uint64(0), np.uint64(0xFFFFFFFF)
# PCG64's multiplier: its high and low 64 bits, and the two halves of the low 64 bits.
_MULTIPLIER_HI, _MULTIPLIER_LO = np.uint64(0x2360ED051FC65DA4), np.uint64(0x4385DF649FCCF645)
_FACTOR_HI, _FACTOR_LO = np.uint64(0x4385DF64), np.uint64(0x9FCCF645)


@compiled_part
def _next_uint64(generator: UintArray) -> np.uint64:
    """Advance one PCG64 state, [6] uint64, and return its 64 random bits (XSL-RR output)."""
    hi, lo = generator[0], generator[1]
    a, b = lo >> _BITS_32, lo & _MASK_32
    low, middle = b * _FACTOR_LO, a * _FACTOR_LO
    middle_2 = b * _FACTOR_HI + (low >> _BITS_32) + (middle & _MASK_32)
    carry = a * _FACTOR_HI + (middle >> _BITS_32) + (middle_2 >> _BITS_32)
    hi = carry + hi * _MULTIPLIER_LO + lo * _MULTIPLIER_HI + generator[2]
    product = lo * _MULTIPLIER_LO
    lo = product + generator[3]
    if lo < product:
        hi = hi + _BIT_1
    generator[0], generator[1] = hi, lo
    bits, turn = hi ^ lo, hi >> _BITS_58
    output: np.uint64 = (bits >> turn) | (bits << ((_BITS_64 - turn) & _BITS_63))
    return output


@compiled_part
def _next_uint32(generator: UintArray) -> np.uint64:
    """Return 32 random bits; like numpy, draw 64 bits and keep the upper half for the next call."""
    if generator[4] != _NO_BITS:
        generator[4] = _NO_BITS
        kept: np.uint64 = generator[5]
        return kept
    bits = _next_uint64(generator)
    generator[4], generator[5] = _BIT_1, bits >> _BITS_32
    output: np.uint64 = bits & _MASK_32
    return output


@compiled_part
def next_index(generator: UintArray, size: int) -> np.int64:
    """Return `Generator.integers(size)`: Lemire's method on 32 bits; size 1 draws nothing."""
    index: np.int64 = np.int64(0)
    if size > 1:
        bound = np.uint64(size)
        product = _next_uint32(generator) * bound
        if product & _MASK_32 < bound:
            threshold = (_MASK_32 + _BIT_1 - bound) % bound
            while product & _MASK_32 < threshold:
                product = _next_uint32(generator) * bound
        index = np.int64(product >> _BITS_32)
    return index


@compiled_inline
def next_uniform(generator: UintArray, low: float, high: float) -> float:
    """Return `Generator.uniform(low, high)`."""
    fraction = np.float64(_next_uint64(generator) >> _BITS_11) * (1.0 / 9007199254740992.0)
    value: float = low + (high - low) * fraction
    return value
