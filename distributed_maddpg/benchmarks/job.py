"""A whole training job, whose counts a thread samples, so that the job is not slowed down."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
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

    seconds: float
    timers: dict[str, float]


@dataclass
class Job:
    """The samples of a job; times count from before the imports of torch and Ray."""

    device: str = ""
    samples: list[Sample] = field(default_factory=list)
    intervals: list[Interval] = field(default_factory=list)
    total_s: float = 0.0
    """Until every process had ended."""

    @property
    def last(self) -> Sample:
        """The counts at the end."""
        return self.samples[-1]

    def first(self, env_steps: int = 0, updates: int = 0) -> Sample:
        """Return the first sample with at least these counts; the last one if there is none."""
        reached = (s for s in self.samples if s.env_steps >= env_steps and s.updates >= updates)
        return next(reached, self.last)


def run_job(config: MADDPGConfig, learning_s: float = 0.0) -> Job:
    """Train with `config`, without files.

    Args:
        config: settings of the job.
        learning_s: seconds after the first update at which it is stopped; 0: it runs to its own end.

    Raises:
        TrainingError: if a stage fails.
    """
    started = time.perf_counter()
    # Imported here: loading torch and Ray is part of a job's start.
    from distributed_maddpg.trainer import MADDPG  # noqa: PLC0415

    job = Job()
    with MADDPG(config) as algo:
        with _sampled(algo, job, started, learning_s):
            algo.start()
            ended = time.perf_counter()
            while not (algo.finished or algo.stop_requested):
                begun, timers = ended, algo.train()["timers"]
                ended = time.perf_counter()
                job.intervals.append(Interval(ended - begun, timers))
        # The thread may have taken another sample between the end of training and its own.
        job.samples = [sample for sample in job.samples if sample.at_s < ended - started]
        job.samples.append(Sample(ended - started, algo.env_steps, algo.updates))
        job.device = algo.device
    job.total_s = time.perf_counter() - started
    return job


def slope(first: Sample, last: Sample) -> tuple[float, float]:
    """Return (env steps, updates) per second between two samples; zeros if no time passed."""
    seconds = last.at_s - first.at_s
    if seconds <= 0:
        return 0.0, 0.0
    return (last.env_steps - first.env_steps) / seconds, (last.updates - first.updates) / seconds


def windows(samples: Sequence[Sample], count: Count, begin_s: float, window_s: float) -> list[float]:
    """Return a count's increase per second in each whole window from `begin_s` on.

    Counts increase in steps, whenever a process reports. A window lasts from one increase to another, so that
    short windows are not off by a whole report.

    Args:
        samples: in the order of time.
        count: which count.
        begin_s: earliest begin of the first window.
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


@contextmanager
def _sampled(algo: MADDPG, job: Job, started: float, learning_s: float) -> Iterator[None]:
    """Sample a job's counts in a thread; stop the job `learning_s` after its first update, if not 0."""
    over = threading.Event()

    def poll() -> None:
        first_s: float | None = None  # of the first update
        while not over.wait(_POLL_INTERVAL_S):
            job.samples.append(Sample(time.perf_counter() - started, algo.env_steps, algo.updates))
            if first_s is None and job.last.updates:
                first_s = job.last.at_s
            if learning_s and first_s is not None and job.last.at_s - first_s >= learning_s:
                algo.request_stop()

    thread = threading.Thread(target=poll, name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
