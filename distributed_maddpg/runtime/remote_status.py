"""Reads the status of a cluster's runs through nothing but the dashboard's port.

The files of a run are on the head. A tiny job there, in the run's own runtime environment, prints what
`status RUN_DIR --json` says, and its log is read.
"""

from __future__ import annotations

import os
import secrets
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from ray.job_submission import JobDetails

from distributed_maddpg.errors import BadInput, TrainingError, did_you_mean, one_line
from distributed_maddpg.files import parse_json
from distributed_maddpg.runtime.jobs import Jobs, for_shell

_POLL_S = 0.2
_KEPT_S = 10.0
"""How long a tiny job stays in the cluster's list before the next call deletes it. Ray's monitor, which looks
once a second, writes one that was deleted as soon as it had ended back as failed."""
_RUN_DIR = "run_dir"
_PURPOSE = {"distributed_maddpg": "status"}
"""Metadata of the tiny jobs, which are no runs."""
_PROGRAM = ("python", "-m", "distributed_maddpg")
_MAX_LINE_CHARS = 300


def remote_status(address: str, submission_id: str, timeout_s: float) -> list[dict[str, Any]]:
    """Return the status of one job's run, or of those of all training jobs that are running.

    Args:
        address: of the dashboard, such as http://127.0.0.1:8265.
        submission_id: of the job; empty: all that are running.
        timeout_s: how long to wait for the tiny jobs.

    Returns:
        For each job `submission_id`, `job_status`, `run_dir`, and either `status`, which is what `run_status`
        returns, or `problem`, why there is none.

    Raises:
        BadInput: if there is no such job.
        TrainingError: if the dashboard refuses the token or does not answer in time.
    """
    jobs = Jobs(address)
    shown = _jobs_to_show(jobs, submission_id)
    with _tiny_jobs(jobs, shown) as asked:
        deadline = time.monotonic() + timeout_s
        return [_described(jobs, job, tiny, deadline) for job, tiny in zip(shown, asked, strict=True)]


def _described(jobs: Jobs, job: JobDetails, tiny: str, deadline: float) -> dict[str, Any]:
    own = {
        "submission_id": job.submission_id,
        "job_status": str(job.status.value),
        "run_dir": run_dir_of(job.entrypoint, job.metadata) or None,
    }
    if not tiny:
        problem = "its run folder is not known: neither its metadata nor --run-dir in its entrypoint names it"
        return {**own, "problem": problem}
    if not _ends(jobs, tiny, deadline):
        return {**own, "problem": "the job that reads its folder did not end in time"}
    return {**own, **_answer(jobs.log(tiny))}


def run_dir_of(entrypoint: str, metadata: dict[str, str] | None) -> str:
    """Return the run folder of a job: from its metadata, else from its command; empty if neither names it."""
    if metadata and metadata.get(_RUN_DIR):
        return metadata[_RUN_DIR]
    words = _words(entrypoint)
    for option in ("--run-dir", "--resume"):
        for index, word in enumerate(words):
            name, equals, value = word.partition("=")
            if name == option and value != "auto":
                following = words[index + 1] if index + 1 < len(words) else ""
                if (found := value if equals else following) and found != "auto":
                    return found
    return ""


def status_command(entrypoint: str, run_dir: str) -> str:
    """Return the command that reads a run's folder, by the same program that the run was started with."""
    words = _words(entrypoint)
    program = tuple(words[: words.index("train")]) if "train" in words else ()
    ours = program[-2:] == _PROGRAM[-2:] or [os.path.basename(word) for word in program] == [
        "distributed-maddpg"
    ]
    return for_shell((*(program if ours and len(program) <= 3 else _PROGRAM), "status", run_dir, "--json"))


def _words(entrypoint: str) -> list[str]:
    try:
        return shlex.split(entrypoint)
    except ValueError:  # a quotation that does not end
        return []


def _answer(log: str) -> dict[str, Any]:
    """Return the status that a tiny job printed, or the problem that it ended with."""
    lines = log.splitlines()
    for line in reversed(lines):
        with suppress(ValueError):
            status = parse_json(line.encode()) if line.startswith("{") else None
            if isinstance(status, dict) and _RUN_DIR in status:
                return {"status": status}
    errors = [line for line in lines if line.startswith("error: ")] or lines[-1:] or ["no output"]
    return {"problem": one_line(errors[-1].removeprefix("error: "), _MAX_LINE_CHARS)}


def _jobs_to_show(jobs: Jobs, submission_id: str) -> list[JobDetails]:
    """Return that job; without an id all training jobs that are running."""
    listed = jobs.all()
    _delete_old(jobs, listed)
    known = [job for job in listed if _is_run(job)]
    if not submission_id:
        return [job for job in known if not job.status.is_terminal()]
    found = [job for job in known if job.submission_id == submission_id]
    if not found:
        ids = [str(job.submission_id) for job in known]
        hint = did_you_mean(submission_id, ids) if ids else "the cluster has no training job"
        raise BadInput("SUBMISSION_ID", submission_id, f"no such training job; {hint}")
    return found


@contextmanager
def _tiny_jobs(jobs: Jobs, shown: Sequence[JobDetails]) -> Iterator[list[str]]:
    """Submit a job for each run whose folder is known, yield their ids, stop those that did not end."""
    tiny: list[str] = []
    try:
        for job in shown:
            run_dir = run_dir_of(job.entrypoint, job.metadata)
            tiny.append(_submit_tiny(jobs, job, run_dir) if run_dir else "")
        yield tiny
    finally:
        for submission in filter(None, tiny):
            with suppress(TrainingError):
                if not jobs.has_ended(submission):
                    jobs.stop(submission)


def _submit_tiny(jobs: Jobs, job: JobDetails, run_dir: str) -> str:
    own = {name: value for name, value in (job.runtime_env or {}).items() if not name.startswith("_")}
    name = f"maddpg-status-{secrets.token_hex(4)}"
    jobs.submit(status_command(job.entrypoint, run_dir), name, own, dict(_PURPOSE))
    return name


def _ends(jobs: Jobs, submission: str, deadline: float) -> bool:
    """Wait until a job has ended; return whether it has in time."""
    while not jobs.has_ended(submission):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _delete_old(jobs: Jobs, listed: Sequence[JobDetails]) -> None:
    """Delete the tiny jobs of earlier calls."""
    before_ms = 1_000 * (time.time() - _KEPT_S)
    for job in listed:
        if _is_tiny(job) and job.status.is_terminal() and (job.end_time or 0) < before_ms:
            with suppress(TrainingError):  # another call may have deleted it
                jobs.delete(str(job.submission_id))


def _is_tiny(job: JobDetails) -> bool:
    """Whether it is one of those that read a folder."""
    return (job.metadata or {}).items() >= _PURPOSE.items()


def _is_run(job: JobDetails) -> bool:
    """Whether a job trains: by its metadata, or its command."""
    if _is_tiny(job):
        return False
    words = " ".join(_words(job.entrypoint)).replace("-", "_")
    return _RUN_DIR in (job.metadata or {}) or "distributed_maddpg train" in words
