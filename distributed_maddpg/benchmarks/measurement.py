"""Measures rates in turns, and defines the result type of all benchmarks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """What one benchmark measured; names end in their unit.

    The median of `spread[name]` is the value under `figures`, `references` or `ratios` of that name; a value
    without a spread was measured once.
    """

    settings: dict[str, Any]
    """What was measured: sizes, device, lengths."""
    figures: dict[str, float]
    """What this package reaches."""
    references: dict[str, float] = field(default_factory=dict)
    """What it is compared with, measured in the same run."""
    ratios: dict[str, float] = field(default_factory=dict)
    """By "figure/reference", the one divided by the other."""
    spread: dict[str, dict[str, float]] = field(default_factory=dict)
    """Median, minimum and maximum over the repeats."""
    points: list[dict[str, Any]] = field(default_factory=list)
    """One entry per job, where whole jobs were run."""
    profile: list[dict[str, Any]] = field(default_factory=list)
    """Where the time of one update or vector step goes, part by part."""


def rates(workloads: Mapping[str, Callable[[], int]], seconds: float, repeats: int) -> dict[str, list[float]]:
    """Measure several kinds of work in turn, so that a change of the machine's speed affects all of them.

    Args:
        workloads: name to a function that does a little work and returns how many units it did.
        seconds: how long each is repeated per turn.
        repeats: turns.

    Returns:
        Units per second of each turn, by name. The first call of each is a warm-up and is not counted.
    """
    for work in workloads.values():
        work()
    measured: dict[str, list[float]] = {name: [] for name in workloads}
    for _ in range(repeats):
        for name, work in workloads.items():
            units, started = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - started) < seconds:
                units += work()
            measured[name].append(units / elapsed)
    return measured


def gflops(rates: Sequence[float], flops: int = 1) -> list[float]:
    """Return billions of operations per second from rates of units that cost `flops` each."""
    return [rate * flops / 1e9 for rate in rates]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def compare(
    turns: Mapping[str, Sequence[float]],
    references: Collection[str],
    ratios: Collection[str],
    settings: dict[str, Any],
    profile: list[dict[str, Any]] | None = None,
) -> Measurement:
    """Summarise rates that were measured in turns.

    Args:
        turns: the value of each turn, by name.
        references: names of those that this package is compared with; the others are its own figures.
        ratios: "figure/reference", divided turn by turn, so that both were measured at the same speed of the
            machine.
        settings: what was measured.
        profile: where the time goes, if that was profiled.
    """
    divided = {}
    for ratio in ratios:
        figure, _, reference = ratio.partition("/")
        divided[ratio] = [ours / other for ours, other in zip(turns[figure], turns[reference], strict=True)]
    spreads = {name: spread(values) for name, values in {**turns, **divided}.items()}
    medians = {name: values["median"] for name, values in spreads.items()}
    return Measurement(
        settings=settings,
        figures={name: medians[name] for name in turns if name not in references},
        references={name: medians[name] for name in references},
        ratios={name: medians[name] for name in divided},
        spread=spreads,
        profile=profile or [],
    )
