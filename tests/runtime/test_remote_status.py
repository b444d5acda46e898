"""Jobs are recognised as runs, and their folders found."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("ray")
from ray.job_submission import JobDetails, JobStatus, JobType

from distributed_maddpg.cli import main
from distributed_maddpg.errors import BadInput
from distributed_maddpg.runtime import jobs
from distributed_maddpg.runtime import remote_status as module
from distributed_maddpg.runtime.remote_status import remote_status, run_dir_of, status_command

_TRAIN = "python -m distributed_maddpg train --num-workers 1 --run-dir '/data/my run'"
_ENV = {"working_dir": "gcs://_ray_pkg_1.zip", "env_vars": {"A": "1"}}
_URL = "http://127.0.0.1:8265"


def job(name: str, entrypoint: str = _TRAIN, status: str = "RUNNING", **metadata: str) -> JobDetails:
    """Return a job as the server lists it."""
    return JobDetails(
        type=JobType.SUBMISSION,
        submission_id=name,
        status=JobStatus(status),
        entrypoint=entrypoint,
        metadata=metadata,
        runtime_env={**_ENV, "_ray_commit": "x"},
    )


class Server:
    """Stands for a cluster's job server: tiny jobs end at once and have printed `log`."""

    def __init__(self) -> None:
        self.jobs: list[JobDetails] = []
        self.submitted: dict[str, dict[str, Any]] = {}
        self.deleted: list[str] = []
        self.log = 'noise\n{"run_dir": "/data/my run", "state": "running"}\nlater noise\n'
        self.ends = True

    def client(self, address: str, headers: Any = None) -> Server:
        return self

    def list_jobs(self) -> list[JobDetails]:
        return self.jobs

    def submit_job(self, **own: Any) -> str:
        self.submitted[own["submission_id"]] = own
        return str(own["submission_id"])

    def get_job_status(self, name: str) -> JobStatus:
        return JobStatus.SUCCEEDED if self.ends else JobStatus.PENDING

    def get_job_logs(self, name: str) -> str:
        return self.log

    def stop_job(self, name: str) -> bool:
        self.ends = True
        return True

    def delete_job(self, name: str) -> bool:
        self.deleted.append(name)
        return True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    own = Server()
    monkeypatch.setattr(jobs, "_Client", own.client)
    monkeypatch.setattr(module, "_POLL_S", 0.01)
    yield own


@pytest.mark.parametrize(
    ("entrypoint", "metadata", "folder"),
    [
        (_TRAIN, {}, "/data/my run"),
        (_TRAIN, {"run_dir": "/other"}, "/other"),
        ("distributed-maddpg train --run-dir=/a --resume auto", {}, "/a"),
        ("distributed-maddpg train --resume auto --run-dir /a", {}, "/a"),
        ("distributed-maddpg train --resume /b", {}, "/b"),
        ("distributed-maddpg train --preset paper", None, ""),
        ("distributed-maddpg train --run-dir", {}, ""),
        ("distributed-maddpg train 'unclosed", {}, ""),
    ],
)
def test_the_folder_of_a_job_is_found(entrypoint: str, metadata: dict[str, str] | None, folder: str) -> None:
    assert run_dir_of(entrypoint, metadata) == folder


@pytest.mark.parametrize(
    ("entrypoint", "program"),
    [
        (_TRAIN, "python -m distributed_maddpg"),
        ("/opt/bin/python3 -m distributed_maddpg train", "/opt/bin/python3 -m distributed_maddpg"),
        ("/opt/bin/distributed-maddpg train", "/opt/bin/distributed-maddpg"),
        ("cd x && python -m distributed_maddpg train", "python -m distributed_maddpg"),
        ("python my_script.py", "python -m distributed_maddpg"),
    ],
)
def test_the_folder_is_read_by_the_program_that_trains(entrypoint: str, program: str) -> None:
    assert status_command(entrypoint, "/data/my run") == f"{program} status '/data/my run' --json"
    assert status_command(entrypoint, "~/my run") == f"{program} status ~/'my run' --json", "the head's home"


