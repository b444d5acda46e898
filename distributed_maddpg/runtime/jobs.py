"""Ray jobs: submits a command to a cluster, follows its log, reads its result."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.dashboard.modules.dashboard_sdk import parse_runtime_env_args
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient
from ray.runtime_env import RuntimeEnv

from distributed_maddpg.errors import BadInput, TrainingError, one_line
from distributed_maddpg.runtime.cluster import TOKEN_NEEDED

_CONNECT_S, _ANSWER_S = 10.0, 60.0
_QUIET_S = 60.0
"""After this long without a line the log's connection is made again: it may be dead, and the job over."""
_LOST_S, _RETRY_S = 120.0, 1.0
_GRACE = {"RAY_JOB_STOP_WAIT_TIME_S": "60"}  # until SIGKILL; Ray's default of 3 s ends before a checkpoint
_EXCLUDES = ["/runs/", "*.safetensors"]
_TALKATIVE = (
    "ray.dashboard.modules.job.sdk",
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.packaging",
    "ray._private.runtime_env.working_dir",
)
"""Loggers of Ray's client, which report each request and what is not sent."""
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Where Ray looks for an address, in this order."""


@dataclass(frozen=True)
class JobResult:
    """How a job ended."""

    status: str
    """SUCCEEDED, FAILED or STOPPED; PENDING or RUNNING if it has not ended."""
    exit_code: int | None
    """Of the command, if it ended by itself."""
    reason: str
    """What Ray says of a job whose command did not end by itself."""
    metadata: Mapping[str, str]


class _Client(JobSubmissionClient):
    """Ray's client, whose requests would wait for an answer for ever."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        return super()._do_request(method, endpoint, timeout=(_CONNECT_S, _ANSWER_S), **options)


class Jobs:
    """The jobs of a cluster."""

    def __init__(self, address: str) -> None:
        """Connect.

        Args:
            address: URL of the cluster's dashboard.

        Raises:
            BadInput: if RAY_JOB_HEADERS is no JSON object.
            TrainingError: if it does not answer, or refuses this user's token.
        """
        self.address = address
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.ERROR)
        headers = _headers()
        with _errors_of(address), _without_addresses():
            self._client = _Client(address, headers=headers)

    def find(self, submission_id: str) -> JobResult | None:
        """Return how far a job is; None if there is none of this id.

        Raises:
            TrainingError: see `__init__`.
        """
        try:
            with _errors_of(self.address):
                job: JobDetails = self._client.get_job_info(submission_id)
        except _NotFound:
            return None
        code = job.driver_exit_code
        reason = (job.message or "").strip()
        return JobResult(str(job.status.value), code, one_line(reason, 400), job.metadata or {})

    def all(self) -> list[JobDetails]:
        """Return the jobs that were submitted.

        Raises:
            TrainingError: see `__init__`.
        """
        with _errors_of(self.address):
            return [job for job in self._client.list_jobs() if job.submission_id]

    def has_ended(self, submission_id: str) -> bool:
        """Whether a job has ended.

        Raises:
            TrainingError: see `__init__`.
        """
        with _errors_of(self.address):
            return bool(self._client.get_job_status(submission_id).is_terminal())

    def log(self, submission_id: str) -> str:
        """Return what a job has printed.

        Raises:
            TrainingError: see `__init__`.
        """
        with _errors_of(self.address):
            return str(self._client.get_job_logs(submission_id))

    def stop(self, submission_id: str) -> None:
        """Stop a job.

        Raises:
            TrainingError: see `__init__`.
        """
        with _errors_of(self.address):
            self._client.stop_job(submission_id)

    def delete(self, submission_id: str) -> None:
        """Delete a job that has ended from the cluster's list.

        Raises:
            TrainingError: see `__init__`.
        """
        with _errors_of(self.address):
            self._client.delete_job(submission_id)

    def submit(
        self, entrypoint: str, submission_id: str, runtime_env: dict[str, Any], metadata: dict[str, str]
    ) -> None:
        """Submit a shell command; a `working_dir` is packed and sent.

        Raises:
            TrainingError: if the cluster refuses it, or the folder cannot be sent.
        """
        with _errors_of(self.address):
            self._client.submit_job(
                entrypoint=entrypoint,
                submission_id=submission_id,
                runtime_env=runtime_env,
                metadata=metadata,
            )

    def print_log(self, submission_id: str, write: Callable[[str], object]) -> JobResult:
        """Write a job's log from its beginning until the job ends; return how it ended.

        A connection that is lost is made again.

        Raises:
            TrainingError: if the cluster has not answered for two minutes.
        """
        return asyncio.run(self._print_log(submission_id, write))

    async def _print_log(self, submission_id: str, write: Callable[[str], object]) -> JobResult:
        written, answered_at = 0, time.monotonic()
        while True:
            try:
                written = await self._print_more(submission_id, write, written)
                result = self.find(submission_id)
            except TrainingError:
                if time.monotonic() - answered_at > _LOST_S:
                    raise
            else:
                answered_at = time.monotonic()
                if result is None:
                    raise TrainingError(f"{self.address}: has no job {submission_id!r} any more")
                if JobStatus(result.status).is_terminal():
                    return result
            await asyncio.sleep(_RETRY_S)

    async def _print_more(self, submission_id: str, write: Callable[[str], object], written: int) -> int:
        """Write the log after its first `written` characters until it ends or is quiet; return its length."""
        passed = 0
        texts = self._client.tail_job_logs(submission_id)
        with _errors_of(self.address):
            while True:
                try:
                    text = await asyncio.wait_for(anext(texts), _QUIET_S)
                except (TimeoutError, StopAsyncIteration):
                    return max(written, passed)
                if passed + len(text) > written:
                    write(text[max(0, written - passed) :])
                passed += len(text)
                written = max(written, passed)


