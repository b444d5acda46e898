"""The linear sum assignment problem in compiled code, one problem of `n` rows and columns per copy.

Few rows are solved in all copies at once, by dynamic programming over the sets of columns taken so far: the
inner loops are over copies, without branches. More rows are solved copy by copy, by shortest paths.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from distributed_maddpg.compilation import compiled_inline, compiled_part
from distributed_maddpg.envs.mpe.world import BoolArray, DoubleArray, IntArray

MOST_FEW = 6
"""Most rows that are solved in all copies at once: 2^n sets."""


class Problem(NamedTuple):
    """The problem of one copy, its solution, and room to work in: [n] but for the costs."""

    costs: DoubleArray
    """[n, n]"""
    column_of: IntArray
    """The column of each row."""
    row_of: IntArray
    came_from: IntArray
    remaining: IntArray
    row_duals: DoubleArray
    column_duals: DoubleArray
    shortest: DoubleArray
    in_rows: BoolArray
    in_columns: BoolArray


class Assignments(NamedTuple):
    """The problems of all copies, their solutions, and room to work in."""

    costs: DoubleArray
    """[n, n, E]"""
    assigned: DoubleArray
    """[n, E]: the costs of each row's column."""
    last_row: IntArray
    """[sets]: index of the last of as many rows as a set has columns; empty if there are too many rows."""
    totals: DoubleArray
    """[sets, E]: least sum for the first rows and a set of columns; bit k stands for column k."""
    choices: IntArray
    """[sets, E]: the column of the last of these rows."""


def empty_assignments(n: int, num_envs: int) -> Assignments:
    """Return the arrays for n rows in E copies."""
    last_row = np.array([s.bit_count() - 1 for s in range(2**n)] if n <= MOST_FEW else [], np.int64)
    sets = (len(last_row), num_envs)
    return Assignments(
        np.zeros((n, n, num_envs)),
        np.zeros((n, num_envs)),
        last_row,
        np.zeros(sets),
        np.zeros(sets, np.int64),
    )


@compiled_part
def assign_all(assignments: Assignments) -> None:
    """Assign each row of each copy a column of its own so that the sum of the costs is least."""
    if len(assignments.last_row):
        _assign_few(assignments)
    else:
        _assign_many(assignments)


@compiled_part
def _extend(
    costs: DoubleArray, before: DoubleArray, totals: DoubleArray, choices: IntArray, column: int
) -> None:
    """Let a row take a column where that makes the total [E] of a set less."""
    for e in range(len(totals)):
        total = before[e] + costs[e]
        is_less = total < totals[e]
        totals[e] = total if is_less else totals[e]
        choices[e] = column if is_less else choices[e]


@compiled_part
def _assign_few(assignments: Assignments) -> None:
    costs, assigned, last_row, totals, choices = assignments
    n, num_envs = assigned.shape
    for taken in range(1, len(last_row)):
        totals[taken] = np.inf
        for column in range(n):
            if (taken >> column) & 1:
                before = totals[taken ^ (1 << column)]
                _extend(costs[last_row[taken], column], before, totals[taken], choices[taken], column)
    for e in range(num_envs):
        taken = len(last_row) - 1
        for row in range(n - 1, -1, -1):
            column = choices[taken, e]
            assigned[row, e] = costs[row, column, e]
            taken ^= 1 << column


@compiled_part
def _assign_many(assignments: Assignments) -> None:
    n = len(assignments.costs)
    problem = empty_problem(n)
    for e in range(assignments.assigned.shape[1]):
        for row in range(n):
            for column in range(n):
                problem.costs[row, column] = assignments.costs[row, column, e]
        assign(problem)
        for row in range(n):
            assigned = problem.column_of[row]
            assignments.assigned[row, e] = problem.costs[row, assigned]


@compiled_part
def empty_problem(n: int) -> Problem:
    """Return the arrays for a problem of n rows."""
    costs, duals, ints = np.zeros((n, n)), np.zeros((3, n)), np.zeros((4, n), np.int64)
    flags = np.zeros((2, n), np.bool_)
    return Problem(
        costs, ints[0], ints[1], ints[2], ints[3], duals[0], duals[1], duals[2], flags[0], flags[1]
    )


