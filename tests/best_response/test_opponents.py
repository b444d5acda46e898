import numpy as np
import pytest

from distributed_maddpg.best_response.bounds import adversary_bounds
from distributed_maddpg.best_response.opponents import REACH, measure, play, scripted_adversaries
from distributed_maddpg.best_response.uninformed import distances_to, geometric_medians, points_near_most
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import env_spec
from distributed_maddpg.envs.mpe.simple_adversary import AdversaryOptions
from distributed_maddpg.evaluation.episodes import evaluation_env
from distributed_maddpg.evaluation.scores import SUCCESS_EPS
from distributed_maddpg.types import initial_policies

COPIES, SEED = 100, 5


def points_that_success_counts(landmarks):
    return points_near_most(landmarks, REACH)


@pytest.mark.parametrize("num_good_agents", [2, 4])
@pytest.mark.parametrize(
    ("name", "choose", "measured"),
    [
        ("median", geometric_medians, "final_distance"),
        ("most landmarks", points_that_success_counts, "success"),
    ],
)
def test_a_waiting_adversary_stops_at_its_point_and_reaches_the_bound(
    name, choose, measured, num_good_agents
):
    kwargs = {"N": num_good_agents, "continuous_actions": True}
    config = MADDPGConfig.from_dict({"env": {"kwargs": kwargs}})
    policies = initial_policies(env_spec(config.env.id, "auto", config.env.kwargs), (64, 64), 3)
    adversaries = {own.name: own for own in scripted_adversaries(AdversaryOptions(N=num_good_agents))}
    card = play(config, policies, {"adversary": adversaries[name]}, 20 * COPIES, SEED, COPIES)

    with evaluation_env(config, COPIES, SEED, COPIES) as env:
        env.reset()
        state = env.get_state()
    landmarks, goals = state["landmark_positions"], state["goal_landmark"]
    expected = distances_to(landmarks, choose(landmarks))[np.arange(COPIES), goals]
    first = card.episodes.final_distances[:COPIES, 0, 0]
    assert first == pytest.approx(expected, abs=SUCCESS_EPS - REACH)

    reached = getattr(measure(card, [True, *[False] * num_good_agents]), measured)
    assert reached == pytest.approx(
        adversary_bounds(config, policies, SEED)["uninformed"][measured], rel=0.04
    )
