"""Assignments against scipy's."""

import numba
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from distributed_maddpg.envs.mpe import assignment


@numba.njit  # not cached: numba does not notice changes of the package
def assign_all(assignments):
    assignment.assign_all(assignments)


@numba.njit  # not cached: numba does not notice changes of the package
def empty_problem(n):
    return assignment.empty_problem(n)


@numba.njit  # not cached: numba does not notice changes of the package
def assign(problem):
    assignment.assign(problem)


@numba.njit  # not cached: numba does not notice changes of the package
def mean(values, e):
    return assignment.mean_of_rows(values, e)


@pytest.mark.parametrize("n", [1, 2, 5, assignment.MOST_FEW, assignment.MOST_FEW + 1, 20])
def test_the_sum_of_the_costs_is_least_in_every_copy(n):
    assignments = assignment.empty_assignments(n, 50)
    assignments.costs[:] = np.random.default_rng(n).random(assignments.costs.shape)
    assign_all(assignments)
    for e in range(50):
        costs = assignments.costs[:, :, e]
        assert (assignments.assigned[:, e] == costs[linear_sum_assignment(costs)]).all()


@pytest.mark.parametrize("n", [1, 2, 3, 6, 30])
def test_equal_sums_are_decided_as_scipy_does(n):
    generator = np.random.default_rng(n)
    for _ in range(50):
        problem = empty_problem(n)
        problem.costs[:] = generator.integers(0, 3, (n, n))
        assign(problem)
        assert (problem.column_of == linear_sum_assignment(problem.costs)[1]).all()


def test_costs_that_are_not_finite_end():
    for n in (3, 10):
        assignments = assignment.empty_assignments(n, 2)
        assignments.costs[:] = np.nan
        assign_all(assignments)


@pytest.mark.parametrize("n", [1, 7, 8, 19, 128])
def test_the_mean_is_numpys_to_the_bit(n):
    values = np.random.default_rng(n).normal(size=(n, 40))
    assert [mean(values, e) for e in range(40)] == [np.mean(values[:, e].copy()) for e in range(40)]
