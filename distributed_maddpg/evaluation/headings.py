"""Where the agents of a scripted team head in each scenario of MPE2, by what they read from the state.

They know what trained agents may have to find out or to be told, and do not mind contact.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from distributed_maddpg.evaluation.scripted import DoubleArray, Targets, for_all_agents, goal_targets
from distributed_maddpg.types import Arrays

_EDGE = 0.9  # beyond, leaving the square costs
_RADIUS, _LENGTH = 0.5, 1.25  # of simple_formation's circle and simple_line's line


def _single_landmark(state: Arrays) -> DoubleArray:
    return for_all_agents(state, state["landmark_positions"][:, 0])


def _own_landmark_of_two(state: Arrays) -> DoubleArray:
    """Return, for each agent of `simple_reference`, the landmark that the other one wants."""
    copies = np.arange(len(state["cycle"]))[:, None]
    targets: DoubleArray = state["landmark_positions"][copies, state["goal_landmarks"][:, ::-1]]
    return targets


def _landmark_each(state: Arrays) -> DoubleArray:
    return _assigned(state, state["landmark_positions"])


def _places_on_circle(state: Arrays) -> DoubleArray:
    """Return evenly spaced places that begin at the agent of least angle."""
    centre, num_agents = state["landmark_positions"], state["agent_positions"].shape[1]
    x, y = np.moveaxis(state["agent_positions"] - centre, 2, 0)
    angles = (np.arctan2(y, x) % (2 * np.pi)).min(axis=1)[:, None]
    angles = angles + np.arange(num_agents) * 2 * np.pi / num_agents
    return _assigned(state, centre + _RADIUS * np.stack([np.cos(angles), np.sin(angles)], axis=2))


def _places_on_line(state: Arrays) -> DoubleArray:
    """Return evenly spaced places from the first landmark to the second."""
    shares = np.linspace(0, _LENGTH, state["agent_positions"].shape[1])[:, None]
    return _assigned(state, state["landmark_positions"][:, :1] + shares * state["line_direction"][:, None])


def _hunt(num_predators: int) -> Targets:
    """Return the targets of predators, the nearest prey, and of prey, away from the nearest predator."""

    def targets(state: Arrays) -> DoubleArray:
        positions = state["agent_positions"]
        predators, prey = positions[:, :num_predators], positions[:, num_predators:]
        away = prey + (prey - _nearest(prey, predators))
        return np.concatenate([_nearest(predators, prey), np.clip(away, -_EDGE, _EDGE)], axis=1)

    return targets


def _treasures(state: Arrays) -> DoubleArray:
    """Return the nearest treasure or the right deposit for collectors, the nearest of those for a deposit."""
    holding, num_collectors = state["holding"], state["holding"].shape[1]
    positions = state["agent_positions"]
    collectors, deposits = positions[:, :num_collectors], positions[:, num_collectors:]
    copies = np.arange(len(holding))[:, None]
    free = _nearest(collectors, state["landmark_positions"])  # collected treasures are far away
    to_treasure_or_deposit = np.where((holding < 0)[:, :, None], free, deposits[copies, holding])
    with_its_type = holding[:, None] == np.arange(deposits.shape[1])[:, None]  # [E, deposits, collectors]
    apart = np.linalg.norm(deposits[:, :, None] - collectors[:, None], axis=3)
    nearest = np.where(with_its_type, apart, np.inf).argmin(axis=2)
    centre = collectors.mean(axis=1, keepdims=True)
    to_carrier = np.where(with_its_type.any(axis=2)[:, :, None], collectors[copies, nearest], centre)
    return np.concatenate([to_treasure_or_deposit, to_carrier], axis=1)


def _nearest(own: DoubleArray, others: DoubleArray) -> DoubleArray:
    """Return, for each of `own [E, K, 2]`, the nearest of `others`; itself if there are none."""
    if not others.shape[1]:
        return own
    nearest = np.linalg.norm(own[:, :, None] - others[:, None], axis=3).argmin(axis=2)
    found: DoubleArray = others[np.arange(len(own))[:, None], nearest]
    return found


def _assigned(state: Arrays, places: DoubleArray) -> DoubleArray:
    """Return a place `[E, N, 2]` of its own for each agent, so that the sum of the distances is least."""
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 (rollout workers never need it)

    apart = np.linalg.norm(state["agent_positions"][:, :, None] - places[:, None], axis=3)
    columns = np.array([linear_sum_assignment(costs)[1] for costs in apart])
    assigned: DoubleArray = np.take_along_axis(places, columns[:, :, None], axis=1)
    return assigned


_HEADINGS: Mapping[str, Targets] = {
    "simple": _single_landmark,
    "simple_adversary": goal_targets,
    "simple_formation": _places_on_circle,
    "simple_line": _places_on_line,
    "simple_push": goal_targets,
    "simple_reference": _own_landmark_of_two,
    "simple_speaker_listener": goal_targets,
    "simple_spread": _landmark_each,
    "collect_treasure": _treasures,
}


def headings(env_id: str, teams: tuple[str, ...]) -> Targets | None:
    """Return where agents head in an environment; None if none is obvious.

    Args:
        env_id: of the environment.
        teams: of its agents.
    """
    if env_id in ("simple_tag", "simple_world_comm"):
        return _hunt(sum(team != "agent" for team in teams))
    return _HEADINGS.get(env_id)
