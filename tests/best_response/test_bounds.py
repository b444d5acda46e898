import pytest

from distributed_maddpg.best_response.bounds import adversary_bounds
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import env_spec
from distributed_maddpg.types import initial_policies


def bounds(**kwargs):
    config = MADDPGConfig.from_dict({"env": {"kwargs": kwargs}}, MADDPGConfig.preset("default"))
    spec = env_spec(config.env.id, "vectorized", config.env.kwargs)
    return adversary_bounds(config, initial_policies(spec, (64, 64), 3), 0)


def test_bounds_are_those_of_the_square_and_of_players_that_know_more_or_less():
    found = bounds()
    assert found["uninformed"] == pytest.approx({"final_distance": 0.521, "success": 67.2}, rel=0.02)
    # P(two points of a square of side 2 are less than 0.8 apart) = 0.345: the midpoint reaches both, or none.
    assert found["uninformed_squared"] == pytest.approx({"final_distance": 0.521, "success": 34.5}, rel=0.03)
    informed, blind = found["informed"], found["blind_team"]
    assert (informed["final_distance"], informed["success"]) == (pytest.approx(0, abs=1e-3), 100.0)
    assert (blind["agents"], blind["coverage"]) == (100.0, 100.0)
    assert blind["final_distance"] == pytest.approx(0.521, rel=0.05)  # 1 000 episodes


def test_bounds_of_four_landmarks_tell_the_median_from_the_mean():
    found = bounds(N=4)
    assert found["uninformed"] == pytest.approx({"final_distance": 0.622, "success": 55.4}, rel=0.01)
    assert found["uninformed_squared"] == pytest.approx({"final_distance": 0.645, "success": 21.7}, rel=0.03)
    assert found["blind_team"]["coverage"] > 99.5
    assert found["blind_team"]["final_distance"] == pytest.approx(0.645, rel=0.05)
