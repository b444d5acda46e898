"""Parses a command's options, and reports an error in them as one line."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import json
import os
import re
import shlex
import shutil
import textwrap
from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from distributed_maddpg.cli.options import HELP, unfold_help
from distributed_maddpg.cli.refusals import VALUE, refusal
from distributed_maddpg.config import EnvArgument
from distributed_maddpg.config.sections import refuse_ray_client
from distributed_maddpg.counts import parse_count
from distributed_maddpg.errors import BadInput

T = TypeVar("T")

_PROGRAM = "distributed-maddpg"
_MOST_COLUMNS = 100
_DEFAULT_ADDRESS = "http://127.0.0.1:8265"


def parse(kind: type[T], name: str, arguments: list[str], default: T | None = None) -> T:
    """Parse a command's options into its dataclass; turn tyro's framed error message into one line.

    Raises:
        BadInput: naming the option, the value and the remedy.
    """
    defaults: dict[str, Any] = {} if default is None else {"default": default}

    def parse_options() -> T:
        with _REGISTRY:
            options: T = tyro.cli(
                kind, args=arguments, prog=f"{_PROGRAM} {name}", description=description(kind), **defaults
            )
        return options

    if set(HELP) & set(arguments):
        unfold_help(kind)
        return parse_options()
    message = io.StringIO()
    columns = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "2000"  # unfolded, so that the message can be parsed
    try:
        with contextlib.redirect_stderr(message):
            return parse_options()
    except SystemExit:
        raise refusal(message.getvalue(), kind, arguments, name) from None
    finally:
        if columns is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = columns


def description(kind: type) -> str:
    """Return the docstring of a command's dataclass, folded to the terminal's width.

    Indented lines, such as those below "Examples:", stay as they are. The second line of a paragraph and all
    after it are indented, as tyro would otherwise join them again.
    """
    width = min(shutil.get_terminal_size().columns, _MOST_COLUMNS)
    blocks = (inspect.getdoc(kind) or "").split("\n\n")
    return "\n\n".join(
        block.replace("\n    ", "\n  ") if "\n  " in block else _fold(block, width) for block in blocks
    )


def _fold(text: str, width: int) -> str:
    return textwrap.fill(" ".join(text.split()), width, subsequent_indent="  ", break_on_hyphens=False)


def examples_of(kind: type) -> list[list[str]]:
    """Return the words of each example in a command's help, from the command's name on."""
    lines = (line.strip() for line in (inspect.getdoc(kind) or "").splitlines())
    commands = (line.partition(" > ")[0] for line in lines if line.startswith(f"{_PROGRAM} "))
    return [shlex.split(command)[1:] for command in commands]


def take_options(arguments: list[str], *names: str) -> tuple[dict[str, str], list[str]]:
    """Return the values of the options of these names that are given, and the other words.

    Raises:
        BadInput: if one of them has no value.
    """
    given, rest = _parse_some(arguments, {name: {} for name in names})
    return {_option(name): value for name, value in given.items() if value is not None}, rest


def words_of(arguments: list[str], name: str) -> list[str] | None:
    """Return all words after every option of this name, of which tyro keeps the last; None without it."""
    given, _ = _parse_some(arguments, {name: {"nargs": "*", "action": "extend"}})
    words: list[str] | None = next(iter(given.values()))
    return words


def _parse_some(
    arguments: list[str], options: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Any], list[str]]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name, how in options.items():
        parser.add_argument(name, default=None, **how)
    # tyro takes underscores in option names as well.
    hyphenated = [re.sub("^--[^=]+", lambda name: name[0].replace("_", "-"), word) for word in arguments]
    try:
        given, rest = parser.parse_known_args(hyphenated)
    except argparse.ArgumentError as error:
        raise BadInput(str(error.argument_name), "", str(error.message)) from None
    return vars(given), rest


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def refuse_empty(options: Mapping[str, str | list[str]]) -> None:
    """Refuse empty values of options that were given, such as that of an unset variable of the shell.

    Raises:
        BadInput: naming the option.
    """
    for option, value in options.items():
        if not value:
            raise BadInput(option, value, "is empty; give it a value, or leave the option out")


def dashboard_address(given: str) -> str:
    """Return the URL of a cluster's dashboard: the given one, or that of the environment, or the local one.

    Raises:
        BadInput: if it is the address of something else.
    """
    named = {"--address": given}
    named |= {name: os.environ.get(name, "") for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")}
    name, address = next((each for each in named.items() if each[1]), ("--address", _DEFAULT_ADDRESS))
    refuse_ray_client(name, address)
    if not _is_web_address(address):
        raise BadInput(name, address, f"must be the URL of the cluster's dashboard, as in {_DEFAULT_ADDRESS}")
    return address.rstrip("/")


def _is_web_address(address: str) -> bool:
    try:
        parts = urlsplit(address)
        _ = parts.port  # raises for one out of range
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not re.search(r"\s", address)


def env_argument(text: str) -> EnvArgument:
    """Return the value that a word of the command line stands for; text that is no JSON is itself.

    True and false may have any case; "3" in quotes is the text 3.
    """
    words = {"true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    for read in (int, float, json.loads):
        with contextlib.suppress(ValueError, RecursionError):
            return read(text)
    return text


_REGISTRY = ConstructorRegistry()


@_REGISTRY.primitive_rule
def _env_argument_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Tell tyro how to read arguments of an environment, which have no fixed type."""
    if info.type is not EnvArgument:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="VALUE",
        instance_from_str=lambda words: env_argument(words[0]),
        is_instance=lambda _: True,
        str_from_instance=lambda value: [json.dumps(value)],
    )


@_REGISTRY.primitive_rule
def _number_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Tell tyro how to read numbers: whole ones also as 1e6."""
    if info.type not in (int, float):
        return None
    kind, read = info.type, parse_count if info.type is int else _parse_float

    def from_words(words: list[str]) -> Any:
        try:
            return read(words[0])
        except ValueError as error:
            raise ValueError(f"{VALUE}{words[0]!r}: {error}") from None

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind.__name__.upper(),
        instance_from_str=from_words,
        is_instance=lambda value: isinstance(value, kind),
        str_from_instance=lambda value: [str(value)],
    )


def _parse_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("must be a number") from None
