"""The settings of runs as rows: what differs from the nearest preset, and from run to run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.config.presets import PRESETS
from distributed_maddpg.report.runs import Group

_FREE = ("env.kwargs", "algorithm.team_overrides", "algorithm.private")
"""Tables with free keys, of which each entry is a row."""


def settings_table(groups: Sequence[Group]) -> dict[str, Any]:
    """Return all settings of runs as plain values.

    `rows` have the name of a setting, its value in each run as text, whether the runs differ, and of each run
    the value of the nearest preset where the run's is another one.
    """
    known = [group.first.config for group in groups]
    flat = [_flat(config) if config else {} for config in known]
    presets = [_nearest_preset(config) if config else ("", {}) for config in known]
    rows = []
    names = dict.fromkeys(name for own in flat for name in own)
    # A table that is empty in one run and has entries in another is compared by its entries.
    for name in (name for name in names if not any(other.startswith(f"{name}.") for other in names)):
        values = [own.get(name, "") for own in flat]
        bases = [preset.get(name, "") for _, preset in presets]
        changed = [own != base for own, base in zip(values, bases, strict=True)]
        rows.append(
            {
                "name": name,
                "values": values,
                "preset": [base if other else None for base, other in zip(bases, changed, strict=True)],
                "differs": len(set(values)) > 1,
            }
        )
    return {"presets": [name for name, _ in presets], "rows": rows}


def _flat(config: MADDPGConfig) -> dict[str, str]:
    """Return settings as texts by their dotted names."""
    found: dict[str, str] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, Mapping) and (name not in _FREE or value):
            for key, own in value.items():
                add(f"{name}.{key}" if name else key, own)
        else:
            found[name] = value if isinstance(value, str) and value else json.dumps(value)

    add("", config.to_dict())
    return found


def _nearest_preset(config: MADDPGConfig) -> tuple[str, dict[str, str]]:
    """Return the preset from which the fewest settings differ, for the run's environment, and its settings.

    A run does not record its preset; settings that a preset resets for another environment are no difference.
    """
    own, fewest = _flat(config), float("inf")
    best: tuple[str, dict[str, str]] = ("", {})
    for name in PRESETS:
        base = MADDPGConfig.from_dict({"env": {"id": config.env.id}}, MADDPGConfig.preset(name))
        preset = _flat(base)
        count = sum(own.get(key) != preset.get(key) for key in own.keys() | preset.keys())
        if count < fewest:
            best, fewest = (name, preset), count
    return best
