import numpy as np
import pytest

from distributed_maddpg.envs import make_vector_env
from distributed_maddpg.evaluation.scripted import combine_teams, goal_targets, random_policy, scripted_policy


@pytest.mark.parametrize("velocity_first", [True, False])
@pytest.mark.parametrize("continuous", [True, False])
def test_all_agents_reach_the_goal_and_stop_there(continuous, velocity_first):
    rules = {"N": 3, "max_cycles": 40, "continuous_actions": continuous, "velocity_first": velocity_first}
    env = make_vector_env("simple_adversary", 200, 0, **rules)
    obs = env.reset()
    play = scripted_policy(env.spec, env.get_state, goal_targets, velocity_first)
    for _ in range(40):
        obs = env.step(play(obs)).obs
    assert env.final_distances()[:, :, 0].max() < (1e-3 if continuous else 0.12)


def test_random_actions_are_uniform():
    spec = make_vector_env("simple_adversary", 1, 0, continuous_actions=False).spec
    actions = random_policy(spec, np.random.default_rng(0))((np.zeros((5000, 8)),) * 3)
    shares = np.bincount(actions[1], minlength=5) / 5000
    assert shares == pytest.approx([0.2] * 5, abs=0.03)
    spec = make_vector_env("simple_adversary", 1, 0, continuous_actions=True).spec
    actions = random_policy(spec, np.random.default_rng(0))((np.zeros((5000, 8)),) * 3)
    assert (actions[2].shape, actions[2].dtype) == ((5000, 5), np.float32)
    assert (actions[2].min(), actions[2].max()) == pytest.approx((0, 1), abs=0.01)


def test_each_team_acts_with_its_own_policy():
    spec = make_vector_env("simple_adversary", 1, 0).spec
    play = combine_teams(
        spec, {"agent": lambda obs: ("a0", "a1", "a2"), "adversary": lambda obs: ("b0", "b1", "b2")}
    )
    assert play(()) == ("b0", "a1", "a2")
