"""Injects faults into a running job, one after the other, and watches it recover."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import psutil

from distributed_maddpg.chaos.faults import (
    Fault,
    Kind,
    Plan,
    Role,
    by_role,
    kinds_of,
    may_join,
    meet,
    strike,
)
from distributed_maddpg.chaos.job import Job
from distributed_maddpg.chaos.options import ChaosOptions, JobSettings
from distributed_maddpg.chaos.recovery import failed_saves, recovered_at

_LOOK_S = 0.1
_MIN_PAUSE_S, _MAX_PAUSE_S = 0.2, 1.5
_BESIDE = 0.3
"""Probability that the next fault comes while this one has not been recovered from."""
_MAX_BLOCK_S = 45.0
_FRESH_S = 3.0
"""How long after an evaluator's start a new row of evaluations may still be its predecessor's."""


@dataclass
class Disturbed:
    """What happened to a job."""

    faults: list[Fault] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What should not have happened, a line each."""
    hangs: int = 0
    resumed: int = 0
    """How many times the job was started again."""
    env_steps_redone: int = 0
    """Collected after the checkpoint that a restart went on from, as far as the job had reported them."""
    updates_redone: int = 0
    seconds: float = 0.0


class Disturber:
    """Runs one job under faults."""

    def __init__(
        self, job: Job, settings: JobSettings, options: ChaosOptions, note: Callable[[str], None]
    ) -> None:
        """Prepare; which kinds come in which order depends on the seed alone."""
        self._job, self._settings, self._options, self._note = job, settings, options, note
        order, self._chance = np.random.default_rng(options.seed).spawn(2)
        self._plan = Plan(kinds_of(options.kinds), order)
        self.outcome = Disturbed()
        self._open: list[_Open] = []
        self._beside = False
        self._begun = self._next_at = self._life_began = self._progress_at = time.monotonic()
        self._last_env_steps = -1

    def run(self) -> Disturbed:
        """Start the job, disturb it to its end, and return what happened."""
        self._begun = time.monotonic()
        self._start()
        while self._job.exit_code is None and not self._stalled():
            time.sleep(_LOOK_S)
            self._look()
        self._end()
        self.outcome.seconds = time.monotonic() - self._begun
        return self.outcome

    def _look(self) -> None:
        job = self._job
        job.watch_ended()
        job.rows()
        if job.seen.env_steps != self._last_env_steps:
            self._last_env_steps, self._progress_at = job.seen.env_steps, time.monotonic()
        for each in list(self._open):
            each.look(job, self._remaining() < 1.5 * self._settings.checkpoint_interval_env_steps)
            if each.settled(job):
                self._close(each)
            elif each.overdue(self._options.deadline_s):
                each.fault.hang = True
                self._close(each)
        if self._may_disturb():
            self._inject()

    def _start(self) -> None:
        self._job.start()
        self._life_began, self._progress_at = time.time(), time.monotonic()
        self._last_env_steps = -1

    def _remaining(self) -> int:
        return self._settings.env_steps - self._job.seen.env_steps

    def _may_disturb(self) -> bool:
        now = time.monotonic()
        in_time = now - self._begun < 60 * self._options.minutes
        return in_time and now >= self._next_at and self._job.has_new_row

    def _stalled(self) -> bool:
        """Whether the job has not reported anything for so long that it never will."""
        patience_s = 2 * self._options.deadline_s + self._settings.timeout_s
        if time.monotonic() - self._progress_at < patience_s:
            return False
        self.outcome.problems.append(f"the job reported nothing for {patience_s:.0f} s")
        self.outcome.hangs += 1
        return True

    def _close(self, each: _Open) -> None:
        """Note how a fault ended, and let the next one come soon."""
        fault, job = each.fault, self._job
        if fault.kind.ends_job:
            resumed = max(0, job.resumed_from)
            fault.env_steps_lost = max(0, each.env_steps - resumed)
            fault.updates_lost = max(0, each.updates - _updates_of(job, resumed))
            self.outcome.env_steps_redone += fault.env_steps_lost
            self.outcome.updates_redone += fault.updates_lost
        else:
            fault.env_steps_lost = job.seen.env_steps_lost - each.env_steps_lost
            fault.updates_lost = job.seen.updates_lost - each.updates_lost
        self._open.remove(each)
        self.outcome.hangs += fault.hang
        said = f"recovered after {fault.recovered_after_s or 0:.1f} s" if each.recovered else fault.note
        self._note(f"{fault.kind.name}: {'hangs' if fault.hang else said}")
        pause_s = self._chance.uniform(_MIN_PAUSE_S, _MAX_PAUSE_S)
        self._next_at = max(self._next_at, time.monotonic() + pause_s)

    # Injecting

    def _inject(self) -> None:
        found = by_role(self._job.processes())
        quiet = not self._open
        kind = self._plan.take(
            lambda kind: self._possible(kind, found),
            waits=lambda kind: kind.ends_job and not quiet and self._may_end(),
        )
        if kind is None:
            self._next_at = time.monotonic() + _MIN_PAUSE_S
            return
        victims = kind.counts(self._options.num_workers)
        fault = Fault(kind, time.time(), victims)
        for other in self._open:
            meet(fault, other.fault)
        self.outcome.faults.append(fault)
        opened = _Open(fault, self._job)
        self._open.append(opened)
        if not kind.slow:
            self._beside = not self._beside and self._chance.random() < _BESIDE
        where = f"{time.monotonic() - self._begun:.0f} s, {self._job.seen.env_steps:,} env steps"
        self._note(f"{kind.name} ({where})")
        self._act(kind, opened, found)

    def _act(self, kind: Kind, opened: _Open, found: dict[Role, list[psutil.Process]]) -> None:
        if kind.act == "block checkpoints":
            self._job.block_checkpoints()
        elif kind.ends_job:
            self._end_life(opened.fault)
            self._start()
            self.outcome.resumed += 1
        else:
            for role, count in opened.fault.victims.items():
                chosen = self._chance.permutation(len(found[role]))[:count]
                strike([found[role][int(index)] for index in chosen], kind.act)

    def _end_life(self, fault: Fault) -> None:
        """Kill the driver, or ask it to end and see that it does so properly."""
        job, problems = self._job, self.outcome.problems
        if fault.kind.act == "end job":
            job.signal(signal.SIGTERM)
            code = job.wait(self._options.deadline_s)
            if code is None:
                fault.hang = True
                problems.append(f"SIGTERM did not end the job within {self._options.deadline_s:.0f} s")
            elif code:
                problems.append(f"after SIGTERM the job's exit code was {code}: {_last_line(job)}")
            elif max(job.listed(), default=0) < job.seen.env_steps:
                problems.append("after SIGTERM there was no checkpoint of the end")
        job.signal(signal.SIGKILL)
        job.wait(self._options.deadline_s)
        job.note_end()

    def _possible(self, kind: Kind, found: dict[Role, list[psutil.Process]]) -> bool:
        if not may_join(kind, [each.fault for each in self._open], self._beside):
            return False
        settings, saved = self._settings, bool(self._job.listed())
        if kind.act == "block checkpoints":
            return saved and self._remaining() > 3 * settings.checkpoint_interval_env_steps
        if kind.ends_job:
            return self._may_end()
        if "evaluator" in kind.victims and not self._evaluator_worked():
            return False
        margin = settings.evaluation_interval_env_steps if kind.slow else settings.report_interval_env_steps
        there = all(
            len(found[role]) >= n for role, n in kind.counts(self._options.num_workers).items()
        )  # nobody is still starting
        return there and self._remaining() > 2 * margin

    def _may_end(self) -> bool:
        """Whether there is a checkpoint to go on from, and enough left to do."""
        return bool(self._job.listed()) and self._remaining() > self._settings.env_steps // 10

    def _evaluator_worked(self) -> bool:
        """Whether the present evaluator has answered before: only then is it known how long it takes."""
        since = [event["time"] for event in self._job.events() if event["process"] == "evaluator"]
        with suppress(OSError):
            at = (self._job.run_dir / "returns.csv").stat().st_mtime
            return bool(at > max([self._life_began, *since]) + _FRESH_S)
        return False

    # The end

    def _end(self) -> None:
        job, outcome = self._job, self.outcome
        job.unblock_checkpoints()
        code = job.exit_code
        if code is None:
            job.kill()
        elif code:
            outcome.problems.append(f"the job ended with exit code {code}: {_last_line(job)}")
        for each in list(self._open):
            each.look(job, True)
            if each.recovered is None:
                each.fault.note = "the job ended first"
            self._close(each)
        job.finish()


