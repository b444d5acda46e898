"""The Dockerfile by hadolint, and what its last stage holds."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from tests.support.cluster_files import CLUSTER, ROOT, tool

_TEXT = (CLUSTER / "docker" / "Dockerfile").read_text(encoding="utf-8")


def problems(text: str) -> list[str]:
    """Return the rules that a Dockerfile breaks; what hadolint cannot parse is DL1000."""
    checked = subprocess.run(
        [tool("hadolint"), "--format", "json", "-"], input=text, capture_output=True, text=True, timeout=60
    )
    return [problem["code"] for problem in json.loads(checked.stdout)]


def stages() -> list[list[list[str]]]:
    """Return each stage's instructions, split at the first space; continued lines are joined."""
    lines = re.sub(r"\\\n", "", re.sub(r"^#.*\n", "", _TEXT, flags=re.MULTILINE)).splitlines()
    found: list[list[list[str]]] = []
    for instruction in (line.split(" ", 1) for line in lines if line.strip()):
        if instruction[0] == "FROM":
            found.append([])
        found[-1].append(instruction)
    return found


def test_hadolint_has_no_complaint() -> None:
    assert problems(_TEXT) == []


@pytest.mark.parametrize(
    "instruction", sorted(set(re.findall(r"^([A-Z]+) ", _TEXT, re.MULTILINE)), key=_TEXT.index)
)
def test_a_misspelt_instruction_is_refused(instruction: str) -> None:
    assert "DL1000" in problems(re.sub(rf"^{instruction} ", f"{instruction}X ", _TEXT, flags=re.MULTILINE))


@pytest.mark.parametrize(
    ("change", "by", "rule"),
    [
        ("python:3.11.14-slim-bookworm", "python", "DL3006"),  # no tag
        ("--from=build", "--from=builder", "DL3022"),  # no such stage
        ("--no-cache-dir", "", "DL3042"),
    ],
)
def test_hadolint_sees_what_is_no_longer_pinned_or_named(change: str, by: str, rule: str) -> None:
    assert change in _TEXT
    assert rule in problems(_TEXT.replace(change, by))


def test_the_container_is_not_root() -> None:
    [user] = [words[1] for words in stages()[-1] if words[0] == "USER"]
    uid, gid = map(int, user.split(":"))
    assert uid > 0 and gid > 0
    assert f"useradd --uid {uid} --gid {gid}" in _TEXT


def test_every_stage_starts_from_one_base_of_an_exact_version() -> None:
    bases = {stage[0][1].split(" ")[0] for stage in stages()}
    [base] = bases
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-[a-z]+", base)


def test_no_build_tool_is_left_in_the_last_stage() -> None:
    [run] = [words[1] for words in stages()[-1] if words[0] == "RUN"]
    assert "pip uninstall --yes --quiet setuptools wheel pip" in run
    assert not re.search(r"\bpip install\b|\bgcc\b|\bg\+\+|build-essential|\bmake\b|\bcmake\b", run)
    [copied] = [words[1] for words in stages()[-1] if words[0] == "COPY"]
    assert copied == "--from=build /opt/venv /opt/venv"
    [install] = [words[1] for words in stages()[0] if words[0] == "RUN"]
    assert "venv --without-pip" in install and "-c constraints.txt" in install


def test_all_that_is_copied_exists_and_is_sent_to_the_builder() -> None:
    ignore = (CLUSTER / "docker" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {line[1:] for line in ignore if line.startswith("!")}
    copied = [words[1].split()[:-1] for words in stages()[0] if words[0] == "COPY"]
    assert {name for names in copied for name in names} == sent
    assert "*" in ignore and all((ROOT / name).exists() for name in sent)
