"""All of cluster/: commands that parse, the versions of the tests, no open dashboard, links that lead on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from distributed_maddpg import __version__
from distributed_maddpg.errors import BadInput
from tests.support.cluster_files import CLUSTER, ROOT, strings, train_arguments, train_commands

_FILES = sorted(path for path in CLUSTER.rglob("*") if path.is_file())
_FOLDERS = ("docker", "grafana", "kuberay", "launcher", "skypilot", "slurm")


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def commands_of(path: Path) -> list[list[str]]:
    """Return the `train` commands in a file; those of a script are in its own test, expanded."""
    if path.suffix == ".yaml" and path.parent.name != "skypilot":
        texts = strings(yaml.safe_load(text_of(path)))
    elif path.suffix == ".md":
        texts = re.findall(r"^```\w*\n(.*?)^```", text_of(path), re.MULTILINE | re.DOTALL)
    else:
        texts = []
    return [command for text in texts for command in train_commands(text)]


_COMMANDS = [(path.relative_to(CLUSTER).as_posix(), words) for path in _FILES for words in commands_of(path)]


@pytest.mark.parametrize(("name", "words"), _COMMANDS, ids=[name for name, _ in _COMMANDS])
def test_commands_are_understood_by_our_command_line(name: str, words: list[str]) -> None:
    command = train_arguments(words)
    place = command.run_dir or command.resume
    assert place.startswith(("/", "$HOME/")), "a relative folder is lost with the job"


def test_commands_are_found() -> None:
    assert {
        "README.md",
        "docker/README.md",
        "kuberay/README.md",
        "kuberay/rayjob.yaml",
        "launcher/README.md",
    } == {name for name, _ in _COMMANDS}


def test_a_misspelt_option_is_refused() -> None:
    with pytest.raises(BadInput):
        train_arguments("train --run-dir /shared/first --resumed auto".split())


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.relative_to(CLUSTER).as_posix())
def test_versions_are_those_of_the_tests(path: Path) -> None:
    constraints = text_of(ROOT / "constraints.txt")
    python = re.search(r"Tested on Python ([0-9.]+\d)", constraints)
    assert python
    text = text_of(path)
    for package in ("ray", "torch"):
        [pinned] = re.findall(rf"^{package}==(\S+)", constraints, re.MULTILINE)
        for version in re.findall(rf"(?i)\b{package}(?:Version: \"| |==|:)(\d+\.\d+\.\d+)", text):
            assert version == pinned
    for version in re.findall(r"(?i)\bpython(?: |:)(\d+\.\d+)", text):
        assert version == python[1]
    for version in re.findall(r"distributed-maddpg:([0-9.]+\d)", text):
        assert version == __version__


def test_versions_are_found() -> None:
    assert 'rayVersion: "2.60.0"' in text_of(CLUSTER / "kuberay" / "rayjob.yaml")
    assert "python:3.11." in text_of(CLUSTER / "docker" / "Dockerfile")


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.relative_to(CLUSTER).as_posix())
def test_no_dashboard_is_opened(path: Path) -> None:
    text = text_of(path)
    assert not re.search(r"dashboard-host[= ]?[\"']?(0\.0\.0\.0|::)", text)
    if path.suffix != ".md" and "ray start --head" in text:
        assert text.count("ray start --head") == text.count("--dashboard-host=127.0.0.1")


@pytest.mark.parametrize("folder", _FOLDERS)
def test_the_index_leads_to_every_folder_and_its_page_to_every_file(folder: str) -> None:
    assert f"({folder}/README.md)" in text_of(CLUSTER / "README.md")
    page = text_of(CLUSTER / folder / "README.md")
    for path in (CLUSTER / folder).iterdir():
        assert path.name in page or path.name in ("README.md", "Dockerfile.dockerignore"), path


@pytest.mark.parametrize("page", sorted(CLUSTER.rglob("*.md")), ids=lambda path: path.parent.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", text_of(page)):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_ray_uploads_the_package_but_no_runs_and_no_tests() -> None:
    packaging = pytest.importorskip("ray._private.runtime_env.packaging")
    matchers = packaging.get_excludes_from_ignore_files(ROOT, include_gitignore=True)
    assert len(matchers) == 2

    def is_left_out(name: str) -> bool:
        return any(matches(ROOT / name) for matches in matchers)

    for name in (
        "runs/first/config.toml",
        "tests/test_cli.py",
        "docs/README.md",
        ".venv/bin/python",
        "a.safetensors",
    ):
        assert is_left_out(name), name
    for name in (
        "distributed_maddpg/__main__.py",
        "cluster/runtime_env.yaml",
        "examples/meeting.py",
        "pyproject.toml",
    ):
        assert not is_left_out(name), name
