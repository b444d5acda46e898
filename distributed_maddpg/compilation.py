"""The numba decorator of the package's inner loops.

Warning: a compiled function may call only functions of its own file. Numba's cache does not notice changes in
other files.
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
    """Compile a function at its first call, in strict IEEE arithmetic, and cache the machine code on disk."""
    # The name of the cache file depends on the source: numba unpickles the types of a stale file before it
    # notices that it is stale, and fails if one of them no longer exists.
    function.__qualname__ += f"_{_checksum(function.__code__.co_filename):08x}"
    try:
        return cast(_F, numba.njit(cache=True)(function))
    except RuntimeError:  # no cache folder is writable: compile in each process
        return cast(_F, numba.njit(function))


@functools.cache
def _checksum(source: str) -> int:
    try:
        return zlib.crc32(Path(source).read_bytes())
    except OSError:  # imported from an archive
        return 0
