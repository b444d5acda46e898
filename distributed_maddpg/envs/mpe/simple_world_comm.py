"""`simple_world_comm_v3`: a leader directs predators that hunt prey among obstacles, food and forests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from distributed_maddpg.compilation import compiled_inline, compiled_part
from distributed_maddpg.envs.mpe.columns import write_landmarks, write_vector
from distributed_maddpg.envs.mpe.generator import UintArray
from distributed_maddpg.envs.mpe.placing import place_agents, place_landmarks
from distributed_maddpg.envs.mpe.scenario import Body, Options, Scenario
from distributed_maddpg.envs.mpe.simple_tag import fine
from distributed_maddpg.envs.mpe.world import (
    DoubleArray,
    IntArray,
    World,
    agents_touch,
    distance,
    touches_landmark,
)
from distributed_maddpg.types import FloatArray, Measure

_ONE, _LEADER, _LETTERS = np.float32(1.0), 0, 4


@dataclass(frozen=True)
class WorldCommOptions(Options):
    """Keywords of `mpe2.simple_world_comm_v3.parallel_env` and its defaults."""

    LEAST = {"num_obstacles": 0, "num_forests": 0}  # noqa: RUF012 (never changed)

    num_good: int = 2
    """Prey."""
    num_adversaries: int = 4
    """Predators, the leader among them."""
    num_obstacles: int = 1
    num_food: int = 2
    num_forests: int = 2
    """Forests hide who is inside from who is not."""


class WorldCommState(NamedTuple):
    """The full state of E copies."""

    agent_positions: DoubleArray
    agent_velocities: DoubleArray
    landmark_positions: DoubleArray
    """Obstacles, food, forests."""
    cycle: IntArray
    utterances: DoubleArray
    measures: DoubleArray
    generator_state: UintArray


class WorldCommRules(NamedTuple):
    """Constants of a run."""

    num_adversaries: int
    first_food: int
    """Index of the first food among the landmarks."""
    first_forest: int


class SimpleWorldComm(Scenario):
    """The leader first, then other predators, then prey."""

    name = "simple_world_comm"
    options_type = WorldCommOptions
    state_type = WorldCommState
    measures = (
        Measure("catches", "pairs of predator and prey that touch, added up over the steps"),
        Measure("meals", "pairs of prey and food that touch, added up over the steps"),
        Measure("hidden", "share of steps that prey is in a forest", per_step=True),
    )
    num_letters = _LETTERS

    @property
    def agents(self) -> list[Body]:
        """Predators are bigger, prey is faster; the leader speaks."""
        options = self.options
        hunt: dict[str, Any] = {"size": 0.075, "sensitivity": 3.0, "max_speed": 1.0}
        return [
            Body("leadadversary_0", **hunt, silent=False),
            *(Body(f"adversary_{i}", **hunt) for i in range(options.num_adversaries - 1)),
            *(Body(f"agent_{i}", 0.045, sensitivity=4.0, max_speed=1.3) for i in range(options.num_good)),
        ]

    @property
    def landmarks(self) -> list[Body]:
        """Obstacles, food, forests."""
        options = self.options
        return [
            *(Body(f"landmark {i}", 0.2) for i in range(options.num_obstacles)),
            *(Body(f"food {i}", 0.03, collides=False) for i in range(options.num_food)),
            *(Body(f"forest {i}", 0.3, collides=False) for i in range(options.num_forests)),
        ]

    @property
    def observation_sizes(self) -> tuple[int, ...]:
        """Predators hear the leader, prey does not."""
        options: WorldCommOptions = self.options
        others = len(self.agents) - 1
        width = 4 + 2 * len(self.landmarks) + 2 * others + options.num_forests + 2 * options.num_good
        return (width + _LETTERS,) * options.num_adversaries + (width - 2,) * options.num_good

    def rules(self, num_envs: int) -> WorldCommRules:
        """See `WorldCommRules`."""
        options = self.options
        return WorldCommRules(
            options.num_adversaries, options.num_obstacles, options.num_obstacles + options.num_food
        )


def reset(state: WorldCommState, world: World, rules: WorldCommRules, e: int) -> None:
    """Draw agents, all landmarks, then food and forests again."""
    num_landmarks = state.landmark_positions.shape[1]
    place_agents(state, e)
    place_landmarks(state, e, 0, num_landmarks, 0.9)
    place_landmarks(state, e, rules.first_food, rules.first_forest, 0.9)
    place_landmarks(state, e, rules.first_forest, num_landmarks, 0.9)
    state.utterances[e] = 0.0


@compiled_inline
def _judge_prey(
    state: WorldCommState, world: World, rules: WorldCommRules, e: int, i: int, rewards: FloatArray
) -> int:
    """Write the reward of one prey: for food, against catches and leaving the square; return the catches."""
    catches, meals, food_distance = 0, 0, np.inf
    for j in range(rules.num_adversaries):
        catches += agents_touch(state, world, j, i, e)
    reward = -5.0 * catches
    for k in range(2):
        reward -= 2 * fine(abs(state.agent_positions[e, i, k]))
    for j in range(rules.first_food, rules.first_forest):
        if touches_landmark(state, world, i, j, e):
            reward += 2
            meals += 1
        food_distance = min(food_distance, distance(state.agent_positions, i, state.landmark_positions, j, e))
    rewards[e, i] = reward - 0.05 * food_distance
    state.measures[e, 0] += catches
    state.measures[e, 1] += meals
    return catches


@compiled_inline
def _is_in_any_forest(state: WorldCommState, world: World, rules: WorldCommRules, e: int, i: int) -> bool:
    inside = False
    for j in range(rules.first_forest, state.landmark_positions.shape[1]):
        inside = inside or touches_landmark(state, world, i, j, e)
    return inside


def judge(state: WorldCommState, world: World, rules: WorldCommRules, e: int, rewards: FloatArray) -> bool:
    """Reward each predator for nearness to prey and all for each catch; prey see `_judge_prey`."""
    positions, first_prey, catches, hidden = state.agent_positions, rules.num_adversaries, 0, 0
    for i in range(first_prey, positions.shape[1]):
        catches += _judge_prey(state, world, rules, e, i, rewards)
        hidden += _is_in_any_forest(state, world, rules, e, i)
    for i in range(first_prey):
        nearest = np.inf
        for j in range(first_prey, positions.shape[1]):
            nearest = min(nearest, distance(positions, j, positions, i, e))
        reward = 0.0 - 0.1 * nearest
        for _ in range(catches):  # added one by one, as MPE2 does
            reward += 5
        rewards[e, i] = reward
    state.measures[e, 2] += hidden / (positions.shape[1] - first_prey)
    return False


@compiled_inline
def _sees(state: WorldCommState, world: World, rules: WorldCommRules, e: int, i: int, j: int) -> bool:
    """Return whether agent i sees agent j: in the same forest, or both in none; the leader sees all."""
    i_hides, j_hides, together = False, False, False
    for k in range(rules.first_forest, state.landmark_positions.shape[1]):
        i_inside, j_inside = touches_landmark(state, world, i, k, e), touches_landmark(state, world, j, k, e)
        i_hides, j_hides = i_hides or i_inside, j_hides or j_inside
        together = together or (i_inside and j_inside)
    return together or i == _LEADER or not (i_hides or j_hides)


@compiled_part
def _write_others(
    frames: FloatArray, at: int, state: WorldCommState, world: World, rules: WorldCommRules, i: int
) -> int:
    """Write where the other agents are and, after a gap for prey, how fast other prey is; zeros if unseen."""
    positions, velocities, num_agents = (
        state.agent_positions,
        state.agent_velocities,
        state.agent_positions.shape[1],
    )
    gap = 0 if i < rules.num_adversaries else state.landmark_positions.shape[1] - rules.first_forest
    velocity_at = at + 2 * (num_agents - 1) + gap
    for j in range(num_agents):
        if j == i:
            continue
        is_prey = j >= rules.num_adversaries
        for e in range(len(frames)):
            seen = _sees(state, world, rules, e, i, j)
            for k in range(2):
                frames[e, at + k] = positions[e, j, k] - positions[e, i, k] if seen else 0.0
                if is_prey:
                    frames[e, velocity_at + k] = velocities[e, j, k] if seen else 0.0
        at += 2
        velocity_at += 2 if is_prey else 0
    return at if gap else velocity_at


def observe(state: WorldCommState, world: World, rules: WorldCommRules, i: int, frames: FloatArray) -> None:
    """Observe own velocity and position, landmarks, others, prey's velocities, own forests, the leader.

    Prey observes its forests before the velocities, and no words.
    """
    num_landmarks = state.landmark_positions.shape[1]
    at = write_vector(frames, 0, state.agent_velocities, i)
    at = write_vector(frames, at, state.agent_positions, i)
    at = write_landmarks(frames, at, state, i, 0)
    at = _write_others(frames, at, state, world, rules, i)
    for j in range(rules.first_forest, num_landmarks):
        for e in range(len(frames)):
            frames[e, at] = _ONE if touches_landmark(state, world, i, j, e) else -_ONE
        at += 1
    if i < rules.num_adversaries:
        write_vector(frames, at, state.utterances, _LEADER)
