"""Kinds of faults, their order, and how one is injected; no Ray."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np
import psutil

from distributed_maddpg.errors import BadInput, did_you_mean

Role = Literal["rollout worker", "replay buffer", "learner", "evaluator"]
FaultAction = Literal["kill", "freeze", "kill job", "end job", "block checkpoints"]

ROLES: tuple[Role, ...] = ("rollout worker", "replay buffer", "learner", "evaluator")
_TITLES: dict[Role, str] = {
    "rollout worker": "ray::RolloutWorkerActor",
    "replay buffer": "ray::ReplayBufferActor",
    "learner": "ray::LearnerActor",
    "evaluator": "ray::EvaluationActor",
}
ALL = sys.maxsize
"""As a number of victims: all processes of the role."""
_SEVERAL = 2


@dataclass(frozen=True)
class FaultKind:
    """One kind of fault."""

    name: str
    action: FaultAction
    victims: Mapping[Role, int]
    """How many processes of each role; `ALL` for every one."""
    effect: str
    """What the trainer does about it, for display."""
    slow: bool = False
    """Whether other faults may overlap with it, because it is noticed late."""

    @property
    def ends_job(self) -> bool:
        """Whether the whole job ends, and is restarted."""
        return self.action in ("kill job", "end job")

    def victim_counts(self, num_workers: int) -> dict[Role, int]:
        """Return how many processes of each role it hits."""
        running = {**dict.fromkeys(ROLES, 1), "rollout worker": num_workers}
        return {role: min(count, running[role]) for role, count in self.victims.items()}


_REPLACED = "it is replaced"
_FROZEN = "it is ended after its timeout, and replaced"
_RESUMED = "restarted, it resumes from its newest checkpoint (--resume auto)"
_SAVED = "saves a checkpoint, exits with 0; restarted, it resumes from there"
_RETRIED = "the failed save is reported and retried; training continues"

_KINDS = (
    FaultKind("kill worker", "kill", {"rollout worker": 1}, f"{_REPLACED}; the others continue to collect"),
    FaultKind("kill workers", "kill", {"rollout worker": _SEVERAL}, "they are replaced"),
    FaultKind("kill all workers", "kill", {"rollout worker": ALL}, "they are replaced"),
    FaultKind("kill replay buffer", "kill", {"replay buffer": 1}, f"{_REPLACED}; its memory is kept"),
    FaultKind("kill learner", "kill", {"learner": 1}, f"{_REPLACED}, from the latest snapshot of its state"),
    FaultKind(
        "kill learner and replay buffer", "kill", {"learner": 1, "replay buffer": 1}, "both are replaced"
    ),
    FaultKind("kill evaluator", "kill", {"evaluator": 1}, f"{_REPLACED} for the next evaluation", slow=True),
    FaultKind("freeze worker", "freeze", {"rollout worker": 1}, _FROZEN),
    FaultKind("freeze replay buffer", "freeze", {"replay buffer": 1}, _FROZEN),
    FaultKind("freeze learner", "freeze", {"learner": 1}, _FROZEN),
    FaultKind("freeze evaluator", "freeze", {"evaluator": 1}, f"{_FROZEN}; training continues", slow=True),
    FaultKind("kill everything", "kill job", {}, _RESUMED),
    FaultKind("SIGTERM", "end job", {}, _SAVED),
    FaultKind("checkpoints unwritable", "block checkpoints", {}, _RETRIED, slow=True),
)
KINDS = {kind.name: kind for kind in _KINDS}


@dataclass
class Fault:
    """A fault that was injected."""

    kind: FaultKind
    time: float
    """When, in seconds since 1970."""
    victims: dict[Role, int]
    """How many processes of each role were hit."""
    alone: bool = True
    """Whether no other fault can have caused the losses until the recovery."""
    recovered_after_s: float | None = None
    env_steps_lost: int = 0
    updates_lost: int = 0
    hang: bool = False
    """Whether the recovery missed its deadline."""
    note: str = ""

    def to_dict(self) -> dict[str, object]:
        """Return plain values."""
        return {**vars(self), "kind": self.kind.name, "time": round(self.time, 3)}


def parse_kinds(text: str) -> tuple[FaultKind, ...]:
    """Return the kinds of a comma-separated list of names; all kinds for an empty one.

    Raises:
        BadInput: naming an unknown kind, and the nearest known one.
    """
    names = [name.strip() for name in text.split(",")] if text else list(KINDS)
    for name in names:
        if name not in KINDS:
            raise BadInput("--kinds", name, did_you_mean(name, KINDS))
    return tuple(KINDS[name] for name in dict.fromkeys(names))


def endless_kinds(kinds: Sequence[FaultKind], rng: np.random.Generator) -> Iterator[FaultKind]:
    """Yield every kind once, in a random order, and then random ones without end."""
    for index in rng.permutation(len(kinds)):
        yield kinds[int(index)]
    while True:
        yield kinds[int(rng.integers(len(kinds)))]


class Plan:
    """The order of faults; a kind that is not possible yet keeps its place in it."""

    def __init__(self, kinds: Sequence[FaultKind], rng: np.random.Generator) -> None:
        """Draw from some kinds."""
        self._source = endless_kinds(kinds, rng)
        self._upcoming = list(itertools.islice(self._source, len(kinds)))

    def next_kind(
        self, is_possible: Callable[[FaultKind], bool], blocks: Callable[[FaultKind], bool]
    ) -> FaultKind | None:
        """Return the first kind that is possible now, and remove it from the plan; None if none is.

        Args:
            is_possible: whether a kind can be injected now.
            blocks: whether to return None and wait for this kind instead of returning a later one. Kinds that
                need all other faults to be over would otherwise never be injected.
        """
        for index, kind in enumerate(self._upcoming):
            if is_possible(kind):
                self._upcoming.append(next(self._source))
                return self._upcoming.pop(index)
            if blocks(kind):
                return None
        return None


def mark_overlapping(one: Fault, other: Fault) -> None:
    """Record that two faults overlap; slow ones lose neither env steps nor updates."""
    one.alone &= other.kind.slow
    other.alone &= one.kind.slow


def may_overlap(kind: FaultKind, pending: Collection[Fault], overlap: bool) -> bool:
    """Return whether a fault can be injected before the job has recovered from others.

    Args:
        kind: of the fault.
        pending: the others.
        overlap: whether two faults that are not slow may overlap.
    """
    if kind.ends_job or any(other.kind.ends_job for other in pending):
        return not pending
    if any(kind.victims.keys() & other.kind.victims.keys() or kind == other.kind for other in pending):
        return False
    return kind.slow or sum(not other.kind.slow for other in pending) <= overlap


# Processes, by the titles that Ray gives them


def session_processes(session: int) -> list[psutil.Process]:
    """Return the processes of a session that still exist, frozen ones included."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def by_role(processes: Sequence[psutil.Process]) -> dict[Role, list[psutil.Process]]:
    """Return the processes of each role that are neither starting nor frozen."""
    found: dict[Role, list[psutil.Process]] = {role: [] for role in ROLES}
    for process in processes:
        with suppress(psutil.Error):
            role = role_of(" ".join(process.cmdline()))
            if role is not None and process.status() != psutil.STATUS_STOPPED:
                found[role].append(process)
    return found


def role_of(title: str) -> Role | None:
    """Return the role in a process's title; None if it has none, or is starting."""
    title = title.strip()
    if title.endswith(".__init__"):
        return None
    return next((role for role, start in _TITLES.items() if title.partition(".")[0] == start), None)


def send_fault(processes: Sequence[psutil.Process], action: FaultAction) -> None:
    """Kill or freeze processes."""
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(signal.SIGSTOP if action == "freeze" else signal.SIGKILL)
