import logging

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from pettingzoo.utils import BaseParallelWrapper

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import env_spec, make_vector_env
from distributed_maddpg.envs.episode_log import EpisodeLog
from distributed_maddpg.envs.measures import as_number, column_name, numbers_in
from distributed_maddpg.envs.pettingzoo import PettingZooVectorEnv
from distributed_maddpg.errors import BadInput
from distributed_maddpg.preflight import check_environment_runs
from distributed_maddpg.types import Measure
from tests.support.counting import CountingEnv
from tests.support.scored import ScoredEnv, UndeclaredEnv

DECLARED = (
    Measure("score", "steps so far, plus ten for the second"),
    Measure("half_way", "share of even steps"),
)
UNDECLARED = "tests.support.scored:undeclared"


def scored(num_envs=2, cls=ScoredEnv, measures=(), **kwargs):
    return PettingZooVectorEnv(lambda: cls(**kwargs), num_envs, 0, "scored", measures)


def still(env):
    return [np.zeros(env.num_envs, np.int64) for _ in env.agents]


def play(env, steps):
    """Return the measures of the episodes that end in these steps."""
    log, found = EpisodeLog(env.num_envs, env.spec), []
    for _ in range(steps):
        _, report = log.step(env.step(still(env)), env)
        found += [] if report is None else report.measures.tolist()
    return found


def test_values_at_the_end_are_means_over_agents_and_others_means_over_steps():
    env = scored(max_cycles=5)
    env.reset()
    assert env.spec.measures == DECLARED
    assert play(env, 10) == [[10.0, 0.4]] * 4, "scores 5 and 15; steps 2 and 4 of five are even"


def test_a_setting_names_others_with_their_value_at_the_end():
    env = scored(1, UndeclaredEnv, ("score", "other"), num_agents=3)
    env.reset()
    assert [measure.name for measure in env.spec.measures] == ["score", "other"]
    assert play(env, 5) == [[15.0, 1.0]]
    assert scored(measures=("score",)).spec.measures == DECLARED, "named twice, declared once"


def test_a_copy_that_ended_keeps_its_measures_while_the_next_episode_runs():
    env = scored(1, max_cycles=2)
    env.reset()
    for _ in range(3):
        env.step(still(env))
    assert env.final_measures().tolist() == [[7.0, 0.5]]


def test_a_restored_episode_ends_with_the_same_measures():
    env, other = (scored(max_cycles=5, episode_from_seed=True) for _ in range(2))
    env.reset()
    play(env, 8)
    other.set_state(env.get_state())
    assert play(other, 2) == play(env, 2) == [[10.0, 0.4]] * 2


def test_wrappers_hide_no_measures():
    env = PettingZooVectorEnv(lambda: BaseParallelWrapper(ScoredEnv()), 1, 0, "wrapped")
    assert env.spec.measures == DECLARED


class Walk(gymnasium.Env):
    observation_space, action_space = Box(-1, 1, (1,)), Discrete(2)

    def reset(self, seed=None, options=None):
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(1, np.float32), 0.0, self.t == 3, False, {"reward/x": np.float32(self.t)}


class Named(gymnasium.Wrapper):
    measures = {"reward/x": "steps"}  # noqa: RUF012


def test_a_gymnasium_environment_and_its_wrapper_have_measures():
    for env in (
        PettingZooVectorEnv(lambda: Named(Walk()), 1, 0, "walk"),
        PettingZooVectorEnv(Walk, 1, 0, "walk", ["reward/x"]),
    ):
        env.reset()
        assert [measure.name for measure in env.spec.measures] == ["reward_x"]
        assert play(env, 3) == [[3.0]]


@pytest.mark.parametrize(
    ("infos", "message"),
    [
        ({"Half way": 1}, r"ended whose infos held no 'score' in the last step, of any agent"),
        ({"score": 1}, r"ended whose infos held no 'Half way' in any step, of any agent"),
        ({"score": "much", "Half way": 0}, r"measure 'score' is 'much' in the infos of counter_0"),
        ({"score": np.inf, "Half way": 0}, r"'score' is inf in .*; it must be a finite number"),
        ({"score": [1, 2], "Half way": 0}, r"'score' is \[1, 2\]"),
    ],
)
def test_infos_without_the_measure_end_the_run_in_one_line(infos, message):
    env = scored(infos=infos, max_cycles=2)
    env.reset()
    with pytest.raises(BadInput, match=message):
        play(env, 2)


@pytest.mark.parametrize("measures", [["score"], {"score": 3}, {3: "score"}, "score"])
def test_a_declaration_that_is_no_dict_of_texts_is_refused(measures):
    class Wrong(CountingEnv):
        pass

    Wrong.measures = measures
    with pytest.raises(BadInput, match="its measures must be a dict of name and one-line text"):
        scored(cls=Wrong)


def test_names_of_columns_are_lower_case_with_underscores_and_differ():
    assert [column_name(key) for key in ("X position", "reward/Ctrl", "_a1_")] == [
        "x_position",
        "reward_ctrl",
        "a1",
    ]
    with pytest.raises(BadInput, match="another measure has the column 'score' as well"):
        scored(measures=("Score",))
    with pytest.raises(BadInput, match="must contain a letter or a digit"):
        scored(measures=("--",))


def test_numbers_flags_and_arrays_of_one_are_numbers():
    assert [as_number(value) for value in (2, True, np.float32(0.5), np.array([[3]]))] == [2, 1, 0.5, 3]
    assert [as_number(value) for value in ("2", None, [2], np.zeros(2), np.array("x"))] == [None] * 5
    infos = {"a": {"x": 1, "y": "no", 3: 1}, "b": {"z": True}, "c": None}
    assert (numbers_in(infos), numbers_in(None)) == (["x", "z"], [])


def test_a_compiled_scenario_has_no_infos_to_name():
    with pytest.raises(BadInput, match=r"env\.measures = \['score'\]: .*simple_spread has none"):
        make_vector_env("simple_spread", 1, 0, measures=["score"])


def test_a_line_names_the_numbers_that_are_not_recorded(caplog):
    settings = MADDPGConfig.from_dict({"env": {"id": UNDECLARED}})
    with caplog.at_level(logging.WARNING):
        check_environment_runs(settings)
    assert caplog.messages == [
        "infos hold numbers that are not recorded; --env.measures 'Half way' other score would do so"
    ]
    caplog.clear()
    check_environment_runs(MADDPGConfig.from_dict({"env": {"measures": ["score"]}}, settings))
    assert caplog.messages == []


def test_another_environment_does_not_inherit_the_names():
    settings = MADDPGConfig.from_dict({"env": {"id": UNDECLARED, "measures": ["score"]}})
    assert env_spec(UNDECLARED, "auto", {}, settings.env.measures).measures[0].name == "score"
    assert MADDPGConfig.from_dict({"env": {"id": "simple_tag"}}, settings).env.measures == ()
