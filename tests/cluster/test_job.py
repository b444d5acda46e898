"""The commands of cluster/README.md on a real head: token, job, stop with a checkpoint, resume, clean end."""

from __future__ import annotations

import base64
import json
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("ray")
from tests.support.head import TINY, Head, readme_command

pytestmark = pytest.mark.ray

_ENDLESS = f"{shlex.join(TINY)} --pacing.total-env-steps=2000000"
_ALARMING = re.compile(
    r"died|killed|traceback|error|exception|warning|fatal|failed|repeated \d+x|\r|\x1b", re.IGNORECASE
)
_TOKEN_NEEDED = "ray get-auth-token --generate; export RAY_AUTH_MODE=token"
_STRANGERS = {
    "without a token": {"RAY_AUTH_MODE": "disabled"},
    "with a wrong one": {"RAY_AUTH_TOKEN": "0" * 64},
}


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


@pytest.mark.parametrize("stranger", _STRANGERS)
def test_a_job_is_not_taken(head: Head, stranger: str) -> None:
    command = f"{_submit(head)} --submission-id stranger -- train --run-dir {head.home}/stranger"
    refused = head.run(command, env=_STRANGERS[stranger])
    assert refused.returncode == 1 and refused.stdout == ""
    [line] = refused.stderr.splitlines()
    assert (
        line.startswith(f"error: http://127.0.0.1:{head.dashboard}: Authentication ")
        and _TOKEN_NEEDED in line
    )
    with pytest.raises(urllib.error.HTTPError) as unknown:
        head.job("stranger")
    unknown.value.close()
    assert unknown.value.code == 404


@pytest.mark.slow
def test_nodes_and_runs_cannot_join(head: Head) -> None:
    before = {process.pid for process in head.processes()}
    address = f"127.0.0.1:{head.port}"
    node = f"ray start --address={address} --disable-usage-stats --temp-dir={head.home}/node"
    train = f"{sys.executable} -m distributed_maddpg train {shlex.join(TINY)} --ray.address {address}"
    with ExitStack() as stack:
        joining = [
            stack.enter_context(head.start(command, env=env))
            for name, env in _STRANGERS.items()
            for command in (node, f"{train} --run-dir '{head.home}/joined {name}'")
        ]
        outputs = [process.communicate(timeout=200)[0] for process in joining]
    assert [process.returncode for process in joining] == [1] * 4, outputs
    assert all("AuthenticationError" in output for output in outputs[::2]), outputs
    assert all(_TOKEN_NEEDED in output.splitlines()[-1] for output in outputs[1::2]), outputs
    assert {process.pid for process in head.processes()} <= before
    assert not list(head.home.glob("joined*/checkpoints/*"))


@pytest.mark.slow
def test_a_program_that_called_ray_init_itself_ends_with_nothing_alarming_in_its_log(head: Head) -> None:
    program = "from tests.support.own_ray import main; main()"
    env = {"RAY_ADDRESS": f"127.0.0.1:{head.port}", "RAY_COLOR_PREFIX": "0"}
    ended = head.run(f"python -c {shlex.quote(program)}", timeout_s=300, env=env)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    seconds = [float(line.split()[2]) for line in ended.stdout.splitlines() if line.startswith("ended in ")]
    assert len(seconds) == 2 and max(seconds) < 2.0, "none had to be killed"
    assert not _ALARMING.search(re.sub(r"\x1b\[[0-9;]*m", "", ended.stdout + ended.stderr)), ended.stderr
    assert "left: []" in ended.stdout


