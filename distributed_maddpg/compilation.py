"""How the package compiles its inner loops (floor F0).

A compiled function may call those of its own file only: numba's cache notices no change in another file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

_F = TypeVar("_F", bound=Callable[..., Any])


def compiled(function: _F) -> _F:
    """Compile a function at its first call and keep the machine code on disk, in strict IEEE arithmetic."""
    try:
        return cast(_F, numba.njit(cache=True)(function))
    except RuntimeError:  # no folder for the cache can be written: compile in each process
        return cast(_F, numba.njit(function))
