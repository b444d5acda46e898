import dataclasses

import pytest

from distributed_maddpg.best_response.model_free import response_settings, train_responses
from distributed_maddpg.config import AlgorithmConfig, MADDPGConfig
from distributed_maddpg.envs import env_spec
from distributed_maddpg.seeding import integer_seed
from distributed_maddpg.types import initial_policies

CONFIG = MADDPGConfig.preset("default")
SPEC = env_spec(CONFIG.env.id, "auto", CONFIG.env.kwargs)


def untrained(hidden_sizes=(64, 64)):
    return initial_policies(SPEC, hidden_sizes, 3)


def test_a_response_changes_only_the_new_team_and_repeats():
    before = untrained()
    first, other = (own.policies for own in train_responses(CONFIG, before, "adversary", 30, [1, 2]))
    [again] = train_responses(CONFIG, before, "adversary", 30, [1])
    assert (first == again.policies).all()
    assert (first[1:] == before[1:]).all()
    assert (first[0] != before[0]).mean() > 0.9  # new, not trained further; padding is zero in both
    assert (first[0] != other[0]).any()
    [agents] = train_responses(CONFIG, before, "agent", 30, [1])
    assert (agents.policies[0] == before[0]).all()
    assert (agents.policies[1:] != before[1:]).any(axis=1).all()


@pytest.mark.parametrize("updates", [1, 7, 40])
def test_a_response_learns_for_as_long_as_asked_and_says_so(updates):
    [response] = train_responses(CONFIG, untrained(), "adversary", updates, [1])
    a_fragment = CONFIG.rollout.fragment_env_steps / CONFIG.pacing.env_steps_per_update
    assert updates <= response.curve[-1].updates < updates + a_fragment
    initial = initial_policies(SPEC, (64, 64), integer_seed(1, "learner"), shared=True)
    assert (response.policies[0] != initial[0]).mean() > 0.9


def test_a_response_learns_by_one_recipe_whatever_the_run_was():
    odd = AlgorithmConfig(
        "ddpg", policy_hidden_sizes=(7,), policy_head="sigmoid", actor_lr=0.5, temperature=2.0
    )
    settings = response_settings(dataclasses.replace(CONFIG, algorithm=odd, num_workers=4), 300, 9)
    env_steps = CONFIG.pacing.learning_starts + 299 * CONFIG.pacing.env_steps_per_update
    assert (settings.seed, settings.num_workers, settings.pacing.total_env_steps) == (9, 0, env_steps)
    own = dataclasses.replace(
        settings.algorithm,
        policy_hidden_sizes=(64, 64),
        policy_head="gumbel",
        temperature=1.0,
        information_weight=CONFIG.algorithm.information_weight,
    )
    assert own == CONFIG.algorithm
    assert settings.algorithm.policy_hidden_sizes == (7,)
    assert (settings.algorithm.policy_head, settings.algorithm.temperature) == ("sigmoid", 2.0)
    assert settings.algorithm.information_weight == 0
