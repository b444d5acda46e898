"""Networks of layers against the built-in ones, and against finite differences."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from distributed_maddpg.acting.policy import LayeredPolicy
from distributed_maddpg.algo.maddpg import MADDPGUpdate
from distributed_maddpg.layouts import critic_columns, initial_policies, policies
from distributed_maddpg.types import EnvSpec
from tests.algo.samples import CASES, CONTINUOUS, EVEN, MIXED, NAMES, SMALL, make_batch

CPU = torch.device("cpu")
PERCEPTRON, GLOROT, RESIDUAL = (
    f"tests.support.networks:{name}" for name in ("perceptron", "glorot", "residual")
)
COMBINED = [name for name, (_, changes) in CASES.items() if changes.get("grad_norm_of") != "parameter"]


@pytest.fixture(autouse=True)
def _double():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(before)


def pick(networks, number, inputs, num_outputs):
    """Return a perceptron's parameters as one row, without padding and unused inputs."""
    parts, last = [], len(networks.detached_layers) - 1
    for depth, (weight, bias) in enumerate(networks.detached_layers):
        weight, bias = weight[number], bias[number]
        weight = weight[inputs] if depth == 0 else weight
        weight, bias = (weight[:, :num_outputs], bias[:, :num_outputs]) if depth == last else (weight, bias)
        parts += [weight.flatten(), bias.flatten()]
    return torch.cat(parts)


def rows(update, spec, config):
    """Return each perceptron's parameters, as a network of layers has them, by its kind."""
    found, groups, names = {}, config.critic_groups(spec), config.per_agent(spec)
    for name, networks in update._networks.items():
        if "policy" in name:
            sizes = zip(spec.observation_sizes, spec.action_sizes, strict=True)
            found[name] = [pick(networks, i, range(n), m) for i, (n, m) in enumerate(sizes)]
            continue
        found[name] = [
            pick(networks, i, critic_columns(spec, own, names[own[0]] == "ddpg"), len(own))
            for i, own in enumerate(groups)
        ]
    return found


@pytest.mark.parametrize("case", COMBINED)
def test_perceptrons_of_layers_learn_as_the_built_in_ones(case):
    spec, changes = CASES[case]
    config = replace(SMALL, **changes)
    reference = MADDPGUpdate(config, spec, CPU, [3])
    layered = MADDPGUpdate(replace(config, networks=PERCEPTRON), spec, CPU, [3])
    for name, start in rows(reference, spec, config).items():
        flat = layered._networks[name].flat
        flat.zero_()
        for row, values in zip(flat, start, strict=True):
            row[: len(values)] = values
    layered.generators[0].set_state(reference.generators[0].get_state())
    for number in range(4):
        batch = make_batch(spec, 16, number)[None]
        torch.testing.assert_close(layered(batch), reference(batch), rtol=1e-9, atol=1e-11)
    for name, expected in rows(reference, spec, config).items():
        for row, values in zip(layered._networks[name].flat, expected, strict=True):
            torch.testing.assert_close(row[: len(values)], values, rtol=1e-9, atol=1e-11)
            assert not row[len(values) :].any()


@pytest.mark.parametrize(("rule", "networks"), [("torch", PERCEPTRON), ("glorot", GLOROT)])
def test_perceptrons_of_layers_start_as_the_built_in_ones(rule, networks):
    spec = EnvSpec(NAMES, (3, 2, 4), (2, 2, 2), ("continuous",) * 3)
    config = replace(SMALL, initial_weights=rule)
    reference = MADDPGUpdate(config, spec, CPU, [3])
    layered = MADDPGUpdate(replace(config, networks=networks), spec, CPU, [3])
    for name, expected in rows(reference, spec, config).items():
        for row, values in zip(layered._networks[name].flat, expected, strict=True):
            torch.testing.assert_close(row[: len(values)], values, rtol=1e-7, atol=0)


