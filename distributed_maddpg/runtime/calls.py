"""Waiting for another process: one deadline, and one line that names who failed (floor F4)."""

from __future__ import annotations

from typing import TypeVar

import ray

from distributed_maddpg.errors import StageError, TrainingError

T = TypeVar("T")

_LONGEST_MESSAGE = 500


def ask(who: str, call: ray.ObjectRef[T], timeout_s: float) -> T:
    """Return the answer to a call.

    Raises:
        TrainingError: naming `who`, if it failed, died, or did not answer in time; or naming the process that
            `who` itself was waiting for.
    """
    try:
        return ray.get(call, timeout=timeout_s)
    except ray.exceptions.GetTimeoutError:
        raise overdue(who, timeout_s) from None
    except ray.exceptions.RayTaskError as error:
        cause = _innermost(error)
        if isinstance(cause, TrainingError):
            raise TrainingError(str(cause)) from error
        raise StageError(f"{who} failed: {_one_line(f'{type(cause).__name__}: {cause}')}") from error
    except ray.exceptions.RayError as error:
        raise TrainingError(f"{who} died: {_reason(error)}") from error


def overdue(who: str, timeout_s: float) -> TrainingError:
    """Return the error that says `who` was silent for too long."""
    return TrainingError(f"{who} did not answer within ray.timeout_s = {timeout_s:g} s")


def _innermost(error: ray.exceptions.RayTaskError) -> BaseException:
    """Return what was raised at first; it may have crossed several processes."""
    cause: BaseException = error
    while isinstance(cause, ray.exceptions.RayTaskError) and cause.cause is not None:
        cause = cause.cause
    return cause


def _reason(error: ray.exceptions.RayError) -> str:
    """Return why a process died: its constructor's error, or Ray's words without the table of ids."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if "creation task" in lines[0]:
        return _one_line(lines[-1].removeprefix("distributed_maddpg.errors."))
    return _one_line(" ".join(line for line in lines if not line.startswith("\t")))


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_MESSAGE else line[:_LONGEST_MESSAGE] + " ..."
