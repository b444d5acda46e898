"""`simple_reference_v3`: each of two agents tells the other where to go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from distributed_maddpg.envs.mpe.columns import write_landmarks, write_row, write_vector
from distributed_maddpg.envs.mpe.generator import UintArray, next_index
from distributed_maddpg.envs.mpe.placing import place_agents, place_landmarks
from distributed_maddpg.envs.mpe.scenario import Body, Numbers, Options, Scenario
from distributed_maddpg.envs.mpe.world import DoubleArray, IntArray, World, distance
from distributed_maddpg.types import FloatArray, Measure

_AGENTS, _LANDMARKS, _LETTERS, _REACHED = 2, 3, 10, 0.1


@dataclass(frozen=True)
class ReferenceOptions(Options):
    """Keywords of `mpe2.simple_reference_v3.parallel_env` and its defaults."""

    local_ratio: float = 0.5
    """Weight of the own reward, against the common one."""


class ReferenceState(NamedTuple):
    """The full state of E copies."""

    agent_positions: DoubleArray
    agent_velocities: DoubleArray
    landmark_positions: DoubleArray
    goal_landmarks: IntArray
    """[E, 2] where each agent wants the other to go."""
    cycle: IntArray
    utterances: DoubleArray
    measures: DoubleArray
    generator_state: UintArray


class ReferenceRules(NamedTuple):
    """Constants of a run."""

    local_ratio: float
    colors: DoubleArray
    """[3, 3] of the landmarks."""


class SimpleReference(Scenario):
    """Two agents that move and speak, three landmarks."""

    name = "simple_reference"
    options_type = ReferenceOptions
    state_type = ReferenceState
    measures = (
        Measure("final_distance", "mean distance of an agent to its landmark at the end"),
        Measure("reached", "share of agents within 0.1 of their landmark at the end"),
    )
    num_letters = _LETTERS

    @property
    def agents(self) -> list[Body]:
        """Two, both speak."""
        return [Body(f"agent_{i}", collides=False, silent=False) for i in range(_AGENTS)]

    @property
    def landmarks(self) -> list[Body]:
        """Three of different colours."""
        return [Body(f"landmark {i}", collides=False) for i in range(_LANDMARKS)]

    @property
    def observation_sizes(self) -> tuple[int, ...]:
        """Own velocity, landmarks, colour of the other's landmark, what the other said."""
        return (2 + 2 * _LANDMARKS + 3 + _LETTERS,) * _AGENTS

    def rules(self, num_envs: int) -> ReferenceRules:
        """See `ReferenceRules`."""
        return ReferenceRules(float(self.options.local_ratio), np.full((3, 3), 0.25) + 0.5 * np.eye(3))

    @property
    def own_state(self) -> dict[str, Numbers]:
        """The goals."""
        return {"goal_landmarks": Numbers((_AGENTS,), _LANDMARKS)}


def reset(state: ReferenceState, world: World, rules: ReferenceRules, e: int) -> None:
    """Draw the goals, agents, landmarks; nothing was said yet."""
    for i in range(_AGENTS):
        state.goal_landmarks[e, i] = next_index(state.generator_state[e], _LANDMARKS)
    place_agents(state, e)
    place_landmarks(state, e, 0, _LANDMARKS, 1.0)
    state.utterances[e] = 0.0


def judge(state: ReferenceState, world: World, rules: ReferenceRules, e: int, rewards: FloatArray) -> bool:
    """Reward each agent for the nearness of the other to the landmark that it wants, and all for both."""
    positions, landmarks, goals = state.agent_positions, state.landmark_positions, state.goal_landmarks
    first = distance(positions, 1, landmarks, goals[e, 0], e)
    second = distance(positions, 0, landmarks, goals[e, 1], e)
    common, ratio = (-first + -second) / _AGENTS, rules.local_ratio
    rewards[e, 0] = common * (1 - ratio) + -first * ratio
    rewards[e, 1] = common * (1 - ratio) + -second * ratio
    state.measures[e, 0] = -common
    state.measures[e, 1] = ((first < _REACHED) + (second < _REACHED)) / _AGENTS
    return False


def observe(state: ReferenceState, world: World, rules: ReferenceRules, i: int, frames: FloatArray) -> None:
    """Observe own velocity, landmarks, the colour of the other's landmark, what the other said."""
    at = write_vector(frames, 0, state.agent_velocities, i)
    at = write_landmarks(frames, at, state, i, 0)
    at = write_row(frames, at, rules.colors, state.goal_landmarks[:, i])
    write_vector(frames, at, state.utterances, 1 - i)
