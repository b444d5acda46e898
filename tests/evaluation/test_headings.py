"""Scripted teams do better than random ones, by what a scenario is judged by."""

import numpy as np
import pytest

from distributed_maddpg.envs import make_vector_env
from distributed_maddpg.evaluation.episodes import evaluate
from distributed_maddpg.evaluation.headings import headings
from distributed_maddpg.evaluation.scripted import combine_teams, random_policy, scripted_policy

BOUNDS = [
    ("simple", "final_distance", 0.0, 0.1),
    ("simple_formation", "final_distance", 0.0, 0.25),
    ("simple_line", "final_distance", 0.0, 0.25),
    ("simple_push", "agent_distance", 0.0, 0.2),
    ("simple_reference", "reached", 0.7, 1.0),
    ("simple_speaker_listener", "reached", 0.7, 1.0),
    ("simple_spread", "nearest_distance", 0.0, 0.3),
    ("collect_treasure", "delivered", 4.0, 30.0),
]


def played(env_id, players, **kwargs):
    env = make_vector_env(env_id, 100, 0, **kwargs)
    straight = scripted_policy(env.spec, env.get_state, headings(env_id, env.spec.teams))
    policies = {"straight": straight, "random": random_policy(env.spec, np.random.default_rng(0))}
    teams = dict.fromkeys(env.spec.teams, "straight") if players == "straight" else players
    play = combine_teams(env.spec, {team: policies[player] for team, player in teams.items()})
    return evaluate(env, play, 100).to_dict()["measures"]


@pytest.mark.parametrize(("env_id", "measure", "least", "most"), BOUNDS)
def test_heading_straight_for_the_goal_reaches_it(env_id, measure, least, most):
    for continuous in (False, True):
        found = played(env_id, "straight", max_cycles=40, continuous_actions=continuous)
        assert least <= found[measure] <= most


@pytest.mark.parametrize("env_id", ["simple_tag", "simple_world_comm"])
def test_predators_that_hunt_catch_more_and_prey_that_flees_is_caught_less(env_id):
    predators = ["leadadversary", "adversary"] if env_id == "simple_world_comm" else ["adversary"]

    def catches(predator, prey):
        return played(env_id, {**dict.fromkeys(predators, predator), "agent": prey})["catches"]

    assert catches("straight", "random") > 3 * catches("random", "random")
    assert catches("straight", "straight") < catches("straight", "random")


def test_no_heading_is_obvious_in_crypto_or_in_other_environments():
    assert headings("simple_crypto", ("eve", "bob", "alice")) is None
    assert headings("tests.support.counting", ("agent",)) is None
