"""Runs of the command that are killed at random moments, and what must be equal when they were resumed."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distributed_maddpg.checkpoint.folder import Checkpoint, load_checkpoint
from distributed_maddpg.types import FloatArray
from tests.support.processes import session_processes

ROOT = Path(__file__).resolve().parents[2]
SEED = int(os.environ["KILL_SEED"])
"""Of the moments; printed at the top of the tests, and given in the environment to have the same again."""
SMALL = (
    "--rollout.num-envs=16 --rollout.fragment-steps=4 --replay.capacity=1500 --learner.batch-size=64 "
    "--learner.device=cpu --pacing.learning-starts=500 --pacing.env-steps-per-update=20 "
    "--pacing.publish-interval-updates=3 --pacing.report-interval-env-steps=256 "
    "--pacing.evaluation-interval-env-steps=1000 --pacing.checkpoint-interval-env-steps=512 "
    "--evaluation.episodes=16 --evaluation.final-episodes=100"
).split()
GRACE_S = 30.0
_OVERLOADED, _MAX_STARTS = "timed out during startup", 3
"""What Ray says when its own processes were too slow; a machine may be busy with other things."""
_WALL_CLOCK = ("time", "timers", "per_s")
_CLOCKS = ("algorithm/time_total_s",)


class Job:
    """A command line with a run folder of its own, to be run again until it comes to its end."""

    def __init__(self, run_dir: Path, total: int, *options: str) -> None:
        self.run_dir, self.total, self.checkpoints = run_dir, total, run_dir / "checkpoints"
        self._words = [
            *(sys.executable, "-m", "distributed_maddpg", "train", *SMALL, *options),
            *(f"--pacing.total-env-steps={total}", "--resume", "auto", f"--run-dir={run_dir}"),
        ]
        self._attempts = 0

    def start(self) -> Attempt:
        self._attempts += 1
        return Attempt(self, self._words, self.run_dir.with_suffix(f".{self._attempts}.log"))

    def finish(self, within_s: float = 300) -> dict[str, Any]:
        """Run to the end; require that what was left by those before is cleared away; return the summary."""
        left = drafts(self.checkpoints)
        for _ in range(_MAX_STARTS):
            with self.start() as attempt:
                attempt.wait(lambda: "training " in attempt.text() or attempt.ended)
                assert not left & drafts(self.checkpoints), attempt.text()
                code = attempt.end(within_s)
            if not (code == 1 and _OVERLOADED in attempt.text()):
                break
        assert code == 0, attempt.text()
        assert "skipped" not in attempt.text(), attempt.text()  # a kill leaves no broken checkpoint
        assert not drafts(self.checkpoints)
        for path in self.checkpoints.iterdir():
            whole(path)
        return json.loads((self.run_dir / "summary.json").read_text())

    def newest(self) -> int:
        """Return the env steps of the newest checkpoint, or 0."""
        return max((int(path.name[5:]) for path in self.checkpoints.glob("step_*")), default=0)


class Attempt:
    """One process of a job, the leader of a session of its own."""

    def __init__(self, job: Job, words: Sequence[str], log: Path) -> None:
        self.job, self._log = job, log
        self._begun_at, self._drafts = job.newest(), drafts(job.checkpoints)
        self._summary = _changed(job.run_dir / "summary.json")
        self._started = time.monotonic()
        env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "500"}
        with log.open("w") as file:
            self.process = subprocess.Popen(
                words, cwd=ROOT, env=env, stdout=file, stderr=file, start_new_session=True
            )

    def __enter__(self) -> Attempt:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def text(self) -> str:
        return self._log.read_text()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def saved(self) -> int:
        """Return how many checkpoints this attempt has said to have saved."""
        return self.text().count("saved ")

    def saving(self) -> bool:
        """Return whether it is writing a checkpoint."""
        return bool(drafts(self.job.checkpoints) - self._drafts)

    def finishing(self) -> bool:
        """Return whether the last checkpoint is there."""
        return self.job.newest() >= self.job.total and self.saved() > 0

    def summarised(self) -> bool:
        return _changed(self.job.run_dir / "summary.json") != self._summary

    def wait(self, condition: Callable[[], bool], every_s: float = 0.01, within_s: float = 300) -> None:
        """Wait for a condition or the end of the process."""
        while not condition() and not self.ended:
            assert self.seconds < within_s, self.text()
            time.sleep(every_s)

    def end(self, within_s: float) -> int:
        """Wait for the end; require that no process outlives it."""
        code = self.process.wait(within_s)
        deadline = time.monotonic() + 60
        while (left := session_processes(self.process.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left
        return code

    def kill(self) -> None:
        """End everything without a warning, the driver first."""
        self.process.kill()
        while left := session_processes(self.process.pid):
            for process in left:
                try:
                    os.kill(process, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.005)
        self.process.wait()

    def phase(self) -> str:
        """Say from what the process left where it was when it was ended."""
        job = self.job
        if drafts(job.checkpoints) - self._drafts:
            return "writing a checkpoint"
        if self.summarised():
            return "after the end"
        if self.finishing():
            return "final evaluation"
        if "training " not in self.text():
            return "importing"
        rows = table(job.run_dir / "metrics.csv")
        if not rows or int(rows[-1]["num_env_steps_sampled_lifetime"]) <= self._begun_at:
            return "starting up"
        return "training" if job.newest() else "before the first checkpoint"


@dataclass(frozen=True)
class Reference:
    """A run that nobody disturbed, and how long its parts took."""

    job: Job
    summary: dict[str, Any]
    training_s: float
    """Until the first checkpoint was saved."""
    finishing_s: float
    """Until the last was."""
    seconds: float

    @staticmethod
    def of(job: Job) -> Reference:
        with job.start() as attempt:
            attempt.wait(lambda: attempt.saved() > 0)
            training_s = attempt.seconds
            attempt.wait(attempt.finishing)
            finishing_s = attempt.seconds
            assert attempt.end(300) == 0, attempt.text()
        summary = json.loads((job.run_dir / "summary.json").read_text())
        assert len(drafts(job.checkpoints)) == 0
        return Reference(job, summary, training_s, finishing_s, attempt.seconds)

    def await_moment(self, attempt: Attempt, moments: random.Random, only_running: bool = False) -> None:
        """Wait until a random moment of an attempt; `only_running` when training surely has begun."""
        kinds = {"start": 2, "write": 4, "train": 3, "final": 3, "end": 1}
        weights = {**kinds, "start": 0, "end": 0} if only_running else kinds
        [kind] = moments.choices(list(weights), list(weights.values()))
        training_s, after = self.finishing_s - self.training_s, moments.random()
        if kind == "start":
            delay = after * self.training_s
        elif kind == "write":
            count = moments.randrange(4)
            attempt.wait(lambda: attempt.saved() >= count)
            attempt.wait(attempt.saving, every_s=0.001)
            delay = after * 0.03
        elif kind == "train":
            attempt.wait(lambda: attempt.saved() > 0)
            delay = after * training_s
        elif kind == "final":
            attempt.wait(attempt.finishing)
            delay = after * (self.seconds - self.finishing_s)
        else:
            attempt.wait(attempt.summarised)
            delay = after * 0.3
        until = time.monotonic() + delay
        attempt.wait(lambda: time.monotonic() >= until, every_s=0.002)

    def require_equal(self, job: Job, summary: dict[str, Any]) -> None:
        """Require that a run which was ended and resumed left what this one did."""
        ours, theirs = self.job.run_dir, job.run_dir
        assert deterministic_rows(theirs) == deterministic_rows(ours)
        assert (theirs / "returns.csv").read_text() == (ours / "returns.csv").read_text()
        for key in ("finished", "interrupted", "env_steps", "updates", "weights_digest", "evaluation"):
            assert summary[key] == self.summary[key], key
        last = f"step_{summary['env_steps']}"
        (one, own_rows), (other, their_rows) = (whole(each.checkpoints / last) for each in (self.job, job))
        np.testing.assert_array_equal(own_rows, their_rows)
        assert one.state.keys() == other.state.keys()
        for name, array in one.state.items():
            if name not in _CLOCKS:
                np.testing.assert_array_equal(other.state[name], array, err_msg=name)


def whole(path: Path) -> tuple[Checkpoint, FloatArray]:
    """Return a checkpoint, and the transitions in it."""
    checkpoint = load_checkpoint(path)
    if checkpoint.replay is None:
        return checkpoint, np.zeros((0, 0), np.float32)
    rows = np.concatenate(list(checkpoint.replay.chunks))
    assert len(rows) == checkpoint.replay.num_rows
    return checkpoint, rows


def drafts(checkpoints: Path) -> set[str]:
    """Return the names of unfinished folders among checkpoints."""
    return {path.name for path in checkpoints.glob(".*")}


def table(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def deterministic_rows(run_dir: Path) -> list[dict[str, str]]:
    """Return the rows of metrics.csv without what a clock says."""
    return [
        {name: value for name, value in row.items() if not any(part in name for part in _WALL_CLOCK)}
        for row in table(run_dir / "metrics.csv")
    ]


def repeat(count: int, at_once: int, one: Callable[[int, random.Random], list[str]]) -> Counter[str]:
    """Call `one(number, moments)` so many times; return how often each phase was hit.

    Raises:
        AssertionError: of the first that fails, after the seed and its number.
    """
    print(f"\nKILL_SEED={SEED}", file=sys.stderr, flush=True)  # which also passes out of a parallel process
    hits: Counter[str] = Counter()
    numbers = [int(os.environ["KILL_NUMBER"])] if "KILL_NUMBER" in os.environ else range(count)

    def numbered(number: int) -> list[str]:
        try:
            return one(number, random.Random(f"{SEED} {number}"))
        except AssertionError as error:
            raise AssertionError(f"KILL_SEED={SEED} KILL_NUMBER={number}: {error}") from error

    with ThreadPoolExecutor(at_once) as pool:
        for phases in pool.map(numbered, numbers):
            hits.update(phases)
    for phase, number in hits.most_common():
        print(f"{number:4d}  {phase}", file=sys.stderr, flush=True)
    return hits


def _changed(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0
