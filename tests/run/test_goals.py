import math

import numpy as np
import pytest

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import env_spec
from distributed_maddpg.errors import BadInput
from distributed_maddpg.evaluation.episodes import evaluate as play
from distributed_maddpg.evaluation.episodes import evaluation_env
from distributed_maddpg.run.goals import Goal, Ranking, check_scores, parse_goals, parse_ranking, scores_of


@pytest.mark.parametrize(
    ("text", "goal"),
    [
        ("success.agents=95", Goal("success.agents", 95.0)),
        ("success.agents>=95", Goal("success.agents", 95.0)),
        ("success.adversary<=20.5", Goal("success.adversary", 20.5, at_most=True)),
        ("episode_return_mean = -3e1", Goal("episode_return_mean", -30.0)),
        ("final_distance_mean.agents=0.1", Goal("final_distance_mean.agents", 0.1, at_most=True)),
        ("final_distance_mean.adversary>=0.5", Goal("final_distance_mean.adversary", 0.5)),
    ],
)
def test_a_goal_is_a_name_a_direction_and_a_number(text, goal):
    assert parse_goals([text]) == (goal,)
    assert parse_goals([str(goal)]) == (goal,)


@pytest.mark.parametrize("text", ["success.agents", "a=b", "=5", "a=nan", "a<=inf", "a=1=2", "a>5", ""])
def test_what_is_no_goal_is_refused_with_the_form(text):
    with pytest.raises(BadInput, match=r"^--stop-at = .*: must be NAME=NUMBER, 'NAME>=NUMBER' or"):
        parse_goals([text])


def test_a_goal_is_reached_at_its_value_and_beyond():
    reached = [
        [goal.is_reached({"x": score}) for score in (1.9, 2.0, 2.1)] for goal in parse_goals(["x=2", "x<=2"])
    ]
    assert reached == [[False, True, True], [True, True, False]]
    assert not any(
        goal.is_reached(each) for goal in parse_goals(["x=2", "x<=2"]) for each in ({}, {"x": math.nan})
    )


@pytest.mark.parametrize(
    ("text", "ranking"),
    [
        ("success.agents", Ranking("success.agents")),
        ("measures.collisions:min", Ranking("measures.collisions", smallest=True)),
        ("final_distance_mean.agents", Ranking("final_distance_mean.agents", smallest=True)),
        ("final_distance_mean.adversary:max", Ranking("final_distance_mean.adversary")),
        (":min", Ranking(":min")),
    ],
)
def test_a_ranking_is_a_name_and_which_end_is_best(text, ranking):
    assert parse_ranking(text) == ranking
    assert parse_ranking(str(ranking)) == ranking


def test_only_a_finite_score_beyond_the_best_so_far_is_better():
    largest, smallest = Ranking("x"), Ranking("x", smallest=True)
    for ranking, order in ((largest, [1.0, 2.0]), (smallest, [2.0, 1.0])):
        assert ranking.is_better(order[0], None)
        assert ranking.is_better(order[1], order[0])
        assert not ranking.is_better(order[0], order[0])
        assert not ranking.is_better(order[0], order[1])
        assert not ranking.is_better(math.nan, None)
        assert not ranking.is_better(math.inf, order[0])


def settings(env_id, **pacing):
    kwargs = {} if "." in env_id else {"max_cycles": 2}
    return MADDPGConfig.from_dict({"env": {"id": env_id, "kwargs": kwargs}, "pacing": pacing})


def spec_of(config):
    return env_spec(config.env.id, config.env.backend, config.env.kwargs, config.env.measures)


@pytest.mark.parametrize("env_id", ["simple_adversary", "simple_spread", "tests.support.target:parallel_env"])
def test_every_score_of_an_evaluation_can_be_named_and_no_other(env_id):
    config = settings(env_id)
    spec = spec_of(config)
    with evaluation_env(config, 2, 0) as env:
        actions = [np.full((2, size), 0.5, np.float32) for size in spec.action_sizes]
        if spec.action_types[0] == "discrete":
            actions = [np.zeros(2, np.int64) for _ in spec.action_sizes]
        names = scores_of(play(env, lambda _: actions, 2).to_dict())
    assert {"episode_return_mean", "episode_len_mean"} < set(names)
    check_scores(config, spec, [Goal(name, 1.0) for name in names], None)
    for name in ("episodes", "eps", "success", "success_by_eps.0.1.agents", "num_env_steps"):
        assert name not in names
        with pytest.raises(BadInput, match=rf"--stop-at = '{name}>=1': evaluations have no such score; "):
            check_scores(config, spec, [Goal(name, 1.0)], None)


def test_a_wrong_name_is_answered_with_the_nearest_or_all():
    config = settings("simple_spread")
    with pytest.raises(BadInput, match=r"--keep-best = 'covered': .*did you mean 'measures\.covered'"):
        check_scores(config, spec_of(config), (), Ranking("covered"))
    with pytest.raises(BadInput, match=r"--keep-best = 'zzz': .*known: .*agent_0.*episode_return_mean"):
        check_scores(config, spec_of(config), (), Ranking("zzz"))


def test_without_evaluations_there_is_nothing_to_compare():
    config = settings("simple_spread", evaluation_interval_env_steps=0)
    for goals, ranking in (([Goal("measures.covered", 1.0)], None), ([], Ranking("measures.covered"))):
        with pytest.raises(BadInput, match=r"needs evaluations; set pacing\.evaluation_interval_env_steps"):
            check_scores(config, spec_of(config), goals, ranking)
    check_scores(config, spec_of(config), (), None)
