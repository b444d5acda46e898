"""What wheel and sdist hold."""

import email
import json
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import util

import pytest
from readme_renderer import markdown

from distributed_maddpg import __version__
from tests.packaging.conftest import ROOT

pytestmark = pytest.mark.processes

MAX_WHEEL_BYTES = 1_000_000
"""It has 0.6 MB."""


def files_of_the_package():
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / "distributed_maddpg").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def metadata_of(wheel):
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == files_of_the_package()
    assert "distributed_maddpg/py.typed" in names


def test_files_that_are_no_python_are_packaged_from_any_folder():
    """The page's template, scripts and style sheets lie in folders without `__init__.py`."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for ending in ("html", "css", "js", "json"):
        assert f"**/*.{ending}" in patterns["distributed_maddpg"]


def test_the_wheel_is_small(wheel):
    assert wheel.stat().st_size < MAX_WHEEL_BYTES


def test_version_changelog_and_wheel_agree(wheel, sdist):
    metadata = metadata_of(wheel)
    newest = re.search(r"^## \[?([0-9.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert {metadata["Version"], newest[1], __version__} == {__version__}
    assert wheel.name == f"distributed_maddpg-{__version__}-py3-none-any.whl"
    assert sdist.name == f"distributed_maddpg-{__version__}.tar.gz"


def test_the_wheel_says_what_it_needs(wheel):
    metadata = metadata_of(wheel)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(metadata["Requires-Python"].split(",")) == set(project["requires-python"].split(","))
    assert set(metadata.get_all("Provides-Extra")) == set(project["optional-dependencies"])
    required = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert len(required) == len(project["dependencies"])
    assert metadata["License-Expression"] == "MIT"


def test_twine_passes_and_the_readme_renders(dist, wheel):
    files = [str(path) for path in dist.iterdir()]
    command = [sys.executable, "-m", "twine", "check", "--strict", *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    metadata = metadata_of(wheel)
    assert metadata["Description-Content-Type"] == "text/markdown"
    page = markdown.render(metadata.get_payload())  # twine passes any Markdown
    assert page.count("<h2") > 5


def test_the_sdist_holds_the_tree(sdist):
    if not (ROOT / ".git").exists():
        pytest.skip("only a checkout knows what belongs to the tree")
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    assert tracked - names == {".gitignore"}
    assert not [
        name for name in names if "__pycache__" in name or name.startswith((".venv", "runs/", "build/"))
    ]


def test_the_sdist_runs_its_tests(sdist, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    [folder] = tmp_path.iterdir()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_types.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout


def test_a_plain_import_needs_nothing_but_python(wheel):
    """From the wheel itself, in an interpreter without any site packages."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import json, distributed_maddpg as package;"
        "print(json.dumps([package.__version__, package.__file__, list(sys.modules)]))"
    )
    command = [sys.executable, "-I", "-S", "-c", script, str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    version, path, loaded = json.loads(done.stdout)
    assert version == __version__
    assert path.startswith(str(wheel))
    assert {name.partition(".")[0] for name in loaded} <= {
        "distributed_maddpg",
        "__main__",
        *sys.stdlib_module_names,
    }
    assert util.find_spec("torch") is not None  # here it could have been loaded
