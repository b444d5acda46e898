"""Opponents of the teams of a run: how each one acts, and how good it was while it trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from distributed_maddpg.best_response.uninformed import DoubleArray, geometric_medians, points_near_most
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs.base import VectorEnv
from distributed_maddpg.envs.mpe.simple_adversary import AdversaryOptions
from distributed_maddpg.evaluation.episodes import evaluate, evaluation_env, greedy_policy
from distributed_maddpg.evaluation.scorecard import Scorecard
from distributed_maddpg.evaluation.scores import SUCCESS_EPS
from distributed_maddpg.evaluation.scripted import (
    JointPolicyFn,
    Targets,
    centroid_targets,
    combine_teams,
    for_all_agents,
    nearest_landmark_targets,
    scripted_policy,
    wait_then_nearest_targets,
)
from distributed_maddpg.types import Arrays, FloatArray

ADVERSARY = "adversary"
REACH = 0.999 * SUCCESS_EPS
"""How near a scripted adversary waits to what it wants to reach. It stops within the rest of its point."""
_MAX_NEAR_MOST = 16
"""Landmarks; the time in which the point near most of them is found grows with their number cubed."""


class Score(NamedTuple):
    """What an opponent reaches, mean over episodes."""

    episode_return: float
    """Mean of the team's agents."""
    final_distance: float | None
    """Distance of the adversary from the goal in the last frame; None without landmarks."""
    success: float | None
    """Share of episodes, in %, in which it is nearer than `SUCCESS_EPS` then; None without landmarks."""


class Progress(NamedTuple):
    """What an opponent reached while it trained."""

    updates: int
    score: Score
    """Of new episodes after these updates, or mean of those that were trained on since the last point."""


@dataclass(frozen=True)
class Opponent:
    """A team that plays against the other teams of a run."""

    name: str
    make_policy: Callable[[VectorEnv], JointPolicyFn]
    """Returns a joint policy in an environment, of which the team's actions are used."""
    number: int | None = None
    """Which of the opponents of this name, each with a seed of its own; None if nothing is random."""
    curve: tuple[Progress, ...] = ()


def play(
    config: MADDPGConfig,
    parameters: FloatArray,
    players: Mapping[str, Opponent],
    num_episodes: int,
    seed: int,
    max_copies: int = 0,
) -> Scorecard:
    """Play episodes of a run's greedy policies `[N, P]`, with `players` in the place of their teams."""
    with evaluation_env(config, num_episodes, seed, max_copies) as env:
        trained = greedy_policy(config, env, parameters)
        own = {team: player.make_policy(env) for team, player in players.items()}
        policies = {team: own.get(team, trained) for team in env.spec.teams}
        return evaluate(env, combine_teams(env.spec, policies), num_episodes)


def measure(card: Scorecard, own: Sequence[bool]) -> Score:
    """Return the score of a team, given which agents `[N]` are its own."""
    episode_return = float(card.episodes.returns[:, own].mean())
    if not card.has_landmarks:
        return Score(episode_return, None, None)
    distances = card.episodes.final_distances[:, 0, 0]
    return Score(episode_return, float(distances.mean()), 100 * float((distances < SUCCESS_EPS).mean()))


def scripted_adversaries(options: AdversaryOptions) -> list[Opponent]:
    """Return the adversaries written by hand, which know where everybody is but not the goal."""
    steps = sorted({options.max_cycles * part // 5 for part in range(1, 5)} - {0})
    targets: dict[str, Targets] = {
        "centroid": centroid_targets,
        "median": waiting_targets(geometric_medians),
        "nearest": nearest_landmark_targets,
    }
    if options.N <= _MAX_NEAR_MOST:
        targets["most landmarks"] = waiting_targets(partial(points_near_most, eps=REACH))
    for step in steps:
        targets[f"nearest from step {step}"] = wait_then_nearest_targets(step)
    return [scripted_opponent(name, own, options) for name, own in targets.items()]


def waiting_targets(choose: Callable[[DoubleArray], DoubleArray]) -> Targets:
    """Return the targets of agents that wait at the points `[E, 2]` that `choose` finds for the landmarks."""
    points = np.empty((0, 2))

    def targets(state: Arrays) -> DoubleArray:
        nonlocal points
        if (state["cycle"] == 0).all():  # all copies begin and end together
            points = choose(state["landmark_positions"])
        return for_all_agents(state, points)

    return targets


def scripted_opponent(name: str, targets: Targets, options: AdversaryOptions) -> Opponent:
    """Return a team whose agents head for the given points."""
    return Opponent(
        name, lambda env: scripted_policy(env.spec, env.get_state, targets, options.velocity_first)
    )
