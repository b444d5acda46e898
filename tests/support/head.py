"""A head started with the command of cluster/README.md, with its own ports, home and temporary folder."""

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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.support.processes import gone

ROOT = Path(__file__).resolve().parents[2]
_README = ROOT / "cluster" / "README.md"
TINY = (
    "--num-workers=1 --rollout.num-envs=8 --learner.batch-size=32 --learner.device=cpu "
    "--replay.capacity=5000 --pacing.learning-starts=256 --pacing.report-interval-env-steps=512 "
    "--pacing.evaluation-interval-env-steps=0 --evaluation.final-episodes=8"
).split()


def readme_command(start: str, containing: str = "") -> str:
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
    port: int
    dashboard: int
    env: dict[str, str]
    process: subprocess.Popen[bytes]

    def run(
        self, command: str, timeout_s: float = 60, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run one of the README's commands in a shell; `env` changes this head's environment."""
        return subprocess.run(
            self._text(command),
            shell=True,
            cwd=ROOT,
            env={**self.env, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    @contextmanager
    def start(self, command: str, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
        """Start such a command, with what it prints on stderr among what it prints on stdout."""
        with subprocess.Popen(
            f"exec {self._text(command)}",
            shell=True,
            cwd=ROOT,
            env={**self.env, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def _text(self, command: str) -> str:
        return command.replace(":8265", f":{self.dashboard}")

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


@contextmanager
def running_head() -> Iterator[Head]:
    """Start a head; stop it, and require that its processes have ended."""
    home = Path(
        tempfile.mkdtemp(prefix="mh", dir="/tmp")
    )  # short: the paths of Ray's Unix sockets begin with it
    port, dashboard, client, agent, metrics = _free_ports(5)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))}
    env |= {
        "HOME": str(home),
        "RAY_TMPDIR": str(home),
        "RAY_AUTH_MODE": "token",
        "PYTHONPATH": str(
            ROOT
        ),  # a job imports the package that is tested, wherever another one is installed
        "OMP_NUM_THREADS": "1",
        "RAY_worker_niceness": "0",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    made = subprocess.run(readme_command("ray get-auth-token"), shell=True, env=env, capture_output=True)
    assert made.returncode == 0, made.stderr
    command = readme_command("ray start --head").replace("--port=6379", f"--port={port}")
    own = f"--block --num-cpus=4 --object-store-memory=100000000 --dashboard-port={dashboard}"
    ports = f"--ray-client-server-port={client} --metrics-export-port={metrics}"
    words = shlex.split(f"{command} {own} {ports} --dashboard-agent-listen-port={agent}")
    log = (home / "head.log").open("wb")
    process = subprocess.Popen(words, env=env, cwd=home, stdout=log, stderr=subprocess.STDOUT)
    started = Head(home, port, dashboard, env, process)
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
