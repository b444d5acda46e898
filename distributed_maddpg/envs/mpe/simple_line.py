"""`simple_line_v1`: N agents form a line from one landmark to another."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from distributed_maddpg.envs.mpe.columns import write_landmarks, write_vector
from distributed_maddpg.envs.mpe.generator import UintArray, next_uniform
from distributed_maddpg.envs.mpe.placing import place_agents, place_landmarks
from distributed_maddpg.envs.mpe.scenario import Body, Numbers, Scenario
from distributed_maddpg.envs.mpe.simple_formation import (
    PLACE_MEASURES,
    FormationOptions,
    FormationRules,
    assign_targets,
    formation_rules,
    judge_places,
)
from distributed_maddpg.envs.mpe.world import DoubleArray, IntArray, World
from distributed_maddpg.types import FloatArray

_LENGTH = 1.25
_TURN = float(np.radians(5))


class LineState(NamedTuple):
    """The full state of E copies."""

    agent_positions: DoubleArray
    agent_velocities: DoubleArray
    landmark_positions: DoubleArray
    line_direction: DoubleArray
    """[E, 2] of length 1, from the first landmark to the second."""
    cycle: IntArray
    measures: DoubleArray
    generator_state: UintArray


class SimpleLine(Scenario):
    """N agents that share one reward, two landmarks."""

    name = "simple_line"
    options_type = FormationOptions
    state_type = LineState
    measures = PLACE_MEASURES

    @property
    def agents(self) -> list[Body]:
        """N."""
        return [Body(f"agent_{i}", 0.03) for i in range(self.options.N)]

    @property
    def landmarks(self) -> list[Body]:
        """The ends of the line."""
        return [Body(f"landmark_{i}", 0.02, collides=False) for i in range(2)]

    @property
    def observation_sizes(self) -> tuple[int, ...]:
        """Own velocity and position, landmarks."""
        return (8,) * int(self.options.N)

    def rules(self, num_envs: int) -> FormationRules:
        """See `FormationRules`."""
        return formation_rules(self.options, num_envs)

    @property
    def own_state(self) -> dict[str, Numbers]:
        """The direction, which the rounded positions of the landmarks do not tell exactly."""
        return {"line_direction": Numbers((2,))}


def reset(state: LineState, world: World, rules: FormationRules, e: int) -> None:
    """Draw agents, the first landmark and the direction, turned until the second is within the square."""
    landmarks = state.landmark_positions
    place_agents(state, e)
    place_landmarks(state, e, 0, 1, 0.25)
    angle = next_uniform(state.generator_state[e], 0.0, 2 * np.pi)
    while True:
        state.line_direction[e, 0], state.line_direction[e, 1] = np.cos(angle), np.sin(angle)
        for k in range(2):
            landmarks[e, 1, k] = landmarks[e, 0, k] + _LENGTH * state.line_direction[e, k]
        if abs(landmarks[e, 1, 0]) < 1.0 and abs(landmarks[e, 1, 1]) < 1.0:
            break
        angle += _TURN


def prepare(state: LineState, world: World, rules: FormationRules) -> None:
    """Find the evenly spaced places from the first landmark to the second."""
    num_agents = state.agent_positions.shape[1]
    spacing = _LENGTH / (num_agents - 1) if num_agents > 1 else 0.0
    for i in range(num_agents):
        for k in range(2):
            for e in range(len(state.cycle)):
                offset = i * spacing * state.line_direction[e, k]
                rules.targets[i, k, e] = state.landmark_positions[e, 0, k] + offset
    assign_targets(state.agent_positions, rules)


def judge(state: LineState, world: World, rules: FormationRules, e: int, rewards: FloatArray) -> bool:
    """Reward all agents for being in their places."""
    return judge_places(rules, e, rewards, state.measures)


def observe(state: LineState, world: World, rules: FormationRules, i: int, frames: FloatArray) -> None:
    """Observe own velocity and position, landmarks."""
    at = write_vector(frames, 0, state.agent_velocities, i)
    at = write_vector(frames, at, state.agent_positions, i)
    write_landmarks(frames, at, state, i, 0)
