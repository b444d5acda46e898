"""Errors that a user can see, with messages of one line, and the exit codes of commands that they end."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

_MAX_NAME_CHARS, _MAX_VALUE_CHARS, _MAX_LINE_CHARS = 200, 300, 1_200
_PLACE = re.compile(r", in copy \d+ (?:when it was reset|at step \d+ of its episode)")


class BadInput(ValueError):
    """A setting, argument or environment cannot be used; ends a command with exit code 2."""

    def __init__(self, field: str, value: object, remedy: str) -> None:
        """Build the message, one line, from the field's name, its value and the remedy."""
        name, shown = one_line(field, _MAX_NAME_CHARS), one_line(_repr(value), _MAX_VALUE_CHARS)
        super().__init__(f"{name} = {shown}: {one_line(remedy)}")
        self.field = field

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep the message when Ray sends the error; calling the class would build another from it."""
        return BadInput.__new__, (BadInput, *self.args), vars(self)


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read; ends a command with exit code 3."""

    def __init__(self, message: str) -> None:
        """Make the message one printable line; it may quote an untrusted file."""
        super().__init__(one_line(message))


class CheckpointUnavailable(CheckpointError):
    """A checkpoint may be complete, but cannot be read now, or not by this version of the package."""


class TrainingError(RuntimeError):
    """A stage of a run failed or timed out; ends a command with exit code 1."""


class StageError(TrainingError):
    """A stage's own code raised an error; its process is still running."""


class NotReproducible(ValueError):
    """An environment behaves differently with the same seed, so that its state cannot be restored."""


class EnvironmentFailed(RuntimeError):
    """An environment's own code raised an error; the message ends with the copy and the step."""

    @staticmethod
    def at(error: Exception, copy: int, step: int) -> EnvironmentFailed:
        """Return the error for what a copy raised; step 0 is its reset."""
        place = f"at step {step} of its episode" if step else "when it was reset"
        return EnvironmentFailed(f"{reason(error)}, in copy {copy} {place}")


class Diverged(TrainingError):
    """Training diverged to numbers that are not finite; the weights are those before the failed call."""


def one_line(text: str, max_chars: int = _MAX_LINE_CHARS) -> str:
    """Return `text` with control characters escaped, and without its middle beyond `max_chars`."""
    short = _without_middle(text, max_chars)
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in short)
    return _without_middle("".join(shown), max_chars)


def _without_middle(text: str, max_chars: int) -> str:
    half = (max_chars - 5) // 2
    return text if len(text) <= max_chars else f"{text[:half]} ... {text[-half:]}"


def _repr(value: object) -> str:
    try:
        return repr(value)
    except (ValueError, RecursionError):  # Python does not print integers of more than 4300 digits
        return f"<{type(value).__name__}>"


def without_place(line: str) -> str:
    """Return a line about a failed environment without the copy and the step, which differ each time."""
    return _PLACE.sub("", line)


def reason(error: BaseException) -> str:
    """Return type and message of an error that somebody else's code raised, in one line."""
    if isinstance(error, EnvironmentFailed):  # its message begins with the type of the original
        return str(error)
    try:
        text = str(error)
    except Exception as own:  # noqa: BLE001 - the message is somebody else's code as well
        text = f"its message raises {type(own).__name__}"
    return " ".join(f"{type(error).__name__}: {text}".split())


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggest the most similar of the `known` names, or list them all if none is similar."""
    names = sorted(known)
    nearest = difflib.get_close_matches(name[:_MAX_NAME_CHARS], names, n=1, cutoff=0.5)
    return f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(names)}"


def must_be_one_of(value: object, choices: Iterable[object]) -> str:
    """Return the remedy for a value that is none of a few: all of them, and the most similar one."""
    known = [str(choice) for choice in choices]
    nearest = difflib.get_close_matches(str(value)[:_MAX_NAME_CHARS], known, n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"must be one of {', '.join(known)}{hint}"
