"""Reading settings from JSON values and TOML files; every error names the field and the remedy."""

from __future__ import annotations

import dataclasses
import functools
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from distributed_maddpg.counts import COUNT_REMEDY
from distributed_maddpg.errors import BadInput, did_you_mean, must_be_one_of, one_line
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


def with_counts(kind: Any, values: Any) -> Any:
    """Return `values` of type `kind` with whole numbers as integers where it has those.

    TOML's 1e6 is a float. What has another type stays as it is, for the parser to refuse.
    """
    if kind is int and isinstance(values, float) and values.is_integer():
        return int(values)
    if isinstance(values, Mapping):
        return {key: with_counts(_kind_at(kind, key), value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [with_counts(_kind_at(kind, index), value) for index, value in enumerate(values)]
    return values


def _kind_at(kind: Any, key: Any) -> Any:
    """Return the type of a setting in a section, of a table's values or of a tuple's part; None: any."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _hints(kind).get(key)
    parts = get_args(kind)
    if get_origin(kind) is tuple and isinstance(key, int):
        return parts[0] if Ellipsis in parts else dict(enumerate(parts)).get(key)
    return parts[1] if get_origin(kind) is dict else None


@functools.cache
def _hints(section: type) -> dict[str, Any]:
    return get_type_hints(section)


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
    return BadInput(name, error["input"], _remedy(error, config_type))


_TYPE_REMEDIES = {
    "bool_type": "must be true or false, without quotes",
    "float_type": "must be a number, without quotes",
    "tuple_type": "must be a list, as in [64, 64]",
    "dict_type": "must be a table",
    "dataclass_type": "must be a table of settings",
}


def _remedy(error: Any, config_type: type) -> str:
    """Return what a value of a wrong type must be."""
    kind, value = error["type"], error["input"]
    if kind.startswith("int_"):
        return COUNT_REMEDY
    if kind == "string_type":
        return f"must be text in quotes, as in {one_line(str(value), 40)!r}"
    if kind == "literal_error":
        known: Any = config_type
        for part in error["loc"]:
            known = _kind_at(known, part)
        return must_be_one_of(value, get_args(known))
    return _TYPE_REMEDIES.get(kind, str(error["msg"]).lower())


def _known_settings(config_type: type, path: list[str]) -> list[str]:
    """Return the settings of the section at `path`."""
    section: Any = config_type
    for part in path:
        section = _kind_at(section, part)
    return [item.name for item in dataclasses.fields(section)]
