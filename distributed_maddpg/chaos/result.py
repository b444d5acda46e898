"""The result of a chaos experiment, as plain values: recoveries, losses, and scores against the baseline."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from distributed_maddpg.chaos.faults import KINDS, Fault
from distributed_maddpg.chaos.injector import InjectionResult
from distributed_maddpg.chaos.recovery import Counts, Event

ENOUGH_FAULTS = 20
LAST_EVALUATIONS = 8
"""Evaluations during training that count, in addition to the final one."""
SIGMAS = 3.0
_RETURN = "good agents' return"
_PERCENT = 100.0


def by_kind(faults: Sequence[Fault]) -> dict[str, dict[str, Any]]:
    """Return counts, times to recover and losses of each kind that was injected, in the order of `KINDS`.

    Losses are the worst of those faults that overlapped with no other; None where there are none.
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


def losses(counts: Counts, injection: InjectionResult, events: Sequence[Event]) -> dict[str, int]:
    """Return the losses to dead processes, and those to restarts of the whole job."""
    back = [event["message"] for event in events if event["kind"] == "recovered"]
    return {
        "env_steps_of_dead_processes": counts.env_steps_lost,
        "updates_of_dead_processes": counts.updates_lost,
        "env_steps_after_the_checkpoint": injection.env_steps_redone,
        "updates_after_the_checkpoint": injection.updates_redone,
        "replay_buffers_back_empty": sum("without its transitions" in line for line in back),
        "replay_buffers_back_from_snapshot": sum("transitions of a snapshot" in line for line in back),
    }


def failures(result: Mapping[str, Any]) -> list[str]:
    """Return why the experiment failed, a line each; empty if it passed."""
    reasons = {
        "the job did not complete": not result["completed"],
        f"{result['hangs']} hangs": result["hangs"],
        f"{len(result['lost_checkpoints'])} checkpoints lost": result["lost_checkpoints"],
        f"{result['leftover_processes']} processes left over": result["leftover_processes"],
        "the scores are not those of the job without faults within noise": not result["within_noise"],
    }
    return [line for line, applies in reasons.items() if applies] + list(result["problems"])


def compare(
    baseline: Sequence[Mapping[str, float]],
    disturbed: Sequence[Mapping[str, float]],
    return_std: float,
) -> list[dict[str, Any]]:
    """Compare the last evaluations of two runs, measure by measure.

    The difference of the means over the last evaluations is compared with the spread of single evaluations
    in the second half of each run, pooled over both: the policy of a run that continues to learn varies by
    that much, and more slowly than from one evaluation to the next, so the spread is not divided by the
    number of evaluations. The bound is at least the error due to the number of episodes.

    Args:
        baseline: rows of `returns.csv`, the final evaluation last.
        disturbed: likewise.
        return_std: standard deviation of the good agents' return over episodes.
    """
    runs = (baseline, disturbed)
    last = [rows[-LAST_EVALUATIONS - 1 :] for rows in runs]
    episodes = [sum(row["episodes"] for row in rows) for rows in last]
    compared = []
    for name in _measures([*last[0], *last[1]]):
        means = [statistics.fmean(_value(row, name) for row in rows) for rows in last]
        halves = [[_value(row, name) for row in rows[len(rows) // 2 :]] for rows in runs]
        error = return_std if name == _RETURN else _binomial_std(statistics.fmean(means))
        by_episodes = error * math.sqrt(sum(1 / n for n in episodes))
        bound = SIGMAS * max(_pooled_std(halves), by_episodes)
        difference = means[1] - means[0]
        compared.append(
            {
                "measure": name,
                "baseline": means[0],
                "disturbed": means[1],
                "difference": difference,
                "bound": bound,
                "within": abs(difference) <= bound,
            }
        )
    return compared


def good_return_std(card: Mapping[str, Any]) -> float:
    """Return the spread of the good agents' mean return over the episodes of a scorecard."""
    stds = [value for agent, value in card["agent_episode_returns_std"].items() if _is_good(agent)]
    return statistics.fmean(stds)  # they share their reward, so their mean varies like each of them


def _measures(rows: Sequence[Mapping[str, float]]) -> list[str]:
    successes = [name for name in rows[0] if name.startswith("success_")]
    return [name for name in successes if all(name in row for row in rows)] + [_RETURN]


def _value(row: Mapping[str, float], name: str) -> float:
    if name == _RETURN:
        return statistics.fmean(value for agent, value in row.items() if _is_good(agent))
    return row[name]


def _is_good(agent: str) -> bool:
    return agent.startswith("agent_")


def _binomial_std(percent: float) -> float:
    """Return the standard deviation of one episode's success, in percent."""
    return math.sqrt(max(0.0, percent * (_PERCENT - percent)))


def _pooled_std(groups: Sequence[Sequence[float]]) -> float:
    """Return the standard deviation within groups; 0 where none has two values."""
    freedom = sum(len(group) - 1 for group in groups)
    if freedom <= 0:
        return 0.0
    squares = sum(statistics.variance(group) * (len(group) - 1) for group in groups if len(group) > 1)
    return math.sqrt(squares / freedom)
