"""A whole training job, watched from beside it so that watching costs it nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from distributed_maddpg.config import MADDPGConfig

if TYPE_CHECKING:
    from distributed_maddpg.trainer import MADDPG

Count = Literal["env_steps", "updates"]
_POLL_INTERVAL_S = 0.01


@dataclass(frozen=True)
class Sample:
    """The counts of a job at a moment."""

    at_s: float
    env_steps: int
    updates: int


@dataclass(frozen=True)
class Interval:
    """One call of `train()`."""

    begun_s: float
    ended_s: float
    timers: dict[str, float]


@dataclass
class Job:
    """What a job did, on a clock that starts before the imports of torch and Ray."""

    device: str = ""
    samples: list[Sample] = field(default_factory=list)
    intervals: list[Interval] = field(default_factory=list)
    ended_s: float = 0.0
    """When the last update was made."""
    closed_s: float = 0.0
    """When every process had ended."""

    @property
    def last(self) -> Sample:
        """The counts at the end."""
        return self.samples[-1]

    def first(self, env_steps: int = 0, updates: int = 0) -> Sample:
        """Return the first sample with at least so many steps and updates; the last if there is none."""
        reached = (s for s in self.samples if s.env_steps >= env_steps and s.updates >= updates)
        return next(reached, self.last)


def run_job(config: MADDPGConfig, learning_s: float = 0.0) -> Job:
    """Train with `config`, without files.

    Args:
        config: settings of the job.
        learning_s: end it so long after the first update; 0: at its own end.

    Raises:
        TrainingError: if a stage fails.
    """
    begun = time.perf_counter()
    # Imported here: loading torch and Ray is part of a job's start.
    from distributed_maddpg.trainer import MADDPG  # noqa: PLC0415

    job = Job()
    with MADDPG(config) as algo:
        with _Watch(algo, job, begun, learning_s):
            algo.start()
            while not (algo.finished or algo.stop_requested):
                since = time.perf_counter()
                timers = algo.train()["timers"]
                job.intervals.append(Interval(since - begun, time.perf_counter() - begun, timers))
        job.device, job.ended_s = algo.device, job.intervals[-1].ended_s
        job.samples.append(Sample(job.ended_s, algo.env_steps, algo.updates))
    job.closed_s = time.perf_counter() - begun
    return job


def slope(first: Sample, last: Sample) -> tuple[float, float]:
    """Return (env steps, updates) per second between two samples; zeros if no time passed."""
    seconds = last.at_s - first.at_s
    if seconds <= 0:
        return 0.0, 0.0
    return (last.env_steps - first.env_steps) / seconds, (last.updates - first.updates) / seconds


def windows(samples: Sequence[Sample], count: Count, begin_s: float, window_s: float) -> list[float]:
    """Return a count's rise per second in each whole window from `begin_s` on.

    Counts rise in steps, whenever a process reports. A window reaches from one rise to another, so that a
    short one is not off by a whole report.

    Args:
        samples: in the order of time.
        count: which.
        begin_s: when the first window may begin.
        window_s: least length of a window; an unfinished one at the end is left out.
    """
    values = [(sample.at_s, getattr(sample, count)) for sample in samples]
    rises = [now for before, now in pairwise(values) if now[1] > before[1] and now[0] >= begin_s]
    rates: list[float] = []
    opened = rises[0] if rises else (0.0, 0)
    for at_s, value in rises:
        if at_s - opened[0] >= window_s:
            rates.append((value - opened[1]) / (at_s - opened[0]))
            opened = (at_s, value)
    return rates


class _Watch:
    """Reads a job's counts every few milliseconds in a thread of its own, and ends the job in time."""

    def __init__(self, algo: MADDPG, job: Job, begun: float, learning_s: float) -> None:
        self._algo, self._job, self._begun, self._learning_s = algo, job, begun, learning_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="watch", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _poll(self) -> None:
        learning_since: float | None = None
        while not self._over.wait(_POLL_INTERVAL_S):
            now = time.perf_counter() - self._begun
            self._job.samples.append(Sample(now, self._algo.env_steps, self._algo.updates))
            if learning_since is None and self._algo.updates:
                learning_since = now
            if self._learning_s and learning_since is not None and now - learning_since >= self._learning_s:
                self._algo.request_stop()
