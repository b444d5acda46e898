"""The differentiable dynamics against the compiled environment, step by step from the same states."""

import numpy as np
import pytest
import torch

from distributed_maddpg.best_response.world import AdversaryWorld, GreedyAgents, WorldState
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import make_vector_env
from distributed_maddpg.envs.mpe.simple_adversary import AdversaryOptions
from distributed_maddpg.evaluation.episodes import greedy_policy
from distributed_maddpg.types import initial_policies

ENVS = [
    {"continuous_actions": True},
    {"continuous_actions": True, "velocity_first": True, "N": 4, "squared_adversary_reward": True},
    {"continuous_actions": True, "N": 3, "num_landmark_neighbors": 2, "num_agent_neighbors": 1},
    {"continuous_actions": True, "num_landmark_neighbors": 3},
    {"continuous_actions": False},
]


def world_state(env):
    state = {name: torch.from_numpy(array) for name, array in env.get_state().items()}
    marks = state["landmark_positions"]
    return WorldState(
        state["agent_positions"],
        state["agent_velocities"],
        marks,
        marks[torch.arange(len(marks)), state["goal_landmark"]],
    )


@pytest.mark.parametrize(
    ("kwargs", "algorithm"),
    [*((kwargs, {}) for kwargs in ENVS), (ENVS[0], {"policy_head": "gumbel", "temperature": 0.5})],
)
def test_steps_and_observations_are_the_environments(kwargs, algorithm):
    config = MADDPGConfig.from_dict({"env": {"kwargs": kwargs}, "algorithm": algorithm})
    options = AdversaryOptions.from_kwargs(kwargs)
    env = make_vector_env("simple_adversary", 50, 3, **kwargs)
    policies = 5.0 * initial_policies(env.spec, config.algorithm.policy_hidden_sizes, 1)
    act, world = greedy_policy(config, env, policies), AdversaryWorld(options)
    agents = GreedyAgents(world, config.algorithm, policies)
    obs = env.reset()
    for _ in range(20):
        state = world_state(env)
        for agent, own in enumerate(obs):
            np.testing.assert_allclose(world.observation(state, agent), own, atol=1e-6)
        actions = act(obs)
        state = WorldState(*(part.float() for part in state))
        forces = torch.cat((torch.from_numpy(force(actions[0]))[:, None], agents(state)), dim=1)
        expected = world.step(state, forces)
        result = env.step(actions)
        obs = result.obs
        found = world_state(env)
        for mine, theirs in zip(expected, found, strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-5)
        np.testing.assert_allclose(world.adversary_reward(expected), result.rewards[:, 0], atol=1e-5)


def force(action):
    """Return the force [E, 2] of an action [E, 5] in [0, 1], or of a discrete one [E]."""
    if action.ndim == 1:
        action = np.eye(5, dtype=np.float32)[action]
    return action[:, 2::2] - action[:, 1::2]


def test_episodes_start_as_the_environments_do():
    world, generator = AdversaryWorld(AdversaryOptions(N=3)), torch.Generator().manual_seed(0)
    state = world.reset(20_000, generator)
    points = torch.cat((state.positions, state.landmarks), dim=1)
    assert points.shape == (20_000, 7, 2)
    assert points.min() > -1 and points.max() < 1
    assert points.mean(dim=0).abs().max() < 0.02  # standard error 0.004
    assert (points.var(dim=0) - 1 / 3).abs().max() < 0.01
    at_goal = (state.landmarks == state.goal[:, None]).all(dim=2).float().mean(dim=0)
    assert at_goal.tolist() == pytest.approx([1 / 3] * 3, abs=0.02)
    assert not state.velocities.any()


def test_a_force_now_moves_the_distance_at_the_end():
    world, generator = AdversaryWorld(AdversaryOptions(N=2)), torch.Generator().manual_seed(0)
    state = world.reset(1, generator)
    forces = torch.zeros(1, 3, 2, requires_grad=True)
    moved = world.step(state, forces)
    for _ in range(3):
        moved = world.step(moved, torch.zeros(1, 3, 2))
    [grad] = torch.autograd.grad(moved.positions[0, 0].sum(), forces)
    # Each later step moves by 0.1 of the velocity 0.5, 0.375, 0.28125 that a unit force gave.
    assert grad[0].tolist() == [[pytest.approx(0.115625)] * 2, [0, 0], [0, 0]]
