"""Timing in repeats, side by side, and a description of the machine (floor F5)."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "ray", "numpy", "numba", "mpe2")


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


def spread(values: list[float]) -> dict[str, float]:
    """Return median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def machine() -> dict[str, Any]:
    """Return what a figure depends on: cores, processor, versions."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # a GPU machine may have no Ray
    return {"cpu": _cpu_name(), "cores": os.cpu_count(), "versions": versions}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
