"""Which episode a replay shows first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from distributed_maddpg.evaluation.scores import SUCCESS_EPS, success_masks
from distributed_maddpg.report.roles import team_name

States = Mapping[str, npt.NDArray[Any]]
_SEEN_APART = 1.2
"""Landmarks this far apart are told apart at first sight."""


@dataclass(frozen=True)
class Choice:
    """An episode, and why it is shown first."""

    index: int
    reason: str


def choose_episode(
    env_id: str, states: States, rewards: npt.NDArray[np.floating], agents: Sequence[str]
) -> Choice:
    """Return the episode to show first, of those that the newest policies played.

    Args:
        env_id: the scenario.
        states: [K, T + 1, ...] arrays of each frame.
        rewards: [K, T, N].
        agents: names of the N agents.
    """
    if env_id == "simple_adversary":
        return _deceived(states)
    teams = [team_name(agent) for agent in agents]
    # The larger team: predators, whose catches are to be seen. Of equal ones the last, which is the good one.
    team = max(dict.fromkeys(reversed(teams)), key=teams.count)
    members = [index for index, own in enumerate(teams) if own == team]
    returns = rewards[:, :, members].sum(axis=(1, 2))
    count = len(returns)
    reason = f"chosen from {count}: with the newest policies the return of team {team} is the largest in it"
    return Choice(int(returns.argmax()), reason)


def _deceived(states: States) -> Choice:
    """Return the episode that shows best how good agents split and the adversary goes wrong."""
    from distributed_maddpg.envs.mpe.simple_adversary import landmark_distances  # noqa: PLC0415 - loads numba

    last = {name: array[:, -1] for name, array in states.items()}
    distances = landmark_distances(last)
    masks = success_masks(distances, SUCCESS_EPS)
    wins = masks["coverage"] & masks["agents"] & ~masks["adversary"]
    good = distances[:, 1:].min(axis=1)  # [K, L] of the nearest good agent
    marks = last["landmark_positions"]
    apart = np.sqrt(np.square(marks[:, :, None] - marks[:, None]).sum(axis=-1))
    apart += 1e3 * np.eye(marks.shape[1])  # not from itself
    wrong = distances[:, 0, 1:].min(axis=1) if distances.shape[2] > 1 else np.zeros(len(good))
    score = np.minimum(apart.min(axis=(1, 2)), _SEEN_APART) + distances[:, 0, 0] - good.max(axis=1) - wrong
    index = int(np.where(wins, score + 1e3, score).argmax())
    count = len(score)
    if wins.any():
        reason = (
            f"chosen from {count}: with the newest policies {int(wins.sum())} of them end with every "
            "landmark covered and the adversary away from the goal, and this one shows it most clearly"
        )
    else:
        reason = f"chosen from {count}: none ends with every landmark covered and the adversary deceived yet"
    return Choice(index, reason)
