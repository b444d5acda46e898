"""The kernel and MPE2 behind the same interface: either can take the other's place at any moment."""

import numpy as np
import pytest

from distributed_maddpg.envs import make_vector_env
from distributed_maddpg.envs.base import VectorEnv

KWARGS = [
    {"continuous_actions": True, "N": 3},
    {"N": 1},
    {"N": 2, "squared_adversary_reward": True},
    {"N": 2, "velocity_first": True, "continuous_actions": True},
    {"N": 4, "num_agent_neighbors": 2, "num_landmark_neighbors": 6, "continuous_actions": True},
]


def pair(seed=5, **kwargs):
    return [
        make_vector_env("simple_adversary", 3, seed, backend=backend, max_cycles=6, **kwargs)
        for backend in ("vectorized", "pettingzoo")
    ]


def random_actions(env, generator):
    if env.action_type == "discrete":
        return [generator.integers(5, size=env.num_envs) for _ in env.agents]
    return list(generator.uniform(-0.5, 1.5, (len(env.agents), env.num_envs, 5)).astype(np.float32))


def flat(result):
    return np.concatenate([np.ravel(part) for part in (*result.obs, *result[1:4], *result.final_obs)])


def assert_same_future(a, b, num_steps=20):
    generator = np.random.default_rng(1)
    for _ in range(num_steps):
        actions = random_actions(a, generator)
        assert (flat(a.step(actions)) == flat(b.step(actions))).all()
        left, right = a.get_state(), b.get_state()
        assert left.keys() == right.keys()
        assert all((left[k] == right[k]).all() and left[k].dtype == right[k].dtype for k in left)


@pytest.mark.parametrize("kwargs", KWARGS, ids=str)
def test_same_seed_gives_the_same_run(kwargs):
    kernel, mpe2 = pair(**kwargs)
    assert isinstance(mpe2, VectorEnv)
    assert kernel.spec == mpe2.spec
    assert all((a == b).all() for a, b in zip(kernel.reset(), mpe2.reset(), strict=True))
    assert_same_future(kernel, mpe2)
    assert (kernel.final_distances() == mpe2.final_distances()).all()
    assert kernel.final_distances().dtype == mpe2.final_distances().dtype == np.float32
    assert all((a == b).all() for a, b in zip(kernel.reset(seed=8), mpe2.reset(seed=8), strict=True))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["kernel to mpe2", "mpe2 to kernel"])
@pytest.mark.parametrize("kwargs", KWARGS[:2], ids=str)
def test_either_continues_from_the_others_state(kwargs, order):
    source, target = (pair(**kwargs)[i] for i in order)
    source.reset()
    generator = np.random.default_rng(0)
    for _ in range(8):
        source.step(random_actions(source, generator))
    target.set_state(source.get_state())
    assert_same_future(source, target)


def test_mpe2_state_round_trip_into_a_used_environment():
    env, other = (pair(**KWARGS[0])[1] for _ in range(2))
    env.reset()
    other.reset(seed=3)
    env.step(random_actions(env, np.random.default_rng(0)))
    other.set_state(env.get_state())
    assert_same_future(env, other)


def test_get_state_before_reset_is_refused():
    with pytest.raises(RuntimeError, match=r"call reset\(\)"):
        pair()[1].get_state()
