"""MPE's physics for E copies in compiled code: `core.py` of MPE2 1.1.1.

All float operations are in MPE2's order, in float64 and without fast-math: a fused or reordered operation
would make trajectories diverge from the original. The innermost loops are over copies, and elements are
indexed, never sliced: a loop over two landmarks costs more than its body, a slice its reference counting.

Shape letters are MPE2's: `A` agents, `L` landmarks, `C` numbers of an utterance, `P` pairs that can touch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distributed_maddpg.compilation import compiled_inline, compiled_part
from distributed_maddpg.types import FloatArray

DoubleArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

NUM_MOVES = 5
"""Actions of an agent that moves: nothing, left, right, down, up."""
_ZERO, _ONE = np.float32(0.0), np.float32(1.0)
_DT, _KEPT_SPEED, _CONTACT_FORCE, _CONTACT_MARGIN = 0.1, 1 - 0.25, 1e2, 1e-3
_LOG_2 = 0.693147180559945309417232121458176568
_EXP_IS_ZERO = -746.0  # below, exp underflows to zero
_LOG1P_IS_IDENTITY = -38.0  # below, exp is under 2^-54, and 1 + exp rounds to 1
_FAR, _FAST = 0.1, 1e-6
"""Distance beyond touching where contact forces are under 1e-44; speed that these leave as it is."""


BODY = np.dtype(
    [
        ("size", np.float64),  # radius
        ("observation_size", np.int64),  # this and all that follows is of agents only
        ("action_size", np.int64),
        ("movable", np.bool_),
        ("silent", np.bool_),
        ("sensitivity", np.float64),  # force of an action
        ("max_speed", np.float64),  # infinity where there is none
        ("mass", np.float64),
    ]
)
PAIR = np.dtype([("a", np.int64), ("b", np.int64), ("reach", np.float64)])
"""Who can touch whom, and from which distance; indices from A are landmarks."""
Records = npt.NDArray[np.void]


class World(NamedTuple):
    """Constants of a run: who there is, and when episodes end."""

    max_cycles: int
    continuous: bool
    velocity_first: bool
    """Not in MPE2: whether positions are integrated with the new velocity instead of the old one."""
    bodies: Records
    """[A + L] of BODY, landmarks last."""
    pairs: Records
    """[P] of PAIR, in MPE2's order."""


class JointActions(NamedTuple):
    """The actions of all agents, W numbers wide at most; the array of the unused kind has length 0."""

    continuous: FloatArray
    """[A, E, W]: the move's five numbers first, then the utterance's."""
    discrete: IntArray
    """[A, E]: move + 5 * utterance."""
    forces: DoubleArray
    """[E, A, 2]: room for `move`, as the following."""
    moving: BoolArray
    """[A, E]."""
    near: IntArray
    """[E]."""


@compiled_inline
def _clipped(value: np.float32) -> np.float32:
    """Return an action's number clipped to [0, 1]; NaN was refused before."""
    return _ZERO if value < _ZERO else _ONE if value > _ONE else value


@compiled_part
def _set_action_forces(world: World, actions: JointActions) -> None:
    """Write the force of each agent's move."""
    forces = actions.forces
    for i in range(forces.shape[1]):
        if not world.bodies[i].movable:
            continue
        sensitivity = world.bodies[i].sensitivity
        for e in range(forces.shape[0]):
            x, y = 0.0, 0.0
            if world.continuous:
                move = actions.continuous
                # subtracted in float32, as MPE2 does
                x += np.float64(_clipped(move[i, e, 2]) - _clipped(move[i, e, 1]))
                y += np.float64(_clipped(move[i, e, 4]) - _clipped(move[i, e, 3]))
            else:
                action = actions.discrete[i, e] % NUM_MOVES
                x = -1.0 if action == 1 else 1.0 if action == 2 else 0.0
                y = -1.0 if action == 3 else 1.0 if action == 4 else 0.0
            forces[e, i, 0], forces[e, i, 1] = x * sensitivity, y * sensitivity