def test_running_training_jobs_are_asked_in_their_own_environment(server: Server) -> None:
    server.jobs = [
        job("mine"),
        job("ended", status="STOPPED"),
        job("other", "python -c pass"),
        job("script", "python study.py", run_dir="/study"),
        job("old status", distributed_maddpg="status"),
    ]
    mine, script = remote_status(_URL, "", 10.0)
    assert (mine["submission_id"], mine["job_status"], mine["run_dir"]) == ("mine", "RUNNING", "/data/my run")
    assert mine["status"] == {"run_dir": "/data/my run", "state": "running"}
    assert script["run_dir"] == "/study"
    assert [own["runtime_env"] for own in server.submitted.values()] == [_ENV, _ENV]
    assert server.deleted == []  # Ray would write them back


def test_tiny_jobs_of_earlier_calls_are_deleted(server: Server) -> None:
    now_ms = int(1_000 * time.time())
    server.jobs = [
        job(name, status="SUCCEEDED", distributed_maddpg="status") for name in ("old", "just ended")
    ]
    server.jobs += [job("at work", distributed_maddpg="status"), job("run", status="STOPPED")]
    for each, ended_ms in zip(server.jobs, (now_ms - 15_000, now_ms - 2_000, None, 0), strict=True):
        each.end_time = ended_ms
    assert remote_status(_URL, "", 10.0) == []
    assert server.deleted == ["old"]


def test_a_job_that_has_ended_is_shown_if_it_is_named(server: Server) -> None:
    server.jobs = [job("mine", status="FAILED"), job("else")]
    [shown] = remote_status(_URL, "mine", 10.0)
    assert (shown["job_status"], shown["status"]["state"]) == ("FAILED", "running")
    with pytest.raises(BadInput, match="no such training job; did you mean 'mine'"):
        remote_status(_URL, "mime", 10.0)


@pytest.mark.parametrize(
    ("log", "problem"),
    [
        ("x\nerror: RUN_DIR = '/a': holds no run\n", "RUN_DIR = '/a': holds no run"),
        ('{"run_dir": \n', '{"run_dir": '),
        ("", "no output"),
    ],
)
def test_a_folder_that_cannot_be_read_is_a_problem_of_its_job(server: Server, log: str, problem: str) -> None:
    server.jobs, server.log = [job("mine")], log
    [shown] = remote_status(_URL, "", 10.0)
    assert shown["problem"] == problem
    assert "status" not in shown


def test_a_tiny_job_that_does_not_end_in_time_is_stopped(server: Server) -> None:
    server.jobs, server.ends = [job("mine")], False
    [shown] = remote_status(_URL, "", 0.05)
    assert shown["problem"] == "the job that reads its folder did not end in time"
    assert server.ends  # stopped


def test_a_run_without_a_known_folder_says_so(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.jobs = [job("mine", "python -m distributed_maddpg train")]
    assert main(["status", "--address", _URL, "--json"]) == 0
    [shown] = json.loads(capsys.readouterr().out)["jobs"]
    assert shown["run_dir"] is None and "its run folder is not known" in shown["problem"]
    assert main(["status", "--address", _URL]) == 0
    assert "its run folder is not known" in capsys.readouterr().err
    assert server.submitted == {}


def test_no_running_job_is_said_in_a_line(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--address", _URL]) == 0
    assert capsys.readouterr().err == f"no training job is running at {_URL}\n"


def test_an_error_of_the_server_is_one_line(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(address: str, headers: Any) -> None:
        raise RuntimeError("no entry\nat all")

    monkeypatch.setattr(jobs, "_Client", refuse)
    assert main(["status", "--address", _URL]) == 1
    assert capsys.readouterr().err == f"error: {_URL}: no entry\n"


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "127.0.0.1:8265", "auto", "http://h:99999", ""])
def test_only_the_dashboards_address_is_taken(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "job", "--address", address]) == 2
    assert f"error: --address = '{address}': " in capsys.readouterr().err


def test_rays_own_variables_do_not_replace_the_address(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.setenv(name, "http://10.0.0.1:8265")
    seen: list[Any] = []

    def connect(address: str, headers: Any) -> Server:
        from ray.dashboard.utils import get_address_for_submission_client

        seen.append(get_address_for_submission_client(address))
        return server

    monkeypatch.setattr(jobs, "_Client", connect)
    remote_status(_URL, "", 10.0)
    assert seen == [_URL]
    assert os.environ["RAY_ADDRESS"] == "http://10.0.0.1:8265"
