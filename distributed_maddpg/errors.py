"""The errors a user can cause or meet, each of which becomes one line and an exit code (floor F0)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BadInput(ValueError):
    """A setting, argument or environment cannot be used; ends a command with exit code 2."""

    def __init__(self, field: str, value: object, remedy: str) -> None:
        """Build the one line a user sees from the field's name, its value and what to do about it."""
        super().__init__(f"{field} = {value!r}: {remedy}")
        self.field = field


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read; ends a command with exit code 3."""


class TrainingError(RuntimeError):
    """A stage of a run failed or stopped answering; ends a command with exit code 1."""


class StageError(TrainingError):
    """A stage's own code raised; its process lives on."""


class Diverged(TrainingError):
    """Numbers stopped being finite where that cannot be mended; the weights are those from before."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the nearest of `known` as a suggestion, or the whole list where nothing is near."""
    names = sorted(known)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(names)}"
