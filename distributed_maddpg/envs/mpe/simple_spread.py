"""`simple_spread_v3`: N agents cover N landmarks without touching each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from distributed_maddpg.envs.mpe.columns import write_constant, write_landmarks, write_others, write_vector
from distributed_maddpg.envs.mpe.generator import UintArray
from distributed_maddpg.envs.mpe.placing import place_agents, place_landmarks
from distributed_maddpg.envs.mpe.scenario import Body, Options, Scenario
from distributed_maddpg.envs.mpe.world import DoubleArray, IntArray, World, agents_touch, distance
from distributed_maddpg.types import FloatArray, Measure

_CAPTURE_RADIUS = 0.1
_LETTERS = 2  # nobody speaks, but everybody observes the silence of the others


@dataclass(frozen=True)
class SpreadOptions(Options):
    """Keywords of `mpe2.simple_spread_v3.parallel_env` and its defaults."""

    N: int = 3
    """Number of agents, and of landmarks."""
    local_ratio: float = 0.5
    """Weight of the own reward, against the common one."""
    curriculum: bool = False
    """Whether collisions are free. MPE2 1.1.1 never reaches the second stage, in which they are not."""
    terminate_on_success: bool = False
    """Whether an episode ends when all landmarks are covered."""
    num_agent_neighbors: int | None = None
    """Number of other agents that each agent observes, nearest first; None = all."""
    num_landmark_neighbors: int | None = None
    """Number of landmarks that each agent observes, nearest first; None = all."""


class SpreadState(NamedTuple):
    """The full state of E copies."""

    agent_positions: DoubleArray
    agent_velocities: DoubleArray
    landmark_positions: DoubleArray
    cycle: IntArray
    measures: DoubleArray
    generator_state: UintArray


class SpreadRules(NamedTuple):
    """Constants of a run; 0 neighbours are all."""

    num_agent_neighbors: int
    num_landmark_neighbors: int
    local_ratio: float
    collisions_cost: bool
    terminate_on_success: bool
    silence: DoubleArray
    """What an agent hears of the others: zeros."""


class SimpleSpread(Scenario):
    """N agents that share the reward for N landmarks."""

    name = "simple_spread"
    options_type = SpreadOptions
    state_type = SpreadState
    measures = (
        Measure("covered", "landmarks with an agent within 0.1 at the end"),
        Measure("nearest_distance", "mean distance of a landmark to its nearest agent at the end"),
        Measure("collisions", "pairs of agents that touch, added up over the steps"),
    )

    @property
    def agents(self) -> list[Body]:
        """N."""
        return [Body(f"agent_{i}", 0.15) for i in range(self.options.N)]

    @property
    def landmarks(self) -> list[Body]:
        """N."""
        return [Body(f"landmark {i}", collides=False) for i in range(self.options.N)]

    @property
    def _num_others(self) -> int:
        """Number of other agents that an agent observes."""
        neighbors = self.options.num_agent_neighbors
        return int(self.options.N - 1 if neighbors is None else neighbors)

    @property
    def observation_sizes(self) -> tuple[int, ...]:
        """Own velocity and position, landmarks, others, their silence."""
        num_landmarks = self.options.num_landmark_neighbors or self.options.N
        return (4 + 2 * num_landmarks + (2 + _LETTERS) * self._num_others,) * int(self.options.N)

    def rules(self, num_envs: int) -> SpreadRules:
        """See `SpreadRules`."""
        options = self.options
        return SpreadRules(
            options.num_agent_neighbors or 0,
            options.num_landmark_neighbors or 0,
            float(options.local_ratio),
            not options.curriculum,
            options.terminate_on_success,
            np.zeros(_LETTERS * self._num_others),
        )


def reset(state: SpreadState, world: World, rules: SpreadRules, e: int) -> None:
    """Draw agents, landmarks."""
    place_agents(state, e)
    place_landmarks(state, e, 0, state.landmark_positions.shape[1], 1.0)


def judge(state: SpreadState, world: World, rules: SpreadRules, e: int, rewards: FloatArray) -> bool:
    """Reward all for nearness to the landmarks, and punish each for its own collisions."""
    num_agents, num_landmarks = state.agent_positions.shape[1], state.landmark_positions.shape[1]
    common, covered = 0.0, 0
    for j in range(num_landmarks):
        nearest = np.inf
        for i in range(num_agents):
            nearest = min(nearest, distance(state.agent_positions, i, state.landmark_positions, j, e))
        common -= nearest
        covered += nearest < _CAPTURE_RADIUS
    num_touching = 0
    for i in range(num_agents):
        own = 0.0
        for j in range(num_agents):
            if j != i and agents_touch(state, world, j, i, e):
                own -= 1.0
                num_touching += 1
        if not rules.collisions_cost:
            own = 0.0
        rewards[e, i] = common * (1 - rules.local_ratio) + own * rules.local_ratio
    state.measures[e, 0] = covered
    state.measures[e, 1] = -common / num_landmarks
    state.measures[e, 2] += num_touching // 2
    return rules.terminate_on_success and covered == num_landmarks


def observe(state: SpreadState, world: World, rules: SpreadRules, i: int, frames: FloatArray) -> None:
    """Observe own velocity and position, landmarks, other agents, their silence."""
    at = write_vector(frames, 0, state.agent_velocities, i)
    at = write_vector(frames, at, state.agent_positions, i)
    at = write_landmarks(frames, at, state, i, rules.num_landmark_neighbors)
    at = write_others(frames, at, state, i, rules.num_agent_neighbors)
    write_constant(frames, at, rules.silence)
