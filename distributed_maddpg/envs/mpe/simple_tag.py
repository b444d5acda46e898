"""`simple_tag_v3`: slower predators hunt faster prey among obstacles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from distributed_maddpg.compilation import compiled_inline, compiled_part
from distributed_maddpg.envs.mpe.columns import (
    Points,
    find_nearest,
    write_landmarks,
    write_others,
    write_vector,
)
from distributed_maddpg.envs.mpe.generator import UintArray
from distributed_maddpg.envs.mpe.placing import place_agents, place_landmarks
from distributed_maddpg.envs.mpe.scenario import Body, Options, Scenario
from distributed_maddpg.envs.mpe.world import DoubleArray, IntArray, World, agents_touch
from distributed_maddpg.errors import BadInput
from distributed_maddpg.types import FloatArray, Measure

_ZERO = np.float32(0.0)


@dataclass(frozen=True)
class TagOptions(Options):
    """Keywords of `mpe2.simple_tag_v3.parallel_env` and its defaults."""

    LEAST = {"num_good": 0, "num_adversaries": 0, "num_obstacles": 0}  # noqa: RUF012

    num_good: int = 1
    """Prey."""
    num_adversaries: int = 3
    """Predators."""
    num_obstacles: int = 2
    curriculum: bool = False
    """Whether prey is half as fast. MPE2 1.1.1 never reaches the stages in which it is faster."""
    terminate_on_success: bool = False
    """Whether an episode ends when all prey is caught at once."""
    num_agent_neighbors: int | None = None
    """Number of other agents that each agent observes, nearest first; None = all."""
    num_landmark_neighbors: int | None = None
    """Number of obstacles that each agent observes, nearest first; None = all."""

    def __post_init__(self) -> None:
        """Raise BadInput for values that MPE2 cannot use."""
        super().__post_init__()
        if self.num_good + self.num_adversaries == 0:
            raise BadInput("env.kwargs.num_good", 0, "there is nobody; with no num_adversaries, at least 1")


class TagState(NamedTuple):
    """The full state of E copies."""

    agent_positions: DoubleArray
    agent_velocities: DoubleArray
    landmark_positions: DoubleArray
    cycle: IntArray
    measures: DoubleArray
    generator_state: UintArray


class TagRules(NamedTuple):
    """Constants of a run; 0 neighbours are all."""

    num_adversaries: int
    num_agent_neighbors: int
    num_landmark_neighbors: int
    terminate_on_success: bool


class SimpleTag(Scenario):
    """Predators first, then prey."""

    name = "simple_tag"
    options_type = TagOptions
    state_type = TagState
    measures = (
        Measure("catches", "pairs of predator and prey that touch, added up over the steps"),
        Measure("outside", "share of steps that prey is outside the square", per_step=True),
    )

    @property
    def agents(self) -> list[Body]:
        """Predators are bigger, prey is faster."""
        options = self.options
        share = 0.5 if options.curriculum else 1.0
        return [
            *(
                Body(f"adversary_{i}", 0.075, sensitivity=3.0, max_speed=1.0)
                for i in range(options.num_adversaries)
            ),
            *(
                Body(f"agent_{i}", 0.05, sensitivity=4.0 * share, max_speed=1.3 * share)
                for i in range(options.num_good)
            ),
        ]

    @property
    def landmarks(self) -> list[Body]:
        """Obstacles."""
        return [Body(f"landmark {i}", 0.2) for i in range(self.options.num_obstacles)]

    @property
    def observation_sizes(self) -> tuple[int, ...]:
        """Own velocity and position, obstacles, others, velocities of other prey."""
        options: TagOptions = self.options
        marks = options.num_landmark_neighbors or options.num_obstacles
        if options.num_agent_neighbors:
            return (4 + 2 * marks + 4 * options.num_agent_neighbors,) * len(self.agents)
        width = 4 + 2 * marks + 2 * (len(self.agents) - 1) + 2 * options.num_good
        return (width,) * options.num_adversaries + (width - 2,) * options.num_good

    def rules(self, num_envs: int) -> TagRules:
        """See `TagRules`."""
        options = self.options
        return TagRules(
            options.num_adversaries,
            options.num_agent_neighbors or 0,
            options.num_landmark_neighbors or 0,
            options.terminate_on_success,
        )


def reset(state: TagState, world: World, rules: TagRules, e: int) -> None:
    """Draw agents, obstacles."""
    place_agents(state, e)
    place_landmarks(state, e, 0, state.landmark_positions.shape[1], 0.9)


@compiled_inline
def fine(x: float) -> float:
    """Return what a coordinate x >= 0 outside of the square costs (MPE2: bound)."""
    if x < 0.9:
        return 0.0
    if x < 1.0:
        return (x - 0.9) * 10
    cost: float = min(np.exp(2 * x - 2), 10.0)
    return cost


def judge(state: TagState, world: World, rules: TagRules, e: int, rewards: FloatArray) -> bool:
    """Reward all predators for each catch; punish prey for its own, and for leaving the square."""
    catches, outside, all_caught = 0, 0, True
    for i in range(rules.num_adversaries, state.agent_positions.shape[1]):
        own = 0
        for j in range(rules.num_adversaries):
            own += agents_touch(state, world, j, i, e)
        x, y = abs(state.agent_positions[e, i, 0]), abs(state.agent_positions[e, i, 1])
        rewards[e, i] = -10.0 * own - fine(x) - fine(y)
        catches += own
        outside += x > 1 or y > 1
        all_caught = all_caught and own > 0
    for i in range(rules.num_adversaries):
        rewards[e, i] = 10.0 * catches
    state.measures[e, 0] += catches
    state.measures[e, 1] += outside / max(1, state.agent_positions.shape[1] - rules.num_adversaries)
    return rules.terminate_on_success and all_caught


@compiled_part
def _write_nearest_velocities(frames: FloatArray, at: int, state: TagState, rules: TagRules, i: int) -> None:
    """Write the velocities of the nearest other agents, zeros for predators."""
    positions, num = state.agent_positions, rules.num_agent_neighbors
    others, nearest, room = Points(positions, i), np.zeros(num, np.int64), np.empty(positions.shape[1])
    for e in range(len(frames)):
        found = find_nearest(others, e, positions, i, nearest, room)
        for k in range(num):
            frames[e, at + 2 * k] = frames[e, at + 2 * k + 1] = _ZERO
            if k < found and nearest[k] >= rules.num_adversaries:
                frames[e, at + 2 * k] = state.agent_velocities[e, nearest[k], 0]
                frames[e, at + 2 * k + 1] = state.agent_velocities[e, nearest[k], 1]


def observe(state: TagState, world: World, rules: TagRules, i: int, frames: FloatArray) -> None:
    """Observe own velocity and position, obstacles, others, velocities of other prey."""
    positions = state.agent_positions
    at = write_vector(frames, 0, state.agent_velocities, i)
    at = write_vector(frames, at, positions, i)
    at = write_landmarks(frames, at, state, i, rules.num_landmark_neighbors)
    at = write_others(frames, at, state, i, rules.num_agent_neighbors)
    if rules.num_agent_neighbors:
        _write_nearest_velocities(frames, at, state, rules, i)
        return
    for j in range(rules.num_adversaries, positions.shape[1]):
        if j != i:
            at = write_vector(frames, at, state.agent_velocities, j)