def for_shell(words: Sequence[str]) -> str:
    """Return words as a command of the head's shell, to which a leading ~/ is left: its home is meant."""
    return " ".join(
        f"~/{shlex.quote(word[2:])}" if word.startswith("~/") else shlex.quote(word) for word in words
    )


def runtime_env(file: str, working_dir: str) -> dict[str, Any]:
    """Return the runtime environment of a job; a stopped one gets 60 seconds for its checkpoint.

    Args:
        file: YAML file with a runtime environment to use instead of the default one; empty: none.
        working_dir: folder to send with the job; empty: none, or the file's.

    Raises:
        BadInput: if the file cannot be used.
    """
    if file and not Path(file).is_file():
        raise BadInput("--runtime-env", file, "is no file; name a YAML file")
    try:
        given = parse_runtime_env_args(runtime_env=file or None, working_dir=working_dir or None)
        env_vars = {**_GRACE, **given.get("env_vars", {})}
        RuntimeEnv(env_vars=env_vars)  # raises TypeError unless all are texts
        _check_fields({**given, "env_vars": env_vars})
    except (AttributeError, TypeError):
        remedy = "cannot be read (it must hold fields, of which env_vars names texts, in quotes if numbers)"
        raise BadInput("--runtime-env", file, remedy) from None
    except Exception as error:  # a YAML file may hold anything, and its reader raise anything
        raise BadInput("--runtime-env", file, f"cannot be read ({one_line(str(error), 200)})") from error
    default = {"excludes": _EXCLUDES} if working_dir and not file else {}
    return {**default, **given, "env_vars": env_vars}


def _check_fields(environment: dict[str, Any]) -> None:
    """Raise ValueError with Ray's words for a field of a wrong type, before a job is submitted."""
    try:
        RuntimeEnv(**environment)
    except TypeError as error:
        raise ValueError(str(error)) from None


def _headers() -> dict[str, str] | None:
    """Return the headers that a proxy before the cluster may need, from the variable that Ray uses."""
    text = os.environ.get("RAY_JOB_HEADERS", "null")
    with suppress(ValueError, RecursionError):
        headers = json.loads(text)
        if headers is None or isinstance(headers, dict):
            return headers
    raise BadInput("RAY_JOB_HEADERS", "...", "must be a JSON object of headers")  # it may be a secret


@contextmanager
def _without_addresses() -> Iterator[None]:
    """Unset the variables that Ray's client prefers to the address it is given."""
    kept = {name: os.environ.pop(name) for name in ADDRESS_VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


class _NotFound(TrainingError):
    """The cluster knows no such job."""


@contextmanager
def _errors_of(address: str) -> Iterator[None]:
    """Raise every error of Ray's client as a TrainingError of one line."""
    try:
        yield
    except AuthenticationError as error:
        reason, _, _ = _first_words(error).partition(". ")
        raise TrainingError(f"{address}: {reason}; {TOKEN_NEEDED}") from None
    except ConnectionError:
        remedy = "start the cluster, or give the URL of its dashboard with --address"
        raise TrainingError(f"{address}: no connection; {remedy}") from None
    except Exception as error:  # Ray, requests and aiohttp raise many types
        if "status code 404" in str(error):
            raise _NotFound(_first_words(error)) from None
        raise TrainingError(f"{address}: {_first_words(error)}") from error


def _first_words(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return one_line(lines[0].rstrip("."), 300)
