"""`simple_v3`: one agent goes to one landmark."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from distributed_maddpg.envs.mpe.columns import write_landmarks, write_vector
from distributed_maddpg.envs.mpe.generator import UintArray
from distributed_maddpg.envs.mpe.placing import place_agents, place_landmarks
from distributed_maddpg.envs.mpe.scenario import Body, Options, Scenario
from distributed_maddpg.envs.mpe.world import DoubleArray, IntArray, World, squared_distance
from distributed_maddpg.types import FloatArray, Measure


class SimpleState(NamedTuple):
    """The full state of E copies."""

    agent_positions: DoubleArray
    agent_velocities: DoubleArray
    landmark_positions: DoubleArray
    cycle: IntArray
    measures: DoubleArray
    generator_state: UintArray


class Simple(Scenario):
    """One agent and one landmark."""

    name = "simple"
    options_type = Options
    state_type = SimpleState
    measures = (Measure("final_distance", "distance to the landmark at the end"),)

    @property
    def agents(self) -> list[Body]:
        """One."""
        return [Body("agent_0", collides=False)]

    @property
    def landmarks(self) -> list[Body]:
        """One."""
        return [Body("landmark 0", collides=False)]

    @property
    def observation_sizes(self) -> tuple[int, ...]:
        """Velocity and landmark."""
        return (4,)


def reset(state: SimpleState, world: World, rules: None, e: int) -> None:
    """Draw agent, landmark."""
    place_agents(state, e)
    place_landmarks(state, e, 0, 1, 1.0)


def judge(state: SimpleState, world: World, rules: None, e: int, rewards: FloatArray) -> bool:
    """Reward nearness to the landmark."""
    squared = squared_distance(state.agent_positions, 0, state.landmark_positions, 0, e)
    rewards[e, 0] = -squared
    state.measures[e, 0] = np.sqrt(squared)
    return False


def observe(state: SimpleState, world: World, rules: None, i: int, frames: FloatArray) -> None:
    """Observe own velocity, landmark."""
    at = write_vector(frames, 0, state.agent_velocities, i)
    write_landmarks(frames, at, state, i, 0)
