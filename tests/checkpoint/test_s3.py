"""Checkpoints in an object store, whose writer or server is killed in the middle of an upload."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

s3fs = pytest.importorskip("s3fs")
pytest.importorskip("moto.server")

pytestmark = [pytest.mark.processes]

_ROOT = Path(__file__).resolve().parents[2]
_URL = "s3://bucket/runs/first"
_TINY = (
    "--num-workers 0 --rollout.num-envs 4 --learner.batch-size 16 --learner.device cpu "
    "--replay.capacity 2000 --pacing.learning-starts 400 --pacing.report-interval-env-steps 400 "
    "--pacing.evaluation-interval-env-steps 0 --pacing.checkpoint-interval-env-steps 400 "
    "--evaluation.final-episodes 5"
).split()


class Store:
    """The server, and what is in it."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self._port}"
        self.env = {**os.environ, "AWS_ENDPOINT_URL": self.endpoint, "AWS_EC2_METADATA_DISABLED": "true"}
        self.env |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_MAX_ATTEMPTS": "1"}

    def start(self, seconds_per_upload: float) -> None:
        words = [sys.executable, "-m", "tests.support.s3_server", str(self._port), str(seconds_per_upload)]
        self.process = subprocess.Popen(words, cwd=_ROOT, stderr=subprocess.DEVNULL)
        _until(self._answers)
        self.files = s3fs.S3FileSystem(
            key="test",
            secret="test",
            endpoint_url=self.endpoint,
            skip_instance_cache=True,
            use_listings_cache=False,
        )
        self.files.mkdir("bucket")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(timeout=30)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def checkpoints(self) -> dict[str, set[str]]:
        """Return the names of the files of each checkpoint."""
        found: dict[str, set[str]] = {}
        for key in self.files.find("bucket/runs/first"):
            folder, name = key.split("/")[-2:]
            found.setdefault(folder, set()).add(name)
        return found

    def half_written(self) -> list[str]:
        return [folder for folder, names in self.checkpoints().items() if "manifest.json" not in names]

    def complete(self) -> list[str]:
        return [folder for folder, names in self.checkpoints().items() if "manifest.json" in names]

    def train(self, run_dir: Path, env_steps: int, *more: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "distributed_maddpg", "train", "--run-dir", str(run_dir), *_TINY]
        own = [
            "--checkpoint-dir",
            _URL,
            "--resume",
            "auto",
            "--pacing.total-env-steps",
            str(env_steps),
            "--json",
        ]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([*words, *own, *more], cwd=_ROOT, env=self.env, **pipes)


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store()
    yield made
    made.kill()


def _until(reached: Callable[[], Any], within_s: float = 120) -> None:
    deadline = time.monotonic() + within_s
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_run_killed_in_mid_upload_goes_on_from_the_checkpoint_before(store: Store, tmp_path: Path) -> None:
    store.start(seconds_per_upload=0.4)
    run = store.train(tmp_path / "run", 10**9)
    _until(lambda: store.complete() and store.half_written())
    run.send_signal(signal.SIGKILL)
    run.communicate(timeout=60)
    [torn], complete = store.half_written(), store.complete()
    newest = max(complete, key=lambda name: int(name.removeprefix("step_")))
    total = int(torn.removeprefix("step_")) + 400

    again = store.train(tmp_path / "run", total)
    out, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert f"resuming from {_URL}/{newest}" in errors, "not from the torn one, which is newer"
    summary = json.loads(out)
    assert summary["finished"] and summary["files"]["checkpoint"] == f"{_URL}/step_{summary['env_steps']}"

    words = [sys.executable, "-m", "distributed_maddpg", "evaluate", summary["files"]["checkpoint"], "--json"]
    evaluated = subprocess.run(
        [*words, "--episodes", "5"], cwd=_ROOT, env=store.env, capture_output=True, timeout=60
    )
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads(evaluated.stdout)["episodes"] == 5


def test_a_run_goes_on_while_its_store_is_gone_and_says_what_was_not_saved(
    store: Store, tmp_path: Path
) -> None:
    store.start(seconds_per_upload=0.4)
    run, table = store.train(tmp_path / "run", 10**9), tmp_path / "run" / "metrics.csv"
    _until(lambda: store.complete() and store.half_written())
    store.kill()
    rows = len(table.read_text().splitlines())
    _until(lambda: len(table.read_text().splitlines()) > rows + 5)
    run.terminate()
    out, errors = run.communicate(timeout=120)
    assert run.returncode == 1
    assert " was not saved (" in errors.splitlines()[-1]
    assert json.loads(out)["interrupted"]
