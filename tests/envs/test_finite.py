import numpy as np
import pytest

from distributed_maddpg.envs.finite import all_finite, bad_observation, first_not_finite


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -np.float64(1e39)])
@pytest.mark.parametrize("shape", [(1, 1), (3, 77), (64, 5)])
def test_a_value_that_is_not_finite_is_found_at_any_place(value, shape):
    kind = np.float32 if np.isinf(value) or np.isnan(value) else np.float64
    for at in np.ndindex(shape):
        values = np.full(shape, -np.finfo(np.float32).max, kind)
        assert all_finite(values)
        values[at] = value
        assert not all_finite(values)
        assert first_not_finite(values) == at


def test_no_numbers_and_a_view_are_fine():
    assert all_finite(np.zeros((0, 3), np.float32))
    spoilt = np.full((4, 6), np.nan, np.float32)
    spoilt[:, ::2] = 1.0
    assert all_finite(spoilt[:, ::2]) and not all_finite(spoilt[:, 1::2])


def test_an_observation_is_named():
    obs = (np.zeros((3, 2), np.float32), np.zeros((3, 1), np.float32))
    assert bad_observation(obs, ("red_0", "blue_0")) is None
    obs[1][2] = np.inf
    assert bad_observation(obs, ("red_0", "blue_0")) == "observation of blue_0 in copy 2 is inf"