def test_agents_that_share_a_policy_start_and_stay_equal():
    config = replace(SMALL, networks=RESIDUAL, share_policies=True)
    update = MADDPGUpdate(config, EVEN, CPU, [3])
    for number in range(3):
        update(make_batch(EVEN, 16, number)[None])
        assert torch.equal(update.policy.flat[1], update.policy.flat[2])
        assert not torch.equal(update.policy.flat[0], update.policy.flat[1])


@pytest.mark.parametrize("spec", [CONTINUOUS, MIXED])
def test_policies_act_in_numpy_as_they_learn_in_torch(spec):
    config = replace(SMALL, networks=RESIDUAL)
    update = MADDPGUpdate(config, spec, CPU, [5])
    layout, rng = policies(config, spec), np.random.default_rng(0)
    policy = LayeredPolicy(spec, layout, 6)
    policy.set_parameters(initial_policies(config, spec, 5))
    obs = tuple(rng.normal(size=(6, size)).astype(np.float32) for size in spec.observation_sizes)
    padded = np.zeros((3, 6, max(spec.observation_sizes)), np.float32)
    for agent, own in enumerate(obs):
        padded[agent, :, : own.shape[1]] = own
    expected = update.policy(torch.from_numpy(padded).double()).detach()
    for logits, own, size in zip(policy.logits(obs), expected, spec.action_sizes, strict=True):
        np.testing.assert_allclose(logits[:, :size], own[:, :size], rtol=1e-4, atol=1e-5)


def test_policies_that_normalise_act_on_normalised_observations():
    config, spec = replace(SMALL, networks=RESIDUAL), CONTINUOUS
    rng, flat = np.random.default_rng(0), initial_policies(config, CONTINUOUS, 5)
    obs = tuple(rng.normal(size=(6, size)).astype(np.float32) for size in spec.observation_sizes)
    means, scales = np.full((3, 4), 0.5, np.float32), np.full((3, 4), 2.0, np.float32)
    plain, normalising = (LayeredPolicy(spec, policies(config, spec), 6) for _ in range(2))
    plain.set_parameters(flat)
    normalising.set_parameters(np.concatenate([flat, means, scales], axis=1))
    shifted = tuple((own - 0.5) * 2.0 for own in obs)
    np.testing.assert_array_equal(normalising.logits(obs), plain.logits(shifted))


@pytest.mark.parametrize("name", ["ddpg", "maddpg", "matd3"])
def test_gradients_are_those_of_finite_differences(name):
    config = replace(SMALL, name=name, networks=RESIDUAL, max_grad_norm=0.0)
    update = MADDPGUpdate(config, CONTINUOUS, CPU, [3])
    batch = make_batch(CONTINUOUS, 16)[None]
    obs, joint = batch[..., update._columns.critic_input], batch[..., update._columns.critic_input]
    losses = {
        update.policy: lambda: update.policy(update._columns.padded_obs(batch)).square().mean(dim=(1, 2)),
        update.critic: lambda: update.critic(obs).square().mean(dim=1),
    }
    for networks, loss in losses.items():
        (grad,) = torch.autograd.grad(loss().sum(), networks.leaves)
        for place in range(0, networks.flat.shape[1], 7):
            column, values = networks.flat[:, place], []
            for step in (1e-6, -2e-6, 1e-6):  # the last one restores it
                column += step
                values.append(loss().detach())
            torch.testing.assert_close(grad[:, place], (values[0] - values[1]) / 2e-6, rtol=1e-5, atol=1e-8)
    actions = update._columns.padded_actions(joint)
    change = torch.zeros_like(actions).requires_grad_()
    values = update.critic.with_own_action(joint, change)
    torch.testing.assert_close(values, update.critic(joint))
    (grad,) = torch.autograd.grad(values.sum(), change)
    moved = torch.zeros_like(actions)
    moved[2, 0] = 1e-6  # agent 2 has one action
    slope = (update.critic.with_own_action(joint, moved) - values)[2] / 1e-6
    torch.testing.assert_close(grad[2, 0], slope.detach(), rtol=1e-4, atol=1e-7)
