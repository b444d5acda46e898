"""Reading settings from JSON values and TOML files; every error names the field and the remedy."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

from distributed_maddpg.errors import BadInput, did_you_mean
from distributed_maddpg.files import read_small

# The time of tomllib is quadratic in the parts of a key. All settings take 2 kB; the longest key has 4 parts.
_MAX_TOML_BYTES, _MAX_DOTS_IN_LINE = 65_536, 200


def merge(base: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` updated with nested `values`; tables with free keys are merged too."""
    merged = dict(base)
    for key, value in values.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return merged


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises:
        BadInput: if it cannot be read, is too large or is not TOML.
    """
    try:
        text = read_small(path, _MAX_TOML_BYTES).decode("utf-8")
        if any(line.count(".") > _MAX_DOTS_IN_LINE for line in text.splitlines()):
            raise ValueError(f"a line with more than {_MAX_DOTS_IN_LINE} dots")
        values: dict[str, Any] = tomllib.loads(text)
        return values
    except OSError as error:
        raise BadInput("config", str(path), f"cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:  # also TOMLDecodeError and UnicodeDecodeError
        raise BadInput("config", str(path), f"is not valid TOML ({error})") from None


def as_bad_input(errors: Sequence[Any], config_type: type) -> BadInput:
    """Turn the first of pydantic's errors into a BadInput of one line; a missing setting is named last."""
    error = min(errors, key=lambda each: each["type"] == "missing")
    path = [str(part) for part in error["loc"]]
    name = ".".join(path) or "config"
    if error["type"] == "value_error":
        cause = error["ctx"]["error"]
        return cause if isinstance(cause, BadInput) else BadInput(name, error["input"], str(cause))
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return BadInput(
            name,
            error["input"],
            f"no such setting; {did_you_mean(path[-1], _known_settings(config_type, path[:-1]))}",
        )
    if error["type"] == "missing":
        what = "more entries" if isinstance(error["loc"][-1], int) else repr(path[-1])
        return BadInput(".".join(path[:-1]), error["input"], f"needs {what}")
    return BadInput(name, error["input"], error["msg"].lower())


def _known_settings(config_type: type, path: list[str]) -> list[str]:
    """Return the settings of the section at `path`."""
    section: Any = config_type
    for part in path:
        # A table with free keys, such as algorithm.private, has one type for all its values.
        named = dataclasses.is_dataclass(section)
        section = get_type_hints(section)[part] if named else get_args(section)[1]
    return [item.name for item in dataclasses.fields(section)]
