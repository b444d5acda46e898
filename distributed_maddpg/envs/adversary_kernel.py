"""The compiled step of `simple_adversary`: E copies in one call, bit-identical to MPE2 1.1.1.

All float operations are in MPE2's order, in float64 and without fast-math: a fused or reordered operation
would make trajectories diverge from the original. Random draws are numpy's PCG64, so a reset draws the same
numbers as MPE2's `reset_world` from a generator in the same state. The hot path indexes elements and never
slices: every slice costs reference counting, which took a third of the time.

Shape letters are MPE2's, not those of `types.py`: `N` good agents, `A` = N + 1 agents with the adversary
first, `L` = N landmarks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from distributed_maddpg.compilation import compiled
from distributed_maddpg.types import FloatArray

DoubleArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
UintArray = npt.NDArray[np.uint64]

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)
_BIT_1, _BITS_11, _BITS_32, _BITS_58, _BITS_63, _BITS_64 = (np.uint64(n) for n in (1, 11, 32, 58, 63, 64))
_NO_BITS, _MASK_32 = np.uint64(0), np.uint64(0xFFFFFFFF)
# PCG64's multiplier: its high and low 64 bits, and the two halves of the low 64 bits.
_MULTIPLIER_HI, _MULTIPLIER_LO = np.uint64(0x2360ED051FC65DA4), np.uint64(0x4385DF649FCCF645)
_FACTOR_HI, _FACTOR_LO = np.uint64(0x4385DF64), np.uint64(0x9FCCF645)


class EnvState(NamedTuple):
    """The full state of E copies; fields are named like the arrays of `get_state`."""

    agent_positions: DoubleArray
    """[E, A, 2]"""
    agent_velocities: DoubleArray
    """[E, A, 2]"""
    landmark_positions: DoubleArray
    """[E, L, 2]"""
    goal_landmark: IntArray
    """[E] index of the goal landmark."""
    cycle: IntArray
    """[E] steps since the episode began."""
    generator_state: UintArray
    """[E, 6] packed PCG64 states, see `streams`."""


class EnvParams(NamedTuple):
    """Constants of a run."""

    max_cycles: int
    continuous: bool
    num_agent_neighbors: int
    """Number of other agents that each agent observes; 0 = all."""
    num_landmark_neighbors: int
    """Number of landmarks that each agent observes; 0 = all."""
    adversary_obs_size: int
    """O_0, the size of the adversary's observation; a good agent's has two more numbers."""
    squared: bool
    """Whether the adversary's reward is the negative squared distance."""
    velocity_first: bool
    """Whether positions are integrated with the new velocity instead of the old one."""


class JointActions(NamedTuple):
    """The actions of all agents; the array of the unused kind has length 0."""

    continuous: FloatArray
    """[A, E, 5]"""
    discrete: IntArray
    """[A, E]"""


class StepOutput(NamedTuple):
    """The arrays that a step writes. Observations are one flat array: one block [E, O_i] per agent."""

    obs: FloatArray
    """[E * (O_0 + .. + O_N)]"""
    final_obs: FloatArray
    """Same layout: the observations before ended episodes are reset."""
    rewards: FloatArray
    """[E, A]"""
    truncated: npt.NDArray[np.bool_]
    """[E]"""
    distances: FloatArray
    """[E, A, L] in the last frame of each copy's latest finished episode, goal landmark first."""


@compiled
def _next_uint64(generator: UintArray) -> np.uint64:
    """Advance one PCG64 state, [6] uint64, and return its 64 random bits (XSL-RR output)."""
    hi, lo = generator[0], generator[1]
    a, b = lo >> _BITS_32, lo & _MASK_32
    low, middle = b * _FACTOR_LO, a * _FACTOR_LO
    middle_2 = b * _FACTOR_HI + (low >> _BITS_32) + (middle & _MASK_32)
    carry = a * _FACTOR_HI + (middle >> _BITS_32) + (middle_2 >> _BITS_32)
    hi = carry + hi * _MULTIPLIER_LO + lo * _MULTIPLIER_HI + generator[2]
    product = lo * _MULTIPLIER_LO
    lo = product + generator[3]
    if lo < product:
        hi = hi + _BIT_1
    generator[0], generator[1] = hi, lo
    bits, turn = hi ^ lo, hi >> _BITS_58
    output: np.uint64 = (bits >> turn) | (bits << ((_BITS_64 - turn) & _BITS_63))
    return output


