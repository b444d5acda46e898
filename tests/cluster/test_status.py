"""Runs of a real head are seen through nothing but its dashboard's port and the token."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from typing import Any

import pytest

pytest.importorskip("ray")
from tests.support.head import ROOT, TINY, Head, readme_command

pytestmark = [pytest.mark.ray, pytest.mark.slow]

_WITHIN_S = 300.0


def _status(head: Head, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "distributed_maddpg", "status", *words]
    if "--address" not in words:
        command += ["--address", f"http://127.0.0.1:{head.dashboard}"]
    # Ray prefers this variable to the address that its job client is given.
    own = {**head.env, "RAY_ADDRESS": "127.0.0.1:1", **env}
    return subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, timeout=200)


def _jobs(head: Head, *words: str) -> list[dict[str, Any]]:
    shown = _status(head, *words, "--json")
    assert shown.returncode == 0, shown.stderr
    jobs: list[dict[str, Any]] = json.loads(shown.stdout)["jobs"]
    return jobs


def test_a_running_and_a_stopped_job_are_shown(head: Head) -> None:
    assert _jobs(head) == []
    run_dir = head.home / "maddpg" / "first"
    submit = readme_command("distributed-maddpg submit", "--run-dir")
    command = re.sub(r"--\s+train", "--no-wait -- train", submit, count=1)
    submitted = head.run(f"{command} {' '.join(TINY)} --pacing.total-env-steps=20000000")
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    deadline = time.monotonic() + _WITHIN_S
    while not (run_dir / "metrics.csv").exists():
        assert time.monotonic() < deadline
        time.sleep(0.2)

    started = time.monotonic()
    [job] = _jobs(head)
    print(f"status --address took {time.monotonic() - started:.1f} s")
    assert (job["submission_id"], job["job_status"], job["run_dir"]) == ("first", "RUNNING", str(run_dir))
    status = job["status"]
    assert (status["state"], status["num_workers"], status["total_env_steps"]) == ("running", 1, 20_000_000)
    assert 0 < status["env_steps"] < 20_000_000
    assert status["env_steps_per_s"] > 0 and status["bottleneck"]

    table = _status(head)
    assert re.search(r"^first +running +running +\d+ %", table.stderr, re.M), table.stderr
    details = _status(head, "first")
    assert re.search(rf"^run +{re.escape(str(run_dir))}", details.stderr, re.M), details.stderr

    head.run(readme_command("ray job stop"))
    assert head.wait_for_job("first") == "STOPPED"
    assert _jobs(head) == []
    [stopped] = _jobs(head, "first")
    assert (stopped["job_status"], stopped["status"]["state"]) == ("STOPPED", "interrupted")
    time.sleep(12.0)  # so that they have ended ten seconds ago
    assert _jobs(head) == []
    left = [job["submission_id"] for job in head._get("jobs/", _token(head))]
    assert left == ["first"]  # the tiny jobs are gone


def test_what_is_wrong_is_one_line(head: Head) -> None:
    refused = {
        "did you mean|no training job": _status(head, "frist"),
        "Ray Client is not for training": _status(head, "--address", "ray://127.0.0.1:10001"),
        "oken": _status(head, RAY_AUTH_TOKEN="0" * 64),
        "onnect": _status(head, "--address", "http://127.0.0.1:1"),
    }
    for text, answer in refused.items():
        assert re.search(text, answer.stderr), answer.stderr
        assert len(answer.stderr.splitlines()) == 1, answer.stderr
        assert answer.stdout == ""
    assert [answer.returncode for answer in refused.values()] == [2, 2, 1, 1]


def _token(head: Head) -> dict[str, str]:
    return {"Authorization": f"Bearer {(head.home / '.ray' / 'auth_token').read_text().strip()}"}
