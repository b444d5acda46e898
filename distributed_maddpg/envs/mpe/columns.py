"""Columns of observations in compiled code.

A function writes columns of one agent's observations in all copies, `frames` [E, O_i], from column `at` on,
and returns the next free column.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from distributed_maddpg.compilation import compiled_inline, compiled_part
from distributed_maddpg.envs.mpe.world import DoubleArray, IntArray, distance
from distributed_maddpg.types import FloatArray

_ZERO = np.float32(0.0)


class Points(NamedTuple):
    """What an agent looks at."""

    positions: DoubleArray
    """[E, points, 2]"""
    skip: int
    """Index of the point that does not count, the agent itself; -1 for none."""


@compiled_part
def write_vector(frames: FloatArray, at: int, vectors: DoubleArray, i: int) -> int:
    """Write vector i of `vectors` [E, points, 2 or any other number]."""
    width: int = vectors.shape[2]
    for k in range(width):
        for e in range(len(frames)):
            frames[e, at + k] = vectors[e, i, k]
    return at + width


@compiled_part
def write_constant(frames: FloatArray, at: int, values: DoubleArray) -> int:
    """Write the same values [K] in all copies."""
    for k in range(len(values)):
        for e in range(len(frames)):
            frames[e, at + k] = values[k]
    return at + len(values)


@compiled_part
def write_row(frames: FloatArray, at: int, table: DoubleArray, chosen: IntArray) -> int:
    """Write the row of a table [rows, K] that each copy chose, `chosen` [E]."""
    width: int = table.shape[1]
    for k in range(width):
        for e in range(len(frames)):
            frames[e, at + k] = table[chosen[e], k]
    return at + width


@compiled_part
def write_goal(frames: FloatArray, at: int, state: Any, i: int) -> int:
    """Write where the goal landmark is, seen from agent i."""
    landmarks, positions = state.landmark_positions, state.agent_positions
    for e in range(len(frames)):
        goal = state.goal_landmark[e]
        frames[e, at] = landmarks[e, goal, 0] - positions[e, i, 0]
        frames[e, at + 1] = landmarks[e, goal, 1] - positions[e, i, 1]
    return at + 2


@compiled_part
def write_landmarks(frames: FloatArray, at: int, state: Any, i: int, num: int) -> int:
    """Write where the `num` nearest landmarks are, seen from agent i; 0 = all, in order."""
    return _write_points(frames, at, Points(state.landmark_positions, -1), state.agent_positions, i, num)


@compiled_part
def write_others(frames: FloatArray, at: int, state: Any, i: int, num: int) -> int:
    """Write where the `num` nearest other agents are, seen from agent i; 0 = all, in order."""
    return _write_points(frames, at, Points(state.agent_positions, i), state.agent_positions, i, num)


@compiled_part
def _write_points(frames: FloatArray, at: int, points: Points, own: DoubleArray, i: int, num: int) -> int:
    """Write where points are, seen from point i of `own` [E, points, 2]."""
    if num:
        return _write_nearest(frames, at, points, own, i, num)
    for j in range(points.positions.shape[1]):
        if j != points.skip:
            for e in range(len(frames)):
                frames[e, at] = points.positions[e, j, 0] - own[e, i, 0]
                frames[e, at + 1] = points.positions[e, j, 1] - own[e, i, 1]
            at += 2
    return at


@compiled_part
def _write_nearest(frames: FloatArray, at: int, points: Points, own: DoubleArray, i: int, num: int) -> int:
    """Write where the `num` nearest points are, nearest first, then zeros."""
    nearest, room = np.zeros(num, np.int64), np.empty(points.positions.shape[1])
    for e in range(len(frames)):
        found = find_nearest(points, e, own, i, nearest, room)
        for k in range(num):
            if k < found:
                frames[e, at + 2 * k] = points.positions[e, nearest[k], 0] - own[e, i, 0]
                frames[e, at + 2 * k + 1] = points.positions[e, nearest[k], 1] - own[e, i, 1]
            else:
                frames[e, at + 2 * k] = frames[e, at + 2 * k + 1] = _ZERO
    return at + 2 * num


@compiled_inline
def find_nearest(
    points: Points, e: int, own: DoubleArray, i: int, nearest: IntArray, room: DoubleArray
) -> int:
    """Write the indices of copy e's points nearest to point i of `own` into `nearest`, nearest first.

    Points at equal distance stay in order. MPE2 computes these distances with BLAS, which may round the last
    bit differently, so two points at equal distance up to that bit may be in another order there. Random
    positions do not get that close.

    Args:
        points: to choose from.
        e: the copy.
        own: [E, points, 2].
        i: index of the point of `own`.
        nearest: valid indices; as long as the number that is wanted.
        room: to work in, as long as the number of points.

    Returns:
        How many were written.
    """
    num_points = points.positions.shape[1]
    for j in range(num_points):
        room[j] = np.inf if j == points.skip else distance(points.positions, j, own, i, e)
    for j in range(num_points):
        rank = 0  # counted, not sorted: no branch to mispredict
        for k in range(j):
            rank += room[k] <= room[j]
        for k in range(j + 1, num_points):
            rank += room[k] < room[j]
        if rank < len(nearest) and j != points.skip:
            nearest[rank] = j
    found: int = min(len(nearest), num_points - (points.skip >= 0))
    return found
