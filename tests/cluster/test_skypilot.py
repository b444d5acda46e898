"""The SkyPilot task: SkyPilot's schema or a list of ours, shellcheck, and what it starts, with stand-ins."""

from __future__ import annotations

import os
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster_files import misspelt, read, tool, train_arguments
from tests.support.stand_ins import calls, install

# The fields of SkyPilot 0.14 that the task uses.
_TASK = {"name", "num_nodes", "workdir", "resources", "envs", "secrets", "setup", "run"}
_RESOURCES = {"cpus", "memory", "accelerators", "use_spot", "job_recovery"}
_RECOVERY = {"max_restarts_on_errors"}


def by_our_list(task: dict[str, Any]) -> None:
    _within(task, _TASK)
    _within(task["resources"], _RESOURCES)
    _within(task["resources"]["job_recovery"], _RECOVERY)


def _within(given: dict[str, Any], known: set[str]) -> None:
    unknown = sorted(set(given) - known)
    if unknown:
        raise ValueError(f"unknown: {unknown}")


def by_skypilot(task: dict[str, Any]) -> None:
    from sky import Task

    _within(task["resources"]["job_recovery"], _RECOVERY)  # there SkyPilot accepts any key
    Task.from_yaml_config(task, secrets_overrides={"RAY_AUTH_TOKEN": "0" * 64})


_VALIDATORS = [
    by_our_list,
    pytest.param(
        by_skypilot, marks=pytest.mark.skipif(find_spec("sky") is None, reason="needs pip install skypilot")
    ),
]


@pytest.mark.parametrize("validate", _VALIDATORS)
def test_the_task_is_accepted(validate: Any) -> None:
    validate(read("skypilot/task.yaml"))


@pytest.mark.parametrize(
    "path",
    [
        ("num_nodes",),
        ("setup",),
        ("envs",),
        ("secrets",),
        ("resources", "use_spot"),
        ("resources", "memory"),
        ("resources", "job_recovery", "max_restarts_on_errors"),
    ],
    ids=".".join,
)
@pytest.mark.parametrize("validate", _VALIDATORS)
def test_a_misspelt_field_is_refused(validate: Any, path: tuple[str, ...]) -> None:
    changed = misspelt(read("skypilot/task.yaml"), path)
    with pytest.raises(ValueError):
        validate(changed)


@pytest.mark.parametrize("part", ["setup", "run"])
def test_scripts_pass_shellcheck(part: str) -> None:
    checked = shellcheck(read("skypilot/task.yaml")[part])
    assert checked.returncode == 0, checked.stdout


def test_shellcheck_refuses_a_misspelt_variable() -> None:
    text = read("skypilot/task.yaml")["run"].replace("own=", "ownx=")
    assert "own is referenced but not assigned" in shellcheck(text).stdout


def shellcheck(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tool("shellcheck"), "--shell=bash", "-"], input=text, capture_output=True, text=True, timeout=60
    )


def test_the_token_is_a_secret_without_a_value_and_no_port_is_opened() -> None:
    task = read("skypilot/task.yaml")
    assert task["secrets"] == {"RAY_AUTH_TOKEN": None}
    assert "ports" not in task["resources"]


def run_node(folder: Path, rank: int) -> tuple[list[list[str]], int]:
    """Run the task's `run` on the node of this rank; return what it called and its exit code."""
    install(folder / "maddpg" / "bin")
    log = folder / "calls"
    log.touch()
    env = {
        "HOME": str(folder),
        "PATH": "/usr/bin:/bin",
        "STAND_IN_LOG": str(log),
        "STAND_IN_TRAINER": "finishes",
        "STAND_IN_RAY_ENDS": "1" if rank else "",
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
        "SKYPILOT_NODE_RANK": str(rank),
        "SKYPILOT_NUM_GPUS_PER_NODE": "1",
        "CHECKPOINTS": "s3://bucket/first",
        "WORKERS": "30",
    }
    script = read("skypilot/task.yaml")["run"].replace("/tmp/maddpg", str(folder / "tmp"))
    ended = subprocess.run(["bash", "-c", script], env=env, cwd=folder, timeout=60)
    return calls(log), ended.returncode


def test_the_first_node_has_the_head_and_the_trainer(tmp_path: Path) -> None:
    called, code = run_node(tmp_path, rank=0)
    assert code == 0
    [start] = [" ".join(words[2:]) for words in called if words[:2] == ["ray", "start"]]
    assert start == (
        "--head --port=6379 --dashboard-host=127.0.0.1 --block --node-ip-address=10.0.0.1 --num-gpus=1 "
        "--disable-usage-stats"
    )
    [words] = [words for words in called if words[0] == "python"]
    command = train_arguments(words[3:])
    assert command.settings.ray.address == "10.0.0.1:6379"
    assert (command.settings.num_workers, command.resume) == (30, "auto")
    assert command.checkpoint_dir == "s3://bucket/first"
    assert command.run_dir == str(tmp_path / "maddpg-runs" / "first")


def test_the_head_ends_with_the_trainer(tmp_path: Path) -> None:
    run_node(tmp_path, rank=0)
    deadline = time.monotonic() + 10
    while _running(str(tmp_path)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _running(word: str) -> list[int]:
    """Return the processes that have this word in their environment, which is that of `run_node`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.name != str(os.getpid()) and word in (process / "environ").read_text(errors="replace"):
                found.append(int(process.name))
        except OSError:
            continue  # it has ended, or is another user's
    return found


def test_other_nodes_join_the_head_and_their_end_is_no_failure(tmp_path: Path) -> None:
    called, code = run_node(tmp_path, rank=1)
    assert code == 0
    [start] = [" ".join(words[2:]) for words in called if words[:2] == ["ray", "start"]]
    assert start == (
        "--address=10.0.0.1:6379 --block --node-ip-address=10.0.0.2 --num-gpus=1 --disable-usage-stats"
    )
    assert not [words for words in called if words[0] == "python"]