@compiled_part
def assign(problem: Problem) -> None:
    """Write `column_of` of one problem; unchanged from the first row on whose costs are not finite.

    Shortest augmenting paths (Crouse, "On implementing 2D rectangular assignment algorithms", 2016), with the
    order of search of `scipy.optimize.linear_sum_assignment`, so that equal sums are decided alike.
    """
    n = len(problem.costs)
    for k in range(n):
        problem.row_duals[k] = problem.column_duals[k] = 0.0
        problem.row_of[k], problem.column_of[k] = -1, 0
    for start in range(n):
        end, length = _find_path(problem, start)
        if end < 0:
            return
        _update_duals(problem, start, length)
        _follow_path(problem, start, end)


@compiled_part
def _find_path(problem: Problem, start: int) -> tuple[int, float]:
    """Return the free column at the end of the shortest path from a row (-1: none), and the path's length."""
    n, lowest, row = len(problem.costs), 0.0, start
    for k in range(n):
        problem.shortest[k], problem.remaining[k] = np.inf, n - k - 1
        problem.in_rows[k] = problem.in_columns[k] = False
    for num_remaining in range(n, 0, -1):
        problem.in_rows[row] = True
        place = _nearest_column(problem, row, lowest, num_remaining)
        if place < 0:
            break
        column = problem.remaining[place]
        lowest, problem.in_columns[column] = problem.shortest[column], True
        problem.remaining[place] = problem.remaining[num_remaining - 1]
        if problem.row_of[column] < 0:
            return column, lowest
        row = problem.row_of[column]
    return -1, lowest


@compiled_inline
def _nearest_column(problem: Problem, row: int, lowest: float, num_remaining: int) -> int:
    """Lengthen the paths by a row; return the place of the nearest remaining column, rather a free one."""
    place, least = -1, np.inf
    for k in range(num_remaining):
        column = problem.remaining[k]
        length = lowest + problem.costs[row, column] - problem.row_duals[row] - problem.column_duals[column]
        if length < problem.shortest[column]:
            problem.came_from[column], problem.shortest[column] = row, length
        shortest = problem.shortest[column]
        if shortest < least or (shortest == least and problem.row_of[column] < 0):
            place, least = k, shortest
    return place if least < np.inf else -1  # costs may not be finite


@compiled_inline
def _update_duals(problem: Problem, start: int, length: float) -> None:
    """Keep all reduced costs at or above zero, and those of the assignment at zero."""
    problem.row_duals[start] += length
    for k in range(len(problem.costs)):
        if problem.in_rows[k] and k != start:
            problem.row_duals[k] += length - problem.shortest[problem.column_of[k]]
        if problem.in_columns[k]:
            problem.column_duals[k] -= length - problem.shortest[k]


@compiled_inline
def _follow_path(problem: Problem, start: int, end: int) -> None:
    """Assign along the path from its end."""
    column, row = end, -1
    while row != start:
        row = problem.came_from[column]
        problem.row_of[column] = row
        problem.column_of[row], column = column, problem.column_of[row]


@compiled_inline
def mean_of_rows(values: DoubleArray, e: int) -> float:
    """Return `np.mean` of column e of [n, E], added in numpy's order up to n = 128."""
    n = len(values)
    if n >= 8:
        return _pairwise_sum(values, e) / n
    total: float = 0.0
    for k in range(n):
        total += values[k, e]
    return total / n


@compiled_part
def _pairwise_sum(values: DoubleArray, e: int) -> float:
    n, partial = len(values), np.empty(8)
    for k in range(8):
        partial[k] = values[k, e]
    for start in range(8, n - n % 8, 8):
        for k in range(8):
            partial[k] += values[start + k, e]
    total: float = ((partial[0] + partial[1]) + (partial[2] + partial[3])) + (
        (partial[4] + partial[5]) + (partial[6] + partial[7])
    )
    for k in range(n - n % 8, n):
        total += values[k, e]
    return total
