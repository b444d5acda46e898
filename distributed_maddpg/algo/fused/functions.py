"""Exponential, logarithm and sine of float32, in arithmetic that the compiler vectorises.

A call of the C library's takes ten times as long, and its last bit depends on the machine. The polynomials
are those of Cephes (S. Moshier); errors are within 2 units in the last place.
"""

from __future__ import annotations

import numpy as np

from distributed_maddpg.algo.fused.instructions import bits_of, float_of
from distributed_maddpg.compilation import compiled_part

# Typed constants: a Python float would turn the whole expression into float64.
_ONE, _HALF = np.float32(1.0), np.float32(0.5)
_ROUND = np.float32(12_582_912.0)
"""1.5 * 2^23: added to x and subtracted again, it rounds x to an integer, which the sum's low bits hold."""
_ROUND_BITS = np.int32(0x4B400000)
_EXP_LOW, _EXP_HIGH = np.float32(-87.0), np.float32(88.0)
_LOG2_E = np.float32(1.44269504088896341)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_E0, _E1, _E2 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
_E3, _E4, _E5 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)
_SQRT_HALF = np.float32(0.707106781186547524)
_L0, _L1, _L2 = np.float32(7.0376836292e-2), np.float32(-1.1514610310e-1), np.float32(1.1676998740e-1)
_L3, _L4, _L5 = np.float32(-1.2420140846e-1), np.float32(1.4249322787e-1), np.float32(-1.6668057665e-1)
_L6, _L7, _L8 = np.float32(2.0000714765e-1), np.float32(-2.4999993993e-1), np.float32(3.3333331174e-1)
_S1, _S3, _S5 = np.float32(6.28318530718), np.float32(-41.3417022404), np.float32(81.6052492761)
_S7, _S9, _S11 = np.float32(-76.7058597531), np.float32(42.0586939449), np.float32(-15.0946425769)
_S13 = np.float32(3.81995258485)
"""Taylor series of sin(2 pi x)."""
_QUARTER = np.float32(0.25)


@compiled_part
def exp(x: np.float32) -> np.float32:
    """Return e^x, with x clipped to [-87, 88]; NaN for NaN."""
    x = _EXP_LOW if x < _EXP_LOW else x
    x = _EXP_HIGH if x > _EXP_HIGH else x
    rounded = x * _LOG2_E + _ROUND
    power = rounded - _ROUND
    x = x - power * _LN2_HIGH - power * _LN2_LOW
    polynomial = ((((_E0 * x + _E1) * x + _E2) * x + _E3) * x + _E4) * x + _E5
    scale = float_of(np.int32((bits_of(rounded) - _ROUND_BITS + 127) << 23))
    return (polynomial * x * x + x + _ONE) * scale


@compiled_part
def log(x: np.float32) -> np.float32:
    """Return the natural logarithm of a normal positive number."""
    bits = bits_of(x)
    power = np.float32(np.int32((bits >> 23) - 126))
    x = float_of(np.int32((bits & 0x007FFFFF) | 0x3F000000))  # [0.5, 1)
    small = x < _SQRT_HALF
    power = power - _ONE if small else power
    x = x + x - _ONE if small else x - _ONE
    square = x * x
    polynomial = (((_L0 * x + _L1) * x + _L2) * x + _L3) * x + _L4
    polynomial = (((polynomial * x + _L5) * x + _L6) * x + _L7) * x + _L8
    value = polynomial * x * square + power * _LN2_LOW - _HALF * square
    return x + value + power * _LN2_HIGH


@compiled_part
def sin_of_turns(x: np.float32) -> np.float32:
    """Return sin(2 pi x)."""
    x = x - ((x + _ROUND) - _ROUND)  # [-1/2, 1/2]
    x = _HALF - x if x > _QUARTER else x
    x = -_HALF - x if x < -_QUARTER else x
    square = x * x
    polynomial = ((_S13 * square + _S11) * square + _S9) * square + _S7
    return (((polynomial * square + _S5) * square + _S3) * square + _S1) * x
