"""`collect_treasure_v1`: collectors bring treasures of several types to the deposits of these types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from distributed_maddpg.compilation import compiled_inline, compiled_part
from distributed_maddpg.envs.mpe.columns import Points, find_nearest, write_vector
from distributed_maddpg.envs.mpe.generator import UintArray, next_index, next_uniform
from distributed_maddpg.envs.mpe.placing import place_agents
from distributed_maddpg.envs.mpe.scenario import Body, Numbers, Options, Scenario
from distributed_maddpg.envs.mpe.world import (
    DoubleArray,
    IntArray,
    World,
    agents_touch,
    distance,
    touches_landmark,
)
from distributed_maddpg.errors import BadInput
from distributed_maddpg.types import FloatArray, Measure

_ZERO, _ONE, _NOTHING, _BOUND, _AWAY, _MAX_TYPES = np.float32(0.0), np.float32(1.0), -1, 0.95, -999.0, 6


@dataclass(frozen=True)
class TreasureOptions(Options):
    """Keywords of `mpe2.collect_treasure_v1.parallel_env` and its defaults."""

    num_collectors: int = 6
    num_deposits: int = 2
    """Number of deposits, and of types of treasure."""
    num_treasures: int = 6

    def __post_init__(self) -> None:
        """Raise BadInput for values that MPE2 cannot use."""
        super().__post_init__()
        if self.num_deposits > _MAX_TYPES:
            raise BadInput("env.kwargs.num_deposits", self.num_deposits, f"must be at most {_MAX_TYPES}")


class TreasureState(NamedTuple):
    """The full state of E copies; K collectors, T treasures."""

    agent_positions: DoubleArray
    agent_velocities: DoubleArray
    landmark_positions: DoubleArray
    """[E, T, 2] of the treasures; far away when collected."""
    holding: IntArray
    """[E, K] type of treasure that a collector holds, -1 for none."""
    treasure_types: IntArray
    """[E, T]"""
    treasure_alive: IntArray
    """[E, T] 0 from a treasure's collection to the next step."""
    cycle: IntArray
    measures: DoubleArray
    generator_state: UintArray
    respawn_generator_state: UintArray
    """[E, 6] of the treasures that appear anew: as the episode's generator was before the reset."""


class TreasureRules(NamedTuple):
    """Constants of a run."""

    num_collectors: int
    num_types: int


class CollectTreasure(Scenario):
    """Collectors first, then a deposit for each type."""

    name = "collect_treasure"
    options_type = TreasureOptions
    state_type = TreasureState
    measures = (
        Measure("collected", "treasures collected"),
        Measure("delivered", "treasures brought to their deposit"),
        Measure("collisions", "pairs of collectors that overlap, added up over the steps"),
    )

    @property
    def agents(self) -> list[Body]:
        """They pass through each other; deposits are heavy."""
        options = self.options
        return [
            *(
                Body(f"collector_{i}", 0.05, collides=False, sensitivity=1.5, max_speed=1.0)
                for i in range(options.num_collectors)
            ),
            *(
                Body(f"deposit_{i}", 0.075, collides=False, sensitivity=1.5, max_speed=1.0, mass=2.25)
                for i in range(options.num_deposits)
            ),
        ]

    @property
    def landmarks(self) -> list[Body]:
        """Treasures."""
        return [Body(f"treasure_{i}", 0.025, collides=False) for i in range(self.options.num_treasures)]

    @property
    def observation_sizes(self) -> tuple[int, ...]:
        """Own position and velocity, own treasure (collectors), others, treasures."""
        options: TreasureOptions = self.options
        types = options.num_deposits
        width = 4 + (4 + 2 * types) * (len(self.agents) - 1) + (2 + types) * options.num_treasures
        return (width + types,) * options.num_collectors + (width,) * options.num_deposits

    def rules(self, num_envs: int) -> TreasureRules:
        """See `TreasureRules`."""
        return TreasureRules(self.options.num_collectors, self.options.num_deposits)

    @property
    def own_state(self) -> dict[str, Numbers]:
        """Who holds what, and what lies around."""
        options = self.options
        return {
            "holding": Numbers((options.num_collectors,), options.num_deposits, _NOTHING),
            "treasure_types": Numbers((options.num_treasures,), options.num_deposits),
            "treasure_alive": Numbers((options.num_treasures,), 2),
        }


