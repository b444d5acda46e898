"""Waits for remote calls with a timeout; errors are one line that names the failed process."""

from __future__ import annotations

import re
from typing import TypeVar

import ray

from distributed_maddpg.errors import Diverged, StageError, TrainingError, one_line, reason

T = TypeVar("T")

_MAX_MESSAGE_CHARS = 500
_OUR_PREFIX = re.compile(r"^distributed_maddpg\.errors\.(EnvironmentFailed: )?")


class ProcessLost(TrainingError):
    """A process died, or did not answer in time."""


class PeerLost(TrainingError):
    """A process is running, but another one that it called died or did not answer in time."""


def wait_for_result(process: str, call: ray.ObjectRef[T], timeout_s: float) -> T:
    """Return the result of a call.

    Raises:
        ProcessLost: naming `process`, if it died or did not answer in time.
        PeerLost: naming the process that `process` itself was waiting for.
        Diverged, TrainingError: as the process raised them.
        StageError: if the process raised anything else.
    """
    try:
        return ray.get(call, timeout=timeout_s)
    except ray.exceptions.GetTimeoutError:
        raise timeout_error(process, timeout_s) from None
    except ray.exceptions.RayTaskError as error:
        cause = _root_cause(error)
        if isinstance(cause, ProcessLost | PeerLost):
            raise PeerLost(str(cause)) from error
        if isinstance(cause, TrainingError):
            raise _without_ray_type(cause) from error
        raise StageError(f"{process} failed: {_shortened(reason(cause))}") from error
    except ray.exceptions.ActorDiedError as error:
        kind = StageError if error.actor_init_failed else ProcessLost
        raise kind(f"{process} died: {_reason(error)}") from error
    except ray.exceptions.RayError as error:
        raise ProcessLost(f"{process} died: {_reason(error)}") from error


def timeout_error(process: str, timeout_s: float) -> ProcessLost:
    """Return the error for a process that did not answer in time."""
    return ProcessLost(f"{process} did not answer within {timeout_s:g} s")


def _without_ray_type(cause: TrainingError) -> TrainingError:
    """Return an error of our own type: Ray raises a subclass of both its own and ours."""
    return Diverged(str(cause)) if isinstance(cause, Diverged) else TrainingError(str(cause))


def _root_cause(error: ray.exceptions.RayTaskError) -> BaseException:
    """Return the original error, which may have crossed several processes."""
    cause: BaseException = error
    while isinstance(cause, ray.exceptions.RayTaskError) and cause.cause is not None:
        cause = cause.cause
    return cause


def _reason(error: ray.exceptions.RayError) -> str:
    """Return why a process died: its constructor's error, or Ray's message without the table of ids."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if "creation task" in lines[0]:
        return _shortened(_OUR_PREFIX.sub("", lines[-1]))
    text = " ".join(line for line in lines if not line.startswith("\t"))
    if "connection error code 2" in text:  # the rest of Ray's long message holds no cause
        return "its process was killed, or crashed"
    return _shortened(text)


def _shortened(text: str) -> str:
    return one_line(" ".join(text.split()), _MAX_MESSAGE_CHARS)
