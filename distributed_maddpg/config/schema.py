"""A JSON Schema of the settings, made from their dataclasses, for editors and checkers of TOML files."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from distributed_maddpg.config import sections
from distributed_maddpg.config.presets import PRESETS
from distributed_maddpg.config.settings import MADDPGConfig, settings_parser
from distributed_maddpg.errors import BadInput

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_PRESET = {
    "description": "Settings to start from, instead of the defaults.",
    "enum": list(PRESETS),
    "type": "string",
}
_LIMITS = (
    *(0, sections.MIN_TEMPERATURE, 1),
    *(sections.MAX_THREADS, sections.MAX_WORKERS, sections.MAX_WIDTH, sections.MAX_NUMBER),
)
"""Values at which checks of settings begin or end to refuse."""


def settings_schema() -> dict[str, Any]:
    """Return the schema of a settings file, in the draft 2020-12 of JSON Schema.

    It has descriptions, types, choices and the bounds of single numbers. How settings depend on each other,
    and on the environment, is checked by `train` alone.
    """
    schema: dict[str, Any] = settings_parser().json_schema()
    config = MADDPGConfig()
    for item in dataclasses.fields(config):
        section = getattr(config, item.name)
        if dataclasses.is_dataclass(section):
            _add_bounds(schema["$defs"][type(section).__name__]["properties"], section)
    _add_bounds(schema["properties"], config)
    schema["properties"] = {"preset": dict(_PRESET), **schema["properties"]}
    _tidy(schema)
    return {"$schema": DIALECT, **schema, "title": "Settings of distributed-maddpg"}


def _tidy(part: Any) -> None:
    """Remove titles, which repeat the names, and line breaks of descriptions."""
    for value in part.values() if isinstance(part, dict) else part:
        if isinstance(value, dict | list):
            _tidy(value)
    if isinstance(part, dict):
        if isinstance(part.get("title"), str):
            del part["title"]
        if isinstance(part.get("description"), str):
            part["description"] = " ".join(part["description"].split())


def _add_bounds(properties: dict[str, Any], section: Any) -> None:
    """Add the bounds of a section's numbers, found by trying which values its own checks refuse."""
    for name, described in properties.items():
        if described.get("type") in ("integer", "number"):
            described |= _bounds(described["type"] == "integer", _accepts(section, name, lambda value: value))
        elif described.get("items", {}).get("type") == "integer":
            described["minItems"] = 1
            described["items"] |= _bounds(True, _accepts(section, name, lambda value: (value,)))


def _accepts(section: Any, name: str, wrap: Callable[[Any], Any]) -> Callable[[Any], bool]:
    def accepts(value: Any) -> bool:
        try:
            dataclasses.replace(section, **{name: wrap(value)})
        except BadInput:
            return False
        return True

    return accepts


def _bounds(whole: bool, accepts: Callable[[Any], bool]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for limit in _LIMITS:
        if whole and limit != int(limit):
            continue
        below: float = limit - 1 if whole else math.nextafter(limit, -math.inf)
        above: float = limit + 1 if whole else math.nextafter(limit, math.inf)
        kind = "minimum" if accepts(above) else "maximum"
        if accepts(above) == accepts(below) or (whole and not accepts(limit)):
            continue
        found[kind if accepts(limit) else f"exclusive{kind.capitalize()}"] = limit
    return found