@compiled_inline
def _penetration(depth: float) -> float:
    """Return MPE2's `logaddexp(0, depth / margin) * margin`, as numpy's C code computes it."""
    exponent = depth / _CONTACT_MARGIN
    if exponent < _LOG1P_IS_IDENTITY:
        soft = np.exp(exponent)
    elif exponent < 0:
        soft = np.log1p(np.exp(exponent))
    elif exponent > 0:
        soft = exponent + np.log1p(np.exp(-exponent))
    else:
        soft = exponent + _LOG_2  # keeps NaN
    penetration: float = soft * _CONTACT_MARGIN
    return penetration


@compiled_part
def _note_moving(state: Any, world: World, moving: BoolArray) -> None:
    """Write which agents' next velocities do not depend, to the bit, on forces under 1e-44."""
    velocities = state.agent_velocities
    for i in range(moving.shape[0]):
        movable = world.bodies[i].movable
        for e in range(moving.shape[1]):
            fast = (abs(velocities[e, i, 0]) > _FAST) & (abs(velocities[e, i, 1]) > _FAST)
            moving[i, e] = fast | (not movable)


@compiled_inline
def _offset(state: Any, a: int, b: int, e: int) -> tuple[float, float]:
    """Return the way from b, an agent or a landmark, to agent a in copy e."""
    positions, landmarks = state.agent_positions, state.landmark_positions
    x, y, num_agents = positions[e, a, 0], positions[e, a, 1], positions.shape[1]
    if b < num_agents:
        return x - positions[e, b, 0], y - positions[e, b, 1]
    return x - landmarks[e, b - num_agents, 0], y - landmarks[e, b - num_agents, 1]


@compiled_part
def _list_near(state: Any, actions: JointActions, a: int, b: int, reach: float) -> int:
    """List the copies in which two must be pushed apart, or one is so slow that any force counts.

    Without a branch: which copies these are cannot be predicted.
    """
    near, moving, count = actions.near, actions.moving, 0
    limit, other = (reach + _FAR) * (reach + _FAR), b if b < moving.shape[0] else a
    for e in range(len(near)):
        x, y = _offset(state, a, b, e)
        near[count] = e
        count += not ((x * x + y * y > limit) & moving[a, e] & moving[other, e])
    return count


@compiled_part
def _add_contact_forces(state: Any, world: World, actions: JointActions) -> None:
    """Push apart who touches; forces without effect in float64 are skipped."""
    forces = actions.forces
    if len(world.pairs):
        _note_moving(state, world, actions.moving)
    for pair in range(len(world.pairs)):
        a, b, reach = world.pairs[pair].a, world.pairs[pair].b, world.pairs[pair].reach
        for place in range(_list_near(state, actions, a, b, reach)):
            e = actions.near[place]
            x, y = _offset(state, a, b, e)
            distance = np.sqrt(x * x + y * y)
            depth = -(distance - reach)
            if depth < _EXP_IS_ZERO * _CONTACT_MARGIN:
                continue
            penetration = _penetration(depth)
            x = _CONTACT_FORCE * x / distance * penetration
            y = _CONTACT_FORCE * y / distance * penetration
            forces[e, a, 0], forces[e, a, 1] = x + forces[e, a, 0], y + forces[e, a, 1]
            if b < forces.shape[1]:
                forces[e, b, 0], forces[e, b, 1] = -x + forces[e, b, 0], -y + forces[e, b, 1]


