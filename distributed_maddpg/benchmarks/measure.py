"""Timing in repeats, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


def rates(works: Mapping[str, Callable[[], int]], seconds: float, repeats: int) -> dict[str, list[float]]:
    """Measure several kinds of work in turn, so that a change of the machine's speed meets all of them.

    Args:
        works: name to a function that does a little work and returns how many units it was.
        seconds: how long each is repeated at a time.
        repeats: turns.

    Returns:
        Units per second of each turn, by name. The first call of each is a warm-up and is not counted.
    """
    for work in works.values():
        work()
    measured: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            units, started = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - started) < seconds:
                units += work()
            measured[name].append(units / elapsed)
    return measured