def reset(state: TreasureState, world: World, rules: TreasureRules, e: int) -> None:
    """Keep the generator for later treasures; draw agents, treasures; nobody holds any."""
    for k in range(state.generator_state.shape[1]):
        state.respawn_generator_state[e, k] = state.generator_state[e, k]
    place_agents(state, e)
    for i in range(rules.num_collectors):
        state.holding[e, i] = _NOTHING
    generator = state.generator_state[e]
    for j in range(state.landmark_positions.shape[1]):
        state.treasure_types[e, j] = next_index(generator, rules.num_types)
        for k in range(2):
            state.landmark_positions[e, j, k] = next_uniform(generator, -_BOUND, _BOUND)
        state.treasure_alive[e, j] = 1


@compiled_inline
def _collect_and_respawn(state: TreasureState, world: World, rules: TreasureRules, e: int) -> int:
    """Let collectors without a treasure take those that they touch; those taken before appear anew."""
    collected = 0
    for j in range(state.landmark_positions.shape[1]):
        if state.treasure_alive[e, j]:
            for i in range(rules.num_collectors):
                if state.holding[e, i] == _NOTHING and touches_landmark(state, world, i, j, e):
                    state.treasure_alive[e, j], state.holding[e, i] = 0, state.treasure_types[e, j]
                    state.landmark_positions[e, j, 0] = state.landmark_positions[e, j, 1] = _AWAY
                    collected += 1
                    break
        else:
            generator = state.respawn_generator_state[e]
            next_uniform(generator, 0.0, 1.0)  # MPE2 draws whether it appears, which is certain
            for k in range(2):
                state.landmark_positions[e, j, k] = next_uniform(generator, -_BOUND, _BOUND)
            state.treasure_types[e, j] = next_index(generator, rules.num_types)
            state.treasure_alive[e, j] = 1
    return collected


@compiled_inline
def _deliver(state: TreasureState, world: World, rules: TreasureRules, e: int) -> int:
    """Take the treasures from collectors that touch the right deposit."""
    delivered = 0
    for i in range(rules.num_collectors):
        held = state.holding[e, i]
        if held != _NOTHING and agents_touch(state, world, i, rules.num_collectors + held, e):
            state.holding[e, i] = _NOTHING
            delivered += 1
    return delivered


@compiled_inline
def _collector_cost(state: TreasureState, rules: TreasureRules, e: int, i: int) -> float:
    """Return a tenth of the distance to the nearest treasure, or to the deposit of the held one."""
    if state.holding[e, i] != _NOTHING:
        deposit = rules.num_collectors + state.holding[e, i]
        return 0.1 * distance(state.agent_positions, deposit, state.agent_positions, i, e)
    nearest = np.inf
    for j in range(state.landmark_positions.shape[1]):
        if state.treasure_alive[e, j]:
            nearest = min(nearest, distance(state.landmark_positions, j, state.agent_positions, i, e))
    return 0.1 * nearest if nearest < np.inf else 0.0


@compiled_inline
def _deposit_cost(state: TreasureState, rules: TreasureRules, e: int, i: int) -> float:
    """Return a tenth of the distance to the nearest collector with its type, or to the centre of all."""
    nearest, x, y, positions = np.inf, 0.0, 0.0, state.agent_positions
    for j in range(rules.num_collectors):
        x, y = x + positions[e, j, 0], y + positions[e, j, 1]
        if state.holding[e, j] == i - rules.num_collectors:
            nearest = min(nearest, distance(positions, j, positions, i, e))
    if nearest < np.inf:
        return 0.1 * nearest
    x = x / rules.num_collectors - positions[e, i, 0]
    y = y / rules.num_collectors - positions[e, i, 1]
    cost: float = 0.1 * np.sqrt(x * x + y * y)
    return cost


