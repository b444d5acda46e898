"""Every format against the learner's own networks in torch, on 10 000 observations of each agent."""

import io
import json

import numpy as np
import pytest
import torch
from safetensors import numpy as safetensors

from distributed_maddpg.algo.networks import PolicyNetwork
from distributed_maddpg.export.formats import encode
from distributed_maddpg.export.onnx_graph import onnx_player
from distributed_maddpg.export.policy import agent_policies
from distributed_maddpg.player import Policy
from distributed_maddpg.types import policy_layout
from tests.export.zoo import zoo_run

COUNT = 10_000


def observations(policies):
    """Return [B, O_i] of each agent: normalised ones reach beyond the clip at 10."""
    rng = np.random.default_rng(7)
    for policy in policies:
        size = policy.description["observation"]["size"]
        mean = policy.arrays.get("observation_mean", np.zeros(size))
        scale = policy.arrays.get("observation_scale", np.ones(size))
        yield (mean + rng.normal(0, 4, (COUNT, size)) / scale).astype(np.float32)


def torch_logits(algo, observed):
    """Return logits [B, A_i] of each agent by `algo/networks.py`, on observations that torch normalises."""
    config, spec = algo.config, algo.spec
    width = max(spec.observation_sizes)
    parameters = torch.from_numpy(algo.policy_parameters())
    padded = torch.zeros(spec.num_agents, COUNT, width)
    for agent, obs in enumerate(observed):
        padded[agent, :, : obs.shape[1]] = torch.from_numpy(obs)
    if config.env.normalise:
        means, scales = parameters[:, None, -2 * width : -width], parameters[:, None, -width:]
        padded = torch.clamp((padded - means) * scales, -10, 10)
        parameters = parameters[:, : -2 * width]
    layout = policy_layout(spec, config.algorithm.policy_hidden_sizes)
    with torch.no_grad():
        logits = PolicyNetwork(layout, parameters.numpy(), torch.device("cpu"))(padded).numpy()
    return [logits[agent, :, :size] for agent, size in enumerate(spec.action_sizes)]


def torch_action(logits, about):
    logits = torch.from_numpy(logits)
    if about["head"] == "argmax":
        return logits.argmax(1).numpy()
    return (torch.sigmoid(logits) if about["head"] == "sigmoid" else torch.softmax(logits, 1)).numpy()


def assert_same(action, logits, policy, expected_logits):
    np.testing.assert_allclose(logits, expected_logits, rtol=0, atol=1e-5)
    expected = torch_action(expected_logits, policy.description["action"])
    if policy.description["action"]["kind"] == "continuous":
        np.testing.assert_allclose(action, expected, rtol=0, atol=1e-5)
        return
    assert len(np.unique(expected)) > 1
    rows = np.arange(COUNT)
    gap = np.abs(expected_logits[rows, expected] - expected_logits[rows, action])
    assert gap.max() <= 1e-5  # another choice only between two that are equal but for rounding


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("animals", ["continuous", "discrete", "mixed"])
def test_npz_safetensors_and_torch_agree(animals, normalise):
    algo = zoo_run(animals, normalise)
    policies = agent_policies(algo)
    observed = list(observations(policies))
    for policy, obs, logits in zip(policies, observed, torch_logits(algo, observed), strict=True):
        player = Policy.load(io.BytesIO(encode(policy, "npz")))
        assert_same(player.act(obs), player.logits(obs), policy, logits)
        tensors = safetensors.load(encode(policy, "safetensors"))
        player = Policy(policy.description, tensors)
        assert_same(player.act(obs), player.logits(obs), policy, logits)


# Each export of a graph takes torch a second.
@pytest.mark.parametrize(
    ("animals", "normalise"), [("continuous", True), ("discrete", False), ("mixed", True)]
)
def test_onnxruntime_and_torch_agree(animals, normalise):
    algo = zoo_run(animals, normalise)
    policies = agent_policies(algo)
    observed = list(observations(policies))
    for policy, obs, logits in zip(policies, observed, torch_logits(algo, observed), strict=True):
        name, play = onnx_player(encode(policy, "onnx"))
        assert name == "onnxruntime"
        mask = np.ones(logits.shape, np.bool_) if policy.masked else None
        assert_same(*play(obs, mask), policy, logits)


def test_a_softmax_head_with_a_temperature_agrees_with_compute_actions():
    algo = zoo_run("continuous", policy_head="gumbel", temperature=0.3)
    policy = agent_policies(algo)[0]
    obs = next(observations([policy]))
    expected = algo.compute_actions({policy.agent: obs})[policy.agent]
    assert np.ptp(expected) > 0.9
    np.testing.assert_allclose(
        Policy(policy.description, policy.arrays).act(obs), expected, rtol=0, atol=1e-5
    )
    _, play = onnx_player(encode(policy, "onnx"))
    np.testing.assert_allclose(play(obs, None)[0], expected, rtol=0, atol=1e-5)


def test_action_masks_agree_with_compute_actions():
    algo = zoo_run("discrete")
    policy = agent_policies(algo)[2]
    assert policy.masked
    rng = np.random.default_rng(1)
    obs, mask = next(observations([policy])), rng.random((COUNT, 6)) < 0.4
    mask[:, 3] |= ~mask.any(1)
    expected = algo.compute_actions({"owl 0": obs}, action_masks={"owl 0": mask})["owl 0"]
    assert (expected != Policy(policy.description, policy.arrays).act(obs)).mean() > 0.3
    _, play = onnx_player(encode(policy, "onnx"))
    assert (play(obs, mask)[0] == expected).all()
    assert (Policy(policy.description, policy.arrays).act(obs, mask.astype(np.int8)) == expected).all()


def test_safetensors_fill_torchs_own_layers():
    policy = agent_policies(zoo_run("continuous"))[1]
    layers = policy.description["layers"]
    network = torch.nn.Sequential()
    for depth, (n_in, n_out) in enumerate(layers):
        network.add_module(f"layer_{depth}", torch.nn.Linear(n_in, n_out))
        if depth < len(layers) - 1:
            network.add_module(f"relu_{depth}", torch.nn.ReLU())
    data = encode(policy, "safetensors")
    network.load_state_dict({name: torch.tensor(array) for name, array in safetensors.load(data).items()})
    obs = next(observations([policy]))
    with torch.no_grad():
        logits = network(torch.from_numpy(obs)).numpy()
    expected = Policy(policy.description, policy.arrays).logits(obs)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert json.loads(header["__metadata__"]["description"]) == policy.description
