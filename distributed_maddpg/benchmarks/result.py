"""The one shape in which every benchmark states what it measured."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """What one benchmark measured; names end in their unit.

    The median of `spread[name]` is the value under `figures`, `ceilings` or `ratios` of that name; a value
    without a spread was measured once.
    """

    settings: dict[str, Any]
    """What was measured: sizes, device, lengths."""
    figures: dict[str, float]
    """What this package reaches."""
    ceilings: dict[str, float] = field(default_factory=dict)
    """What it is compared with, measured in the same run."""
    ratios: dict[str, float] = field(default_factory=dict)
    """By "figure/ceiling", the one divided by the other."""
    spread: dict[str, dict[str, float]] = field(default_factory=dict)
    """Median, minimum and maximum over the repeats."""
    points: list[dict[str, Any]] = field(default_factory=list)
    """One entry per job, where whole jobs were run."""
    profile: list[dict[str, Any]] = field(default_factory=list)
    """Where the time of one update or vector step goes, part by part."""


@dataclass(frozen=True)
class Result:
    """A measurement, what was asked for, and the machine it was made on."""

    benchmark: str
    command: str
    measurement: Measurement
    machine: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, the same keys for every benchmark."""
        return {
            "benchmark": self.benchmark,
            "command": self.command,
            **dataclasses.asdict(self.measurement),
            "machine": self.machine,
        }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def compare(
    figures: Mapping[str, Sequence[float]],
    ceilings: Mapping[str, Sequence[float]],
    pairs: Sequence[tuple[str, str]],
    settings: dict[str, Any],
    profile: list[dict[str, Any]] | None = None,
) -> Measurement:
    """Sum up rates that were measured in turns.

    Args:
        figures: each turn's value, by name.
        ceilings: likewise.
        pairs: which figure is divided by which ceiling, turn by turn: both met the same machine then.
        settings: what was measured.
        profile: where the time goes, if that was looked at.
    """
    ratios = {
        f"{figure}/{ceiling}": [
            ours / most for ours, most in zip(figures[figure], ceilings[ceiling], strict=True)
        ]
        for figure, ceiling in pairs
    }
    spreads = {name: spread(values) for name, values in {**figures, **ceilings, **ratios}.items()}
    return Measurement(
        settings=settings,
        figures={name: spreads[name]["median"] for name in figures},
        ceilings={name: spreads[name]["median"] for name in ceilings},
        ratios={name: spreads[name]["median"] for name in ratios},
        spread=spreads,
        profile=profile or [],
    )
