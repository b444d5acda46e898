"""How the package compiles its inner loops.

A compiled function may call those of its own file only: numba's cache notices no change in another file.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

_F = TypeVar("_F", bound=Callable[..., Any])


def compiled(function: _F) -> _F:
    """Compile a function at its first call and keep the machine code on disk, in strict IEEE arithmetic."""
    # Into the name of the cache's file: numba unpickles an older version's types before it sees that it is
    # stale, and fails if one of them no longer exists.
    function.__qualname__ += f"_{_checksum(function.__code__.co_filename):08x}"
    try:
        return cast(_F, numba.njit(cache=True)(function))
    except RuntimeError:  # no folder for the cache can be written: compile in each process
        return cast(_F, numba.njit(function))


@functools.cache
def _checksum(source: str) -> int:
    try:
        return zlib.crc32(Path(source).read_bytes())
    except OSError:  # imported from an archive
        return 0
