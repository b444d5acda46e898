import numpy as np
import pytest
from scipy.optimize import minimize

from distributed_maddpg.best_response.uninformed import (
    distances_to,
    geometric_medians,
    points_near_most,
)

RNG = np.random.default_rng(1)


def random_landmarks(num_episodes, num_landmarks):
    return RNG.uniform(-1, 1, (num_episodes, num_landmarks, 2))


def smallest_distances(landmarks):
    return distances_to(landmarks, geometric_medians(landmarks)).mean(axis=1)


def largest_shares(landmarks, eps=0.4):
    return (distances_to(landmarks, points_near_most(landmarks, eps)) <= eps * (1 + 1e-8)).mean(axis=1)


def test_the_bound_for_two_landmarks_is_half_their_distance():
    landmarks = random_landmarks(100, 2)
    half = np.linalg.norm(landmarks[:, 0] - landmarks[:, 1], axis=1) / 2
    assert smallest_distances(landmarks) == pytest.approx(half, abs=1e-9)
    assert distances_to(landmarks, landmarks.mean(axis=1)) == pytest.approx(np.stack([half, half], 1))
    # Mean distance of two points of the unit square, 0.5214 (OEIS A091505), times its side over two.
    assert smallest_distances(random_landmarks(40_000, 2)).mean() == pytest.approx(0.5214, abs=0.005)


@pytest.mark.parametrize("num_landmarks", [1, 3, 4, 6])
def test_a_numerical_search_finds_no_smaller_mean_distance(num_landmarks):
    landmarks = random_landmarks(15, num_landmarks)
    for own, bound in zip(landmarks, smallest_distances(landmarks), strict=True):

        def mean_distance(point, own=own):
            return np.linalg.norm(own - point, axis=1).mean()

        starts = [own.mean(axis=0), *own]
        best = min(minimize(mean_distance, start, method="Nelder-Mead", tol=1e-10).fun for start in starts)
        assert best == pytest.approx(bound, abs=5e-4)


@pytest.mark.parametrize("num_landmarks", [1, 2, 3, 5])
def test_no_grid_point_is_within_eps_of_more_landmarks(num_landmarks):
    landmarks = random_landmarks(30, num_landmarks)
    shares = largest_shares(landmarks)
    side = np.linspace(-1, 1, 201)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 1, 2)
    for own, share in zip(landmarks, shares, strict=True):
        found = (np.linalg.norm(grid - own, axis=2) < 0.4).mean(axis=1).max()
        assert found <= share <= found + 1.01 / num_landmarks
    on_grid = [(np.linalg.norm(grid - own, axis=2) < 0.4).mean(axis=1).max() for own in landmarks]
    assert np.mean(on_grid) == pytest.approx(shares.mean(), abs=0.05)  # the grid misses few points


def test_one_point_is_within_eps_of_two_landmarks_less_than_twice_eps_apart():
    landmarks = np.array([[[0.0, 0.0], [0.79, 0.0]], [[0.0, 0.0], [0.0, 0.81]], [[0.5, 0.5], [0.5, 0.5]]])
    assert largest_shares(landmarks).tolist() == [1.0, 0.5, 1.0]