class _Open:
    """A fault that has not been recovered from, and what the job said when it was injected."""

    def __init__(self, fault: Fault, job: Job) -> None:
        self.fault = fault
        seen = job.seen
        self.env_steps, self.updates = seen.env_steps, seen.updates
        self.env_steps_lost, self.updates_lost = seen.env_steps_lost, seen.updates_lost
        self.recovered: float | None = None
        self._recovered_env_steps = 0
        self._failed_saves = failed_saves(job.log())
        self._since = fault.time
        self._blocked = fault.kind.act == "block checkpoints"
        self._listed = set(job.listed())

    def look(self, job: Job, near_end: bool) -> None:
        """See whether the job has recovered."""
        if self.recovered is not None:
            return
        if self._blocked:
            self._unblock_if_noticed(job, near_end)
        else:
            self.recovered = self._recovered(job)
        if self.recovered is not None:
            self.fault.recovered_after_s = round(max(0.0, self.recovered - self._since), 2)
            self._recovered_env_steps = job.seen.env_steps

    def settled(self, job: Job) -> bool:
        """Whether the job has recovered, and has reported since what it lost."""
        if self.recovered is None:
            return False
        return self.fault.kind.ends_job or job.seen.env_steps > self._recovered_env_steps

    def overdue(self, deadline_s: float) -> bool:
        """Whether the recovery has not come in time; a whole job has twice as long to start."""
        longest_s = 2 * deadline_s if self.fault.kind.ends_job else deadline_s
        return self.recovered is None and not self._blocked and time.time() - self._since > longest_s

    def _recovered(self, job: Job) -> float | None:
        kind = self.fault.kind
        if kind.ends_job:
            return time.time() if job.has_new_row else None
        if kind.act == "block checkpoints":
            return time.time() if set(job.listed()) - self._listed else None
        return recovered_at(self.fault.victims, self.fault.time, job.events())

    def _unblock_if_noticed(self, job: Job, near_end: bool) -> None:
        """Let checkpoints be written again once a save has failed; the recovery begins then."""
        now = time.time()
        failed = failed_saves(job.log()) > self._failed_saves
        if failed or near_end or now - self.fault.time > _MAX_BLOCK_S:
            job.unblock_checkpoints()
            self._blocked, self._since = False, now
            said = "a save failed" if failed else "no save was tried"
            self.fault.note = f"{said}; writable again after {now - self.fault.time:.1f} s"


def _updates_of(job: Job, env_steps: int) -> int:
    """Return the updates of a checkpoint; 0 where there is none."""
    path = job.listed().get(env_steps)
    with suppress(OSError):  # the job may be deleting it
        if path is not None:
            counters = json.loads((path / "manifest.json").read_text(encoding="utf-8"))["counters"]
            return int(counters["updates"])
    return 0


def _last_line(job: Job) -> str:
    lines = job.log().strip().splitlines()
    return lines[-1] if lines else "it said nothing"
