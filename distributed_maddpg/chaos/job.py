"""A training job as a child process, observed through its files and processes."""

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
    """One training job in its run folder, which can be restarted.

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
        self.started_at = 0.0
        """Start of the present incarnation, in seconds since 1970."""
        self.resumed_from = 0
        """Environment steps of the checkpoint that the present incarnation resumed from; -1: unknown yet."""
        self.slowest_end_s = 0.0
        """Longest time from the end of a driver to the end of the last process of its incarnation."""
        self.leftover = 0
        """Processes that had to be killed because they outlived their driver by the grace period."""
        self._ended: dict[int, float] = {}
        self._gone: set[int] = set()
        self._counts: list[Counts] = [Counts()]
        self._polled_env_steps, self._progress_at = 0, time.monotonic()

    # Incarnations

    def start(self) -> None:
        """Start the job, or restart it from its newest checkpoint, as a restart policy would."""
        command = [sys.executable, "-m", "distributed_maddpg", "train", "--json", *self._options]
        command += ["--run-dir", str(self.run_dir), "--resume", "auto"]
        env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        self.run_dir.parent.mkdir(parents=True, exist_ok=True)
        number = len(self.incarnations)
        with self._file(number, "log").open("wb") as log, self._file(number, "out").open("wb") as out:
            incarnation = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=log, env=env, start_new_session=True
            )
        self.incarnations.append(incarnation)
        self._counts.append(Counts())
        self.resumed_from = self._polled_env_steps = -1
        self.started_at, self._progress_at = time.time(), time.monotonic()

    @property
    def exit_code(self) -> int | None:
        """Exit code of the present incarnation; None while it runs."""
        return self.incarnations[-1].poll()

    @property
    def seconds_since_progress(self) -> float:
        """Seconds since a poll last found progress."""
        return time.monotonic() - self._progress_at

    def poll(self) -> None:
        """Read what the job has reported, and check the incarnations that have ended."""
        self.poll_ended()
        self.rows()
        if self.counts.env_steps != self._polled_env_steps:
            self._polled_env_steps, self._progress_at = self.counts.env_steps, time.monotonic()

    def signal(self, number: int) -> None:
        """Signal the driver alone."""
        self.incarnations[-1].send_signal(number)

    def wait(self, within_s: float) -> int | None:
        """Wait for the driver to end; return its exit code, or None after the timeout."""
        with suppress(subprocess.TimeoutExpired):
            return self.incarnations[-1].wait(within_s)
        return None

    def mark_ended(self) -> None:
        """Begin to measure how long the processes of the present incarnation outlive its driver."""
        self._ended[self.incarnations[-1].pid] = time.monotonic()

    def poll_ended(self) -> None:
        """Check the incarnations that have ended, whose processes must end with them."""
        for session, since in list(self._ended.items()):
            outlived_s = time.monotonic() - since
            if not session_processes(session):
                self._gone.add(session)
            elif outlived_s > _EXIT_GRACE_S:
                self.leftover += _kill(session)
            else:
                continue
            self.slowest_end_s = max(self.slowest_end_s, outlived_s)
            del self._ended[session]

    def finish(self) -> None:
        """Wait until the processes of all incarnations are gone, and count those that had to be killed."""
        if self.incarnations and self.exit_code is not None and self.incarnations[-1].pid not in self._ended:
            self.mark_ended()
        while self._ended:
            self.poll_ended()
            time.sleep(_POLL_S)

    def kill(self) -> None:
        """Kill all processes of all incarnations."""
        for incarnation in self.incarnations:
            if incarnation.pid not in self._gone:
                _kill(incarnation.pid)
            with suppress(subprocess.TimeoutExpired):
                incarnation.wait(_EXIT_GRACE_S)

    def processes(self) -> list[psutil.Process]:
        """Return the processes of the present incarnation except its driver."""
        leader = self.incarnations[-1].pid
        return [process for process in session_processes(leader) if process.pid != leader]

    # What it wrote

    def log(self, incarnation: int = -1) -> str:
        """Return the stderr of one incarnation."""
        index = len(self.incarnations) - 1 if incarnation == -1 else incarnation
        return self._file(index, "log").read_text(encoding="utf-8", errors="replace")

    def last_line(self) -> str:
        """Return the last line of the present incarnation's stderr."""
        return (self.log().strip().splitlines() or ["no message"])[-1]

    def rows(self) -> list[Row]:
        """Return the rows of metrics of the present incarnation and of the run it resumed."""
        log = self.log()
        if not is_training(log):
            return []  # the table is still as the previous incarnation left it
        if self.resumed_from < 0:
            self.resumed_from = resumed_from(log)
        rows = read_table(self.run_dir / "metrics.csv")
        if rows and env_steps_of(rows[-1]) > self.resumed_from:
            self._counts[-1] = counts(rows)
        return rows

    @property
    def has_new_row(self) -> bool:
        """Whether the present incarnation has reported anything."""
        rows = self.rows()
        return bool(rows) and env_steps_of(rows[-1]) > self.resumed_from

    @property
    def counts(self) -> Counts:
        """The newest counts; the losses to dead processes are summed over all incarnations."""
        newest, every = self._counts[-1], self._counts
        env_steps_lost = sum(each.env_steps_lost for each in every)
        return Counts(newest.env_steps, newest.updates, env_steps_lost, sum(c.updates_lost for c in every))

    def events(self) -> list[dict[str, Any]]:
        """Return the fault-tolerance events of all incarnations."""
        with suppress(FileNotFoundError):
            lines = (self.run_dir / "events.jsonl").read_text(encoding="utf-8").split("\n")
            return [json.loads(line) for line in lines[:-1] if line]
        return []

    def evaluations(self) -> list[dict[str, float]]:
        """Return the rows of `returns.csv` as numbers, the final evaluation last."""
        rows = read_table(self.run_dir / "returns.csv")
        return [{name: float(value) for name, value in row.items() if value} for row in rows]

    def summary(self) -> dict[str, Any]:
        """Return what the last incarnation wrote when it ended; empty if it wrote nothing."""
        with suppress(OSError, ValueError):
            values = json.loads((self.run_dir / "summary.json").read_text(encoding="utf-8"))
            return values if isinstance(values, dict) else {}
        return {}

    # Checkpoints

    def checkpoints(self) -> dict[int, Path]:
        """Return the checkpoints that exist, by their steps."""
        try:
            paths = [Path(path) for path in checkpoints_of(self.run_dir / "checkpoints")]
        except CheckpointError:
            return {}
        return {int(path.name.removeprefix("step_")): path for path in paths}

    def saved_steps(self) -> list[int]:
        """Return the steps of all checkpoints that were reported as saved."""
        return [steps for index in range(len(self.incarnations)) for steps in saved_steps(self.log(index))]

    def num_broken(self) -> int:
        """Return how many checkpoints an incarnation found damaged when it tried to resume from them."""
        return len(list((self.run_dir / "checkpoints").glob("*.broken.*")))

    def block_checkpoints(self) -> None:
        """Let no checkpoint be written: a file takes the folder's place, since root ignores permissions."""
        folder = self.run_dir / "checkpoints"
        folder.rename(self.run_dir / _BLOCKED_FOLDER)
        folder.touch()

    def unblock_checkpoints(self) -> None:
        """Undo `block_checkpoints`, if it was called."""
        blocked, folder = self.run_dir / _BLOCKED_FOLDER, self.run_dir / "checkpoints"
        if blocked.exists():
            folder.unlink()
            blocked.rename(folder)

    def _file(self, incarnation: int, kind: str) -> Path:
        number = f".{incarnation}" if incarnation else ""
        return self.run_dir.with_name(f"{self.run_dir.name}{number}.{kind}")


def read_table(path: Path) -> list[Row]:
    """Return the complete lines of a CSV file as dicts; none if it does not exist."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])))


def _kill(session: int) -> int:
    """Kill the remaining processes of a session; return how many there were."""
    left = session_processes(session)
    for process in left:
        with suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs(left, timeout=_KILL_TIMEOUT_S)
    return len(left)
