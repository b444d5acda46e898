import numba
import numpy as np

from distributed_maddpg.envs.mpe import columns
from distributed_maddpg.envs.mpe.columns import Points


@numba.njit  # not cached: numba does not notice changes of the package
def find_nearest(points, own, nearest, room):
    return columns.find_nearest(points, 0, own, 0, nearest, room)


def found(skip, num):
    points = np.array([[[2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.5, 0.0]]])
    nearest = np.zeros(num, np.int64)
    count = find_nearest(Points(points, skip), np.zeros((1, 1, 2)), nearest, np.empty(4))
    return nearest[:count].tolist()


def test_nearest_points_come_first_and_equally_far_ones_stay_in_order():
    assert found(-1, 4) == [3, 1, 2, 0]
    assert found(-1, 2) == [3, 1]


def test_the_skipped_point_does_not_count_and_there_may_be_fewer_than_wanted():
    assert found(3, 5) == [1, 2, 0]
    assert found(1, 1) == [3]
