"""What pages show between fences, and whether our command line understands its commands."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from typing import Any, NamedTuple

import pytest

from distributed_maddpg.cli import main

_BLOCK = re.compile(r"^```(\w+)(?: (\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """What stands between two fences."""

    language: str
    mark: str
    """The word after the language, as in `sh long`; or nothing."""
    text: str
    line: int
    """Of its first line in the page."""


def blocks_of(page: str, *languages: str) -> list[Block]:
    """Return the blocks of a page in these languages, in order."""
    found = [
        Block(match[1], match[2] or "", match[3], page.count("\n", 0, match.start()) + 2)
        for match in _BLOCK.finditer(page)
    ]
    return [block for block in found if block.language in languages]


def lines_of(text: str) -> list[str]:
    """Return the commands of a shell block: continued lines joined, without comments and empty lines."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = (re.sub(r"\s+# .*$|^#.*$", "", line).strip() for line in joined.splitlines())
    return [line for line in lines if line]


def own_commands(page: str) -> list[list[str]]:
    """Return the words of each command of this package in the shell blocks of a page."""
    lines = [line for block in blocks_of(page, "sh") for line in lines_of(block.text)]
    return [shlex.split(line)[1:] for line in lines if line.startswith("distributed-maddpg ")]


class _Understood(BaseException):
    """The options of a command were parsed; what follows would run it."""


def check_understood(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail unless the command line takes these words; nothing is run."""
    name, _, rest = words[0], *_divided(words)
    module = import_module(f"distributed_maddpg.cli.{name.replace('-', '_')}")
    if name == "submit":
        check_understood(rest, monkeypatch)
        words = words[: words.index("--")]
    if "--resume" in words:  # reads the folder first
        at = words.index("--resume")
        words = [*words[:at], *words[at + 2 :]]
    parse = module.parse

    def parse_alone(*arguments: Any) -> None:
        parse(*arguments)
        raise _Understood

    with monkeypatch.context() as patch, pytest.raises(_Understood):
        patch.setattr(module, "parse", parse_alone)
        assert main(words) == 0, words


def _divided(words: list[str]) -> tuple[list[str], list[str]]:
    """Return the words before and after "--"."""
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]
