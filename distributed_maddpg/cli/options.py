"""The options of a command, read from its dataclass as tyro does: for errors and for shell completion."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import textwrap
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import tyro

HELP = ("-h", "--help")
_POSITIONAL = get_args(tyro.conf.Positional[int])[1]


@dataclasses.dataclass(frozen=True)
class Option:
    """An option of a command, or a word without a name."""

    names: tuple[str, ...]
    """Such as "--json" and "--no-json"; empty for a word without a name."""
    field: str
    """The name of the dataclass's field."""
    takes_value: bool
    choices: tuple[str, ...] = ()
    """All values that there are; empty if any are allowed."""


def command_type(name: str) -> type:
    """Return the dataclass of a command: `TrainCommand` in `cli/train.py`."""
    module = import_module(f"distributed_maddpg.cli.{name.replace('-', '_')}")
    kind: type = getattr(module, "".join(map(str.capitalize, name.split("-"))) + "Command")
    return kind


def options_of(kind: type) -> list[Option]:
    """Return the options of a command's dataclass, those of its sections among them."""
    return list(_options(kind, ""))


def option_names(kind: type) -> list[str]:
    """Return the names of all options of a command's dataclass."""
    return [*HELP, *(name for option in options_of(kind) for name in option.names)]


def unfold_help(kind: type) -> None:
    """Make tyro fold the texts below a command's fields to the terminal's width.

    It would keep the line breaks of the source. What a field's metadata call "help" comes before the text.
    """
    for field in dataclasses.fields(kind):
        hint = _parts(get_type_hints(kind)[field.name])[0]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            unfold_help(hint)
        elif text := _field_texts(kind).get(field.name):
            field.metadata = MappingProxyType({**field.metadata, "help": text})


@functools.cache
def _field_texts(kind: type) -> dict[str, str]:
    """Return the text below each field of a dataclass, in one line."""
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in pairwise(definition.body)  # type: ignore[attr-defined]
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def _options(kind: Any, prefix: str) -> Iterator[Option]:
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint, *marks = _parts(hints[field.name])
        given = [mark.name for mark in marks if getattr(mark, "name", None) is not None]
        own = given[0] if given else field.name
        if dataclasses.is_dataclass(hint):
            yield from _options(hint, f"{prefix}{own}." if own else prefix)
            continue
        if any(dataclasses.is_dataclass(part) for part in get_args(hint)):
            continue  # a table of sections, such as algorithm.private, can only be given in a file
        name = f"{prefix}{own}".replace("_", "-")
        if _POSITIONAL in marks:
            yield Option((), own, True, _choices(hint))
        elif hint is bool:
            head, dot, last = name.rpartition(".")
            yield Option((f"--{name}", f"--{head}{dot}no-{last}"), own, False)
        else:
            yield Option((f"--{name}",), own, True, _choices(hint))


def _parts(hint: Any) -> tuple[Any, ...]:
    """Return a type, and what `Annotated` adds to it."""
    return (hint.__origin__, *hint.__metadata__) if hasattr(hint, "__metadata__") else (hint,)


def _choices(hint: Any) -> tuple[str, ...]:
    return tuple(map(str, get_args(hint))) if get_origin(hint) is Literal else ()
