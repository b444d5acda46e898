"""Injects faults into a running job, and measures how it recovers from each."""

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
"""Probability that the next fault is injected before the job has recovered from this one."""
_MAX_BLOCK_S = 45.0
_STALE_ROW_S = 3.0
"""Seconds after an evaluator's start in which a new row of evaluations may be of the previous one."""


@dataclass
class InjectionResult:
    """What happened to a job under faults."""

    faults: list[Fault] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What should not have happened, a line each."""
    hangs: int = 0
    restarts: int = 0
    """Of the whole job."""
    env_steps_redone: int = 0
    """Collected after the checkpoint that a restart resumed from, as far as the job had reported them."""
    updates_redone: int = 0
    seconds: float = 0.0


class FaultInjector:
    """Runs one job under faults."""

    def __init__(
        self, job: Job, settings: JobSettings, options: ChaosOptions, note: Callable[[str], None]
    ) -> None:
        """Prepare; the order of the kinds depends on the seed alone."""
        self._job, self._settings, self._options, self._note = job, settings, options, note
        order, self._rng = np.random.default_rng(options.seed).spawn(2)
        self._plan = Plan(parse_kinds(options.kinds), order)
        self.result = InjectionResult()
        self._open: list[_OpenFault] = []
        self._overlapping = False
        self._started_at = self._next_at = time.monotonic()

    def run(self) -> InjectionResult:
        """Run the job to its end under faults, and return what happened."""
        self._started_at = time.monotonic()
        self._job.start()
        stall_timeout_s = self._settings.stall_timeout_s(self._options)
        while self._job.exit_code is None and self._job.seconds_since_progress < stall_timeout_s:
            time.sleep(_POLL_S)
            self._poll()
        if self._job.exit_code is None:
            self.result.problems.append(f"the job reported nothing for {stall_timeout_s:.0f} s")
            self.result.hangs += 1
        self._finish()
        self.result.seconds = self._elapsed_s
        return self.result

    @property
    def _elapsed_s(self) -> float:
        return time.monotonic() - self._started_at

    @property
    def _env_steps_left(self) -> int:
        return self._settings.env_steps - self._job.counts.env_steps

    def _poll(self) -> None:
        self._job.poll()
        near_end = self._env_steps_left < 1.5 * self._settings.checkpoint_interval_env_steps
        for each in list(self._open):
            each.poll(self._job, near_end)
            if each.is_overdue(self._options.deadline_s):
                each.fault.hang = True
                self._close(each)
            elif each.is_resolved(self._job):
                self._close(each)
        in_time = self._elapsed_s < 60 * self._options.minutes
        if in_time and time.monotonic() >= self._next_at and self._job.has_new_row:
            self._inject()

    def _close(self, each: _OpenFault) -> None:
        """Record how a fault ended, and schedule the next one."""
        fault, job, result = each.fault, self._job, self.result
        if fault.kind.ends_job:
            resumed = max(0, job.resumed_from)
            fault.env_steps_lost = max(0, each.before.env_steps - resumed)
            fault.updates_lost = max(0, each.before.updates - _updates_of(job, resumed))
            result.env_steps_redone += fault.env_steps_lost
            result.updates_redone += fault.updates_lost
        else:
            fault.env_steps_lost = job.counts.env_steps_lost - each.before.env_steps_lost
            fault.updates_lost = job.counts.updates_lost - each.before.updates_lost
        self._open.remove(each)
        result.hangs += fault.hang
        ending = f"recovered after {fault.recovered_after_s or 0:.1f} s" if each.recovered else fault.note
        self._note(f"{fault.kind.name}: {'hangs' if fault.hang else ending}")
        pause_s = self._rng.uniform(_MIN_PAUSE_S, _MAX_PAUSE_S)
        self._next_at = max(self._next_at, time.monotonic() + pause_s)

    def _inject(self) -> None:
        processes = by_role(self._job.processes())
        kind = self._plan.next_kind(
            lambda kind: self._is_possible(kind, processes),
            blocks=lambda kind: kind.ends_job and bool(self._open) and self._may_end_job(),
        )
        if kind is None:
            self._next_at = time.monotonic() + _MIN_PAUSE_S
            return
        fault = Fault(kind, time.time(), kind.victim_counts(self._options.num_workers))
        for other in self._open:
            mark_overlapping(fault, other.fault)
        self.result.faults.append(fault)
        self._open.append(_OpenFault(fault, self._job))
        if not kind.slow:
            self._overlapping = not self._overlapping and self._rng.random() < _OVERLAP_PROBABILITY
        self._note(f"{kind.name} ({self._elapsed_s:.0f} s, {self._job.counts.env_steps:,} env steps)")
        self._apply(fault, processes)

    def _apply(self, fault: Fault, processes: dict[Role, list[psutil.Process]]) -> None:
        if fault.kind.action == "block checkpoints":
            self._job.block_checkpoints()
        elif fault.kind.ends_job:
            self._end_incarnation(fault)
            self._job.start()
            self.result.restarts += 1
        for role, count in fault.victims.items():
            chosen = self._rng.permutation(len(processes[role]))[:count]
            send_fault([processes[role][int(index)] for index in chosen], fault.kind.action)

    def _end_incarnation(self, fault: Fault) -> None:
        """Kill the driver, or ask it to end and check that it does so properly."""
        job, problems, deadline_s = self._job, self.result.problems, self._options.deadline_s
        if fault.kind.action == "end job":
            job.signal(signal.SIGTERM)
            code = job.wait(deadline_s)
            if code is None:
                fault.hang = True
                problems.append(f"SIGTERM did not end the job within {deadline_s:.0f} s")
            elif code:
                problems.append(f"after SIGTERM the job's exit code was {code}: {job.last_line()}")
            elif max(job.checkpoints(), default=0) < job.counts.env_steps:
                problems.append("after SIGTERM there was no checkpoint of the end")
        job.signal(signal.SIGKILL)
        job.wait(deadline_s)
        job.mark_ended()

    def _is_possible(self, kind: FaultKind, processes: dict[Role, list[psutil.Process]]) -> bool:
        settings, left = self._settings, self._env_steps_left
        if not may_overlap(kind, [each.fault for each in self._open], self._overlapping):
            return False
        if kind.action == "block checkpoints":
            return bool(self._job.checkpoints()) and left > 3 * settings.checkpoint_interval_env_steps
        if kind.ends_job:
            return self._may_end_job()
        if "evaluator" in kind.victims and not self._evaluator_has_answered():
            return False
        margin = settings.evaluation_interval_env_steps if kind.slow else settings.report_interval_env_steps
        victims = kind.victim_counts(self._options.num_workers)
        all_running = all(len(processes[role]) >= count for role, count in victims.items())
        return all_running and left > 2 * margin

    def _may_end_job(self) -> bool:
        """Return whether there is a checkpoint to resume from, and enough left to do."""
        return bool(self._job.checkpoints()) and self._env_steps_left > self._settings.env_steps // 10

    def _evaluator_has_answered(self) -> bool:
        """Return whether the present evaluator has answered: only then its usual duration is known."""
        since = [event["time"] for event in self._job.events() if event["process"] == "evaluator"]
        with suppress(OSError):
            at = (self._job.run_dir / "returns.csv").stat().st_mtime
            return bool(at > max([self._job.started_at, *since]) + _STALE_ROW_S)
        return False

    def _finish(self) -> None:
        job = self._job
        job.unblock_checkpoints()
        if job.exit_code is None:
            job.kill()
        elif job.exit_code:
            message = f"the job ended with exit code {job.exit_code}: {job.last_line()}"
            self.result.problems.append(message)
        for each in list(self._open):
            each.poll(job, near_end=True)
            if each.recovered is None:
                each.fault.note = "the job ended first"
            self._close(each)
        job.finish()


class _OpenFault:
    """A fault that the job has not recovered from, and what the job had reported when it was injected."""

    def __init__(self, fault: Fault, job: Job) -> None:
        self.fault = fault
        self.before = job.counts
        self.recovered: float | None = None
        self._recovered_env_steps = 0
        self._failed_saves = failed_saves(job.log())
        self._since = fault.time
        self._blocked = fault.kind.action == "block checkpoints"
        self._checkpoints = set(job.checkpoints())

    def poll(self, job: Job, near_end: bool) -> None:
        """Check whether the job has recovered."""
        if self.recovered is not None:
            return
        if self._blocked:
            self._unblock_if_noticed(job, near_end)
        else:
            self.recovered = self._recovered(job)
        if self.recovered is not None:
            self.fault.recovered_after_s = round(max(0.0, self.recovered - self._since), 2)
            self._recovered_env_steps = job.counts.env_steps

    def is_resolved(self, job: Job) -> bool:
        """Return whether the job has recovered, and has since reported what it lost."""
        if self.recovered is None:
            return False
        return self.fault.kind.ends_job or job.counts.env_steps > self._recovered_env_steps

    def is_overdue(self, deadline_s: float) -> bool:
        """Return whether the recovery missed its deadline; a whole job has twice as long to start."""
        longest_s = 2 * deadline_s if self.fault.kind.ends_job else deadline_s
        return self.recovered is None and not self._blocked and time.time() - self._since > longest_s

    def _recovered(self, job: Job) -> float | None:
        kind = self.fault.kind
        if kind.ends_job:
            return time.time() if job.has_new_row else None
        if kind.action == "block checkpoints":
            return time.time() if set(job.checkpoints()) - self._checkpoints else None
        return recovered_at(self.fault.victims, self.fault.time, job.events())

    def _unblock_if_noticed(self, job: Job, near_end: bool) -> None:
        """Let checkpoints be written again once a save has failed; the recovery begins then."""
        now = time.time()
        failed = failed_saves(job.log()) > self._failed_saves
        if failed or near_end or now - self.fault.time > _MAX_BLOCK_S:
            job.unblock_checkpoints()
            self._blocked, self._since = False, now
            reason = "a save failed" if failed else "no save was tried"
            self.fault.note = f"{reason}; writable again after {now - self.fault.time:.1f} s"


def _updates_of(job: Job, env_steps: int) -> int:
    """Return the updates of a checkpoint; 0 where there is none."""
    path = job.checkpoints().get(env_steps)
    with suppress(OSError):  # the job may be deleting it
        if path is not None:
            counters = json.loads((path / "manifest.json").read_text(encoding="utf-8"))["counters"]
            return int(counters["updates"])
    return 0