@compiled
def _next_uint32(generator: UintArray) -> np.uint64:
    """Return 32 random bits; like numpy, draw 64 bits and keep the upper half for the next call."""
    if generator[4] != _NO_BITS:
        generator[4] = _NO_BITS
        kept: np.uint64 = generator[5]
        return kept
    bits = _next_uint64(generator)
    generator[4], generator[5] = _BIT_1, bits >> _BITS_32
    output: np.uint64 = bits & _MASK_32
    return output


@compiled
def _next_index(generator: UintArray, size: int) -> np.int64:
    """Return `Generator.integers(size)`: Lemire's method on 32 bits; size 1 draws nothing."""
    index: np.int64 = np.int64(0)
    if size > 1:
        bound = np.uint64(size)
        product = _next_uint32(generator) * bound
        if product & _MASK_32 < bound:
            threshold = (_MASK_32 + _BIT_1 - bound) % bound
            while product & _MASK_32 < threshold:
                product = _next_uint32(generator) * bound
        index = np.int64(product >> _BITS_32)
    return index


@compiled
def _next_coordinate(generator: UintArray) -> float:
    """Return `Generator.uniform(-1, 1)`."""
    value: float = -1.0 + 2.0 * (np.float64(_next_uint64(generator) >> _BITS_11) * (1.0 / 9007199254740992.0))
    return value


@compiled
def _reset_copy(state: EnvState, e: int) -> None:
    """Draw the start of an episode in MPE2's order: goal, agents, landmarks."""
    generator = state.generator_state[e]
    state.goal_landmark[e] = _next_index(generator, state.landmark_positions.shape[1])
    for i in range(state.agent_positions.shape[1]):
        for k in range(2):
            state.agent_positions[e, i, k] = _next_coordinate(generator)
            state.agent_velocities[e, i, k] = 0.0
    for i in range(state.landmark_positions.shape[1]):
        for k in range(2):
            state.landmark_positions[e, i, k] = _next_coordinate(generator)
    state.cycle[e] = 0


@compiled
def _squared_distance(a: DoubleArray, i: int, b: DoubleArray, j: int, e: int) -> float:
    """Return the squared distance in copy e between point i of `a` and j of `b`, both [E, points, 2]."""
    dx, dy = a[e, i, 0] - b[e, j, 0], a[e, i, 1] - b[e, j, 1]
    squared: float = dx * dx + dy * dy
    return squared


@compiled
def _distance(a: DoubleArray, i: int, b: DoubleArray, j: int, e: int) -> float:
    """Return the distance in copy e between point i of `a` and j of `b`, both [E, points, 2]."""
    distance: float = np.sqrt(_squared_distance(a, i, b, j, e))
    return distance


@compiled
def _write_nearest(row: FloatArray, points: DoubleArray, x: float, y: float, skip: int) -> None:
    """Fill a row with the relative positions of the points nearest to (x, y), nearest first, then zeros.

    This is a stable insertion sort. MPE2 computes these distances with BLAS, which may round the last bit
    differently, so two points at equal distance up to that bit may be in another order there. Random
    positions do not get that close.
    """
    num, found = len(row) // 2, 0
    row[:] = _ZERO
    distances = np.empty(num)
    for i in range(len(points)):
        dx, dy = points[i, 0] - x, points[i, 1] - y
        distance, place = np.sqrt(dx * dx + dy * dy), found
        while place > 0 and distance < distances[place - 1]:
            place -= 1
        if i == skip or place == num:
            continue
        found = min(found + 1, num)
        for j in range(found - 1, place, -1):
            distances[j] = distances[j - 1]
            row[2 * j], row[2 * j + 1] = row[2 * j - 2], row[2 * j - 1]
        distances[place] = distance
        row[2 * place], row[2 * place + 1] = dx, dy


