"""The numba decorators of the package's inner loops.

Warning: a compiled function may call only functions of its own folder. Numba's cache does not notice changes
in other files; here the name of the cache file depends on all files of the folder.

Warning: named tuples that are passed to compiled code need names of their own in the whole package. Numba
recognises an argument's type by the name of its class, and takes two of one name and like fields for the
same: each call then takes a hundred times as long.
"""

from __future__ import annotations

import functools
import inspect
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.extending import overload

_F = TypeVar("_F", bound=Callable[..., Any])


def compiled(function: _F) -> _F:
    """Compile a function at its first call, in strict IEEE arithmetic, and cache the machine code on disk."""
    return _cached(function, {})


def compiled_for_threads(function: _F) -> _F:
    """Compile as `compiled` does; the function runs without the interpreter's lock."""
    return _cached(function, {"nogil": True})


def compiled_part(function: _F) -> _F:
    """Compile a part of such a function, with which it is cached; division by zero gives infinity or NaN."""
    return cast(_F, numba.njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(function))


def compiled_inline(function: _F) -> _F:
    """Compile as `compiled_part` does, inlined wherever it is called: for small functions in inner loops."""
    options = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return cast(_F, numba.njit(forceinline=True, **options)(function))


def chosen_by_state(function: _F) -> _F:
    """Stand, in compiled code, for the function of the same name in the module of the first argument's type.

    Where that module has none, the body of `function` itself is compiled. The first argument is a named
    tuple.
    """
    return _chosen(function, lambda state: getattr(_module(state), function.__name__, function))


def if_state_has(field: str) -> Callable[[_F], _F]:
    """Compile a function for named tuples with this field as first argument; others make it do nothing."""
    return lambda function: _chosen(function, lambda state: function if field in state.fields else _nothing)


def _nothing(*_: Any) -> None:
    """Stand for a function that is not needed."""


def _module(state: Any) -> Any:
    return sys.modules[state.instance_class.__module__]


def _chosen(function: _F, choose: Callable[[Any], Callable[..., Any]]) -> _F:
    """Make compiled code call what `choose` returns for the numba type of the first argument."""

    def chosen(*types: Any) -> Callable[..., Any]:
        return choose(types[0])

    cast(Any, chosen).__signature__ = inspect.signature(function)
    overload(function, jit_options={"error_model": "numpy", "forceinline": True}, strict=False)(chosen)
    return function


def compile_ahead(function: Callable[..., Any], *arguments: Any) -> None:
    """Compile what `compiled` or `compiled_for_threads` returned for some arguments, without calling it."""
    cast(Any, function).compile(tuple(map(numba.typeof, arguments)))


def _cached(function: _F, options: dict[str, Any]) -> _F:
    # A stale file must not be found at all: numba unpickles its types before it notices that it is stale, and
    # fails if one of them no longer exists.
    folder = Path(function.__code__.co_filename).parent
    function.__qualname__ += f"_{_checksum(folder):08x}"
    try:
        return cast(_F, numba.njit(cache=True, **options)(function))
    except RuntimeError:  # no cache folder is writable: compile in each process
        return cast(_F, numba.njit(**options)(function))


@functools.cache
def _checksum(folder: Path) -> int:
    try:
        sources = [path.read_bytes() for path in sorted(folder.glob("*.py"))]
    except OSError:  # imported from an archive
        return 0
    return functools.reduce(lambda sum, source: zlib.crc32(source, sum), sources, 0)
