"""Settings as a TOML file to edit: all of them, each below its help text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from distributed_maddpg.config.schema import settings_schema
from distributed_maddpg.config.settings import MADDPGConfig

_COLUMNS = 100
_LONG_NUMBER = 10_000


def commented_toml(config: MADDPGConfig, title: str = "") -> str:
    """Return the settings as TOML with their help texts as comments; `from_toml` reads it back to equal ones.

    Args:
        config: the settings.
        title: a first comment.
    """
    schema = settings_schema()
    values, described = config.to_dict(), schema["properties"]
    lines = [*_comment(title), ""] if title else []
    for name, value in values.items():
        if "$ref" not in described[name]:
            lines += [*_comment(_text(described[name])), _assigned(name, value), ""]
    for name, value in values.items():
        if "$ref" in described[name]:
            section = schema["$defs"][described[name]["$ref"].rpartition("/")[2]]
            lines += [*_comment(section["description"]), f"[{name}]", *_section(name, value, section)]
    return "\n".join(lines)


def _section(section_name: str, values: Mapping[str, Any], section: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a section: its settings, then its tables with free keys, as TOML needs them last."""
    import tomli_w  # noqa: PLC0415 - workers use settings but never write them

    tables = {name: value for name, value in values.items() if isinstance(value, dict)}
    for name, value in values.items():
        if name not in tables:
            yield from (*_comment(_text(section["properties"][name])), _assigned(name, value), "")
    for name, value in tables.items():
        yield from _comment(_text(section["properties"][name]))
        table = tomli_w.dumps({section_name: {name: value}}) if value else f"[{section_name}.{name}]\n"
        yield from (table.removeprefix(f"[{section_name}]\n").lstrip(), "")


def _assigned(name: str, value: Any) -> str:
    import tomli_w  # noqa: PLC0415 (as in _section)

    if type(value) is int and abs(value) >= _LONG_NUMBER:
        return f"{name} = {value:_}"
    if isinstance(value, list | tuple) and all(type(each) is int for each in value):
        return f"{name} = {list(value)}"  # in one line
    return tomli_w.dumps({name: value}).rstrip("\n")


def _text(described: Mapping[str, Any]) -> str:
    choices = described.get("enum", ())
    text: str = described["description"]
    return f"{text} One of {', '.join(choices)}." if choices else text


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        text,
        _COLUMNS,
        initial_indent="# ",
        subsequent_indent="# ",
        break_on_hyphens=False,
        break_long_words=False,
    )
