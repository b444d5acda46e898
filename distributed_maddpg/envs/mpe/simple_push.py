"""`simple_push_v3`: an adversary keeps a good agent away from a goal that only the agent knows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from distributed_maddpg.envs.mpe.columns import (
    write_constant,
    write_goal,
    write_landmarks,
    write_others,
    write_row,
    write_vector,
)
from distributed_maddpg.envs.mpe.generator import UintArray, next_index
from distributed_maddpg.envs.mpe.placing import place_agents, place_landmarks
from distributed_maddpg.envs.mpe.scenario import Body, Numbers, Options, Scenario
from distributed_maddpg.envs.mpe.world import DoubleArray, IntArray, World, distance
from distributed_maddpg.types import FloatArray, Measure, PrivatePart

_LANDMARKS, _ADVERSARY, _AGENT = 2, 0, 1


class PushState(NamedTuple):
    """The full state of E copies."""

    agent_positions: DoubleArray
    agent_velocities: DoubleArray
    landmark_positions: DoubleArray
    goal_landmark: IntArray
    """[E] index of the goal landmark."""
    cycle: IntArray
    measures: DoubleArray
    generator_state: UintArray


class PushRules(NamedTuple):
    """Colours."""

    agent_colors: DoubleArray
    """[2, 3]: the good agent's, by its goal."""
    landmark_colors: DoubleArray
    """[6]: of both landmarks."""


class SimplePush(Scenario):
    """One adversary, one good agent, two landmarks."""

    name = "simple_push"
    options_type = Options
    state_type = PushState
    measures = (
        Measure("agent_distance", "distance of the good agent to the goal at the end"),
        Measure("adversary_distance", "distance of the adversary to the goal at the end"),
    )

    @property
    def agents(self) -> list[Body]:
        """The adversary first."""
        return [Body("adversary_0"), Body("agent_0")]

    @property
    def landmarks(self) -> list[Body]:
        """Two, one of them the goal."""
        return [Body(f"landmark {i}", collides=False) for i in range(_LANDMARKS)]

    @property
    def observation_sizes(self) -> tuple[int, ...]:
        """A good agent observes the goal and the colours too."""
        return (8, 19)

    @property
    def private_parts(self) -> tuple[PrivatePart | None, ...]:
        """Where the good agent's goal is and which colour that gives it: one landmark or the other."""
        colors = tuple(map(tuple, self.rules(1).agent_colors.tolist()))
        # The agent observes its velocity, then the goal and its own colour, then the landmarks.
        landmarks = tuple((7 + 2 * k, 9 + 2 * k) for k in range(_LANDMARKS))
        return (None, PrivatePart((2, 7), landmarks, constants=colors))

    def rules(self, num_envs: int) -> PushRules:
        """See `PushRules`."""
        landmarks, agents = np.full((_LANDMARKS, 3), 0.1), np.full((_LANDMARKS, 3), 0.25)
        for j in range(_LANDMARKS):
            landmarks[j, j + 1] += 0.8
            agents[j, j + 1] += 0.5
        return PushRules(agents, landmarks.reshape(-1))

    @property
    def own_state(self) -> dict[str, Numbers]:
        """The goal."""
        return {"goal_landmark": Numbers((), _LANDMARKS)}


def reset(state: PushState, world: World, rules: PushRules, e: int) -> None:
    """Draw goal, agents, landmarks."""
    state.goal_landmark[e] = next_index(state.generator_state[e], _LANDMARKS)
    place_agents(state, e)
    place_landmarks(state, e, 0, _LANDMARKS, 1.0)


def judge(state: PushState, world: World, rules: PushRules, e: int, rewards: FloatArray) -> bool:
    """Reward the agent for its nearness to the goal, the adversary for its own and the agent's distance."""
    goal = state.goal_landmark[e]
    agent = distance(state.agent_positions, _AGENT, state.landmark_positions, goal, e)
    adversary = distance(state.agent_positions, _ADVERSARY, state.landmark_positions, goal, e)
    rewards[e, _ADVERSARY], rewards[e, _AGENT] = agent - adversary, -agent
    state.measures[e, 0], state.measures[e, 1] = agent, adversary
    return False


def observe(state: PushState, world: World, rules: PushRules, i: int, frames: FloatArray) -> None:
    """Observe own velocity, landmarks, the other; the agent also the goal, its own colour and theirs."""
    at = write_vector(frames, 0, state.agent_velocities, i)
    if i == _AGENT:
        at = write_goal(frames, at, state, i)
        at = write_row(frames, at, rules.agent_colors, state.goal_landmark)
    at = write_landmarks(frames, at, state, i, 0)
    if i == _AGENT:
        at = write_constant(frames, at, rules.landmark_colors)
    write_others(frames, at, state, i, 0)
