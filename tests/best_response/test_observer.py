"""What a watcher learns from teams whose secrets are known."""

import dataclasses

import numpy as np
import pytest
import torch

from distributed_maddpg.best_response.observer import Effort, View, _in_episodes, histories, views, watch
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import env_spec, make_vector_env
from distributed_maddpg.types import PrivatePart, initial_policies, policy_layout

CONFIG = MADDPGConfig.preset("default")
SPEC = env_spec(CONFIG.env.id, "auto", CONFIG.env.kwargs)
[VIEW] = views(CONFIG, SPEC).values()
EFFORT = Effort(updates=50, env_steps=100_000, copies=250)


def team_that_heads_for(columns):
    """Return policies whose good agents push towards the point in two columns of their observation."""
    layout = policy_layout(SPEC, CONFIG.algorithm.policy_hidden_sizes)
    policies = np.zeros((SPEC.num_agents, layout.num_parameters), np.float32)
    (first, _, n_in, n_out), (second, _, h_in, h_out), (third, _, k_in, k_out) = layout.layers
    for agent in range(1, SPEC.num_agents):
        weights = [np.zeros(shape, np.float32) for shape in ((n_in, n_out), (h_in, h_out), (k_in, k_out))]
        for axis, column in enumerate(columns):
            for side, sign in enumerate((-1, 1)):  # two units each, since a rectifier has one side
                unit = 2 * axis + side
                weights[0][column, unit] = sign
                weights[1][unit, unit] = 1
                weights[2][unit, 1 + unit] = 10  # left, right, down, up
        for own, columns_of in zip(weights, (first, second, third), strict=True):
            policies[agent, columns_of] = own.flatten()
    return policies


def test_it_tells_the_goal_of_a_team_that_heads_for_it():
    found = watch(CONFIG, team_that_heads_for((0, 1)), VIEW, EFFORT, seed=3)
    assert found["chance"] == pytest.approx([50] * 25, abs=3)
    assert len(found["accuracy"]) == len(found["probability"]) == 25
    assert found["accuracy"][0] == pytest.approx(50, abs=5), "nobody has moved yet"
    assert found["accuracy"][-1] > 95 and found["probability"][-1] > 90


def test_it_cannot_tell_the_goal_of_a_team_that_looks_elsewhere():
    found = watch(CONFIG, team_that_heads_for((2, 3)), VIEW, EFFORT, seed=3)
    assert np.abs(np.array(found["accuracy"]) - 50).max() < 7  # of 1 000 episodes: 4 standard errors
    assert np.abs(np.array(found["probability"]) - 50).max() < 3


@pytest.mark.parametrize("name", ["simple_push", "simple_crypto"])
def test_the_goal_is_known_by_constants_too(name):
    config = MADDPGConfig.from_dict({"env": {"id": name}}, CONFIG)
    spec = env_spec(name, "auto", {})
    [view] = views(config, spec).values()
    policies = initial_policies(spec, config.algorithm.policy_hidden_sizes, 1)
    found = histories(config, policies, view, 25 * 60, 60, seed=4)
    env = make_vector_env(name, 60, 4)
    env.reset()
    goals = torch.from_numpy(env.get_state()["goal_landmark"])
    assert set(goals.tolist()) == {0, 1}
    assert torch.equal(found.candidates, goals[:, None].expand(-1, 25))


def test_histories_are_the_opponents_observations_and_the_goal():
    policies = initial_policies(SPEC, CONFIG.algorithm.policy_hidden_sizes, 1)
    found = histories(CONFIG, policies, VIEW, 30 * 250, 250, seed=4)
    env = make_vector_env("simple_adversary", 250, 4, **CONFIG.env.kwargs)
    first = env.reset()
    goals = torch.from_numpy(env.get_state()["goal_landmark"])
    assert found.obs.shape == (500, 25, SPEC.observation_sizes[0])
    assert torch.equal(found.obs[::2, 0], torch.from_numpy(first[0]))
    whole, rest = found.candidates[::2], found.candidates[1::2]
    assert torch.equal(whole, goals[:, None].expand(-1, 25))
    assert (rest[:, :5] >= 0).all() and (rest[:, 5:] == -100).all()
    assert not found.obs[1::2, 5:].any()


def test_steps_of_copies_are_divided_into_episodes_of_any_length():
    obs = np.arange(8, dtype=np.float32).reshape(4, 2, 1)  # step t of copy e is 2 t + e
    candidates = np.arange(10, 18).reshape(4, 2)
    ended = np.array([[False, True], [True, False], [False, False], [True, False]])
    found = _in_episodes(obs, candidates, ended)
    assert found.obs[:, :, 0].tolist() == [[0, 2, 0], [4, 6, 0], [1, 0, 0], [3, 5, 7]]
    assert found.candidates.tolist() == [[10, 12, -100], [14, 16, -100], [11, -100, -100], [13, 15, 17]]


def test_each_team_with_a_private_part_is_seen_by_all_of_the_others():
    assert views(CONFIG, SPEC) == {"agent": View(1, PrivatePart((0, 2), ((2, 4), (4, 6))), (0,), 8)}
    told = PrivatePart((0, 1), ((1, 2), (2, 3)))
    algorithm = dataclasses.replace(CONFIG.algorithm, private={"adversary": told})
    found = views(dataclasses.replace(CONFIG, algorithm=algorithm), SPEC)
    assert found["adversary"] == View(0, told, (1, 2), 20)
    assert views(CONFIG, dataclasses.replace(SPEC, private_parts=())) == {}


def test_nobody_is_asked_what_an_absent_agent_hides():
    config = MADDPGConfig.from_dict({"env": {"id": "tests.support.coming:parallel_env"}}, CONFIG)
    spec = env_spec(config.env.id, "auto", {})
    view = View(2, PrivatePart((0, 1), constants=((0.0,), (2005.0,))), (0, 1), 2)
    policies = initial_policies(spec, config.algorithm.policy_hidden_sizes, 1)
    found = histories(config, policies, view, 14, 1, seed=4)
    assert found.candidates.tolist() == [[-100] * 3 + [1] * 4] * 2  # it comes with the fourth step
