"""Scripted and random policies, as references for trained teams."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from distributed_maddpg.acting.joint_policy import EnvActions
from distributed_maddpg.types import Arrays, EnvSpec, FloatArray, Roster

JointPolicyFn = Callable[[tuple[FloatArray, ...]], EnvActions]
"""Maps the observations `[E, O_i]` of all agents to the actions of all agents."""
DoubleArray = npt.NDArray[np.float64]
Targets = Callable[[Arrays], DoubleArray]
"""Maps the environment's state to the points `[E, N, 2]` that the N agents head for."""

_VELOCITY_GAIN, _VELOCITY_GAIN_VELOCITY_FIRST, _FORCE_GAIN = 0.175, 0.075, 0.05
"""Gains in the first position that depends on a force u in [-1, 1]. In MPE2 that is the position after two
steps, p + 0.175 v + 0.05 u; with `velocity_first` the position after one step, p + 0.075 v + 0.05 u."""
_NUM_MOVES = 5
MIN_FORCE = 0.5
"""Smallest force for which a discrete action is taken; below it, none."""


def random_policy(
    spec: EnvSpec, rng: np.random.Generator, get_roster: Callable[[], Roster | None] | None = None
) -> JointPolicyFn:
    """Return a joint policy whose actions are uniformly random, of those that the environment allows.

    Args:
        spec: of the environment.
        rng: to draw from.
        get_roster: the environment's `roster`; None if it has no action masks.
    """

    def act(obs: tuple[FloatArray, ...]) -> EnvActions:
        num_envs, roster = len(obs[0]), get_roster() if get_roster else None
        actions: list[npt.NDArray[np.generic]] = []
        for agent, (size, kind) in enumerate(zip(spec.action_sizes, spec.action_types, strict=True)):
            if kind == "continuous":
                actions.append(rng.random((num_envs, size), dtype=np.float32))
            elif roster is None:
                actions.append(rng.integers(size, size=num_envs))
            else:
                draws = np.where(roster.allowed[agent, :, :size], rng.random((num_envs, size)), -1.0)
                actions.append(draws.argmax(axis=1))
        return tuple(actions)

    return act


def scripted_policy(
    spec: EnvSpec, get_state: Callable[[], Arrays], targets: Targets, velocity_first: bool = False
) -> JointPolicyFn:
    """Return a joint policy of a scenario of MPE2 whose agents head for given points and stop there.

    Agents that speak say nothing, or the first letter where they must say one. The gains are those of agents
    as strong and heavy as most are; others may overshoot.

    Args:
        spec: of the environment.
        get_state: returns the environment's current state.
        targets: the points.
        velocity_first: the environment's option of this name.
    """

    def act(obs: tuple[FloatArray, ...]) -> EnvActions:
        return force_actions(spec, scripted_forces(get_state(), targets, velocity_first))

    return act


def scripted_forces(state: Arrays, targets: Targets, velocity_first: bool) -> DoubleArray:
    """Return the forces `[E, N, 2]` in [-1, 1] of agents that head for given points and stop there."""
    offset = targets(state) - state["agent_positions"]
    braked = offset - velocity_gain(velocity_first) * state["agent_velocities"]
    forces: DoubleArray = np.clip(braked / _FORCE_GAIN, -1.0, 1.0)
    return forces


def velocity_gain(velocity_first: bool) -> float:
    """Return the factor of the velocity in the first position that depends on a force."""
    return _VELOCITY_GAIN_VELOCITY_FIRST if velocity_first else _VELOCITY_GAIN


def force_actions(spec: EnvSpec, forces: DoubleArray) -> EnvActions:
    """Return the actions of the agents of one of MPE2's scenarios for forces `[E, N, 2]` in [-1, 1].

    Agents with fewer than five actions cannot move.
    """
    encode = _to_discrete if spec.action_types[0] == "discrete" else _to_continuous
    return tuple(encode(forces[:, agent], size) for agent, size in enumerate(spec.action_sizes))


def goal_targets(state: Arrays) -> DoubleArray:
    """Return the goal for all agents, the adversary too.

    Good agents that head for it do not deceive, and an adversary that does is as good as possible.
    """
    copies = np.arange(len(state["cycle"]))
    return for_all_agents(state, state["landmark_positions"][copies, state["goal_landmark"]])


def centroid_targets(state: Arrays) -> DoubleArray:
    """Return the landmarks' centroid for all agents."""
    return for_all_agents(state, state["landmark_positions"].mean(axis=1))


def nearest_landmark_targets(state: Arrays) -> DoubleArray:
    """Return, for all agents, the landmark to which a good agent is nearest."""
    landmarks = state["landmark_positions"]
    nearest = _good_agents_distances(state).min(axis=1).argmin(axis=1)  # [E]
    return for_all_agents(state, landmarks[np.arange(len(landmarks)), nearest])


def wait_then_nearest_targets(step: int) -> Targets:
    """Return the targets of an adversary that waits at the centroid, then trusts the good agents."""

    def targets(state: Arrays) -> DoubleArray:
        waiting = (state["cycle"] < step)[:, None, None]
        return np.where(waiting, centroid_targets(state), nearest_landmark_targets(state))

    return targets


def assigned_targets(state: Arrays) -> DoubleArray:
    """Return a landmark of its own for each good agent, and the centroid for the adversary.

    Of all assignments it is the one with the least total distance. Good agents with these targets never look
    at the goal, so they cannot give it away.
    """
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 (rollout workers never need it)

    targets = centroid_targets(state)
    for copy, distances in enumerate(_good_agents_distances(state)):
        targets[copy, 1:] = state["landmark_positions"][copy, linear_sum_assignment(distances)[1]]
    return targets


def for_all_agents(state: Arrays, points: DoubleArray) -> DoubleArray:
    """Return points [E, 2] as targets [E, N, 2] of all agents."""
    return np.repeat(points[:, None], state["agent_positions"].shape[1], axis=1)


def _good_agents_distances(state: Arrays) -> DoubleArray:
    """Return the distances [E, N - 1, L] of good agents from landmarks."""
    apart = state["agent_positions"][:, 1:, None] - state["landmark_positions"][:, None]
    distances: DoubleArray = np.linalg.norm(apart, axis=3)
    return distances


def _to_continuous(force: npt.NDArray[np.float64], size: int) -> FloatArray:
    """Return actions [E, A_i] (none, left, right, down, up, ...) for forces [E, 2] in [-1, 1]."""
    actions = np.zeros((len(force), size), np.float32)
    if size >= _NUM_MOVES:
        actions[:, 1:_NUM_MOVES:2] = np.maximum(-force, 0.0)
        actions[:, 2:_NUM_MOVES:2] = np.maximum(force, 0.0)
    return actions


def _to_discrete(force: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.int64]:
    """Return discrete actions [E] for forces [E, 2]: along the axis with the larger force, or none."""
    if size < _NUM_MOVES:
        return np.zeros(len(force), np.int64)
    axis = np.abs(force).argmax(axis=1)
    along = force[np.arange(len(force)), axis]
    choice: npt.NDArray[np.int64] = np.where(np.abs(along) < MIN_FORCE, 0, 1 + 2 * axis + (along > 0))
    return choice


def combine_teams(spec: EnvSpec, policies: Mapping[str, JointPolicyFn]) -> JointPolicyFn:
    """Return a joint policy in which each team's agents act with that team's policy."""

    def act(obs: tuple[FloatArray, ...]) -> EnvActions:
        actions = {team: policy(obs) for team, policy in policies.items()}
        return tuple(actions[team][agent] for agent, team in enumerate(spec.teams))

    return act
