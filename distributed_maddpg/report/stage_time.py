"""Where the time of a run's stages went, of several seeds' runs together: they share the stages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from distributed_maddpg.bottleneck import REMEDIES, SHARES, name_bottleneck, time_shares
from distributed_maddpg.report.runs import STEPS, Group, Run

_SECONDS = "time_this_iter_s"


def shares_of_reports(group: Group) -> list[dict[str, float]]:
    """Return the shares of the stages' time in each report; empty if the tables lack a timer."""
    if not _is_known(group):
        return []
    return [_within_all(_shares(group, [row])) for row in range(_num_reports(group))]


def _within_all(shares: dict[str, float]) -> dict[str, float]:
    """Return shares of which those of a stage are at most 1 together: a report may tell of work before it."""
    found: dict[str, float] = {}
    for stage in ("rollout", "learner"):
        own = {name: share for name, share in shares.items() if name.startswith(stage)}
        total = max(1.0, sum(own.values()))
        found |= {name: share / total for name, share in own.items()}
    return found


def bottleneck(group: Group) -> dict[str, Any] | None:
    """Return what limits the speed, in words, over all reports; None if they do not tell."""
    if not _is_known(group):
        return None
    # The first report after a start covers the start of the processes too.
    starts = [0.0, *group.first.resumed_at]
    steps = group.first.metrics[STEPS]
    first = {next((row for row, own in enumerate(steps) if own > start), 0) for start in starts}
    rows = [row for row in range(_num_reports(group)) if row not in first]
    shares = _within_all(_shares(group, rows or range(_num_reports(group))))
    name = name_bottleneck(shares)
    text = (
        f"The learner spent {shares['learner_busy']:.0%} of the time updating and "
        f"{shares['learner_blocked_replay']:.0%} waiting for minibatches; the workers spent "
        f"{shares['rollout_busy']:.0%} acting and stepping and {shares['rollout_blocked_push']:.0%} waiting "
        "for the replay buffer."
    )
    return {"name": name, "text": text, "remedy": REMEDIES[name], "shares": shares}


def _is_known(group: Group) -> bool:
    needed = [_SECONDS, STEPS, *(f"timers/{name}_s" for name in SHARES)]
    return group.first.config is not None and all(
        run.metrics.get(name) and all(map(math.isfinite, run.metrics[name]))
        for run in group.runs
        for name in needed
    )


def _num_reports(group: Group) -> int:
    return min(len(run.metrics[STEPS]) for run in group.runs)


def _shares(group: Group, rows: Iterable[int]) -> dict[str, float]:
    """Return the shares of the stages' time in these reports together."""
    rows = list(rows)
    in_turn = group.first.config is not None and group.first.config.num_workers == 0
    timers = {}
    for name in SHARES:
        # A run reports its part of what stages did for all; only a learner's process tells each run all.
        alone = not in_turn and name.startswith("learner")
        runs: Sequence[Run] = group.runs[:1] if alone else group.runs
        timers[f"{name}_s"] = sum(run.metrics[f"timers/{name}_s"][row] for run in runs for row in rows)
    seconds = sum(group.first.metrics[_SECONDS][row] for row in rows)
    return time_shares(timers, max(seconds, 1e-9), in_turn)
