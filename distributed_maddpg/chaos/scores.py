"""Whether a disturbed job learnt what its undisturbed baseline did, as far as noise lets one say."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

LAST_EVALUATIONS = 8
"""Evaluations during training that count beside the final one."""
SIGMAS = 3.0
_RETURN = "good agents' return"
_PERCENT = 100.0


def compare(
    baseline: Sequence[Mapping[str, float]],
    disturbed: Sequence[Mapping[str, float]],
    return_std: float,
) -> list[dict[str, Any]]:
    """Compare the last evaluations of two runs, measure by measure.

    The means over the last evaluations are held against the spread of single evaluations in the latter half
    of each run, pooled over both: a policy that goes on learning wanders by that much, and more slowly than
    from one evaluation to the next. The bound is never tighter than what the number of episodes alone can
    tell apart.

    Args:
        baseline: rows of `returns.csv`, the final evaluation last.
        disturbed: likewise.
        return_std: standard deviation of the good agents' return over episodes.
    """
    ours, theirs = baseline[-LAST_EVALUATIONS - 1 :], disturbed[-LAST_EVALUATIONS - 1 :]
    episodes = [sum(row["episodes"] for row in rows) for rows in (ours, theirs)]
    compared = []
    for name in _measures([*ours, *theirs]):
        values = [[_value(row, name) for row in rows] for rows in (ours, theirs)]
        halves = [[_value(row, name) for row in rows[len(rows) // 2 :]] for rows in (baseline, disturbed)]
        means = [statistics.fmean(each) for each in values]
        error = return_std if name == _RETURN else _binomial_std(statistics.fmean(means))
        by_episodes = error * math.sqrt(sum(1 / n for n in episodes))
        bound = SIGMAS * max(_pooled_std(halves), by_episodes)
        difference = means[1] - means[0]
        compared.append(
            {
                "measure": name,
                "twin": means[0],
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
    return statistics.fmean(stds)  # they share their reward, so that their mean varies as each does


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
