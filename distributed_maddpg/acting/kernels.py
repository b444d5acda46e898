"""Compiled loops where numpy is slow: short rows, and two passes that can be one.

Each function does in place what the numpy expression in its docstring does, bit for bit unless stated
otherwise; `tests/acting/test_kernels.py` compares them. Matrix products, exponentials, logarithms and random
numbers stay in numpy.
"""

from __future__ import annotations

import numpy as np

from distributed_maddpg.compilation import compiled
from distributed_maddpg.types import FloatArray

_ZERO = np.float32(0.0)


@compiled
def add_bias_and_relu(values: FloatArray, bias: FloatArray) -> None:
    """Compute `values = np.maximum(values + bias, 0)`; values [N, E, H], bias [N, 1, H]."""
    for n in range(values.shape[0]):
        for e in range(values.shape[1]):
            for k in range(values.shape[2]):
                value = values[n, e, k] + bias[n, 0, k]
                values[n, e, k] = _ZERO if value < _ZERO else value  # NaN stays NaN


@compiled
def subtract_max(values: FloatArray) -> None:
    """Compute `values -= values.max(axis=2, keepdims=True)`; values [N, E, A]."""
    for n in range(values.shape[0]):
        for e in range(values.shape[1]):
            largest = values[n, e, 0]
            for k in range(1, values.shape[2]):
                if values[n, e, k] > largest:
                    largest = values[n, e, k]
            for k in range(values.shape[2]):
                values[n, e, k] -= largest


@compiled
def normalise(values: FloatArray) -> None:
    """Compute `values /= values.sum(axis=2, keepdims=True)`; values [N, E, A].

    For 8 or more summands numpy adds in another order, so the last bit may differ.
    """
    for n in range(values.shape[0]):
        for e in range(values.shape[1]):
            total = _ZERO
            for k in range(values.shape[2]):
                total += values[n, e, k]
            for k in range(values.shape[2]):
                values[n, e, k] /= total
