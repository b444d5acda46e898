"""A training job as a child process, and what can be read of it from outside."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from distributed_maddpg.chaos.faults import session_processes
from distributed_maddpg.chaos.recovery import (
    Counts,
    Row,
    counts,
    env_steps_of,
    is_training,
    resumed_from,
    saved_steps,
)
from distributed_maddpg.checkpoint.listing import checkpoints_of
from distributed_maddpg.errors import CheckpointError

_BLOCKED_FOLDER = "checkpoints.aside"
_EXIT_GRACE_S = 10.0
_KILL_TIMEOUT_S = 3.0
_POLL_S = 0.05


class Job:
    """One training job in its run folder, through as many incarnations as it takes.

    Each incarnation leads a session of its own, by which all its processes are found, whatever their parent.
    """

    def __init__(self, run_dir: Path, options: Sequence[str]) -> None:
        """Prepare a job; the stderr of each incarnation goes to a file of its own, `<run_dir>[.<n>].log`.

        Args:
            run_dir: its run folder.
            options: of `distributed-maddpg train`.
        """
        self.run_dir, self._options = run_dir, list(options)
        self.incarnations: list[subprocess.Popen[bytes]] = []
        self.resumed_from = 0
        """Environment steps of the checkpoint that the present incarnation went on from."""
        self.slowest_end_s = 0.0
        """How long the last process of an incarnation that has ended was there after its driver."""
        self.leftover = 0
        """Processes that outlived their incarnation for good, and had to be killed."""
        self._ended: dict[int, float] = {}
        self._gone: set[int] = set()
        self._seen = Counts()
        self._before = Counts()

    # Lives

    def start(self) -> None:
        """Start the job, or start it again where its newest checkpoint is, as a restart policy would."""
        self._before = self._total_lost()
        self._seen = Counts()
        command = [sys.executable, "-m", "distributed_maddpg", "train", "--json", *self._options]
        command += ["--run-dir", str(self.run_dir), "--resume", "auto"]
        env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        self.run_dir.parent.mkdir(parents=True, exist_ok=True)
        stdout = self._file(len(self.incarnations), "out")
        with self._file(len(self.incarnations), "log").open("wb") as log, stdout.open("wb") as out:
            incarnation = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=log, env=env, start_new_session=True
            )
        self.incarnations.append(incarnation)
        self.resumed_from = -1

    @property
    def exit_code(self) -> int | None:
        """Exit code of the present incarnation; None while it runs."""
        return self.incarnations[-1].poll()

    def signal(self, number: int) -> None:
        """Signal the driver alone."""
        self.incarnations[-1].send_signal(number)

    def wait(self, within_s: float) -> int | None:
        """Wait for the driver's end; return its exit code, or None if it did not come in time."""
        with suppress(subprocess.TimeoutExpired):
            return self.incarnations[-1].wait(within_s)
        return None

    def mark_ended(self) -> None:
        """Begin to watch how long the processes of the present incarnation outlive its driver."""
        self._ended[self.incarnations[-1].pid] = time.monotonic()

    def poll_ended(self) -> None:
        """Look after incarnations that have ended, whose processes must end with them."""
        for session, since in list(self._ended.items()):
            if not session_processes(session):
                self.slowest_end_s = max(self.slowest_end_s, time.monotonic() - since)
                self._gone.add(session)
                del self._ended[session]
            elif time.monotonic() - since > _EXIT_GRACE_S:
                self.leftover += _kill(session)
                self.slowest_end_s = max(self.slowest_end_s, _EXIT_GRACE_S)
                del self._ended[session]

    def finish(self) -> None:
        """Wait for the processes of all incarnations to be gone, and count those that had to be killed."""
        if (
            self.incarnations
            and self.incarnations[-1].poll() is not None
            and self.incarnations[-1].pid not in self._ended
        ):
            self.mark_ended()
        while self._ended:
            self.poll_ended()
            time.sleep(_POLL_S)

    def kill(self) -> None:
        """End everything of it, now."""
        for incarnation in self.incarnations:
            if incarnation.pid not in self._gone:
                _kill(incarnation.pid)
            with suppress(subprocess.TimeoutExpired):
                incarnation.wait(_EXIT_GRACE_S)

    def processes(self) -> list[psutil.Process]:
        """Return the processes of the present incarnation but its driver."""
        leader = self.incarnations[-1].pid
        return [process for process in session_processes(leader) if process.pid != leader]

    # What it wrote

    def log(self, incarnation: int = -1) -> str:
        """Return what one incarnation said."""
        index = len(self.incarnations) - 1 if incarnation == -1 else incarnation
        return self._file(index, "log").read_text(encoding="utf-8", errors="replace")

    def rows(self) -> list[Row]:
        """Return the rows of metrics of the present incarnation and of what it went on from."""
        log = self.log()
        if not is_training(log):
            return []  # the table is still as the incarnation before left it
        if self.resumed_from < 0:
            self.resumed_from = resumed_from(log)
        rows = read_table(self.run_dir / "metrics.csv")
        if rows and env_steps_of(rows[-1]) > self.resumed_from:
            self._seen = counts(rows)
        return rows

    @property
    def has_new_row(self) -> bool:
        """Whether the present incarnation has reported anything."""
        rows = self.rows()
        return bool(rows) and env_steps_of(rows[-1]) > self.resumed_from

    @property
    def seen(self) -> Counts:
        """The newest counts; what was lost to dead processes is since the first incarnation began."""
        lost = self._total_lost()
        return Counts(self._seen.env_steps, self._seen.updates, lost.env_steps_lost, lost.updates_lost)

    def events(self) -> list[dict[str, Any]]:
        """Return all that went wrong or was mended, in all incarnations."""
        with suppress(FileNotFoundError):
            lines = (self.run_dir / "events.jsonl").read_text(encoding="utf-8").split("\n")
            return [json.loads(line) for line in lines[:-1] if line]
        return []

    def evaluations(self) -> list[dict[str, float]]:
        """Return the rows of `returns.csv` as numbers, the final evaluation last."""
        rows = read_table(self.run_dir / "returns.csv")
        return [{name: float(value) for name, value in row.items() if value} for row in rows]

    def summary(self) -> dict[str, Any]:
        """Return what the last incarnation wrote at its end; nothing if it did not come so far."""
        with suppress(OSError, ValueError):
            values = json.loads((self.run_dir / "summary.json").read_text(encoding="utf-8"))
            return values if isinstance(values, dict) else {}
        return {}

    # Checkpoints

    def checkpoints(self) -> dict[int, Path]:
        """Return the checkpoints that are there, by their steps."""
        try:
            paths = [Path(path) for path in checkpoints_of(self.run_dir / "checkpoints")]
        except CheckpointError:
            return {}
        return {int(path.name.removeprefix("step_")): path for path in paths}

    def saved_steps(self) -> list[int]:
        """Return the steps of all checkpoints that were reported as saved."""
        return [
            steps
            for incarnation in range(len(self.incarnations))
            for steps in saved_steps(self.log(incarnation))
        ]

    def num_broken(self) -> int:
        """Return how many checkpoints were found damaged by an incarnation that wanted to go on from them."""
        return len(list((self.run_dir / "checkpoints").glob("*.broken.*")))

    def block_checkpoints(self) -> None:
        """Let no checkpoint be written, by a file in the folder's place: permissions hold no root back."""
        folder = self.run_dir / "checkpoints"
        folder.rename(self.run_dir / _BLOCKED_FOLDER)
        folder.touch()

    def unblock_checkpoints(self) -> None:
        """Undo that, if it was done."""
        aside, folder = self.run_dir / _BLOCKED_FOLDER, self.run_dir / "checkpoints"
        if aside.exists():
            folder.unlink()
            aside.rename(folder)

    def _total_lost(self) -> Counts:
        """Return what was lost up to now, over all incarnations."""
        before, now = self._before, self._seen
        env_steps, updates = (
            before.env_steps_lost + now.env_steps_lost,
            before.updates_lost + now.updates_lost,
        )
        return Counts(env_steps_lost=env_steps, updates_lost=updates)

    def _file(self, incarnation: int, kind: str) -> Path:
        number = f".{incarnation}" if incarnation else ""
        return self.run_dir.with_name(f"{self.run_dir.name}{number}.{kind}")


def read_table(path: Path) -> list[Row]:
    """Return the whole lines of a CSV file as dicts; none if it is not there."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])))


def _kill(session: int) -> int:
    """Kill what is left of a session; return how many that were."""
    left = session_processes(session)
    for process in left:
        with suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs(left, timeout=_KILL_TIMEOUT_S)
    return len(left)
