"""One wheel and one sdist for all tests of a session."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What developing leaves behind in the tree: an old egg-info would add files that are gone.
_LEFTOVERS = shutil.ignore_patterns(
    ".git",
    ".venv*",
    ".versions",
    "*.egg-info",
    "build",
    "dist",
    "runs",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
)


@pytest.fixture(scope="session")
def registry() -> dict[str, str]:
    """Return an environment in which uv finds packages where pip does."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    for name in ("FIND_LINKS", "INDEX_URL", "EXTRA_INDEX_URL"):
        if f"PIP_{name}" in env:
            env.setdefault(f"UV_{name}", env[f"PIP_{name}"])
    return {**env, "UV_PYTHON_DOWNLOADS": "never"}


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory, registry: dict[str, str]) -> Path:
    """Return a folder with wheel and sdist, built as `make build` does, from a copy of the tree."""
    place = tmp_path_factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else None
    folder = (place or tmp_path_factory.mktemp("packaging")) / "dist"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            source = folder.with_name("source")
            shutil.copytree(ROOT, source, ignore=_LEFTOVERS)
            draft = folder.with_name("dist.tmp")
            command = [
                sys.executable,
                "-m",
                "build",
                "--installer",
                "uv",
                "--outdir",
                str(draft),
                str(source),
            ]
            done = subprocess.run(command, env=registry, capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, done.stdout + done.stderr
            draft.rename(folder)
    return folder


@pytest.fixture(scope="session")
def wheel(dist: Path) -> Path:
    """Return the wheel."""
    [path] = dist.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def sdist(dist: Path) -> Path:
    """Return the sdist."""
    [path] = dist.glob("*.tar.gz")
    return path
