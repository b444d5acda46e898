"""Scripted and random policies, as references for trained teams."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from distributed_maddpg.acting.joint_policy import EnvActions
from distributed_maddpg.types import Arrays, EnvSpec, FloatArray

JointPolicyFn = Callable[[tuple[FloatArray, ...]], EnvActions]
"""Maps the observations `[E, O_i]` of all agents to the actions of all agents."""

_VELOCITY_GAIN, _VELOCITY_GAIN_VELOCITY_FIRST, _FORCE_GAIN = 0.175, 0.075, 0.05
"""Gains in the first position that depends on a force u in [-1, 1]. In MPE2 that is the position after two
steps, p + 0.175 v + 0.05 u; with `velocity_first` the position after one step, p + 0.075 v + 0.05 u."""
_MIN_FORCE = 0.5
"""Smallest force for which a discrete action is taken; below it, none."""


def random_policy(spec: EnvSpec, rng: np.random.Generator) -> JointPolicyFn:
    """Return a joint policy whose actions are uniformly random."""

    def act(obs: tuple[FloatArray, ...]) -> EnvActions:
        num_envs = len(obs[0])
        return tuple(
            rng.integers(size, size=num_envs)
            if kind == "discrete"
            else rng.random((num_envs, size), dtype=np.float32)
            for size, kind in zip(spec.action_sizes, spec.action_types, strict=True)
        )

    return act


def straight_to_goal_policy(
    spec: EnvSpec, get_state: Callable[[], Arrays], velocity_first: bool = False
) -> JointPolicyFn:
    """Return a joint policy of `simple_adversary`: all agents, the adversary too, head for the goal and stop.

    It reads the goal from the environment's state. Good agents with it do not deceive, and an adversary with
    it is as good as possible.

    Args:
        spec: of the environment.
        get_state: returns the environment's current state.
        velocity_first: the environment's option of this name.
    """
    velocity_gain = _VELOCITY_GAIN_VELOCITY_FIRST if velocity_first else _VELOCITY_GAIN

    def act(obs: tuple[FloatArray, ...]) -> EnvActions:
        state = get_state()
        copies = np.arange(len(obs[0]))
        goal = state["landmark_positions"][copies, state["goal_landmark"]]  # [E, 2]
        offset = goal[:, None] - state["agent_positions"]  # [E, N, 2]
        force = np.clip((offset - velocity_gain * state["agent_velocities"]) / _FORCE_GAIN, -1.0, 1.0)
        encode = _to_discrete if spec.action_types[0] == "discrete" else _to_continuous
        return tuple(encode(force[:, agent]) for agent in range(spec.num_agents))

    return act


def _to_continuous(force: npt.NDArray[np.float64]) -> FloatArray:
    """Return actions [E, 5] (none, left, right, down, up) for forces [E, 2] in [-1, 1]."""
    actions = np.zeros((len(force), 5), np.float32)
    actions[:, 1::2] = np.maximum(-force, 0.0)
    actions[:, 2::2] = np.maximum(force, 0.0)
    return actions


def _to_discrete(force: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return discrete actions [E] for forces [E, 2]: along the axis with the larger force, or none."""
    axis = np.abs(force).argmax(axis=1)
    along = force[np.arange(len(force)), axis]
    choice: npt.NDArray[np.int64] = np.where(np.abs(along) < _MIN_FORCE, 0, 1 + 2 * axis + (along > 0))
    return choice


def combine_teams(spec: EnvSpec, policies: Mapping[str, JointPolicyFn]) -> JointPolicyFn:
    """Return a joint policy in which each team's agents act with that team's policy."""

    def act(obs: tuple[FloatArray, ...]) -> EnvActions:
        actions = {team: policy(obs) for team, policy in policies.items()}
        return tuple(actions[team][agent] for agent, team in enumerate(spec.teams))

    return act