@pytest.mark.slow
def test_a_job_runs_stops_with_a_checkpoint_and_is_resumed(head: Head) -> None:
    run_dir = head.home / "maddpg" / "first"
    with head.start(f"{readme_command('distributed-maddpg submit', '--run-dir')} {_ENDLESS}") as job:
        _wait_for(run_dir / "metrics.csv", job)
        stopped = head.run(readme_command("ray job stop"))
        assert stopped.returncode == 0, stopped.stdout + stopped.stderr
        log, _ = job.communicate(timeout=120)
    assert job.returncode == 0, log
    assert head.job("first")["status"] == "STOPPED"
    [checkpoint] = (run_dir / "checkpoints").glob("step_*")
    address = f"--address http://127.0.0.1:{head.dashboard}"
    steps = int(checkpoint.name.removeprefix("step_"))
    _check_log(
        log,
        rf"""
        submitted first to http://127\.0\.0\.1:\d+; files go to {run_dir} on the head
        print its log with: distributed-maddpg submit {address} --follow first
        stop it with: ray job stop {address} first
        .* job_manager\.py:\d+ -- Runtime env is setting up\.
        Running entrypoint for job first: python -m distributed_maddpg train --num-workers .*
        training simple_adversary with 1 rollout worker on Ray; files go to {run_dir}
        +\[.*
        saved {checkpoint} .*
        result +interrupted
        collected .*
        learnt .*
        training time .*
        run dir +{run_dir}
        checkpoint +{checkpoint}
        report .*
        metrics .*
        resume with: distributed-maddpg train --resume {run_dir}
        first was stopped
        resume with: distributed-maddpg submit {address} -- train .* --run-dir {run_dir} --resume auto
        """,
    )
    followed = head.run(readme_command("distributed-maddpg submit", "--follow"))
    assert followed.returncode == 0, followed.stderr
    assert followed.stdout.splitlines()[1].startswith("Running entrypoint for job first: ")
    assert followed.stdout in log

    resume = log.splitlines()[-1].removeprefix("resume with: ")
    resumed = head.run(
        resume.replace("total-env-steps=2000000", f"total-env-steps={steps + 2000}"), timeout_s=400
    )
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert resumed.stderr.splitlines()[-1].endswith(" has ended")
    assert not _ALARMING.search(resumed.stdout), resumed.stdout
    assert json.loads((run_dir / "summary.json").read_text())["env_steps"] >= steps + 2000

    plain = readme_command("ray job submit", "--resume")
    plainly = head.run(f"{plain} --pacing.total-env-steps={steps + 4000}", timeout_s=400)
    assert plainly.returncode == 0, plainly.stdout + plainly.stderr
    assert head.job("first-again")["status"] == "SUCCEEDED"
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["finished"] and summary["env_steps"] >= steps + 4000
    _check_no_token(head, [log, resumed.stdout + resumed.stderr, plainly.stdout + plainly.stderr], run_dir)


@pytest.mark.slow
def test_a_jobs_exit_code_is_passed_on_and_ctrl_c_ends_only_the_printing(head: Head) -> None:
    broken = f"{head.home}/nothing-here"
    failed = head.run(f"{_submit(head)} -- train --resume {broken}", timeout_s=200)
    assert failed.returncode == 3, failed.stdout + failed.stderr
    assert failed.stderr.splitlines()[-1].endswith(" failed with exit code 3")
    assert "error: " in failed.stdout.splitlines()[-1]

    with head.start(f"{_submit(head)} --submission-id left -- train {_ENDLESS}") as job:
        assert job.stdout is not None
        while "files go to " + str(head.home / "maddpg" / "left") not in (line := job.stdout.readline()):
            assert line, "it has ended"
        job.send_signal(signal.SIGINT)
        rest, _ = job.communicate(timeout=60)
    assert job.returncode == 130
    assert "left goes on\n" in rest and "Traceback" not in rest
    assert head.job("left")["status"] == "RUNNING"
    assert head.job("left")["metadata"]["run_dir"] == "~/maddpg/left"
    head.run(f"ray job stop --address http://127.0.0.1:{head.dashboard} left", timeout_s=100)
    assert head.wait_for_job("left") == "STOPPED"


def _submit(head: Head) -> str:
    return f"{sys.executable} -m distributed_maddpg submit --address http://127.0.0.1:{head.dashboard}"


def _wait_for(path: Path, job: subprocess.Popen[str], within_s: float = 300) -> None:
    deadline = time.monotonic() + within_s
    while not path.exists():
        assert job.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)


def _check_log(log: str, patterns: str) -> None:
    """Require that the lines match the patterns in their order; one that begins with + stands for several."""
    lines = [line.rstrip() for line in log.splitlines()]
    for pattern in filter(None, map(str.strip, patterns.split("\n"))):
        several = pattern.startswith("+")
        first = len(lines)
        while (
            lines and re.fullmatch(pattern.removeprefix("+"), lines[0]) and (several or len(lines) == first)
        ):
            lines.pop(0)
        assert len(lines) < first, (pattern, lines[:1], log)
    assert lines == [] and not _ALARMING.search(log), log


def _check_no_token(head: Head, logs: list[str], run_dir: Path) -> None:
    """Require that neither logs nor files hold the token, as it is or in base 64."""
    token = (head.home / ".ray" / "auth_token").read_bytes().strip()
    forms = [token, base64.b64encode(token)[:-4]]
    files = [path for path in run_dir.rglob("*") if path.is_file()]
    assert len(files) > 5 and len(token) >= 32
    contents: dict[Any, bytes] = {path: path.read_bytes() for path in files}
    contents |= {index: log.encode() for index, log in enumerate(logs)}
    assert [name for name, content in contents.items() if any(form in content for form in forms)] == []
