"""The wheel in an environment of its own, away from the checkout."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from distributed_maddpg import __version__
from tests.packaging.conftest import ROOT

TINY = [
    *("--rollout.num-envs", "4", "--rollout.fragment-steps", "5", "--learner.batch-size", "16"),
    *("--pacing.learning-starts", "40", "--pacing.env-steps-per-update", "10"),
    *("--pacing.total-env-steps", "200", "--evaluation.episodes", "4", "--evaluation.final-episodes", "4"),
]
# More layers than the compiled update has, and MPE2's own environment, so that there is little to compile.
UNCOMPILED = [
    *("--env.backend", "pettingzoo"),
    *("--algorithm.policy-hidden-sizes", *"44444444", "--algorithm.critic-hidden-sizes", *"44444444"),
]


class Environment:
    """A virtual environment, and an empty folder to run its commands in."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.folder, self._variables = folder / "venv", variables
        self.elsewhere = folder / "elsewhere"
        self.elsewhere.mkdir()
        self.uv("venv", "--quiet", "--python", sys.executable, str(self.folder))
        [self.site_packages] = self.folder.glob("lib/python*/site-packages")

    def uv(self, *arguments: str) -> str:
        return self._output([sys.executable, "-m", "uv", *arguments])

    def run(self, command: str, *arguments: str) -> str:
        """Run an installed command; return what it prints on stdout."""
        return self._output([str(self.folder / "bin" / command), *arguments])

    def _output(self, command: list[str]) -> str:
        done = subprocess.run(
            command, cwd=self.elsewhere, env=self._variables, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def environment(tmp_path, registry):
    """Yield an empty environment; it is deleted at once, as it may take gigabytes."""
    environment = Environment(tmp_path, registry)
    yield environment
    shutil.rmtree(environment.folder)


def assert_trains(environment, *options):
    """Train, evaluate and export; the package must be that of the environment."""
    where = environment.run("python", "-c", "import distributed_maddpg; print(distributed_maddpg.__file__)")
    assert Path(where).is_relative_to(environment.folder)
    assert environment.run("distributed-maddpg", "--version").strip() == __version__
    trained = json.loads(
        environment.run("distributed-maddpg", "train", *TINY, *options, "--run-dir", "run", "--json")
    )
    assert trained["env_steps"] == 200
    files = {path.name for path in (environment.elsewhere / "run").iterdir()}
    assert {"summary.json", "report.html", "returns.csv", "checkpoints"} <= files
    exported = environment.run(
        "distributed-maddpg", "export", "run", "--format", "npz", "--out", "x", "--json"
    )
    assert [file["largest_difference"] <= 1e-5 for file in json.loads(exported)["files"]] == [True] * 3


@pytest.mark.processes
def test_the_wheel_trains_beside_installed_dependencies(environment, wheel):
    """The dependencies are those of the environment that runs the tests, without its editable install."""
    environment.uv("pip", "install", "--quiet", "--no-deps", "--python", str(environment.folder), str(wheel))
    beside = Path(np.__file__).parents[1]
    (environment.site_packages / "beside.pth").write_text(f"{beside}\n")
    assert_trains(environment, "--num-workers", "0", *UNCOMPILED)


@pytest.mark.slow
def test_the_wheel_alone_trains_in_an_empty_environment(environment, wheel):
    """Installs all dependencies, and compiles; with Ray."""
    constraints = str(ROOT / "constraints.txt")
    python = ("--python", str(environment.folder))
    environment.uv("pip", "install", "--quiet", *python, "-c", constraints, str(wheel))
    environment.uv("pip", "check", "--quiet", *python)
    assert_trains(environment, "--num-workers", "1")


@pytest.mark.slow
def test_uvx_runs_the_command(tmp_path, environment, wheel):
    constraints = str(ROOT / "constraints.txt")
    options = ("--python", sys.executable, "--constraints", constraints, "--from", str(wheel))
    assert environment.uv("tool", "run", *options, "distributed-maddpg", "--version").strip() == __version__
    assert "train" in environment.uv("tool", "run", *options, "distributed-maddpg", "--help")
