from itertools import pairwise

import numpy as np
import torch
from torch.nn.functional import linear, relu

from distributed_maddpg.algo.networks import CriticNetwork, PolicyNetwork
from distributed_maddpg.types import EnvSpec, critic_layout, policy_layout

CPU = torch.device("cpu")
SPEC = EnvSpec(("red_0", "blue_0", "blue_1"), (3, 2, 4), (2, 3, 1), ("continuous",) * 3)
JOINT = 9 + 6


def policies(seed=0, hidden=(8, 6)):
    layout = policy_layout(SPEC, hidden)
    return PolicyNetwork(layout, layout.initial_parameters(np.random.default_rng(seed)), CPU)


def critics(decentralised=(False, False, False), seed=0, hidden=(8, 6)):
    layout = critic_layout(SPEC, hidden)
    return CriticNetwork(
        layout,
        layout.initial_parameters(np.random.default_rng(seed)),
        CPU,
        SPEC,
        ((0,), (1,), (2,)),
        decentralised,
    )


def by_hand(network, agent, x):
    """Return one agent's output from its own flat row, read weight after weight."""
    row, sizes, at = network.flat[agent], network.layout.sizes, 0
    for depth, (n_in, n_out) in enumerate(pairwise(sizes)):
        weight = row[at : at + n_in * n_out].view(n_in, n_out).T
        bias = row[at + n_in * n_out : at + n_in * n_out + n_out]
        at += (n_in + 1) * n_out
        x = linear(x, weight, bias)
        x = relu(x) if depth < len(sizes) - 2 else x
    assert at == len(row)
    return x


def test_policies_are_perceptrons_in_the_order_of_the_flat_rows():
    network, obs = policies(), torch.randn(3, 5, 4)
    logits = network(obs)
    assert logits.shape == (3, 5, 3)
    for agent in range(3):
        assert torch.allclose(logits[agent], by_hand(network, agent, obs[agent]), atol=1e-6)


def test_critics_are_perceptrons_on_the_joint_input():
    network, joint = critics(), torch.randn(5, JOINT)
    values = network(joint[None])
    assert values.shape == (3, 5)
    for agent in range(3):
        assert torch.allclose(values[agent], by_hand(network, agent, joint)[:, 0], atol=1e-6)


def test_layers_see_changes_of_the_flat_array():
    network, obs = policies(), torch.ones(3, 1, 4)
    network.flat.zero_()
    assert not network(obs).any()


def test_with_own_action_equals_a_joint_input_with_that_action_replaced():
    network, joint = critics(), torch.randn(5, JOINT)
    wanted = torch.rand(3, 3, 5)
    change, replaced = torch.zeros(3, 3, 5), []
    for agent, columns in enumerate(SPEC.transitions.actions):
        size = SPEC.action_sizes[agent]
        change[agent, :size] = wanted[agent, :size] - joint[:, columns].T
        other = joint.clone()
        other[:, columns] = wanted[agent, :size].T
        replaced.append(network(other[None])[agent])
    assert torch.allclose(network.with_own_action(joint[None], change), torch.stack(replaced), atol=1e-5)


def test_with_own_action_gives_the_critics_no_gradient():
    change = torch.zeros(3, 3, 5, requires_grad=True)
    network = critics()
    network.with_own_action(torch.randn(1, 5, JOINT), change).sum().backward()
    assert change.grad.abs().sum() > 0
    assert all(leaf.grad is None for layer in network.layers for leaf in layer)


def test_a_decentralised_critic_sees_its_own_columns_and_the_others_see_all():
    network = critics(decentralised=(True, False, True))
    joint = torch.randn(4, JOINT, requires_grad=True)
    for agent in range(3):
        seen = torch.autograd.grad(network(joint[None])[agent].sum(), joint)[0].abs().sum(0) > 0
        own = torch.zeros(JOINT, dtype=torch.bool)
        own[SPEC.transitions.obs[agent]] = own[SPEC.transitions.actions[agent]] = True
        assert seen.tolist() == (own.tolist() if agent != 1 else [True] * JOINT)


def test_a_decentralised_critic_learns_nothing_from_the_others_columns():
    network = critics(decentralised=(True, False, True))
    network(torch.randn(1, 4, JOINT)).sum().backward()
    moved = network.layers[0][0].grad.abs().sum(2) > 0
    assert moved.sum(1).tolist() == [3 + 2, JOINT, 4 + 1]


def test_with_own_action_of_a_decentralised_critic_ignores_the_others():
    network, joint = critics(decentralised=(True,) * 3), torch.randn(5, JOINT)
    change, other = torch.zeros(3, 3, 5), torch.randn(5, JOINT)
    other[:, SPEC.transitions.obs[1]] = joint[:, SPEC.transitions.obs[1]]
    other[:, SPEC.transitions.actions[1]] = joint[:, SPEC.transitions.actions[1]]
    before, after = network.with_own_action(joint[None], change), network.with_own_action(other[None], change)
    assert torch.allclose(before[1], after[1], atol=1e-6)
    assert not torch.allclose(before[0], after[0], atol=1e-6)
