"""`simple_adversary_v3`: good agents cover landmarks so that an adversary cannot tell which one is the goal.

Letters are MPE2's: `N` good agents and landmarks, `A` = N + 1 agents with the adversary first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from distributed_maddpg.envs.mpe.columns import write_goal, write_landmarks, write_others
from distributed_maddpg.envs.mpe.generator import UintArray, next_index
from distributed_maddpg.envs.mpe.placing import place_agents, place_landmarks
from distributed_maddpg.envs.mpe.scenario import Body, Numbers, Options, Scenario
from distributed_maddpg.envs.mpe.world import DoubleArray, IntArray, World, distance, squared_distance
from distributed_maddpg.types import FloatArray, PrivatePart


@dataclass(frozen=True)
class AdversaryOptions(Options):
    """Keywords of `mpe2.simple_adversary_v3.parallel_env` and its defaults, plus two of this package."""

    NOT_IN_MPE2 = ("squared_adversary_reward", "velocity_first")

    N: int = 2
    """Number of good agents, and of landmarks."""
    num_agent_neighbors: int | None = None
    """Number of other agents that each agent observes, nearest first; None = all."""
    num_landmark_neighbors: int | None = None
    """Number of landmarks that each agent observes, nearest first; None = all."""
    squared_adversary_reward: bool = False
    """Not in MPE2: the adversary's reward is minus the squared distance, as in the paper's MPE."""
    velocity_first: bool = False
    """Not in MPE2: positions use the new velocity, as in the paper's MPE, not the old one."""

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any]) -> AdversaryOptions:
        """Return the options for keywords; BadInput for one that is unknown or has a bad value."""
        options: AdversaryOptions = SimpleAdversary.from_kwargs(kwargs).options
        return options


class AdversaryState(NamedTuple):
    """The full state of E copies."""

    agent_positions: DoubleArray
    agent_velocities: DoubleArray
    landmark_positions: DoubleArray
    goal_landmark: IntArray
    """[E] index of the goal landmark."""
    cycle: IntArray
    generator_state: UintArray


class AdversaryRules(NamedTuple):
    """Constants of a run; 0 neighbours are all."""

    num_agent_neighbors: int
    num_landmark_neighbors: int
    squared: bool


class SimpleAdversary(Scenario):
    """One adversary against N good agents."""

    name = "simple_adversary"
    options_type = AdversaryOptions
    state_type = AdversaryState
    has_distances = True

    @property
    def agents(self) -> list[Body]:
        """The adversary, then the good agents."""
        names = ["adversary_0", *(f"agent_{i}" for i in range(self.options.N))]
        return [Body(name, 0.15, collides=False) for name in names]

    @property
    def landmarks(self) -> list[Body]:
        """N landmarks, one of them the goal."""
        return [Body(f"landmark {i}", 0.08, collides=False) for i in range(self.options.N)]

    @property
    def observation_sizes(self) -> tuple[int, ...]:
        """A good agent observes the goal too."""
        width = 2 * sum(self._num_observed)
        return (width,) + (width + 2,) * int(self.options.N)

    @property
    def _num_observed(self) -> tuple[int, int]:
        """Numbers of landmarks and of other agents that an agent observes."""
        options = self.options
        return options.num_landmark_neighbors or options.N, options.num_agent_neighbors or options.N

    @property
    def private_parts(self) -> tuple[PrivatePart | None, ...]:
        """The goal of a good agent, unless there is nothing else it could be."""
        num_candidates = min(self._num_observed[0], self.options.N)
        if num_candidates == 1:
            return ()
        # A good agent observes the goal, then the landmarks.
        candidates = tuple((2 + 2 * k, 4 + 2 * k) for k in range(num_candidates))
        # The nearest landmark of one agent is not that of another.
        aligned = self.options.num_landmark_neighbors is None
        return (None,) + (PrivatePart((0, 2), candidates, aligned),) * int(self.options.N)

    def rules(self, num_envs: int) -> AdversaryRules:
        """See `AdversaryRules`."""
        options = self.options
        return AdversaryRules(
            options.num_agent_neighbors or 0,
            options.num_landmark_neighbors or 0,
            options.squared_adversary_reward,
        )

    @property
    def own_state(self) -> dict[str, Numbers]:
        """The goal."""
        return {"goal_landmark": Numbers((), self.options.N)}


def reset(state: AdversaryState, world: World, rules: AdversaryRules, e: int) -> None:
    """Draw goal, agents, landmarks."""
    num_landmarks = state.landmark_positions.shape[1]
    state.goal_landmark[e] = next_index(state.generator_state[e], num_landmarks)
    place_agents(state, e)
    place_landmarks(state, e, 0, num_landmarks, 1.0)


def judge(state: AdversaryState, world: World, rules: AdversaryRules, e: int, rewards: FloatArray) -> bool:
    """Reward the adversary for its nearness to the goal, good agents for theirs and its distance."""
    positions, landmarks, goal = state.agent_positions, state.landmark_positions, state.goal_landmark[e]
    adversary, nearest = distance(positions, 0, landmarks, goal, e), np.inf
    for i in range(1, positions.shape[1]):
        nearest = min(nearest, distance(positions, i, landmarks, goal, e))
    loss = squared_distance(positions, 0, landmarks, goal, e) if rules.squared else adversary
    rewards[e, 0] = 0.0 - loss
    for i in range(1, positions.shape[1]):
        rewards[e, i] = adversary - nearest
    return False


def observe(state: AdversaryState, world: World, rules: AdversaryRules, i: int, frames: FloatArray) -> None:
    """Observe the goal (good agents only), landmarks, other agents."""
    at = write_goal(frames, 0, state, i) if i else 0
    at = write_landmarks(frames, at, state, i, rules.num_landmark_neighbors)
    write_others(frames, at, state, i, rules.num_agent_neighbors)


def note_end(
    state: AdversaryState, world: World, rules: AdversaryRules, e: int, distances: FloatArray
) -> None:
    """Write the distances [E, A, L] of agents to landmarks in copy e, goal landmark first."""
    goal = state.goal_landmark[e]
    for i in range(state.agent_positions.shape[1]):
        for j in range(state.landmark_positions.shape[1]):
            place = 0 if j == goal else j + 1 if j < goal else j
            distances[e, i, place] = distance(state.agent_positions, i, state.landmark_positions, j, e)


def landmark_distances(state: Any) -> FloatArray:
    """Return distances [E, N+1, N] of agents to landmarks in a state of `get_state`, goal landmark first."""
    marks = state["landmark_positions"]
    order = np.argsort(np.arange(marks.shape[1]) != state["goal_landmark"][:, None], axis=1, kind="stable")
    marks = np.take_along_axis(marks, order[:, :, None], axis=1)
    apart = state["agent_positions"][:, :, None] - marks[:, None]  # [E, N+1, N, 2]
    distances: FloatArray = np.sqrt(np.square(apart).sum(axis=3)).astype(np.float32)
    return distances