@compiled_part
def _integrate(state: Any, world: World, forces: DoubleArray) -> None:
    """Update positions with the old (or new) velocities, and velocities by damping and force."""
    positions, velocities = state.agent_positions, state.agent_velocities
    for i in range(positions.shape[1]):
        mass, max_speed = world.bodies[i].mass, world.bodies[i].max_speed
        has_mass, is_limited = mass != 1.0, max_speed < np.inf  # most agents have neither
        if not world.bodies[i].movable:
            continue
        for e in range(positions.shape[0]):
            x, y = forces[e, i, 0], forces[e, i, 1]
            if has_mass:
                x, y = x / mass, y / mass
            x, y = velocities[e, i, 0] * _KEPT_SPEED + x * _DT, velocities[e, i, 1] * _KEPT_SPEED + y * _DT
            if is_limited:
                speed = np.sqrt(x * x + y * y)
                if speed > max_speed:
                    x, y = x / speed * max_speed, y / speed * max_speed
            if world.velocity_first:
                positions[e, i, 0], positions[e, i, 1] = (
                    positions[e, i, 0] + x * _DT,
                    positions[e, i, 1] + y * _DT,
                )
            else:
                positions[e, i, 0] += velocities[e, i, 0] * _DT
                positions[e, i, 1] += velocities[e, i, 1] * _DT
            velocities[e, i, 0], velocities[e, i, 1] = x, y


@compiled_part
def move(state: Any, world: World, actions: JointActions) -> None:
    """Move all agents of all copies by one step."""
    _set_action_forces(world, actions)
    _add_contact_forces(state, world, actions)
    _integrate(state, world, actions.forces)


@compiled_part
def speak(utterances: DoubleArray, world: World, actions: JointActions) -> None:
    """Write the utterances [E, A, C] of the agents that are not silent."""
    for i in range(utterances.shape[1]):
        if world.bodies[i].silent:
            continue
        first = NUM_MOVES if world.bodies[i].movable else 0
        for e in range(utterances.shape[0]):
            said = -1 if world.continuous else actions.discrete[i, e] // (NUM_MOVES if first else 1)
            for k in range(utterances.shape[2]):
                if world.continuous:
                    utterances[e, i, k] = _clipped(actions.continuous[i, e, first + k])
                else:
                    utterances[e, i, k] = 1.0 if k == said else 0.0


@compiled_part
def are_valid(world: World, actions: JointActions) -> bool:
    """Return whether no continuous action is NaN and all discrete ones are below the agent's size."""
    num_invalid = 0
    for value in actions.continuous.reshape(-1):
        if value != value:  # only NaN is not equal to itself
            num_invalid += 1
    for i in range(actions.discrete.shape[0]):
        action_size = world.bodies[i].action_size
        for action in actions.discrete[i]:
            if action < 0 or action >= action_size:
                num_invalid += 1
    return num_invalid == 0


@compiled_inline
def squared_distance(a: DoubleArray, i: int, b: DoubleArray, j: int, e: int) -> float:
    """Return the squared distance in copy e between point i of `a` and j of `b`, both [E, points, 2]."""
    dx, dy = a[e, i, 0] - b[e, j, 0], a[e, i, 1] - b[e, j, 1]
    squared: float = dx * dx + dy * dy
    return squared


@compiled_inline
def distance(a: DoubleArray, i: int, b: DoubleArray, j: int, e: int) -> float:
    """Return the distance in copy e between point i of `a` and j of `b`, both [E, points, 2]."""
    apart: float = np.sqrt(squared_distance(a, i, b, j, e))
    return apart


@compiled_inline
def agents_touch(state: Any, world: World, i: int, j: int, e: int) -> bool:
    """Return whether agents i and j of copy e overlap."""
    touch: bool = (
        distance(state.agent_positions, i, state.agent_positions, j, e)
        < world.bodies[i].size + world.bodies[j].size
    )
    return touch


@compiled_inline
def touches_landmark(state: Any, world: World, i: int, j: int, e: int) -> bool:
    """Return whether agent i and landmark j of copy e overlap."""
    reach = world.bodies[i].size + world.bodies[state.agent_positions.shape[1] + j].size
    touch: bool = distance(state.agent_positions, i, state.landmark_positions, j, e) < reach
    return touch
