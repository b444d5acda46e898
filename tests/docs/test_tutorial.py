"""The tutorial: what it names exists, and all that it shows runs, in order and in one folder."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distributed_maddpg.cli import main
from tests.support.shown_commands import Block, blocks_of, lines_of

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
PLACES = sorted(set(re.findall(r"`([\w/]+\.py):([\w.]+)`", PAGE)))
BLOCKS = blocks_of(PAGE, "sh", "python")
# As the page says: what takes minutes is shortened.
SHORTER = {"train": ["--pacing.total-env-steps", "20000"], "evaluate": ["--budget", "0.02"]}


@pytest.mark.parametrize(("file", "name"), PLACES, ids=lambda part: part)
def test_what_the_tutorial_names_is_there(file: str, name: str) -> None:
    scope: Any = ast.parse((ROOT / "distributed_maddpg" / file).read_text(encoding="utf-8"))
    for part in name.split("."):
        kinds = (ast.FunctionDef, ast.ClassDef)
        found = [node for node in scope.body if isinstance(node, kinds) and node.name == part]
        assert found, f"{file} has no {name}"
        scope = found[0]


def test_places_and_blocks_are_found() -> None:
    assert ("algo/losses.py", "td_target") in PLACES
    assert len(PLACES) > 30
    assert {block.mark for block in BLOCKS} == {"", "long"}
    assert PAGE.count("```math") == len(re.findall(r"^```math\n[^`]+^```$", PAGE, re.MULTILINE)) >= 7


def shortened(block: Block) -> list[str]:
    """Return the commands of a block, shorter if it is marked so."""
    lines = lines_of(block.text)
    if block.mark != "long":
        return lines
    return [shlex.join([*line.split(), *SHORTER.get(line.split()[1], [])]) for line in lines]


def run_blocks(blocks: list[Block], run_line: Callable[[str], None]) -> None:
    session: dict[str, Any] = {"__name__": "tutorial"}
    for block in blocks:
        if block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.text, "docs/tutorial.md", "exec"), session)
        for line in shortened(block) if block.language == "sh" else []:
            run_line(line)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in for the repository's root."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_here(line: str) -> None:
    """Run our command in this process, which saves importing torch each time, and others in a shell."""
    words = shlex.split(line)
    if words[0] == "distributed-maddpg":
        assert main(words[1:]) == 0, line
    else:
        subprocess.run(["bash", "-ec", line], check=True)


# Half a minute: it trains six times. All that the page does not call long.
def test_the_tutorial_runs(folder: Path) -> None:
    run_blocks([block for block in BLOCKS if not block.mark], run_here)
    for name in ("first", "ddpg", "spread", "meeting"):
        assert (folder / "runs" / name / "report.html").stat().st_size > 0
    assert (folder / "runs" / "first" / "checkpoints" / "step_40000").is_dir()
    assert (folder / "runs" / "cross-play" / "cross_play.html").exists()
    assert (folder / "runs" / "both.html").exists()
    assert (folder / "runs" / "first" / "episodes.png").exists()


@pytest.mark.ray
@pytest.mark.slow
def test_the_whole_tutorial_runs_in_a_shell(folder: Path) -> None:
    programs = folder / "bin"
    programs.mkdir()
    program = programs / "distributed-maddpg"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m distributed_maddpg "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }

    def run_line(line: str) -> None:
        subprocess.run(["bash", "-ec", line], check=True, env=environment, timeout=900)

    run_blocks(BLOCKS, run_line)
    for name in ("default", "telling", "four", "three-workers"):
        assert (folder / "runs" / name / "summary.json").exists()
