"""Reads the files of cluster/, misspells a field of them, and parses the commands in them."""

from __future__ import annotations

import copy
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from distributed_maddpg.cli.parsing import parse
from distributed_maddpg.cli.train import TrainCommand
from distributed_maddpg.config import MADDPGConfig

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"


def read(name: str) -> Any:
    """Return the one YAML document of a file."""
    return yaml.safe_load((CLUSTER / name).read_text(encoding="utf-8"))


def value_at(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


def misspelt(document: Any, path: tuple[Any, ...]) -> Any:
    """Return a copy in which the last key of the path has one letter more."""
    changed = copy.deepcopy(document)
    parent = value_at(changed, path[:-1])
    parent[f"{path[-1]}x"] = parent.pop(path[-1])
    return changed


def tool(name: str) -> str:
    """Return a program of the extra `dev`, of this environment or of the system; skip the test without it."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}: pip install '.[dev]'")
    return found


def train_arguments(words: list[str]) -> TrainCommand:
    """Parse what follows `python -m distributed_maddpg` with the command line's own parser."""
    assert words[0] == "train", words
    return parse(TrainCommand, "train", words[1:], TrainCommand(MADDPGConfig()))


def train_commands(text: str) -> list[list[str]]:
    """Return the words of each `train` command in a text, from `train` on; continued lines are joined."""
    joined = re.sub(r"\\\n\s*", "", text)
    found = re.findall(r"distributed(?:-maddpg|_maddpg) (train [^\n`]*)", joined)
    found += re.findall(r"distributed-maddpg submit [^\n`]* -- (train [^\n`]*)", joined)
    return [shlex.split(command) for command in found]


def strings(value: Any) -> list[str]:
    """Return all texts in a YAML document."""
    if isinstance(value, dict):
        return [text for each in value.values() for text in strings(each)]
    if isinstance(value, list):
        return [text for each in value for text in strings(each)]
    return [value] if isinstance(value, str) else []
