"""A parallel environment that keeps what it was given; by name `tests.support.arguments:parallel_env`."""

from __future__ import annotations

import copy
from typing import Any

from tests.support.counting import CountingEnv

GIVEN: dict[str, Any] = {}
"""The arguments of the latest copy."""


def parallel_env(max_cycles: int = 5, **kwargs: Any) -> CountingEnv:
    """Make a CountingEnv, and change lists among its arguments afterwards."""
    GIVEN.clear()
    GIVEN.update(copy.deepcopy({"max_cycles": max_cycles, **kwargs}))
    for value in kwargs.values():
        if isinstance(value, list):
            value.append("changed")
    return CountingEnv(max_cycles=max_cycles)