@compiled
def _observe_nearest_points(
    points: DoubleArray, positions: DoubleArray, i: int, frames: FloatArray, skip: int
) -> None:
    """Write agent i's observation of its nearest points except `skip`; frames [E, 2 * neighbours]."""
    for e in range(len(points)):
        _write_nearest(frames[e], points[e], positions[e, i, 0], positions[e, i, 1], skip)


@compiled
def _observe_all_points(
    points: DoubleArray, positions: DoubleArray, i: int, frames: FloatArray, skip: int
) -> None:
    """Write agent i's observation of all points except `skip`; frames [E, 2 * observed points]."""
    at = 0
    for j in range(points.shape[1]):
        if j != skip:
            for e in range(len(points)):
                frames[e, at] = points[e, j, 0] - positions[e, i, 0]
                frames[e, at + 1] = points[e, j, 1] - positions[e, i, 1]
            at += 2


@compiled
def _observe(state: EnvState, params: EnvParams, obs: FloatArray) -> None:
    """Write the observations of all copies.

    The innermost loop is over copies: a loop over two landmarks or three agents costs more than its body.
    """
    num_envs, start = len(state.goal_landmark), 0
    positions, landmarks = state.agent_positions, state.landmark_positions
    no_skip = positions.shape[1]  # no point has this index
    middle = 2 * (params.num_landmark_neighbors or landmarks.shape[1])
    for i in range(positions.shape[1]):
        width = params.adversary_obs_size + 2 if i else params.adversary_obs_size
        frames = obs[start : start + num_envs * width].reshape(num_envs, width)
        start += num_envs * width
        if i:
            for e in range(num_envs):
                frames[e, 0] = landmarks[e, state.goal_landmark[e], 0] - positions[e, i, 0]
                frames[e, 1] = landmarks[e, state.goal_landmark[e], 1] - positions[e, i, 1]
        seen = frames[:, width - params.adversary_obs_size :]
        if params.num_landmark_neighbors:
            _observe_nearest_points(landmarks, positions, i, seen[:, :middle], no_skip)
        else:
            _observe_all_points(landmarks, positions, i, seen[:, :middle], no_skip)
        if params.num_agent_neighbors:
            _observe_nearest_points(positions, positions, i, seen[:, middle:], i)
        else:
            _observe_all_points(positions, positions, i, seen[:, middle:], i)


@compiled
def _continuous_force(up: np.float32, down: np.float32) -> float:
    """Return the difference of two clipped action components, subtracted in float32 like MPE2."""
    up = _ZERO if up < _ZERO else _ONE if up > _ONE else up
    down = _ZERO if down < _ZERO else _ONE if down > _ONE else down
    difference: float = np.float64(up - down)
    return difference


@compiled
def _discrete_force(action: int, negative: int) -> float:
    """Return the unit force of a discrete action along one axis; `negative` is its negative direction."""
    return -1.0 if action == negative else 1.0 if action == negative + 1 else 0.0


