import numpy as np
import pytest
import torch

from distributed_maddpg.acting.policy import NumpyPolicy
from distributed_maddpg.algo.networks import PolicyNetwork
from distributed_maddpg.types import EnvSpec, initial_policies, policy_layout

SPEC = EnvSpec(("red_0", "blue_0", "blue_1"), (3, 2, 4), (2, 3, 1), ("continuous",) * 3)
HIDDEN = (8, 6)


def torch_twin(seed=0):
    initial = initial_policies(SPEC, HIDDEN, seed)
    return PolicyNetwork(policy_layout(SPEC, HIDDEN), initial, torch.device("cpu"))


def numpy_twin(network, num_envs=5):
    policy = NumpyPolicy(SPEC, HIDDEN, num_envs)
    policy.set_parameters(network.flat.numpy())
    return policy


def observations(seed=0, num_envs=5):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=(num_envs, size)).astype(np.float32) for size in SPEC.observation_sizes)


def test_numpy_and_torch_give_the_same_logits():
    network, obs = torch_twin(), observations()
    padded = torch.zeros(3, 5, 4)
    for agent, values in enumerate(obs):
        padded[agent, :, : values.shape[1]] = torch.from_numpy(values)
    got, expected = numpy_twin(network).logits(obs), network(padded).detach().numpy()
    assert got.shape == (3, 5, 3)
    for agent, width in enumerate(SPEC.action_sizes):
        np.testing.assert_allclose(got[agent, :, :width], expected[agent, :, :width], atol=1e-6)


def test_a_second_call_depends_on_its_own_observations_only():
    policy = numpy_twin(torch_twin())
    first = policy.logits(observations(0)).copy()
    policy.logits(observations(1))
    np.testing.assert_array_equal(policy.logits(observations(0)), first)


def test_each_agents_logits_depend_on_its_own_observation_only():
    policy, obs = numpy_twin(torch_twin()), observations()
    before = policy.logits(obs).copy()
    after = policy.logits((obs[0] + 1, obs[1], obs[2]))
    assert [np.array_equal(before[agent], after[agent]) for agent in range(3)] == [False, True, True]


def test_parameters_are_taken_as_a_copy():
    network = torch_twin()
    policy = numpy_twin(network)
    before = policy.logits(observations()).copy()
    network.flat.zero_()
    np.testing.assert_array_equal(policy.logits(observations()), before)


def test_parameters_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"have shape \(3, 7\), expected \(3, "):
        NumpyPolicy(SPEC, HIDDEN, 2).set_parameters(np.zeros((3, 7), np.float32))
