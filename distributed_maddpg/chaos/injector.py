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
    FaultKind,
    Plan,
    Role,
    by_role,
    mark_overlapping,
    may_overlap,
    parse_kinds,
    send_fault,
)
from distributed_maddpg.chaos.job import Job
from distributed_maddpg.chaos.options import ChaosOptions, JobSettings
from distributed_maddpg.chaos.recovery import failed_saves, recovered_at

_POLL_S = 0.1
_MIN_PAUSE_S, _MAX_PAUSE_S = 0.2, 1.5
_OVERLAP_PROBABILITY = 0.3
"""Probability that the next fault comes while this one has not been recovered from."""
_MAX_BLOCK_S = 45.0
_STALE_ROW_S = 3.0
"""How long after an evaluator's start a new row of evaluations may still be its predecessor's."""


@dataclass
class InjectionResult:
    """What happened to a job."""

    faults: list[Fault] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What should not have happened, a line each."""
    hangs: int = 0
    restarts: int = 0
    """How many times the job was started again."""
    env_steps_redone: int = 0
    """Collected after the checkpoint that a restart went on from, as far as the job had reported them."""
    updates_redone: int = 0
    seconds: float = 0.0


class FaultInjector:
    """Runs one job under faults."""

    def __init__(
        self, job: Job, settings: JobSettings, options: ChaosOptions, note: Callable[[str], None]
    ) -> None:
        """Prepare; which kinds come in which order depends on the seed alone."""
        self._job, self._settings, self._options, self._note = job, settings, options, note
        order, self._rng = np.random.default_rng(options.seed).spawn(2)
        self._plan = Plan(parse_kinds(options.kinds), order)
        self.result = InjectionResult()
        self._open: list[_OpenFault] = []
        self._overlapping = False
        self._started_at = self._next_at = self._incarnation_began = self._progress_at = time.monotonic()
        self._last_env_steps = -1

    def run(self) -> InjectionResult:
        """Start the job, disturb it to its end, and return what happened."""
        self._started_at = time.monotonic()
        self._start()
        while self._job.exit_code is None and not self._is_stalled():
            time.sleep(_POLL_S)
            self._poll()
        self._end()
        self.result.seconds = time.monotonic() - self._started_at
        return self.result

    def _poll(self) -> None:
        job = self._job
        job.poll_ended()
        job.rows()
        if job.seen.env_steps != self._last_env_steps:
            self._last_env_steps, self._progress_at = job.seen.env_steps, time.monotonic()
        for each in list(self._open):
            each.poll(job, self._remaining() < 1.5 * self._settings.checkpoint_interval_env_steps)
            if each.is_resolved(job):
                self._close(each)
            elif each.is_overdue(self._options.deadline_s):
                each.fault.hang = True
                self._close(each)
        if self._may_inject():
            self._inject()

    def _start(self) -> None:
        self._job.start()
        self._incarnation_began, self._progress_at = time.time(), time.monotonic()
        self._last_env_steps = -1

    def _remaining(self) -> int:
        return self._settings.env_steps - self._job.seen.env_steps

    def _may_inject(self) -> bool:
        now = time.monotonic()
        in_time = now - self._started_at < 60 * self._options.minutes
        return in_time and now >= self._next_at and self._job.has_new_row

    def _is_stalled(self) -> bool:
        """Whether the job has not reported anything for so long that it never will."""
        patience_s = 2 * self._options.deadline_s + self._settings.timeout_s
        if time.monotonic() - self._progress_at < patience_s:
            return False
        self.result.problems.append(f"the job reported nothing for {patience_s:.0f} s")
        self.result.hangs += 1
        return True

    def _close(self, each: _OpenFault) -> None:
        """Note how a fault ended, and let the next one come soon."""
        fault, job = each.fault, self._job
        if fault.kind.ends_job:
            resumed = max(0, job.resumed_from)
            fault.env_steps_lost = max(0, each.env_steps - resumed)
            fault.updates_lost = max(0, each.updates - _updates_of(job, resumed))
            self.result.env_steps_redone += fault.env_steps_lost
            self.result.updates_redone += fault.updates_lost
        else:
            fault.env_steps_lost = job.seen.env_steps_lost - each.env_steps_lost
            fault.updates_lost = job.seen.updates_lost - each.updates_lost
        self._open.remove(each)
        self.result.hangs += fault.hang
        said = f"recovered after {fault.recovered_after_s or 0:.1f} s" if each.recovered else fault.note
        self._note(f"{fault.kind.name}: {'hangs' if fault.hang else said}")
        pause_s = self._rng.uniform(_MIN_PAUSE_S, _MAX_PAUSE_S)
        self._next_at = max(self._next_at, time.monotonic() + pause_s)

    # Injecting

    def _inject(self) -> None:
        found = by_role(self._job.processes())
        quiet = not self._open
        kind = self._plan.next_kind(
            lambda kind: self._is_possible(kind, found),
            blocks=lambda kind: kind.ends_job and not quiet and self._may_end_job(),
        )
        if kind is None:
            self._next_at = time.monotonic() + _MIN_PAUSE_S
            return
        victims = kind.victim_counts(self._options.num_workers)
        fault = Fault(kind, time.time(), victims)
        for other in self._open:
            mark_overlapping(fault, other.fault)
        self.result.faults.append(fault)
        opened = _OpenFault(fault, self._job)
        self._open.append(opened)
        if not kind.slow:
            self._overlapping = not self._overlapping and self._rng.random() < _OVERLAP_PROBABILITY
        where = f"{time.monotonic() - self._started_at:.0f} s, {self._job.seen.env_steps:,} env steps"
        self._note(f"{kind.name} ({where})")
        self._apply(kind, opened, found)

    def _apply(self, kind: FaultKind, opened: _OpenFault, found: dict[Role, list[psutil.Process]]) -> None:
        if kind.action == "block checkpoints":
            self._job.block_checkpoints()
        elif kind.ends_job:
            self._end_incarnation(opened.fault)
            self._start()
            self.result.restarts += 1
        else:
            for role, count in opened.fault.victims.items():
                chosen = self._rng.permutation(len(found[role]))[:count]
                send_fault([found[role][int(index)] for index in chosen], kind.action)

    def _end_incarnation(self, fault: Fault) -> None:
        """Kill the driver, or ask it to end and see that it does so properly."""
        job, problems = self._job, self.result.problems
        if fault.kind.action == "end job":
            job.signal(signal.SIGTERM)
            code = job.wait(self._options.deadline_s)
            if code is None:
                fault.hang = True
                problems.append(f"SIGTERM did not end the job within {self._options.deadline_s:.0f} s")
            elif code:
                problems.append(f"after SIGTERM the job's exit code was {code}: {_last_line(job)}")
            elif max(job.checkpoints(), default=0) < job.seen.env_steps:
                problems.append("after SIGTERM there was no checkpoint of the end")
        job.signal(signal.SIGKILL)
        job.wait(self._options.deadline_s)
        job.mark_ended()

    def _is_possible(self, kind: FaultKind, found: dict[Role, list[psutil.Process]]) -> bool:
        if not may_overlap(kind, [each.fault for each in self._open], self._overlapping):
            return False
        settings, saved = self._settings, bool(self._job.checkpoints())
        if kind.action == "block checkpoints":
            return saved and self._remaining() > 3 * settings.checkpoint_interval_env_steps
        if kind.ends_job:
            return self._may_end_job()
        if "evaluator" in kind.victims and not self._evaluator_has_answered():
            return False
        margin = settings.evaluation_interval_env_steps if kind.slow else settings.report_interval_env_steps
        there = all(
            len(found[role]) >= n for role, n in kind.victim_counts(self._options.num_workers).items()
        )  # nobody is still starting
        return there and self._remaining() > 2 * margin

    def _may_end_job(self) -> bool:
        """Whether there is a checkpoint to go on from, and enough left to do."""
        return bool(self._job.checkpoints()) and self._remaining() > self._settings.env_steps // 10

    def _evaluator_has_answered(self) -> bool:
        """Whether the present evaluator has answered before: only then is it known how long it takes."""
        since = [event["time"] for event in self._job.events() if event["process"] == "evaluator"]
        with suppress(OSError):
            at = (self._job.run_dir / "returns.csv").stat().st_mtime
            return bool(at > max([self._incarnation_began, *since]) + _STALE_ROW_S)
        return False

    # The end

    def _end(self) -> None:
        job, injection = self._job, self.result
        job.unblock_checkpoints()
        code = job.exit_code
        if code is None:
            job.kill()
        elif code:
            injection.problems.append(f"the job ended with exit code {code}: {_last_line(job)}")
        for each in list(self._open):
            each.poll(job, True)
            if each.recovered is None:
                each.fault.note = "the job ended first"
            self._close(each)
        job.finish()


class _OpenFault:
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
        self._blocked = fault.kind.action == "block checkpoints"
        self._listed = set(job.checkpoints())

    def poll(self, job: Job, near_end: bool) -> None:
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

    def is_resolved(self, job: Job) -> bool:
        """Whether the job has recovered, and has reported since what it lost."""
        if self.recovered is None:
            return False
        return self.fault.kind.ends_job or job.seen.env_steps > self._recovered_env_steps

    def is_overdue(self, deadline_s: float) -> bool:
        """Whether the recovery has not come in time; a whole job has twice as long to start."""
        longest_s = 2 * deadline_s if self.fault.kind.ends_job else deadline_s
        return self.recovered is None and not self._blocked and time.time() - self._since > longest_s

    def _recovered(self, job: Job) -> float | None:
        kind = self.fault.kind
        if kind.ends_job:
            return time.time() if job.has_new_row else None
        if kind.action == "block checkpoints":
            return time.time() if set(job.checkpoints()) - self._listed else None
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
    path = job.checkpoints().get(env_steps)
    with suppress(OSError):  # the job may be deleting it
        if path is not None:
            counters = json.loads((path / "manifest.json").read_text(encoding="utf-8"))["counters"]
            return int(counters["updates"])
    return 0


def _last_line(job: Job) -> str:
    lines = job.log().strip().splitlines()
    return lines[-1] if lines else "it said nothing"
