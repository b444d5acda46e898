"""Writes checkpoints in a thread, so that learning does not wait for the disk."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from distributed_maddpg.checkpoint.folder import Checkpoint, save_checkpoint
from distributed_maddpg.checkpoint.listing import remove_old
from distributed_maddpg.errors import BadInput, one_line
from distributed_maddpg.types import FloatArray, StoredTransitions

_MAX_WRITE_S = 600.0
_RETRY_S = 10.0


@dataclass(frozen=True)
class SavingOptions:
    """Where the checkpoints of a run are saved, and what they hold."""

    folder: str = ""
    """Local folder, or a URL such as "s3://bucket/run"; empty: `checkpoints` in the run's folder."""
    replay: bool = True
    """Whether they hold the stored transitions, so that a resumed run continues exactly."""
    keep: int = 3
    """How many of the newest are kept; 0 for all."""
    keep_best: str = ""
    """By which score the best one is kept beside them, such as "success.agents"; empty: none is."""

    def __post_init__(self) -> None:
        """Check the options."""
        if self.keep < 0:
            raise BadInput("--keep-checkpoints", self.keep, "must be zero (all) or a positive number")


class CheckpointSaver:
    """Writes the checkpoints of one run, or of several trained together, in a thread."""

    def __init__(self, keep: int, note: Callable[[str], None]) -> None:
        """Create the saver; it starts no thread yet.

        Args:
            keep: how many of the newest checkpoints to keep; 0 for all.
            note: called with a line for each checkpoint that was saved, and for each failure.
        """
        self._keep, self._note = keep, note
        self._thread: threading.Thread | None = None
        self._lines: list[str] = []
        self._failed_at: float | None = None
        self.problem = ""
        """Why the latest attempt failed; empty if it succeeded."""
        self.slowest_s = 0.0
        """Seconds that the slowest attempt took so far."""

    def start(self, checkpoints: Sequence[tuple[str, Checkpoint]]) -> None:
        """Start writing (folder, checkpoint) pairs; only if not `busy`."""
        self._thread = threading.Thread(target=self._write, args=(checkpoints,), daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether the latest checkpoints are still being written."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def retry_due(self) -> bool:
        """Whether the latest attempt failed, at least 10 s ago."""
        return self._failed_at is not None and time.monotonic() - self._failed_at > _RETRY_S

    def report(self) -> None:
        """Call `note` for what was written or failed since the last call; for the main thread."""
        while self._lines:
            self._note(self._lines.pop(0))

    def finish(self, capture: Callable[[], Sequence[tuple[str, Checkpoint]]]) -> None:
        """Write the final checkpoints, and wait; those that fail are tried again without transitions.

        If that succeeds, `problem` still names the first failure, and no older checkpoint is deleted.

        Args:
            capture: returns them; called after the previous ones are written and their rows have been read.
        """
        self._wait()
        missing = self._write(capture())
        if any(checkpoint.replay for _, checkpoint in missing):
            problem = self.problem
            smaller = [(folder, dataclasses.replace(each, replay=None)) for folder, each in missing]
            if not self._write(smaller, keep_all=True):
                self.problem = f"{problem}; it was saved without its transitions"
        self.report()

    def _wait(self) -> None:
        if self._thread is not None:
            self._thread.join(_MAX_WRITE_S)

    def _write(
        self, checkpoints: Sequence[tuple[str, Checkpoint]], keep_all: bool = False
    ) -> list[tuple[str, Checkpoint]]:
        """Write checkpoints; return those that failed. If none did, delete old ones."""
        missing, problem, began = [], "", time.monotonic()
        for folder, checkpoint in checkpoints:
            path = f"{folder.rstrip('/')}/{checkpoint.name}"
            started = time.monotonic()
            counted = _SizeCounter(checkpoint)
            try:
                save_checkpoint(path, counted.checkpoint)
            except (OSError, RuntimeError, ValueError, MemoryError) as error:
                missing.append((folder, checkpoint))
                problem = one_line(f"{path} was not saved ({error})")
                self._lines.append(problem)
                continue
            seconds = time.monotonic() - started
            self._lines.append(f"saved {path} ({counted.size_bytes / 1e6:,.1f} MB in {seconds:.1f} s)")
        for folder, _ in [] if missing or keep_all else checkpoints:
            self._remove_old(folder)
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)
        self._failed_at, self.problem = (time.monotonic() if problem else None), problem
        return missing

    def _remove_old(self, folder: str) -> None:
        """Delete the checkpoints beyond those to keep; a failure is noted and does not count as a problem."""
        try:
            if self._keep:
                remove_old(folder, self._keep)
        except (OSError, RuntimeError, ValueError) as error:
            self._lines.append(one_line(f"{folder}: older checkpoints could not be deleted ({error})"))


class _SizeCounter:
    """Counts the bytes of a checkpoint as they are written."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.size_bytes = sum(array.nbytes for array in checkpoint.state.values())
        self.checkpoint = checkpoint
        if checkpoint.replay is not None:
            stored = checkpoint.replay
            counted = StoredTransitions(stored.inserted, stored.num_rows, self._count(stored.chunks))
            self.checkpoint = dataclasses.replace(checkpoint, replay=counted)

    def _count(self, chunks: Iterator[FloatArray]) -> Iterator[FloatArray]:
        for rows in chunks:
            self.size_bytes += rows.nbytes
            yield rows
