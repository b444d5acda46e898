"""Greedy episodes of trained, scripted and random teams against each other."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.evaluation.episodes import evaluate, evaluation_env, greedy_policy
from distributed_maddpg.evaluation.scorecard import Scorecard
from distributed_maddpg.evaluation.scripted import combine_teams, random_policy, straight_to_goal_policy
from distributed_maddpg.seeding import integer_seed
from distributed_maddpg.types import FloatArray

_MAX_CROSSED_TEAMS = 2
_SUMMARY_KEYS = ("agent_episode_returns_mean", "success", "delta", "final_distance_mean")


_CROSS_PLAY_COPIES = 64
"""Whatever the runs had: the number decides the start states, which all pairings must share."""


def evaluate_matchups(
    config: MADDPGConfig, parameters: FloatArray, num_episodes: int, seed: int
) -> list[tuple[dict[str, str], Scorecard]]:
    """Play trained and scripted teams against each other, each time from the same start states.

    Returns:
        For each pairing who played which team, "trained", "random" or, where the environment knows
        landmarks, "straight" to the goal; and the card. Of more than two teams at most one is trained, or
        not, alone.
    """
    with evaluation_env(config, 1, seed) as env:
        teams, has_landmarks = tuple(dict.fromkeys(env.spec.teams)), env.final_distances() is not None
    names = ("trained", "random", "straight") if has_landmarks else ("trained", "random")
    pairings = list(itertools.product(names, repeat=len(teams)))
    if len(teams) > _MAX_CROSSED_TEAMS:
        pairings = [
            own for own in pairings if 1 in (own.count("trained"), own.count("random")) or len(set(own)) == 1
        ]
    matchups = [dict(zip(teams, own, strict=True)) for own in pairings]
    return [(who, evaluate_matchup(config, parameters, who, num_episodes, seed)) for who in matchups]


def evaluate_matchup(
    config: MADDPGConfig, parameters: FloatArray, players: Mapping[str, str], num_episodes: int, seed: int
) -> Scorecard:
    """Play with each team "trained", "random" or "straight", as `players` says; see `evaluate_matchups`."""
    with evaluation_env(config, num_episodes, seed) as env:
        policies = {
            "trained": greedy_policy(config, env, parameters),
            "random": random_policy(env.spec, np.random.default_rng(seed)),
            "straight": straight_to_goal_policy(
                env.spec, env.get_state, bool(config.env.kwargs.get("velocity_first"))
            ),
        }
        play = combine_teams(env.spec, {team: policies[name] for team, name in players.items()})
        return evaluate(env, play, num_episodes)


class TeamSource(NamedTuple):
    """A run whose policies play."""

    config: MADDPGConfig
    parameters: FloatArray
    """[N, P]"""


def evaluate_teams(sides: Mapping[str, TeamSource], num_episodes: int, seed: int) -> Scorecard:
    """Play greedy episodes in which each team acts as the run says that is named for it.

    Args:
        sides: by team; of the same environment, which is built as for the first.
        num_episodes: how many.
        seed: of the start states.
    """
    with evaluation_env(next(iter(sides.values())).config, num_episodes, seed, _CROSS_PLAY_COPIES) as env:
        policies = {team: greedy_policy(side.config, env, side.parameters) for team, side in sides.items()}
        return evaluate(env, combine_teams(env.spec, policies), num_episodes)


def matchups(
    config: MADDPGConfig, parameters: FloatArray, num_episodes: int, seed: int
) -> list[dict[str, Any]]:
    """Return how trained and scripted teams fare against each other, see `evaluate_matchups`."""
    key = integer_seed(seed, "evaluation", 0)
    found = evaluate_matchups(config, parameters, num_episodes, key)
    return [{"players": players, **_summary(card)} for players, card in found]


def _summary(card: Scorecard) -> dict[str, Any]:
    """Return the part of a scorecard by which pairings are compared."""
    return {name: value for name, value in card.to_dict().items() if name in _SUMMARY_KEYS}
