"""The player as others use it: a copy of one file, numpy, and nothing else."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from distributed_maddpg import player
from distributed_maddpg.envs.spaces import action_codec
from distributed_maddpg.export.folder import export_policies
from distributed_maddpg.export.policy import _action
from distributed_maddpg.player import Policy
from tests.export.zoo import zoo_run

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import json
from player import Policy

policies = {name: Policy.load(f"{sys.argv[1]}/{name}.npz") for name in ("cat_0", "dog_0")}
obs = json.load(sys.stdin)
actions = {name: policies[name].to_env(policies[name].act(obs[name])).tolist() for name in obs}
unwanted = ("distributed_maddpg", "torch", "scipy", "gymnasium", "safetensors")
outside = [name for name in sys.modules if name.startswith(unwanted)]
print(json.dumps([actions, outside]))
"""


def test_a_copy_of_the_file_plays_with_numpy_alone(tmp_path):
    algo = zoo_run("mixed", normalise=True)
    export_policies(algo, tmp_path, "npz")
    shutil.copy(player.__file__, tmp_path)
    # -S leaves the site packages out; numpy alone is put back.
    installed = Path(np.__file__).parent.parent
    for name in ("numpy", "numpy.libs"):
        if (installed / name).exists():
            (tmp_path / name).symlink_to(installed / name)
    obs = {
        name: np.random.default_rng(5).normal(0, 3, (4, size)).tolist()
        for name, size in (("cat_0", 6), ("dog_0", 4))
    }
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", SCRIPT, str(tmp_path)],
        input=json.dumps(obs),
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    actions, outside = json.loads(done.stdout)
    assert outside == []
    expected = algo.compute_actions({name: np.array(values, np.float32) for name, values in obs.items()})
    assert actions["cat_0"] == expected["cat_0"].tolist()
    np.testing.assert_allclose(actions["dog_0"], expected["dog_0"], rtol=0, atol=1e-5)


def test_one_observation_gives_one_action(tmp_path):
    algo = zoo_run("mixed")
    cat, dog = (Policy.load(file.path) for file in export_policies(algo, tmp_path, "npz"))
    assert cat.act(np.zeros(6)).shape == ()
    assert dog.act([0.0, 1.0, 2.0, 3.0]).shape == (2,)
    assert dog.act(np.zeros((5, 3, 4))).shape == (5, 3, 2)


BOXES = [
    Box(np.float32([[-2, 0], [5, -1]]), np.float32([[3, 1], [7, 1]])),
    Box(-np.inf, np.inf, (2,), np.float32),
    Box(0, np.inf, (1, 1), np.float64),
    Box(-3, 3, (2,), np.int16),
    Box(0.1, 0.7, (3,), np.float32),
]
CHOICES = [
    Discrete(5),
    Discrete(4, start=-2),
    MultiDiscrete([2, 3, 2]),
    MultiDiscrete([[2, 2], [3, 2]], start=[[1, 0], [0, 5]]),
    MultiBinary((2, 2)),
    Tuple([Discrete(2, start=7), MultiBinary(2)]),
    Dict({"b": Discrete(3, start=1), "a": MultiDiscrete([2, 2])}),
]


def policy_of(space):
    codec = action_codec("env", "agent", space)
    return codec, Policy({"format": player.FORMAT, "action": _action(codec, "sigmoid", 1.0)}, {})


def flat(action):
    """Return an element of a space as a list of its numbers, in the space's order."""
    if isinstance(action, dict):
        return [number for part in action.values() for number in flat(part)]
    if isinstance(action, tuple):
        return [number for part in action for number in flat(part)]
    return np.asarray(action).reshape(-1).tolist()


@pytest.mark.parametrize("space", BOXES, ids=str)
def test_continuous_actions_become_those_of_the_space(space):
    codec, policy = policy_of(space)
    actions = np.random.default_rng(0).random((50, codec.size), np.float32)
    actions[:2] = [[0.0], [1.0]]
    expected = np.array([codec.decode(action) for action in actions])
    found = policy.to_env(actions)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tolist() == expected.tolist()
    assert space.contains(policy.to_env(actions[3]))


@pytest.mark.parametrize("space", CHOICES, ids=str)
def test_discrete_actions_become_those_of_the_space(space):
    codec, policy = policy_of(space)
    for action in range(codec.size):
        assert flat(policy.to_env(action)) == flat(codec.decode(action))
        assert space.shape is None or space.contains(policy.to_env(action)[()])
    assert policy.to_env(np.zeros(3, np.int64)).shape == (3, *policy.description["action"]["shape"])


@pytest.mark.parametrize(
    "change",
    [
        {"description": np.array(3)},
        {"description": np.array("[]")},
        {"layer_0.weight": np.zeros((2, 2))},
        {"layer_0.weight": np.array("text")},
        {"layer_0.bias": None},
    ],
)
def test_a_damaged_policy_is_refused_when_it_is_read(tmp_path, change):
    about = {"format": player.FORMAT, "layers": [[3, 2]]}
    whole = {"layer_0.weight": np.zeros((2, 3)), "layer_0.bias": np.zeros(2)}
    whole |= {"description": np.array(json.dumps(about))}
    for name, arrays in {"whole": whole, "damaged": {**whole, **change}}.items():
        np.savez(tmp_path / f"{name}.npz", **{k: v for k, v in arrays.items() if v is not None})
    assert Policy.load(tmp_path / "whole.npz").description == about
    with pytest.raises(ValueError, match=r"damaged.npz is not a policy"):
        Policy.load(tmp_path / "damaged.npz")


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04" + bytes(40), b"\x80\x04}."])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"x.npz is not a policy"):
        Policy.load(tmp_path / "x.npz")


def test_what_is_no_policy_is_refused_in_words(tmp_path):
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match="is not a policy that distributed-maddpg export wrote"):
        Policy.load(tmp_path / "other.npz")
    np.savez(tmp_path / "later.npz", description=np.array('{"format": "distributed_maddpg.policy/2"}'))
    with pytest.raises(ValueError, match=r"this player plays 'distributed_maddpg.policy/1'"):
        Policy.load(tmp_path / "later.npz")
    np.savez(tmp_path / "hostile.npz", description=np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        Policy.load(tmp_path / "hostile.npz")
    policy = Policy.load(export_policies(zoo_run("mixed"), tmp_path / "x", "npz")[0].path)
    with pytest.raises(ValueError, match=r"the observation has shape \(2, 5\), expected \[..., 6\]"):
        policy.act(np.zeros((2, 5)))
