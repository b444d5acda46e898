"""How a job recovered from a fault: pure functions of the events, rows and lines it wrote."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distributed_maddpg.chaos.faults import Fault, Role

Event = Mapping[str, Any]
Row = Mapping[str, str]
_ENV_STEPS, _UPDATES = "num_env_steps_sampled_lifetime", "num_updates_lifetime"
_LOST = ("fault_tolerance/env_steps_lost", "fault_tolerance/updates_lost")
_SAVED = re.compile(r"\bsaved \S*/step_(\d+) \(")
_RESUMED = re.compile(r"\bresuming from \S*/step_(\d+)\b")


@dataclass(frozen=True)
class Counts:
    """The counts in a row of metrics."""

    env_steps: int = 0
    updates: int = 0
    env_steps_lost: int = 0
    """Since the present incarnation of the job began, as are `updates_lost`."""
    updates_lost: int = 0


def counts(rows: Sequence[Row]) -> Counts:
    """Return the counts of the last of some rows."""
    if not rows:
        return Counts()
    names = (_ENV_STEPS, _UPDATES, *_LOST)
    return Counts(*(int(float(rows[-1].get(name) or 0)) for name in names))


def env_steps_of(row: Row) -> int:
    """Return the environment steps of a row."""
    return int(float(row[_ENV_STEPS]))


def role_of_process(process: str) -> str:
    """Return the role in the name of a process: "rollout worker" of "rollout worker 1"."""
    return process.rstrip("0123456789 ")


def recovered_at(victims: Mapping[Role, int], since: float, events: Sequence[Event]) -> float | None:
    """Return when as many processes as were hit have been lost and replaced; None while some are missing.

    Args:
        victims: how many of each role were hit.
        since: time of the fault.
        events: of the run, in the order of time.
    """
    latest = since
    for role, count in victims.items():
        lost: set[str] = set()
        back: dict[str, float] = {}
        for event in events:
            if event["time"] < since or role_of_process(event["process"]) != role:
                continue
            if event["kind"] == "lost":
                lost.add(event["process"])
                back.pop(event["process"], None)  # lost again before it had worked
            elif event["kind"] == "recovered" and event["process"] in lost:
                back.setdefault(event["process"], event["time"])
        if len(back) < count:
            return None
        latest = max(latest, *sorted(back.values())[:count])
    return latest


def unexplained(events: Sequence[Event], faults: Sequence[Fault]) -> list[Event]:
    """Return the losses that no earlier fault explains, role by role."""
    extra: list[Event] = []
    for role in dict.fromkeys(role_of_process(event["process"]) for event in events):
        hit = [(fault.time, name, count) for fault in faults for name, count in fault.victims.items()]
        causes = [time for time, name, count in hit if name == role for _ in range(count)]
        for event in events:
            if event["kind"] != "lost" or role_of_process(event["process"]) != role:
                continue
            if causes and causes[0] <= event["time"]:
                del causes[0]
            else:
                extra.append(event)
    return extra


def saved_steps(log: str) -> list[int]:
    """Return the steps of the checkpoints that a job's log reports as saved, in its order."""
    return [int(steps) for steps in _SAVED.findall(_unfolded(log))]


def resumed_from(log: str) -> int:
    """Return the steps of the checkpoint that a job's log says it resumed from; 0 if it resumed from none."""
    found = _RESUMED.search(_unfolded(log))
    return int(found[1]) if found else 0


def failed_saves(log: str) -> int:
    """Return how many saves a job's log reports as failed."""
    return _unfolded(log).count(" was not saved")


def is_training(log: str) -> bool:
    """Return whether a job has begun to train: from then on its tables are as at the checkpoint."""
    return any(line.startswith("training ") for line in log.splitlines())


def missing_checkpoints(saved: Sequence[int], listed: Sequence[int], keep: int) -> list[int]:
    """Return the steps of checkpoints that were reported as saved and should still exist, but do not."""
    due = sorted(set(saved), reverse=True)[:keep]
    return [steps for steps in due if steps not in listed]


def _unfolded(log: str) -> str:
    return " ".join(log.split())
