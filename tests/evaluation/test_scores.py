import numpy as np
import pytest

from distributed_maddpg.evaluation.scores import (
    goal_distances,
    mean_interval,
    proportion_interval,
    success_masks,
    success_rates,
)

DISTANCES = np.array(
    [  # [episode][adversary, good, good][goal, other landmark]
        [[0.3, 1.0], [0.1, 1.0], [1.0, 0.2]],  # all succeed
        [[0.5, 1.0], [0.3, 0.3], [1.0, 1.0]],  # one good agent covers both landmarks
        [[0.1, 1.0], [0.5, 0.1], [0.6, 0.1]],  # no good agent covers the goal
        [[0.4, 0.1], [0.4, 1.0], [0.39, 1.0]],  # exactly eps is not within eps
    ],
    np.float32,
)


def test_success_rates_match_a_calculation_by_hand():
    assert success_rates(DISTANCES, 0.4) == {"agents": 75.0, "adversary": 50.0, "coverage": 50.0}
    assert success_rates(DISTANCES, 0.2) == {"agents": 25.0, "adversary": 25.0, "coverage": 0.0}
    assert success_rates(DISTANCES, 2.0) == {"agents": 100.0, "adversary": 100.0, "coverage": 100.0}


def test_success_masks_match_a_calculation_by_hand():
    masks = success_masks(DISTANCES, 0.4)
    assert masks["agents"].tolist() == [True, True, False, True]
    assert masks["adversary"].tolist() == [True, False, True, False]
    assert masks["coverage"].tolist() == [True, True, False, False]


def test_goal_distances_match_a_calculation_by_hand():
    found = {name: values.tolist() for name, values in goal_distances(DISTANCES).items()}
    assert found["agents"] == pytest.approx([0.1, 0.3, 0.5, 0.39])
    assert found["adversary"] == pytest.approx([0.3, 0.5, 0.1, 0.4])
    assert found["coverage"] == pytest.approx([0.2, 0.3, 0.5, 1.0])


def test_intervals_match_published_values():
    # Newcombe 1998, table I: 81 of 263 and 0 of 20, Wilson's score without continuity correction.
    assert proportion_interval(np.arange(263) < 81) == pytest.approx((25.53, 36.62), abs=0.005)
    assert proportion_interval(np.zeros(20, bool)) == pytest.approx((0.0, 16.11), abs=0.005)
    # Student's t with 4 degrees of freedom at 97.5 %: 2.776.
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.776445 * np.sqrt(2.5 / 5)
    assert mean_interval(values) == pytest.approx((3 - half, 3 + half), abs=1e-5)
    assert mean_interval(values[:1]) is None


def test_95_percent_intervals_contain_the_true_value_in_95_percent_of_draws():
    rng = np.random.default_rng(0)
    caught = []
    for _ in range(1000):
        low, high = proportion_interval(rng.random(200) < 0.9)
        left, right = mean_interval(rng.exponential(1.0, 200))
        caught.append([low < 90 < high, left < 1 < right])
    assert np.mean(caught, axis=0) == pytest.approx([0.95, 0.95], abs=0.025)
