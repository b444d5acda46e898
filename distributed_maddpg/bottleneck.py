"""Which part of a training job limits its speed, from how long each stage waited for what.

docs/metrics.md states the rule for readers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Bottleneck = Literal["worker CPU", "push", "replay", "sample transfer", "weights", "learner", "pacing"]

REMEDIES: Mapping[Bottleneck, str] = {
    "learner": "a GPU, a smaller batch or fewer updates",
    "replay": "a faster replay buffer: both sides wait for it",
    "sample transfer": "a cheaper transfer from the replay buffer to the learner",
    "worker CPU": "more workers or cores",
    "push": "larger fragments",
    "weights": "a longer publish interval",
    "pacing": "more pacing.tolerance_updates, or a faster driver",
}
"""What would help against each."""
_ROLLOUT = ("busy", "blocked_push", "blocked_weights", "blocked_pacing")
_LEARNER = ("busy", "blocked_replay", "blocked_pacing")
SHARES = (*(f"rollout_{part}" for part in _ROLLOUT), *(f"learner_{part}" for part in _LEARNER))
"""Parts of the stages' time; those of the workers are means over workers."""
_BOTH_WAIT = 0.2
"""If the other stage also waits for the replay buffer for this share, the buffer itself is the bottleneck."""
_DECIDED_BY: Mapping[Bottleneck, str] = {
    "worker CPU": "rollout_busy",
    "push": "rollout_blocked_push",
    "replay": "learner_blocked_replay",
    "sample transfer": "learner_blocked_replay",
    "weights": "rollout_blocked_weights",
    "learner": "learner_busy",
    "pacing": "rollout_blocked_pacing",
}


def time_shares(timers: Mapping[str, float], seconds: float, in_turn: bool) -> dict[str, float]:
    """Return each stage's busy and blocked time as a share of an interval of a job.

    Args:
        timers: seconds under the keys of `result["timers"]`.
        seconds: length of the interval.
        in_turn: whether all stages shared one process. The time in which a stage was neither busy nor
            blocked is then a wait for its turn, which counts as pacing.
    """
    shares = {name: timers[f"{name}_s"] / seconds for name in SHARES}
    for stage, parts in (("rollout", _ROLLOUT), ("learner", _LEARNER)):
        used, pacing = sum(shares[f"{stage}_{part}"] for part in parts[:-1]), f"{stage}_blocked_pacing"
        rest = max(0.0, 1.0 - used)
        was_asked = used + shares[pacing] > 0
        # A wait that ended in this interval may have begun long before it.
        shares[pacing] = rest if in_turn or not was_asked else min(shares[pacing], rest)
    return shares


def name_bottleneck(shares: Mapping[str, float]) -> Bottleneck:
    """Name what must get faster for the job to get faster.

    The learner's time decides first. If it mostly learns, the bottleneck is the learner. If it mostly waits
    for minibatches, it is their transfer, or the replay buffer where the workers' pushes wait for it too.
    If it mostly waits for its pacing, it needs more transitions, and the workers' time decides in the same
    way; if they also mostly wait for theirs, it is the pacing.

    Args:
        shares: what `time_shares` returned.
    """
    learner = max(_LEARNER, key=lambda part: shares[f"learner_{part}"])
    if learner == "busy":
        return "learner"
    if learner == "blocked_replay":
        return "replay" if shares["rollout_blocked_push"] >= _BOTH_WAIT else "sample transfer"
    worker = max(_ROLLOUT, key=lambda part: shares[f"rollout_{part}"])
    if worker == "blocked_push":
        return "replay" if shares["learner_blocked_replay"] >= _BOTH_WAIT else "push"
    names: dict[str, Bottleneck] = {
        "busy": "worker CPU",
        "blocked_weights": "weights",
        "blocked_pacing": "pacing",
    }
    return names[worker]


def bottleneck_text(bottleneck: Bottleneck, shares: Mapping[str, float]) -> str:
    """Return a bottleneck in words: what it is, for which share of the time, and what would help."""
    stage, _, part = _DECIDED_BY[bottleneck].partition("_")
    who = "" if bottleneck == "learner" else {"rollout": "workers ", "learner": "learner "}[stage]
    does = {"busy": "busy", "blocked_pacing": "idle"}.get(part, "waiting")
    share = f"{who}{does} {100 * shares[_DECIDED_BY[bottleneck]]:.0f} %"
    return f"{bottleneck}: {share}; {REMEDIES[bottleneck]}"
