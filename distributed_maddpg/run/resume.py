"""Finds the checkpoints that a run resumes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from distributed_maddpg.checkpoint.folder import Checkpoint, load_checkpoint
from distributed_maddpg.checkpoint.listing import checkpoints_of, set_aside
from distributed_maddpg.errors import CheckpointError, CheckpointUnavailable

_Skipped = tuple[str | Path, CheckpointError]


def checkpoints_to_resume(
    folders: Sequence[str], auto: bool, note: Callable[[str], None]
) -> list[Checkpoint]:
    """Return the checkpoints to resume from, one for each run, all with the same number of steps.

    Args:
        folders: of each run's checkpoints; paths or URLs.
        auto: whether to rename a checkpoint that cannot be read and use the next older one; without any, the
            result is empty.
        note: called with a line for display.

    Raises:
        CheckpointError: without `auto`, if there is no checkpoint or the newest cannot be read; with `auto`,
            if none can be read and one of them may be intact, or if such a one cannot be renamed.
    """
    shared = _common_checkpoints(folders)
    if not auto:
        if not shared:
            raise CheckpointError(
                f"{', '.join(folders)}: holds no checkpoint to resume from; name a run folder"
            )
        return [_load(path) for path in shared[0]]
    skipped: list[_Skipped] = []
    for together in shared:
        loaded = [_load_or_skip(path, skipped) for path in together]
        found = [each for each in loaded if each is not None]
        if len(found) == len(together):
            _note_skipped(skipped, note)
            _set_aside(skipped)
            note(f"resuming from {', '.join(map(str, together))}")
            return found
    for _, problem in skipped:
        if isinstance(problem, CheckpointUnavailable):
            _note_skipped([each for each in skipped if each[1] is not problem], note)
            raise problem
    _note_skipped(skipped, note)
    _set_aside(skipped)
    # The other runs have no checkpoints with these steps; left here, they would count as the newest.
    for path in [path for folder in folders for path in checkpoints_of(folder)]:
        with suppress(OSError):
            set_aside(path, "aside")
            note(f"renamed, because the other runs have no checkpoint with these steps: {path}")
    note(f"{', '.join(folders)} holds no checkpoint that can be read: starting a new run")
    return []


def _common_checkpoints(folders: Sequence[str]) -> list[list[str | Path]]:
    """Return the checkpoints of all runs for each number of steps that every folder has, newest first."""
    paths = [{Path(str(path)).name: path for path in checkpoints_of(folder)} for folder in folders]
    names = sorted(set.intersection(*map(set, paths)), key=lambda name: (len(name), name), reverse=True)
    return [[own[name] for own in paths] for name in names]


def _load(path: str | Path) -> Checkpoint:
    checkpoint = load_checkpoint(path)
    checkpoint.check_resumable()
    return checkpoint


def _load_or_skip(path: str | Path, skipped: list[_Skipped]) -> Checkpoint | None:
    try:
        return _load(path)
    except CheckpointError as error:
        skipped.append((path, error))
        return None


def _note_skipped(skipped: Sequence[_Skipped], note: Callable[[str], None]) -> None:
    for _, problem in skipped:
        note(f"skipped: {problem}")


def _set_aside(skipped: Sequence[_Skipped]) -> None:
    """Rename checkpoints, so that new ones do not replace them.

    Raises:
        CheckpointError: if one that may be intact cannot be renamed.
    """
    for path, error in skipped:
        may_be_intact = isinstance(error, CheckpointUnavailable)
        try:
            set_aside(path, "aside" if may_be_intact else "broken")
        except OSError:
            if may_be_intact:
                raise error from None
