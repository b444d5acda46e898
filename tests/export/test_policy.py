import json
from types import SimpleNamespace

import numpy as np
import pytest

from distributed_maddpg.errors import BadInput
from distributed_maddpg.export.policy import agent_policies
from tests.export.zoo import zoo_run


def test_a_continuous_policy_is_described():
    [policy, *_] = agent_policies(zoo_run("continuous", normalise=True))
    about = json.loads(json.dumps(policy.description))
    assert about["agent"] == "cat_0"
    assert about["agents"] == ["cat_0", "dog_0", "owl 0"]
    assert about["environment"] == {"id": "factory:Zoo", "kwargs": {"animals": "continuous"}}
    assert about["observation"] == {"size": 3, "dtype": "float32", "normalised": True, "clip": 10.0}
    assert about["layers"] == [[3, 32], [32, 16], [16, 3]]
    assert about["action"] == {
        "kind": "continuous",
        "head": "sigmoid",
        "size": 3,
        "shape": [3],
        "dtype": "float32",
        "low": [-2.0, 0.0, 5.0],
        "high": [3.0, 1.0, 7.0],
    }


def test_discrete_policies_are_described_with_their_choices_and_masks():
    one, several, masked = (policy.description["action"] for policy in agent_policies(zoo_run("discrete")))
    own = {"kind": "discrete", "head": "argmax", "dtype": "int64"}
    # One agent with a mask gives all discrete ones a mask, as in training.
    assert one == {**own, "size": 5, "shape": [], "choices": [5], "starts": [2], "masked": True}
    assert several == {**own, "size": 6, "shape": [2], "choices": [2, 3], "starts": [0, 10], "masked": True}
    assert masked["masked"]
    mixed = agent_policies(zoo_run("mixed"))
    assert [policy.masked for policy in mixed] == [False, False]
    assert "masked" not in mixed[1].description["action"]


def test_arrays_have_no_padding():
    [policy, *_] = agent_policies(zoo_run("continuous", normalise=True))
    assert {name: array.shape for name, array in policy.arrays.items()} == {
        "layer_0.weight": (32, 3),
        "layer_0.bias": (32,),
        "layer_1.weight": (16, 32),
        "layer_1.bias": (16,),
        "layer_2.weight": (3, 16),
        "layer_2.bias": (3,),
        "observation_mean": (3,),
        "observation_scale": (3,),
    }
    assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in policy.arrays.values())


@pytest.mark.parametrize("head", ["auto", "gumbel"])
def test_the_head_is_that_of_the_run(head):
    [policy, *_] = agent_policies(zoo_run("continuous", policy_head=head, temperature=0.5))
    action = policy.description["action"]
    assert (action["head"], action.get("temperature")) == {
        "auto": ("sigmoid", None),
        "gumbel": ("softmax", 0.5),
    }[head]


def test_layers_of_ones_own_are_refused():
    algorithm = SimpleNamespace(networks="mine.py:layers")
    with pytest.raises(
        BadInput, match=r"algorithm.networks = 'mine.py:layers': layers of one's own cannot be"
    ):
        agent_policies(SimpleNamespace(config=SimpleNamespace(algorithm=algorithm)))
