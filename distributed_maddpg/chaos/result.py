"""What a chaos experiment found, as plain values."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distributed_maddpg.chaos.faults import KINDS, Fault
from distributed_maddpg.chaos.injector import InjectionResult
from distributed_maddpg.chaos.recovery import Event

ENOUGH_FAULTS = 20


@dataclass(frozen=True)
class Checkpoints:
    """What became of a job's checkpoints."""

    saved: int
    """Reported as saved, in all incarnations."""
    loaded: int
    """There at the end, and read without complaint."""
    lost: list[str]
    """A line on each that is missing, damaged, or was."""


def by_kind(faults: Sequence[Fault]) -> dict[str, dict[str, Any]]:
    """Return counts, times to recover and losses of each kind that was injected, in the order of `KINDS`.

    Losses are the worst of those faults that had no other beside them; None where there are none.
    """
    summed = {}
    for name in KINDS:
        own = [fault for fault in faults if fault.kind.name == name]
        if not own:
            continue
        times = [fault.recovered_after_s for fault in own if fault.recovered_after_s is not None]
        alone = [fault for fault in own if fault.alone and fault.recovered_after_s is not None]
        summed[name] = {
            "count": len(own),
            "recovered": len(times),
            "median_s": statistics.median(times) if times else None,
            "max_s": max(times, default=None),
            "env_steps_lost_max": max((fault.env_steps_lost for fault in alone), default=None),
            "updates_lost_max": max((fault.updates_lost for fault in alone), default=None),
        }
    return summed


def losses(
    env_steps: int, updates: int, injection: InjectionResult, events: Sequence[Event]
) -> dict[str, int]:
    """Return what was lost to dead processes, and what to restarts of the whole job."""
    back = [event["message"] for event in events if event["kind"] == "recovered"]
    return {
        "env_steps_of_dead_processes": env_steps,
        "updates_of_dead_processes": updates,
        "env_steps_after_the_checkpoint": injection.env_steps_redone,
        "updates_after_the_checkpoint": injection.updates_redone,
        "replay_buffers_back_empty": sum("without its transitions" in line for line in back),
        "replay_buffers_back_from_snapshot": sum("transitions of a snapshot" in line for line in back),
    }


def verdict(result: Mapping[str, Any]) -> list[str]:
    """Return what speaks against the trainer, a line each; none if it passed."""
    told = {
        "the job did not complete": not result["completed"],
        f"{result['hangs']} hangs": result["hangs"],
        f"{len(result['lost_checkpoints'])} checkpoints lost": result["lost_checkpoints"],
        f"{result['leftover_processes']} processes left over": result["leftover_processes"],
        "the scorecard is not the twin's within noise": not result["within_noise"],
    }
    return [line for line, wrong in told.items() if wrong] + list(result["problems"])
