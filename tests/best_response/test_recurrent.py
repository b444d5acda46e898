"""An adversary with memory against scripted teams, whose secrets are known."""

import dataclasses

import numpy as np
import pytest
import torch

from distributed_maddpg.best_response.opponents import Opponent, play, scripted_opponent
from distributed_maddpg.best_response.recurrent import RecurrentPolicy, recurrent_adversary, train
from distributed_maddpg.best_response.world import AdversaryWorld
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import make_vector_env
from distributed_maddpg.envs.mpe.simple_adversary import AdversaryOptions, SimpleAdversary
from distributed_maddpg.evaluation.scripted import assigned_targets, goal_targets, scripted_forces
from distributed_maddpg.types import initial_policies

OPTIONS = AdversaryOptions(continuous_actions=True)


def scripted_agents(targets, options):
    """Return good agents that head for scripted targets, as the environment's players do."""

    def forces(state):
        positions, velocities, landmarks, goal = (part.detach().double().numpy() for part in state)
        arrays = {
            "agent_positions": positions,
            "agent_velocities": velocities,
            "landmark_positions": landmarks,
            "goal_landmark": np.linalg.norm(landmarks - goal[:, None], axis=2).argmin(axis=1),
            "cycle": np.zeros(len(positions)),
        }
        return torch.from_numpy(scripted_forces(arrays, targets, options.velocity_first)[:, 1:]).float()

    return forces


def kwargs(options):
    return {name: value for name, value in dataclasses.asdict(options).items() if value is not None}


def trained(targets, objective, updates, options=OPTIONS):
    policy, world = RecurrentPolicy(options, seed=1), AdversaryWorld(options)
    curve = list(train(policy, world, scripted_agents(targets, options), objective, updates, seed=1))
    return policy, curve


def reached(policy, targets, options=OPTIONS, episodes=2000):
    """Play the policy against the scripted team in the compiled environment."""
    config = MADDPGConfig.from_dict({"env": {"kwargs": kwargs(options)}})
    adversary = Opponent("recurrent", lambda env: recurrent_adversary(env, policy, options.max_cycles))
    players = {"adversary": adversary, "agent": scripted_opponent("scripted", targets, options)}
    unused = initial_policies(SimpleAdversary(options).spec, config.algorithm.policy_hidden_sizes, 0)
    return play(config, unused, players, episodes, seed=5)


@pytest.mark.parametrize("objective", ["return", "final distance"])
def test_it_ends_near_the_goal_that_a_team_heads_straight_for(objective):
    policy, curve = trained(goal_targets, objective, 40)
    card = reached(policy, goal_targets)
    assert card.to_dict()["final_distance_mean"]["adversary"] < 0.1
    assert [progress.updates for progress in curve] == [4 * k for k in range(1, 11)]
    assert curve[0].score.final_distance > 0.3 > curve[-1].score.final_distance


def test_against_a_team_that_never_looks_at_the_goal_it_ends_at_the_uninformed_bound():
    policy, _ = trained(assigned_targets, "final distance", 40)
    card = reached(policy, assigned_targets)
    low, high = card.intervals()["final_distance_mean"]["adversary"]
    assert low < 0.5214 * 1.02 and high > 0.5214, "half the mean distance of two points of the square"


def test_what_it_trains_for_is_what_the_environment_reports():
    """The last point of the curve, of updates in which it hardly changes, is its score in new episodes."""
    policy, curve = trained(goal_targets, "return", 50)
    card = reached(policy, goal_targets)
    score = curve[-1].score
    assert card.episodes.returns[:, 0].mean() == pytest.approx(score.episode_return, rel=0.1)
    assert card.episodes.final_distances[:, 0, 0].mean() == pytest.approx(score.final_distance, abs=0.03)


def test_the_seed_decides_every_bit():
    first, again, other = (
        torch.cat([own.flatten() for own in policy.parameters()])
        for policy in (RecurrentPolicy(OPTIONS, 1), RecurrentPolicy(OPTIONS, 1), RecurrentPolicy(OPTIONS, 2))
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    ends = [trained(goal_targets, "return", 3)[0].trust.weight for _ in range(2)]
    assert torch.equal(*ends)


def test_a_discrete_adversary_learns_through_its_choices():
    options = AdversaryOptions(continuous_actions=False)
    policy, _ = trained(goal_targets, "final distance", 40, options)
    assert reached(policy, goal_targets, options).to_dict()["final_distance_mean"]["adversary"] < 0.3


def test_it_forgets_at_the_end_of_an_episode():
    policy, _ = trained(goal_targets, "final distance", 3)
    env = make_vector_env("simple_adversary", 3, 0, **kwargs(OPTIONS))
    first_obs = obs = tuple(own.copy() for own in env.reset())
    start = env.get_state()
    act = recurrent_adversary(env, policy, OPTIONS.max_cycles)
    first_episode = []
    for _ in range(OPTIONS.max_cycles):
        first_episode.append(act(obs))
        obs = tuple(own.copy() for own in env.step(first_episode[-1]).obs)
    assert not np.array_equal(first_episode[0][0], first_episode[1][0])
    env.set_state(start)
    np.testing.assert_array_equal(act(first_obs)[0], first_episode[0][0])