def judge(state: TreasureState, world: World, rules: TreasureRules, e: int, rewards: FloatArray) -> bool:
    """Reward all for collecting and delivering, each for nearness; punish collectors that overlap."""
    collected = _collect_and_respawn(state, world, rules, e)
    delivered = _deliver(state, world, rules, e)
    common, overlaps = 5.0 * collected + 5.0 * delivered, 0
    for i in range(state.agent_positions.shape[1]):
        reward = 0.0
        if i < rules.num_collectors:
            for j in range(rules.num_collectors):
                if j != i and agents_touch(state, world, i, j, e):
                    reward -= 5.0
                    overlaps += 1
            reward -= _collector_cost(state, rules, e, i)
        else:
            reward -= _deposit_cost(state, rules, e, i)
        rewards[e, i] = reward + common
    state.measures[e, 0] += collected
    state.measures[e, 1] += delivered
    state.measures[e, 2] += overlaps // 2
    return False


@compiled_part
def _write_others(frames: FloatArray, at: int, state: TreasureState, rules: TreasureRules, i: int) -> int:
    """Write position, velocity and type of each other agent, nearest first, over zeros."""
    positions, types, start = state.agent_positions, rules.num_types, at
    others, width = Points(positions, i), 4 + 2 * types
    nearest, room = np.zeros(positions.shape[1] - 1, np.int64), np.empty(positions.shape[1])
    for e in range(len(frames)):
        find_nearest(others, e, positions, i, nearest, room)
        for place in range(len(nearest)):
            j, at = nearest[place], start + place * width
            for k in range(2):
                frames[e, at + k] = positions[e, j, k] - positions[e, i, k]
                frames[e, at + 2 + k] = state.agent_velocities[e, j, k]
            is_deposit = j >= rules.num_collectors
            held = _NOTHING if is_deposit else state.holding[e, j]
            kind = j - rules.num_collectors if is_deposit else types + held
            frames[e, at + 4 + kind] = _ONE if is_deposit or held != _NOTHING else _ZERO
    return start + len(nearest) * width


@compiled_part
def _write_treasures(frames: FloatArray, at: int, state: TreasureState, rules: TreasureRules, i: int) -> None:
    """Write position and type of each treasure, nearest first, over zeros, which collected ones keep."""
    treasures, positions, start = state.landmark_positions, state.agent_positions, at
    all_treasures = Points(treasures, -1)
    nearest, room = np.zeros(treasures.shape[1], np.int64), np.empty(treasures.shape[1])
    for e in range(len(frames)):
        # collected treasures are far away, so they come last
        find_nearest(all_treasures, e, positions, i, nearest, room)
        for place in range(len(nearest)):
            j, at = nearest[place], start + place * (2 + rules.num_types)
            alive = state.treasure_alive[e, j]
            for k in range(2):
                frames[e, at + k] = treasures[e, j, k] - positions[e, i, k] if alive else 0.0
            frames[e, at + 2 + state.treasure_types[e, j]] = _ONE if alive else _ZERO


def observe(state: TreasureState, world: World, rules: TreasureRules, i: int, frames: FloatArray) -> None:
    """Observe own position and velocity, own treasure (collectors), other agents, treasures."""
    frames[:] = _ZERO
    at = write_vector(frames, 0, state.agent_positions, i)
    at = write_vector(frames, at, state.agent_velocities, i)
    if i < rules.num_collectors:
        for e in range(len(frames)):
            if state.holding[e, i] != _NOTHING:
                frames[e, at + state.holding[e, i]] = _ONE
        at += rules.num_types
    at = _write_others(frames, at, state, rules, i)
    _write_treasures(frames, at, state, rules, i)
