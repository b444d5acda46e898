"""One version, a lower bound and a pin for every dependency, and no code that executes what it reads."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from distributed_maddpg import __version__

ROOT = Path(__file__).parent.parent


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_changelog_begins_with_the_version() -> None:
    first = re.search(r"^## \[?([0-9.]+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert first is not None
    assert first[1] == __version__


def test_the_citation_has_version_and_date_of_the_changelog() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    [version, date] = re.findall(r"^## (\S+) - (\S+)$", text, re.MULTILINE)[0]
    assert (citation["version"], str(citation["date-released"])) == (version, date)
    assert citation["license"] == pyproject()["license"]
    [author] = citation["authors"]
    assert author["name"].lower() in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_the_citation_is_valid() -> None:
    check = Path(sys.executable).parent / "check-jsonschema"
    schema = ["--builtin-schema", "vendor.citation-file-format"]
    result = subprocess.run([check, *schema, ROOT / "CITATION.cff"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_every_dependency_has_a_lower_bound() -> None:
    project = pyproject()
    optional = [line for lines in project["optional-dependencies"].values() for line in lines]
    for line in project["dependencies"] + optional:
        assert ">=" in line, line


def test_every_dependency_is_pinned_by_the_constraints() -> None:
    pinned = {line.partition("==")[0].lower() for line in constraints()}
    for line in pyproject()["dependencies"]:
        name = re.split(r"[\[>=; ]", line)[0].lower().replace("_", "-")
        assert name in pinned, name


def test_constraints_pin_exactly() -> None:
    for line in constraints():
        assert re.match(r"^[A-Za-z0-9_.\-]+==[^ ]+( ;.*)?$", line), line


def constraints() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line.replace("_", "-") for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize(
    "word", ["import pickle", "pickle.load", "Unpickler", "torch.load", "eval(", "exec("]
)
def test_the_package_does_not_execute_what_it_reads(word: str) -> None:
    for path in (ROOT / "distributed_maddpg").rglob("*.py"):
        code = re.sub(r'""".*?"""|#[^\n]*', "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert word not in code, path


def test_readme_names_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make train" in readme
    assert "make test" in readme
