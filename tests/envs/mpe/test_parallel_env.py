"""Compiled scenarios for other libraries: PettingZoo's own tests, and MPE2 with the same seed."""

import importlib

import numpy as np
import pytest

from distributed_maddpg.envs import parallel_env
from distributed_maddpg.errors import BadInput
from distributed_maddpg.types import MPE2_MODULES


@pytest.mark.filterwarnings("ignore")  # PettingZoo warns of itself, and of unbounded spaces as MPE2 has them
@pytest.mark.parametrize("name", MPE2_MODULES)
def test_pettingzoos_tests_pass(name):
    from pettingzoo.test import parallel_api_test, parallel_seed_test

    parallel_api_test(parallel_env(name), num_cycles=60)
    parallel_seed_test(lambda: parallel_env(name), num_cycles=30)


def episode(env, actions, **reset):
    """Observations, rewards and ends of an episode as arrays."""
    obs, _ = env.reset(**reset)
    seen = [np.concatenate([obs[agent] for agent in env.possible_agents])]
    for step in range(100):
        given = {agent: actions[agent][step % len(actions[agent])] for agent in env.agents}
        obs, rewards, terminated, truncated, _ = env.step(given)
        numbers = [*rewards.values(), *terminated.values(), *truncated.values()]
        seen.append(np.concatenate([*(obs[a] for a in env.possible_agents), np.float32(numbers)]))
        if not env.agents:
            return seen
    raise AssertionError("the episode does not end")


@pytest.mark.parametrize("name", MPE2_MODULES)
def test_a_seed_gives_mpe2s_episodes(name):
    ours = parallel_env(name, max_cycles=6)
    mpe2s = importlib.import_module(MPE2_MODULES[name]).parallel_env(max_cycles=6)
    actions = {}
    for i, agent in enumerate(ours.possible_agents):
        assert ours.action_space(agent) == mpe2s.action_space(agent)
        assert ours.observation_space(agent) == mpe2s.observation_space(agent)
        space = mpe2s.action_space(agent)
        space.seed(i)
        actions[agent] = [space.sample() for _ in range(6)]
    for reset in ({"seed": 3}, {}, {"seed": 4}):
        for a, b in zip(episode(ours, actions, **reset), episode(mpe2s, actions, **reset), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


def test_an_unseeded_environment_is_another_each_time_and_others_are_refused():
    first, second = (parallel_env("simple").reset()[0]["agent_0"] for _ in range(2))
    assert (first != second).any()
    with pytest.raises(BadInput, match="env_id = 'chess': must be one of simple, simple_adversary"):
        parallel_env("chess")