@compiled
def _move(state: EnvState, actions: JointActions, continuous: bool, velocity_first: bool) -> None:
    """Integrate all copies.

    Position is updated with the old velocity, then velocity by damping and force. With `velocity_first` the
    position is updated last.
    """
    positions, velocities = state.agent_positions, state.agent_velocities
    for i in range(positions.shape[1]):
        for e in range(positions.shape[0]):
            if continuous:
                force_x = _continuous_force(actions.continuous[i, e, 2], actions.continuous[i, e, 1])
                force_y = _continuous_force(actions.continuous[i, e, 4], actions.continuous[i, e, 3])
            else:
                action = actions.discrete[i, e]
                force_x, force_y = _discrete_force(action, 1), _discrete_force(action, 3)
            if not velocity_first:
                positions[e, i, 0] += velocities[e, i, 0] * 0.1
                positions[e, i, 1] += velocities[e, i, 1] * 0.1
            velocities[e, i, 0] = velocities[e, i, 0] * 0.75 + (force_x * 5.0) * 0.1
            velocities[e, i, 1] = velocities[e, i, 1] * 0.75 + (force_y * 5.0) * 0.1
            if velocity_first:
                positions[e, i, 0] += velocities[e, i, 0] * 0.1
                positions[e, i, 1] += velocities[e, i, 1] * 0.1


@compiled
def _write_rewards(state: EnvState, squared: bool, e: int, rewards: FloatArray) -> None:
    """Write the rewards of copy e into its row of [E, A]; `squared` applies to the adversary only."""
    goal, adversary, nearest = state.goal_landmark[e], 0.0, np.inf
    for i in range(state.agent_positions.shape[1]):
        distance = _distance(state.agent_positions, i, state.landmark_positions, goal, e)
        if i == 0:
            adversary = distance
        elif distance < nearest:
            nearest = distance
    loss = (
        _squared_distance(state.agent_positions, 0, state.landmark_positions, goal, e)
        if squared
        else adversary
    )
    rewards[e, 0] = 0.0 - loss
    for i in range(1, state.agent_positions.shape[1]):
        rewards[e, i] = adversary - nearest


@compiled
def _write_distances(state: EnvState, e: int, distances: FloatArray) -> None:
    """Write the distances [E, A, L] of agents to landmarks in copy e, goal landmark first."""
    goal = state.goal_landmark[e]
    for i in range(state.agent_positions.shape[1]):
        for j in range(state.landmark_positions.shape[1]):
            place = 0 if j == goal else j + 1 if j < goal else j
            distances[e, i, place] = _distance(state.agent_positions, i, state.landmark_positions, j, e)


@compiled
def _are_valid_actions(actions: JointActions) -> bool:
    """Return whether no continuous action is NaN and all discrete actions are 0 to 4."""
    num_invalid = 0
    for value in actions.continuous.reshape(-1):
        if value != value:  # only NaN is not equal to itself
            num_invalid += 1
    for action in actions.discrete.reshape(-1):
        if action < 0 or action > 4:
            num_invalid += 1
    return num_invalid == 0


@compiled
def reset_all(state: EnvState, params: EnvParams, obs: FloatArray) -> None:
    """Start a new episode in every copy and write its first observations."""
    for e in range(len(state.goal_landmark)):
        _reset_copy(state, e)
    _observe(state, params, obs)


@compiled
def step_all(state: EnvState, params: EnvParams, actions: JointActions, output: StepOutput) -> int:
    """Step all copies, reset those whose episode ends, and write the output.

    Args:
        state: updated in place.
        params: constants of the run.
        actions: continuous actions (any floats except NaN, clipped here), or discrete actions 0 to 4.
        output: obs, rewards and truncated are always written in full. final_obs is written in full if an
            episode ended, otherwise not at all. distances are written for copies whose episode ended.

    Returns:
        Number of copies whose episode ended, or -1 for an invalid action, which leaves the state unchanged.
    """
    if not _are_valid_actions(actions):
        return -1
    _move(state, actions, params.continuous, params.velocity_first)
    num_ended = 0
    for e in range(len(state.goal_landmark)):
        _write_rewards(state, params.squared, e, output.rewards)
        state.cycle[e] += 1
        output.truncated[e] = state.cycle[e] >= params.max_cycles
        if output.truncated[e]:
            num_ended += 1
    if num_ended:
        _observe(state, params, output.final_obs)
        for e in range(len(state.goal_landmark)):
            if output.truncated[e]:
                _write_distances(state, e, output.distances)
                _reset_copy(state, e)
    _observe(state, params, output.obs)
    return num_ended
