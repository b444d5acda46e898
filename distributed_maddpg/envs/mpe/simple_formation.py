"""`simple_formation_v1`: N agents form a circle around a landmark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from distributed_maddpg.compilation import compiled_inline, compiled_part
from distributed_maddpg.envs.mpe.assignment import Assignments, assign_all, empty_assignments, mean_of_rows
from distributed_maddpg.envs.mpe.columns import write_landmarks, write_vector
from distributed_maddpg.envs.mpe.generator import UintArray
from distributed_maddpg.envs.mpe.placing import place_agents, place_landmarks
from distributed_maddpg.envs.mpe.scenario import Body, Options, Scenario
from distributed_maddpg.envs.mpe.world import DoubleArray, IntArray, World
from distributed_maddpg.types import FloatArray, Measure

_RADIUS, _IN_PLACE = 0.5, 0.05


@dataclass(frozen=True)
class FormationOptions(Options):
    """Keywords of `mpe2.simple_formation_v1.parallel_env` and its defaults."""

    N: int = 4
    """Number of agents."""
    terminate_on_success: bool = False
    """Whether an episode ends when all agents are in place."""


class FormationState(NamedTuple):
    """The full state of E copies."""

    agent_positions: DoubleArray
    agent_velocities: DoubleArray
    landmark_positions: DoubleArray
    cycle: IntArray
    measures: DoubleArray
    generator_state: UintArray


class FormationRules(NamedTuple):
    """Constants of a run, and room to work in."""

    terminate_on_success: bool
    targets: DoubleArray
    """[N, 2, E] where the agents should be."""
    assignments: Assignments
    """Which agent should be where."""
    distance: DoubleArray
    """[E] mean distance of the agents to their targets."""
    num_in_place: IntArray
    """[E] agents at their targets."""


def formation_rules(options: FormationOptions, num_envs: int) -> FormationRules:
    """Return the rules for N agents in E copies."""
    targets = np.zeros((options.N, 2, num_envs))
    assignments = empty_assignments(options.N, num_envs)
    room = (np.zeros(num_envs), np.zeros(num_envs, np.int64))
    return FormationRules(options.terminate_on_success, targets, assignments, *room)


PLACE_MEASURES = (
    Measure("final_distance", "mean distance of an agent to its place at the end, at most 2"),
    Measure("in_place", "share of agents within 0.05 of their place at the end"),
)


class SimpleFormation(Scenario):
    """N agents that share one reward, one landmark."""

    name = "simple_formation"
    options_type = FormationOptions
    state_type = FormationState
    measures = PLACE_MEASURES

    @property
    def agents(self) -> list[Body]:
        """N."""
        return [Body(f"agent_{i}", 0.05) for i in range(self.options.N)]

    @property
    def landmarks(self) -> list[Body]:
        """The centre of the circle."""
        return [Body("landmark_0", 0.03, collides=False)]

    @property
    def observation_sizes(self) -> tuple[int, ...]:
        """Own velocity and position, landmark."""
        return (6,) * int(self.options.N)

    def rules(self, num_envs: int) -> FormationRules:
        """See `FormationRules`."""
        return formation_rules(self.options, num_envs)


def reset(state: FormationState, world: World, rules: FormationRules, e: int) -> None:
    """Draw agents, landmark."""
    place_agents(state, e)
    place_landmarks(state, e, 0, 1, 0.5)


@compiled_part
def assign_targets(positions: DoubleArray, rules: FormationRules) -> None:
    """Assign each agent of each copy a target of its own, so that the sum of the distances is least."""
    targets, costs = rules.targets, rules.assignments.costs
    for i in range(len(targets)):
        for j in range(len(targets)):
            for e in range(len(positions)):
                x, y = positions[e, i, 0] - targets[j, 0, e], positions[e, i, 1] - targets[j, 1, e]
                costs[i, j, e] = np.sqrt(x * x + y * y)
    assign_all(rules.assignments)
    apart = rules.assignments.assigned
    rules.num_in_place[:] = 0
    for i in range(len(apart)):
        for e in range(len(positions)):
            rules.num_in_place[e] += apart[i, e] < _IN_PLACE
            apart[i, e] = 2.0 if apart[i, e] > 2.0 else apart[i, e]
    for e in range(len(positions)):
        rules.distance[e] = mean_of_rows(apart, e)


@compiled_inline
def judge_places(rules: FormationRules, e: int, rewards: FloatArray, measures: DoubleArray) -> bool:
    """Reward all agents of copy e for being where they should be; return whether the episode shall end."""
    num_agents, num_in_place = rewards.shape[1], rules.num_in_place[e]
    for i in range(num_agents):
        rewards[e, i] = -rules.distance[e]
    measures[e, 0], measures[e, 1] = rules.distance[e], num_in_place / num_agents
    return rules.terminate_on_success and num_in_place == num_agents


@compiled_inline
def _least_angle(positions: DoubleArray, landmarks: DoubleArray, e: int) -> float:
    """Return the least angle in [0, 2 pi) at which an agent is seen from the landmark.

    MPE2 computes all angles; comparing sides is faster than the arc tangent.
    """
    least_x, least_y = positions[e, 0, 0] - landmarks[e, 0, 0], positions[e, 0, 1] - landmarks[e, 0, 1]
    for i in range(1, positions.shape[1]):
        x, y = positions[e, i, 0] - landmarks[e, 0, 0], positions[e, i, 1] - landmarks[e, 0, 1]
        same_half = (y < 0) == (least_y < 0)
        if (same_half and x * least_y - y * least_x > 0) or (not same_half and least_y < 0):
            least_x, least_y = x, y
    angle: float = np.arctan2(least_y, least_x)
    if angle < 0:
        angle += 2 * np.pi
    return angle


def prepare(state: FormationState, world: World, rules: FormationRules) -> None:
    """Find the circle of evenly spaced places that begins at the agent of least angle."""
    positions, landmarks, targets = state.agent_positions, state.landmark_positions, rules.targets
    num_agents = positions.shape[1]
    for e in range(len(positions)):
        least_angle = _least_angle(positions, landmarks, e)
        for i in range(num_agents):
            angle = least_angle + i * ((2 * np.pi) / num_agents)
            targets[i, 0, e] = landmarks[e, 0, 0] + _RADIUS * np.cos(angle)
            targets[i, 1, e] = landmarks[e, 0, 1] + _RADIUS * np.sin(angle)
    assign_targets(positions, rules)


def judge(state: FormationState, world: World, rules: FormationRules, e: int, rewards: FloatArray) -> bool:
    """Reward all agents for being in their places."""
    return judge_places(rules, e, rewards, state.measures)


def observe(state: FormationState, world: World, rules: FormationRules, i: int, frames: FloatArray) -> None:
    """Observe own velocity and position, landmark."""
    at = write_vector(frames, 0, state.agent_velocities, i)
    at = write_vector(frames, at, state.agent_positions, i)
    write_landmarks(frames, at, state, i, 0)
