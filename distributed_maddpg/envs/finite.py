"""Whether numbers are finite in float32, and whose are not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from distributed_maddpg.compilation import compiled
from distributed_maddpg.types import FloatArray

_LARGEST = np.finfo(np.float32).max


@compiled
def all_finite(values: FloatArray) -> bool:
    """Return whether an array holds neither NaN nor infinity, nor what would become one in float32."""
    finite = True
    flat = np.ascontiguousarray(values).reshape(-1)
    for i in range(flat.size):
        finite &= abs(flat[i]) <= _LARGEST  # false for NaN; without a branch, so that it is vectorised
    return finite


def first_not_finite(values: npt.NDArray[np.floating]) -> tuple[int, int]:
    """Return row and column of the first number of `[n, m]` that `all_finite` objects to.

    Raises:
        IndexError: if there is none.
    """
    row, column = np.argwhere(~(np.abs(values) <= _LARGEST))[0].tolist()
    return row, column


def bad_observation(obs: Sequence[FloatArray], agents: Sequence[str]) -> str | None:
    """Say which of the observations `[E, O_i]` is not finite, the first agent's first copy, or None."""
    for agent, values in zip(agents, obs, strict=True):
        if not all_finite(values):
            copy, column = first_not_finite(values)
            return f"observation of {agent} in copy {copy} is {values[copy, column]:g}"
    return None
