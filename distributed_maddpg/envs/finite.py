"""Checks for numbers that are not finite in float32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from distributed_maddpg.compilation import compiled
from distributed_maddpg.types import FloatArray

_LARGEST = np.finfo(np.float32).max


@compiled
def all_finite(values: FloatArray) -> bool:
    """Return whether all values are finite in float32: no NaN, no infinity, no float64 beyond its range."""
    finite = True
    flat = np.ascontiguousarray(values).reshape(-1)
    for i in range(flat.size):
        finite &= abs(flat[i]) <= _LARGEST  # False for NaN; no branch, so that it vectorises
    return finite


def first_not_finite(values: npt.NDArray[np.floating]) -> tuple[int, int]:
    """Return row and column of the first value of `[n, m]` that is not finite in float32.

    Raises:
        IndexError: if there is none.
    """
    row, column = np.argwhere(~(np.abs(values) <= _LARGEST))[0].tolist()
    return row, column


def bad_observation(obs: Sequence[FloatArray], agents: Sequence[str]) -> str | None:
    """Describe the first of the observations `[E, O_i]` that is not finite; None if all are."""
    for agent, values in zip(agents, obs, strict=True):
        if not all_finite(values):
            copy, column = first_not_finite(values)
            return f"observation of {agent} in copy {copy} is {values[copy, column]:g}"
    return None
