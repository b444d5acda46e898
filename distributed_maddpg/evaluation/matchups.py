"""Greedy episodes in which teams act with different policies: trained, scripted, random, of several runs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs.base import VectorEnv
from distributed_maddpg.evaluation.episodes import evaluate, evaluation_env, greedy_policy
from distributed_maddpg.evaluation.headings import headings
from distributed_maddpg.evaluation.scorecard import Scorecard
from distributed_maddpg.evaluation.scripted import (
    Targets,
    combine_teams,
    random_policy,
    scripted_policy,
)
from distributed_maddpg.seeding import integer_seed
from distributed_maddpg.types import FloatArray

_MAX_TEAMS_FOR_ALL_MATCHUPS = 2
_SUMMARY_KEYS = ("agent_episode_returns_mean", "measures", "success", "delta", "final_distance_mean")

_CROSS_PLAY_COPIES = 64
"""Not the runs' setting: the number of copies decides the start states, which all matchups must share."""


def evaluate_matchups(
    config: MADDPGConfig, parameters: FloatArray, num_episodes: int, seed: int
) -> list[dict[str, Any]]:
    """Play trained teams, of policies `[N, P]`, against scripted and random ones.

    Each matchup plays `num_episodes` episodes from the same start states, whose seed derives from `seed`.

    Returns:
        For each matchup `players`, the player of each team ("trained", "random" or, where it is obvious where
        to head, "straight" there), and the scores that matchups are compared by. With more than two teams,
        only matchups with one trained team, one random team or the same player for all teams.
    """
    env_seed = integer_seed(seed, "evaluation", 0)
    with evaluation_env(config, 1, env_seed) as env:
        teams, is_obvious = tuple(dict.fromkeys(env.spec.teams)), _headings(config, env) is not None
    names = ("trained", "random", "straight") if is_obvious else ("trained", "random")
    rows = []
    for matchup in itertools.product(names, repeat=len(teams)):
        one_differs = 1 in (matchup.count("trained"), matchup.count("random"))
        if len(teams) > _MAX_TEAMS_FOR_ALL_MATCHUPS and not one_differs and len(set(matchup)) > 1:
            continue
        players = dict(zip(teams, matchup, strict=True))
        card = evaluate_matchup(config, parameters, players, num_episodes, env_seed).to_dict()
        rows.append({"players": players, **{key: card[key] for key in _SUMMARY_KEYS if key in card}})
    return rows


def evaluate_matchup(
    config: MADDPGConfig, parameters: FloatArray, players: Mapping[str, str], num_episodes: int, seed: int
) -> Scorecard:
    """Play greedy episodes with each team's player "trained", "random" or "straight"."""
    with evaluation_env(config, num_episodes, seed) as env:
        velocity_first = bool(config.env.kwargs.get("velocity_first"))
        policies = {
            "trained": greedy_policy(config, env, parameters),
            "random": random_policy(env.spec, np.random.default_rng(seed), env.roster),
        }
        if targets := _headings(config, env):
            policies["straight"] = scripted_policy(env.spec, env.get_state, targets, velocity_first)
        policy = combine_teams(env.spec, {team: policies[player] for team, player in players.items()})
        return evaluate(env, policy, num_episodes)


def _headings(config: MADDPGConfig, env: VectorEnv) -> Targets | None:
    # An environment of MPE2 that this package cannot read the state of is stepped as any other.
    return headings(config.env.id, env.spec.teams) if hasattr(env, "scenario") else None


class TeamSource(NamedTuple):
    """A run whose policies play a team."""

    config: MADDPGConfig
    parameters: FloatArray
    """[N, P]"""


def evaluate_teams(sources: Mapping[str, TeamSource], num_episodes: int, seed: int) -> Scorecard:
    """Play greedy episodes in which each team acts with the policies of its own run.

    All runs have the same environment; it is built from the settings of the first.
    """
    with evaluation_env(next(iter(sources.values())).config, num_episodes, seed, _CROSS_PLAY_COPIES) as env:
        policies = {team: greedy_policy(run.config, env, run.parameters) for team, run in sources.items()}
        return evaluate(env, combine_teams(env.spec, policies), num_episodes)
