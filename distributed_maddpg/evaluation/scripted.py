"""Players that learnt nothing, to give a trained team's numbers a meaning."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from distributed_maddpg.acting.joint_policy import EnvActions
from distributed_maddpg.types import Arrays, EnvSpec, FloatArray

JointPolicyFn = Callable[[tuple[FloatArray, ...]], EnvActions]
"""From observations `[E, O_i]` of all agents to the actions of all agents."""

_DAMPED, _DAMPED_VELOCITY_FIRST, _PUSH = 0.175, 0.075, 0.05
"""The first position that a push u in [-1, 1] has moved is p + 0.175 v + 0.05 u: MPE2's next but one, or, in
OpenAI's MPE, the next, p + 0.075 v + 0.05 u."""
_WORTH_A_PUSH = 0.5


def random_policy(spec: EnvSpec, rng: np.random.Generator) -> JointPolicyFn:
    """Return a player whose actions are uniformly random."""

    def play(obs: tuple[FloatArray, ...]) -> EnvActions:
        num_envs = len(obs[0])
        return tuple(
            rng.integers(size, size=num_envs)
            if kind == "discrete"
            else rng.random((num_envs, size), dtype=np.float32)
            for size, kind in zip(spec.action_sizes, spec.action_types, strict=True)
        )

    return play


def straight_to_goal_policy(
    spec: EnvSpec, state: Callable[[], Arrays], velocity_first: bool = False
) -> JointPolicyFn:
    """Return a player of `simple_adversary` in which all, the adversary too, head for the goal and stop.

    It knows the goal: as good agents it deceives nobody, as an adversary it is as good as one can be.

    Args:
        spec: of the environment.
        state: returns the environment's state of now.
        velocity_first: as the environment has it.
    """
    damped = _DAMPED_VELOCITY_FIRST if velocity_first else _DAMPED

    def play(obs: tuple[FloatArray, ...]) -> EnvActions:
        now = state()
        copies = np.arange(len(obs[0]))
        goal = now["landmark_positions"][copies, now["goal_landmark"]]  # [E, 2]
        apart = goal[:, None] - now["agent_positions"]  # [E, N, 2]
        push = np.clip((apart - damped * now["agent_velocities"]) / _PUSH, -1.0, 1.0)
        take = _as_choices if spec.action_types[0] == "discrete" else _as_vectors
        return tuple(take(push[:, agent]) for agent in range(spec.num_agents))

    return play


def _as_vectors(push: npt.NDArray[np.float64]) -> FloatArray:
    """Return actions [E, 5] (none, left, right, down, up) for pushes [E, 2] in [-1, 1]."""
    actions = np.zeros((len(push), 5), np.float32)
    actions[:, 1::2] = np.maximum(-push, 0.0)
    actions[:, 2::2] = np.maximum(push, 0.0)
    return actions


def _as_choices(push: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return choices [E] of one of five pushes: along the axis that needs it most, or none."""
    axis = np.abs(push).argmax(axis=1)
    along = push[np.arange(len(push)), axis]
    choice: npt.NDArray[np.int64] = np.where(np.abs(along) < _WORTH_A_PUSH, 0, 1 + 2 * axis + (along > 0))
    return choice


def combine_teams(spec: EnvSpec, players: Mapping[str, JointPolicyFn]) -> JointPolicyFn:
    """Return a player in which each team's agents act as that team's player says."""

    def play(obs: tuple[FloatArray, ...]) -> EnvActions:
        actions = {team: own(obs) for team, own in players.items()}
        return tuple(actions[team][agent] for agent, team in enumerate(spec.teams))

    return play
