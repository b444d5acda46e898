import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

from distributed_maddpg.export.formats import encode
from distributed_maddpg.export.onnx_graph import OPSET, onnx_player
from distributed_maddpg.export.policy import agent_policies
from distributed_maddpg.player import Policy
from tests.export.zoo import zoo_run


@pytest.fixture(scope="module")
def masked():
    """Return the policy of an agent with action masks, and its file."""
    policy = agent_policies(zoo_run("discrete", normalise=True))[0]
    return policy, encode(policy, "onnx")


def shapes(values):
    return {value.name: (value.shape, value.type) for value in values}


def test_inputs_and_outputs_have_names_and_a_batch_axis(masked):
    session = onnxruntime.InferenceSession(masked[1])
    assert shapes(session.get_inputs()) == {
        "observation": (["batch", 7], "tensor(float)"),
        "action_mask": (["batch", 5], "tensor(bool)"),
    }
    assert shapes(session.get_outputs()) == {
        "action": (["batch"], "tensor(int64)"),
        "logits": (["batch", 5], "tensor(float)"),
    }


def test_the_file_holds_its_description_and_nothing_of_this_machine(masked):
    policy, data = masked
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    assert {entry.key for entry in model.metadata_props} == {"description"}
    assert json.loads(model.metadata_props[0].value) == policy.description
    assert model.opset_import[0].version == OPSET
    for local in (b".py", b"site-packages", b"stack_trace", b"distributed_maddpg/"):
        assert local not in data.replace(policy.description["format"].encode(), b"")


def test_the_same_policy_gives_the_same_bytes(masked):
    assert encode(masked[0], "onnx") == masked[1]


@pytest.mark.parametrize("count", [1, 2, 33])
def test_any_number_of_observations_can_be_played(masked, count):
    policy, data = masked
    obs = np.random.default_rng(count).normal(0, 3, (count, 7)).astype(np.float32)
    actions, logits = onnx_player(data)[1](obs, np.ones((count, 5), np.bool_))
    player = Policy(policy.description, policy.arrays)
    assert (actions == player.act(obs)).all()
    np.testing.assert_allclose(logits, player.logits(obs), rtol=0, atol=1e-5)


def test_without_onnxruntime_onnxs_own_evaluator_plays(masked, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    policy, data = masked
    name, play = onnx_player(data)
    assert name == "onnx.reference"
    obs = np.random.default_rng(3).normal(0, 3, (50, 7)).astype(np.float32)
    mask = np.arange(5) % 2 == np.zeros((50, 1))
    actions, _ = play(obs, mask)
    assert (actions == Policy(policy.description, policy.arrays).act(obs, mask)).all()
