"""A trained run beside scripted players, and against those who learn to exploit it (floor F5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distributed_maddpg.best_response import train_response
from distributed_maddpg.bounds import centroid_distances, uninformed_distances, uninformed_shares
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import env_spec, make_vector_env
from distributed_maddpg.evaluation import (
    Scorecard,
    evaluate_matchups,
    evaluate_scripted,
    evaluate_weights,
)
from distributed_maddpg.scores import SUCCESS_EPS
from distributed_maddpg.seeding import integer_seed
from distributed_maddpg.types import FloatArray

_SUMMARISED = ("agent_episode_returns_mean", "success", "delta", "final_distance_mean")
_BOUND_EPISODES, _LEAST_BOUND_EPISODES, _INFORMED_EPISODES = 20_000, 200, 1_000
_BOUND_WORK = _BOUND_EPISODES * 4**3
"""Start states times landmarks cubed, which is what the bounds cost: seconds."""
_ADVERSARY = "adversary"


def full_card(card: Scorecard) -> dict[str, Any]:
    """Return a scorecard as plain numbers with its confidence intervals under `ci95`."""
    return {**card.to_dict(), "ci95": card.intervals()}


def matchups(
    config: MADDPGConfig, parameters: FloatArray, num_episodes: int, seed: int
) -> list[dict[str, Any]]:
    """Return how trained and scripted teams fare against each other, see `evaluate_matchups`."""
    key = integer_seed(seed, "evaluation", 0)
    found = evaluate_matchups(config, parameters, num_episodes, key)
    return [{"players": players, **_summary(card)} for players, card in found]


def best_responses(
    config: MADDPGConfig,
    parameters: FloatArray,
    updates: int,
    num_episodes: int,
    seed: int,
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Train a fresh team against the rest of a run, for each team in turn, and see what it gains.

    Args:
        config: of the run.
        parameters: [N, P] its policies.
        updates: how long each fresh team learns.
        num_episodes: of each evaluation.
        seed: of the training and of the start states.
        note: takes a line for a person.

    Returns:
        The budget, and for each team the card with the fresh team in it and what its members gained in return
        over those they replace; for the adversary also what it could do without knowing the goal, and with.
    """
    spec = env_spec(config.env.id, config.env.backend, config.env.kwargs)
    key = integer_seed(seed, "evaluation", 0)
    before = evaluate_weights(config, parameters, num_episodes, key)
    found: dict[str, Any] = {}
    bounds = adversary_bounds(config, parameters, key) if before.knows_landmarks else {}
    for index, team in enumerate(dict.fromkeys(spec.teams)):
        note(f"training a fresh {team} against the others: {updates} updates")
        response = train_response(config, parameters, team, updates, integer_seed(seed, "response", index))
        found["updates"] = response.updates
        after = evaluate_weights(config, response.policies, num_episodes, key)
        own = np.array([own == team for own in spec.teams])
        gain = (after.episodes.returns - before.episodes.returns)[:, own].mean()
        found[team] = {"return_gain": float(gain), **full_card(after)}
    if bounds:
        found[_ADVERSARY]["bounds"] = bounds
    return found


def adversary_bounds(config: MADDPGConfig, parameters: FloatArray, seed: int) -> dict[str, dict[str, float]]:
    """Return the mean final distance from the goal, and the success, that bound what an adversary can reach.

    Args:
        config: of a run of `simple_adversary`.
        parameters: [N, P] its policies, whose good agents the informed adversary plays against.
        seed: of the start states.

    Returns:
        "uninformed": the best without knowing the goal, of distance and of success each by itself;
        "uninformed_squared": where the squared distance is smallest, which OpenAI's MPE pays for;
        "informed": of an adversary that knows the goal and heads straight for it, played.
    """
    kwargs = {name: value for name, value in config.env.kwargs.items() if name != "render_mode"}
    num_landmarks = env_spec(config.env.id, "vectorized", kwargs).num_agents - 1  # as many as good agents
    episodes = max(_LEAST_BOUND_EPISODES, min(_BOUND_EPISODES, _BOUND_WORK // num_landmarks**3))
    kernel = make_vector_env(config.env.id, episodes, seed, backend="vectorized", **kwargs)
    kernel.reset()
    landmarks = kernel.get_state()["landmark_positions"]
    centroid = centroid_distances(landmarks)
    players = {_ADVERSARY: "straight", "agent": "trained"}
    informed = evaluate_scripted(config, parameters, players, _INFORMED_EPISODES, seed).to_dict()
    return {
        "uninformed": {
            "final_distance": float(uninformed_distances(landmarks).mean()),
            "success": 100 * float(uninformed_shares(landmarks, SUCCESS_EPS).mean()),
        },
        "uninformed_squared": {
            "final_distance": float(centroid.mean()),
            "success": 100 * float((centroid < SUCCESS_EPS).mean()),
        },
        "informed": {
            "final_distance": informed["final_distance_mean"][_ADVERSARY],
            "success": informed["success"][_ADVERSARY],
        },
    }


def _summary(card: Scorecard) -> dict[str, Any]:
    """Return the part of a scorecard by which pairings are compared."""
    return {name: value for name, value in card.to_dict().items() if name in _SUMMARISED}
