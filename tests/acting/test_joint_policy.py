import numpy as np
import pytest

from distributed_maddpg.acting.joint_policy import JointPolicy
from distributed_maddpg.config import AlgorithmConfig, ExplorationConfig
from distributed_maddpg.errors import BadInput
from distributed_maddpg.types import EnvSpec, policy_layout

MIXED = EnvSpec(("red_0", "blue_0"), (3, 2), (2, 3), ("continuous", "discrete"))


def make(num_envs=4, **settings):
    policies = JointPolicy(AlgorithmConfig(policy_hidden_sizes=(5,), **settings), MIXED, num_envs)
    policies.set_parameters(parameters())
    return policies


def parameters(seed=3):
    shape = (2, policy_layout(MIXED, (5,)).num_parameters)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def observations(num_envs=4):
    rng = np.random.default_rng(0)
    return tuple(rng.normal(size=(num_envs, width)).astype(np.float32) for width in (3, 2))


def logits_by_hand(agent, obs):
    flat = parameters()[agent].astype(np.float64)
    padded = np.pad(obs[agent], ((0, 0), (0, 3 - obs[agent].shape[1])))
    hidden = np.maximum(padded @ flat[:15].reshape(3, 5) + flat[15:20], 0)
    return hidden @ flat[20:35].reshape(5, 3) + flat[35:38]


def test_greedy_actions_are_those_computed_by_hand():
    obs = observations()
    continuous, discrete = make().act(obs)
    np.testing.assert_allclose(continuous, 1 / (1 + np.exp(-logits_by_hand(0, obs)[:, :2])), rtol=1e-5)
    assert discrete.tolist() == logits_by_hand(1, obs).argmax(axis=1).tolist()


def test_explore_returns_the_actions_that_the_environment_takes():
    policies = make()
    policies.add_exploration(ExplorationConfig("gaussian", 0.2, 0.2), np.random.default_rng(0))
    actions, (continuous, discrete) = policies.explore(observations(), 0)
    assert actions.shape == (2, 4, 3)
    np.testing.assert_array_equal(actions[0, :, :2], continuous)
    np.testing.assert_array_equal(actions[1], np.eye(3)[discrete])
    assert not np.allclose(continuous, make().act(observations())[0])


def test_explore_without_noise_equals_act():
    policies = make()
    policies.add_exploration(ExplorationConfig("none"), np.random.default_rng(0))
    for noisy, greedy in zip(
        policies.explore(observations(), 0)[1], policies.act(observations()), strict=True
    ):
        np.testing.assert_array_equal(noisy, greedy)


def test_act_stays_greedy_beside_exploration():
    policies = make()
    before = [array.copy() for array in policies.act(observations())]
    policies.add_exploration(ExplorationConfig("gaussian", 0.5, 0.5), np.random.default_rng(0))
    policies.explore(observations(), 0)
    for old, new in zip(before, policies.act(observations()), strict=True):
        np.testing.assert_array_equal(old, new)


def test_reset_noise_resets_the_walk():
    walks = []
    for ended in (True, False):
        policies = make(num_envs=1)
        schedule = ExplorationConfig("ou", 0.3, 0.0, decay_env_steps=1)
        policies.add_exploration(schedule, np.random.default_rng(0))
        policies.explore(observations(1), 0)
        policies.reset_noise(np.array([ended]))
        walks.append(policies.explore(observations(1), 1)[0])
    np.testing.assert_array_equal(walks[0][0, 0, :2], make(1).act(observations(1))[0][0])
    assert not np.allclose(walks[0][0, :, :2], walks[1][0, :, :2])


def test_explore_before_add_exploration_is_refused():
    with pytest.raises(ValueError, match="add_exploration"):
        make().explore(observations(), 0)


def test_noise_that_fits_no_policy_head_is_refused():
    policies = make(policy_head="gumbel")
    with pytest.raises(BadInput, match="needs a sigmoid policy head"):
        policies.add_exploration(ExplorationConfig("gaussian"), np.random.default_rng(0))
