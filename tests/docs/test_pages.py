"""The pages: commands that parse, Python that parses, links that lead on, a README that is short."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

from distributed_maddpg.cli import main
from distributed_maddpg.config import MADDPGConfig
from tests.support.shown_commands import blocks_of, check_understood, own_commands

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RUNNING = (ROOT / "docs" / "running.md").read_text(encoding="utf-8")
# Those of cluster/ have tests of their own.
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md")])


def commands_in_tables(page: str) -> list[list[str]]:
    return [words.split() for words in re.findall(r"`distributed-maddpg ([^`]+)` \|$", page, re.MULTILINE)]


SHOWN = [
    *commands_in_tables(README),
    *own_commands(RUNNING),
    *own_commands((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")),
    *own_commands((ROOT / "docs" / "environments.md").read_text(encoding="utf-8")),
]


@pytest.mark.parametrize("words", SHOWN, ids=" ".join)
def test_commands_are_understood(words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "my.toml").write_text("num_workers = 0\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    check_understood(words, monkeypatch)


def test_the_readme_and_its_page_show_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    commands = set(re.findall(r"^  ([a-z-]+) ", capsys.readouterr().out, re.MULTILINE))
    assert {"train", "cross-play"} <= commands
    assert {words[0] for words in commands_in_tables(README)} == commands
    assert {words[0] for words in own_commands(RUNNING)} == commands


def test_the_readme_is_short_and_begins_with_a_picture_and_the_two_commands() -> None:
    assert len(README.splitlines()) < 150
    top = README.splitlines()[:30]
    assert any(re.match(r"!\[.{40,}\]\(docs/images/\S+\)$", line) for line in top)
    assert any(line.startswith("make train ") for line in top)
    assert any(line.startswith("make test ") for line in top)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        assert target.startswith(("https://", "http://")) or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_parses(page: Path) -> None:
    for block in blocks_of(page.read_text(encoding="utf-8"), "python"):
        ast.parse(block.text)


def test_settings_shown_are_valid() -> None:
    first, second = blocks_of(RUNNING, "toml")
    values = tomllib.loads(first.text)
    config = MADDPGConfig.from_dict(values, MADDPGConfig.preset(values.pop("preset")))
    assert config.algorithm.team_overrides == {"adversary": "ddpg"}
    assert "agent" in MADDPGConfig.from_dict(tomllib.loads(second.text)).algorithm.private


def test_every_page_of_docs_is_in_the_index_by_reader() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name in ("README.md", "index.md") or f"]({page.name}" in index, page.name
