import dataclasses

import numpy as np
import pytest

from distributed_maddpg.best_response import response_settings, train_response
from distributed_maddpg.config import AlgorithmConfig, MADDPGConfig
from distributed_maddpg.envs import env_spec
from distributed_maddpg.evaluation import evaluate_weights
from distributed_maddpg.examination import adversary_bounds, best_responses, full_card, matchups
from distributed_maddpg.seeding import integer_seed
from distributed_maddpg.types import initial_policies

CONFIG = MADDPGConfig.preset("default")
SPEC = env_spec(CONFIG.env.id, "auto", CONFIG.env.kwargs)


def untrained(hidden_sizes=(64, 64)):
    return initial_policies(SPEC, hidden_sizes, 3)


def test_a_response_changes_only_the_fresh_team_and_repeats():
    before = untrained()
    first, again, other = (
        train_response(CONFIG, before, "adversary", 30, seed).policies for seed in (1, 1, 2)
    )
    assert (first == again).all()
    assert (first[1:] == before[1:]).all()
    assert (first[0] != before[0]).mean() > 0.9  # fresh, not trained further; padding is zero in both
    assert (first[0] != other[0]).any()
    agents = train_response(CONFIG, before, "agent", 30, 1).policies
    assert (agents[0] == before[0]).all()
    assert (agents[1:] != before[1:]).any(axis=1).all()


@pytest.mark.parametrize("updates", [1, 7, 40])
def test_a_response_learns_for_as_long_as_asked_and_says_so(updates):
    response = train_response(CONFIG, untrained(), "adversary", updates, 1)
    a_fragment = CONFIG.rollout.fragment_env_steps / CONFIG.pacing.env_steps_per_update
    assert updates <= response.updates < updates + a_fragment
    fresh = initial_policies(SPEC, (64, 64), integer_seed(1, "learner"), shared=True)
    assert (response.policies[0] != fresh[0]).mean() > 0.9


def test_a_response_learns_by_one_recipe_whatever_the_run_was():
    odd = AlgorithmConfig(
        "ddpg", policy_hidden_sizes=(7,), policy_head="sigmoid", actor_lr=0.5, temperature=2.0
    )
    settings = response_settings(dataclasses.replace(CONFIG, algorithm=odd, num_workers=4), 300, 9)
    env_steps = CONFIG.pacing.learning_starts + 299 * CONFIG.pacing.env_steps_per_update
    assert (settings.seed, settings.num_workers, settings.pacing.total_env_steps) == (9, 0, env_steps)
    own = dataclasses.replace(
        settings.algorithm, policy_hidden_sizes=(64, 64), policy_head="gumbel", temperature=1.0
    )
    assert own == CONFIG.algorithm
    assert settings.algorithm.policy_hidden_sizes == (7,)
    assert (settings.algorithm.policy_head, settings.algorithm.temperature) == ("sigmoid", 2.0)


@pytest.mark.slow
def test_an_adversary_finds_a_team_that_gives_the_goal_away():
    """Good agents that idle tell nothing; those trained against a blind adversary tell everything."""
    idle = untrained()
    idle[1:] = 0.0
    naive = train_response(CONFIG, np.zeros_like(idle), "agent", 1500, 0).policies
    distances = []
    for team in (idle, naive):
        found = best_responses(CONFIG, team, 2000, 1000, 0, lambda line: None)
        assert found["adversary"]["return_gain"] > 0
        distances.append(found["adversary"]["final_distance_mean"]["adversary"])
        bound = found["adversary"]["bounds"]["uninformed"]["final_distance"]
    assert distances[0] > 0.95 * bound  # nothing to be learnt: measured
    assert distances[1] < 0.8 * bound


def test_bounds_are_those_of_the_square_and_of_a_player_that_knows():
    bounds = adversary_bounds(CONFIG, untrained(), 0)
    assert bounds["uninformed"] == pytest.approx({"final_distance": 0.521, "success": 67.2}, rel=0.02)
    # P(two points of a square of side 2 are less than 0.8 apart) = 0.345: the midpoint reaches both, or none.
    assert bounds["uninformed_squared"] == pytest.approx({"final_distance": 0.521, "success": 34.5}, rel=0.03)
    assert bounds["informed"] == {"final_distance": pytest.approx(0, abs=1e-3), "success": 100.0}


def test_bounds_of_four_landmarks_tell_the_median_from_the_mean():
    config = MADDPGConfig.from_dict({"env": {"kwargs": {"N": 4}}}, CONFIG)
    policies = initial_policies(env_spec(config.env.id, "auto", config.env.kwargs), (64, 64), 3)
    bounds = adversary_bounds(config, policies, 0)
    assert bounds["uninformed"] == pytest.approx({"final_distance": 0.622, "success": 55.4}, rel=0.01)
    assert bounds["uninformed_squared"] == pytest.approx({"final_distance": 0.645, "success": 21.7}, rel=0.03)


def test_the_gain_is_the_fresh_teams_own():
    before, key = untrained(), integer_seed(0, "evaluation", 0)
    found = best_responses(CONFIG, before, 1, 50, 0, lambda line: None)
    old = evaluate_weights(CONFIG, before, 50, key).episodes.returns
    for index, (team, own) in enumerate({"adversary": [0], "agent": [1, 2]}.items()):
        fresh = train_response(CONFIG, before, team, 1, integer_seed(0, "response", index)).policies
        new = evaluate_weights(CONFIG, fresh, 50, key).episodes.returns
        assert found[team]["return_gain"] == pytest.approx((new - old)[:, own].mean())


def test_matchups_are_the_part_of_the_card_that_compares():
    rows = matchups(CONFIG, untrained(), 20, 0)
    assert len(rows) == 9
    assert {frozenset(row) for row in rows} == {
        frozenset({"players", "agent_episode_returns_mean", "success", "delta", "final_distance_mean"})
    }


def test_a_full_card_has_an_interval_round_each_mean():
    card = full_card(evaluate_weights(CONFIG, untrained(), 200, 0))
    for who, (low, high) in card["ci95"]["final_distance_mean"].items():
        assert low < card["final_distance_mean"][who] < high


def test_bounds_need_no_environment_that_draws():
    kwargs = {"N": 2, "max_cycles": 5, "continuous_actions": True}
    plain = MADDPGConfig.from_dict({"env": {"backend": "pettingzoo", "kwargs": kwargs}})
    drawing = MADDPGConfig.from_dict({"env": {"kwargs": {**kwargs, "render_mode": "rgb_array"}}}, plain)
    assert adversary_bounds(drawing, untrained(), 0) == adversary_bounds(plain, untrained(), 0)
