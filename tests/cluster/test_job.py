"""The commands of cluster/README.md on a real head: token, job, stop with a checkpoint, resume, clean end."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("ray")
from tests.support.processes import gone

pytestmark = pytest.mark.ray

_ROOT = Path(__file__).resolve().parents[2]
_README = _ROOT / "cluster" / "README.md"
_TINY = (
    "--num-workers=1 --rollout.num-envs=8 --learner.batch-size=32 --learner.device=cpu "
    "--replay.capacity=5000 --pacing.learning-starts=256 --pacing.report-interval-env-steps=512 "
    "--pacing.evaluation-interval-env-steps=0 --evaluation.final-episodes=8"
).split()


def _readme_command(start: str, containing: str = "") -> str:
    """Return the README's first command that begins with `start`, continuation lines joined."""
    blocks = re.findall(r"^```bash\n(.*?)^```", _README.read_text(encoding="utf-8"), re.M | re.S)
    for line in "".join(blocks).replace("\\\n", " ").splitlines():
        if line.strip().startswith(start) and containing in line:
            return line.strip()
    raise AssertionError(f"cluster/README.md no longer has a command {start!r}")


def _free_ports(count: int) -> list[int]:
    """Return free ports below the range that the system assigns itself."""
    found: list[int] = []
    for port in range(20_000 + os.getpid() % 5_000, 32_000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
        if len(found) == count:
            break
    return found


@dataclass
class Head:
    """A head started with the README's command, with its own ports, home and temporary folder."""

    home: Path
    dashboard: int
    env: dict[str, str]
    process: subprocess.Popen[bytes]

    def run(self, command: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run one of the README's commands in a shell."""
        text = command.replace(":8265", f":{self.dashboard}")
        return subprocess.run(
            text, shell=True, cwd=_ROOT, env=self.env, capture_output=True, text=True, timeout=timeout_s
        )

    def job(self, submission: str) -> dict[str, Any]:
        """Return the head's record of a job."""
        token = (self.home / ".ray" / "auth_token").read_text().strip()
        return self._get(f"jobs/{submission}", {"Authorization": f"Bearer {token}"})

    def _get(self, what: str, headers: dict[str, str]) -> Any:
        url = f"http://127.0.0.1:{self.dashboard}/api/{what}"
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return json.load(answer)

    def wait_for_job(self, submission: str, within_s: float = 300) -> str:
        deadline = time.monotonic() + within_s
        while (status := self.job(submission)["status"]) in ("PENDING", "RUNNING"):
            assert time.monotonic() < deadline, f"{submission} is {status}"
            time.sleep(0.3)
        return str(status)

    def stop(self) -> None:
        """Stop the head and its descendants, but no other cluster; require that all have exited."""
        tree = self.processes()
        self.process.send_signal(signal.SIGTERM)
        ended = gone([process.pid for process in tree], within_s=120)
        for process in tree:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(timeout=120)
        assert ended

    def processes(self) -> list[psutil.Process]:
        """Return the head and its descendants."""
        head = psutil.Process(self.process.pid)
        return [head, *head.children(recursive=True)]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    home = Path(
        tempfile.mkdtemp(prefix="mh", dir="/tmp")
    )  # short: the paths of Ray's Unix sockets begin with it
    port, dashboard, client, agent, metrics = _free_ports(5)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))}
    env |= {
        "HOME": str(home),
        "RAY_TMPDIR": str(home),
        "RAY_AUTH_MODE": "token",
        "RAY_worker_niceness": "0",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    made = subprocess.run(_readme_command("ray get-auth-token"), shell=True, env=env, capture_output=True)
    assert made.returncode == 0, made.stderr
    command = _readme_command("ray start --head").replace("--port=6379", f"--port={port}")
    own = f"--block --num-cpus=4 --object-store-memory=100000000 --dashboard-port={dashboard}"
    ports = f"--ray-client-server-port={client} --metrics-export-port={metrics}"
    words = shlex.split(f"{command} {own} {ports} --dashboard-agent-listen-port={agent}")
    log = (home / "head.log").open("wb")
    process = subprocess.Popen(words, env=env, cwd=home, stdout=log, stderr=subprocess.STDOUT)
    started = Head(home, dashboard, env, process)
    try:
        _wait_until_started(started)
        yield started
    finally:
        log.close()  # the head has it open itself
        started.stop()
        shutil.rmtree(home, ignore_errors=True)


def _wait_until_started(head: Head) -> None:
    """Wait until the dashboard answers, and a signal to `ray start` ends what it has started."""
    log, deadline = head.home / "head.log", time.monotonic() + 300
    while "block forever until terminated by a signal" not in log.read_text() or not _answers(head):
        assert head.process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def _answers(head: Head) -> bool:
    try:
        head._get("version", {})
    except urllib.error.HTTPError as answer:
        answer.close()  # the dashboard is up: it refuses a request without a token
    except OSError:
        return False
    return True


def test_only_the_owner_can_read_the_token_file(head: Head) -> None:
    assert (head.home / ".ray" / "auth_token").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer " + "0" * 64}], ids=["none", "wrong"])
def test_requests_without_the_token_are_refused(head: Head, headers: dict[str, str]) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        head._get("jobs/", headers)
    refused.value.close()
    assert refused.value.code in (401, 403)


def test_the_dashboard_listens_on_loopback_only(head: Head) -> None:
    listening = {
        connection.laddr.ip
        for process in head.processes()
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == head.dashboard
    }
    assert listening == {"127.0.0.1"}


@pytest.mark.slow
def test_a_job_runs_stops_with_a_checkpoint_and_is_resumed(head: Head) -> None:
    run_dir = head.home / "maddpg" / "first"
    submit = _readme_command("ray job submit", "--run-dir")
    command = re.sub(r"--\s+python", "--no-wait -- python", submit, count=1)
    submitted = head.run(f"{command} {' '.join(_TINY)} --pacing.total-env-steps=2000000")
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    deadline = time.monotonic() + 300
    while not (run_dir / "metrics.csv").exists():
        assert head.job("first")["status"] in ("PENDING", "RUNNING"), _log(head, "first")
        assert time.monotonic() < deadline, _log(head, "first")
        time.sleep(0.2)

    stopped = head.run(_readme_command("ray job stop"))
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert head.wait_for_job("first") == "STOPPED"
    assert json.loads((run_dir / "summary.json").read_text())["interrupted"], _log(head, "first")
    [checkpoint] = (run_dir / "checkpoints").glob("step_*")
    assert f"--resume {run_dir}" in _log(head, "first")

    steps = int(checkpoint.name.removeprefix("step_")) + 2000
    resume = _readme_command("ray job submit", "--resume")
    resumed = head.run(f"{resume} --pacing.total-env-steps={steps}", timeout_s=400)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert head.job("first-again")["status"] == "SUCCEEDED"
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["finished"] and summary["env_steps"] >= steps


def _log(head: Head, submission: str) -> str:
    command = _readme_command("ray job logs").replace("--follow ", "").replace(" first", f" {submission}")
    return head.run(command).stdout
