"""Keeps the best checkpoint of a run beside the newest ones."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from distributed_maddpg.checkpoint.folder import Checkpoint, load_checkpoint
from distributed_maddpg.checkpoint.listing import best_checkpoints_of, remove_checkpoint, set_aside
from distributed_maddpg.checkpoint.manifest import Measured
from distributed_maddpg.checkpoint.saver import CheckpointSaver
from distributed_maddpg.errors import CheckpointError, one_line
from distributed_maddpg.run.goals import Ranking, scores_of


class BestKeeper:
    """Saves the policies of each evaluation that is the best so far, and deletes the checkpoint before it.

    An evaluation takes time, in which an asynchronous run trains on. So the checkpoint holds the policies
    that were evaluated, and nothing else: training resumes from the newest checkpoints.
    """

    def __init__(self, ranking: Ranking, folder: str, resumed: bool, note: Callable[[str], None]) -> None:
        """Find the best checkpoint of an earlier part of the run.

        Args:
            ranking: by which score.
            folder: of the run's checkpoints; a path or URL.
            resumed: whether the run goes on; a new run renames those that it finds.
            note: called with a line for display.
        """
        self._ranking, self._folder, self._note = ranking, folder, note
        self._saver = CheckpointSaver(0, note)
        self._waiting: Checkpoint | None = None
        """The best so far, until it is written."""
        self._writing: Checkpoint | None = None
        self._saved: Checkpoint | None = None
        if resumed:
            self._find()
        else:
            for path in best_checkpoints_of(folder):
                with suppress(OSError):
                    set_aside(path, "aside")

    def offer(self, evaluation: Mapping[str, Any], policies: Checkpoint) -> None:
        """Keep the policies if their evaluation is the best so far."""
        self._take_over()
        best = self._waiting.measured if self._waiting else self._saved and self._saved.measured
        score = scores_of(evaluation).get(self._ranking.name, math.nan)
        if self._ranking.is_better(score, best.value if best else None):
            measured = Measured(name=self._ranking.name, value=score)
            self._waiting = dataclasses.replace(policies, measured=measured)

    def advance(self) -> None:
        """Start to write what waits, in a thread, unless the last is still being written."""
        self._take_over()
        may_write = not self._saver.busy and (self._saver.retry_due or not self._saver.problem)
        if self._waiting and may_write:
            self._saver.start(self._unwritten())

    def finish(self) -> str:
        """Write what is not written yet; return why that failed, empty if it did not."""
        self._saver.finish(self._unwritten)
        self._take_over()
        return self._saver.problem

    @property
    def saved(self) -> dict[str, Any]:
        """The best checkpoint that is written: its path, its score, and the counts of training."""
        if self._saved is None or self._saved.measured is None:
            return {}
        counts = {"env_steps": self._saved.env_steps, "updates": self._saved.updates}
        return {"path": self._saved.path, **self._saved.measured.model_dump(), **counts}

    def _unwritten(self) -> list[tuple[str, Checkpoint]]:
        self._take_over()
        self._writing = self._waiting
        return [(self._folder, self._writing)] if self._writing else []

    def _take_over(self) -> None:
        """Once a checkpoint is written, delete the one before it."""
        written = self._writing
        if written is None or self._saver.busy:
            return
        self._saver.report()
        self._writing = None
        if self._saver.problem:
            return
        before = self._saved
        self._saved = dataclasses.replace(written, path=f"{self._folder.rstrip('/')}/{written.name}")
        if self._waiting is written:
            self._waiting = None
        if before and before.path != self._saved.path:
            self._remove(before.path)

    def _find(self) -> None:
        """Take over the best of the checkpoints that an earlier part of the run kept for the same score."""
        for path in map(str, best_checkpoints_of(self._folder)):
            try:
                found = load_checkpoint(path)
            except CheckpointError as error:
                self._note(f"skipped: {error}")
                continue
            if found.measured is None or found.measured.name != self._ranking.name:
                continue
            before, self._saved = self._saved, found
            if before is None or before.measured is None:
                continue
            # The run was killed before it could delete one of them.
            if not self._ranking.is_better(found.measured.value, before.measured.value):
                before, self._saved = found, before
            self._remove(before.path)

    def _remove(self, path: str) -> None:
        try:
            remove_checkpoint(path)
        except (OSError, RuntimeError, ValueError) as error:
            self._note(one_line(f"{path}: the best checkpoint before could not be deleted ({error})"))
