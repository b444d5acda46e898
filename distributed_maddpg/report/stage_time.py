"""Where the time of a run's stages went, of several seeds' runs together: they share the stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distributed_maddpg.bottleneck import REMEDIES, SHARES, name_bottleneck, time_shares
from distributed_maddpg.report.runs import STEPS, Group, Run

_SECONDS = "time_this_iter_s"


def shares_of_reports(group: Group) -> list[dict[str, float]]:
    """Return the shares of the stages' time in each report; empty if the tables lack a timer."""
    if not _is_known(group):
        return []
    config, count = group.first.config, min(len(run.metrics[STEPS]) for run in group.runs)
    in_turn = config is not None and config.num_workers == 0
    return [
        time_shares(
            _timers(group, slice(row, row + 1)), max(group.first.metrics[_SECONDS][row], 1e-9), in_turn
        )
        for row in range(count)
    ]


def bottleneck(group: Group) -> dict[str, Any] | None:
    """Return what limits the speed, in words, over all reports; None if they do not tell."""
    if not _is_known(group) or group.first.config is None:
        return None
    seconds = sum(group.first.metrics[_SECONDS])
    shares = time_shares(_timers(group, slice(None)), seconds, group.first.config.num_workers == 0)
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
    known = all(run.metrics.get(name) for run in group.runs for name in needed)
    return known and group.first.config is not None and sum(group.first.metrics[_SECONDS]) > 0


def _timers(group: Group, rows: slice) -> dict[str, float]:
    """Return the seconds of each timer in these reports.

    A run reports its part of what stages did for all; only the learner's process tells each run all.
    """
    parallel = group.first.config is not None and group.first.config.num_workers > 0
    found = {}
    for name in SHARES:
        runs: Sequence[Run] = group.runs[:1] if parallel and name.startswith("learner") else group.runs
        found[f"{name}_s"] = sum(sum(run.metrics[f"timers/{name}_s"][rows]) for run in runs)
    return found
