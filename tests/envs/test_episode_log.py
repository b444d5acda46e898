"""Measures of episodes, as their environment adds them up."""

import numpy as np

from distributed_maddpg.envs import make_vector_env
from distributed_maddpg.envs.episode_log import EpisodeLog


def test_a_measure_per_step_becomes_a_share_of_the_steps():
    env = make_vector_env("simple_tag", 3, 0, max_cycles=4)
    env.reset()
    far = np.zeros((3, 4, 2))
    far[:, :, 0] = [-0.5, 0.0, 0.5, 5.0]  # predators in the square, their prey outside
    state = env.get_state()
    env.set_state({**state, "agent_positions": far, "cycle": np.array([0, 0, 3])})
    log, still = EpisodeLog(3, env.spec), [np.zeros(3, np.int64)] * 4
    ended, report = log.step(env.step(still), env)
    assert ended.tolist() == [False, False, True]
    assert report.measures.tolist() == [[0.0, 1.0]], "no catch, and one of one step outside"
    for _ in range(3):
        ended, report = log.step(env.step(still), env)
    assert ended.tolist() == [True, True, False]
    assert report.measures.tolist() == [[0.0, 1.0]] * 2, "a share of the steps, not their number"


def test_catches_are_added_up_over_the_steps():
    env = make_vector_env("simple_tag", 1, 0, max_cycles=3, num_adversaries=2, num_obstacles=0)
    env.reset()
    log, still, total = EpisodeLog(1, env.spec), [np.zeros(1, np.int64)] * 3, 0
    for _ in range(3):
        state = env.get_state()
        state["agent_positions"] = np.array([[[0.0, 0.0], [2.0, 0.0], [0.12, 0.0]]])
        env.set_state(state)
        result = env.step(still)
        total += int(result.rewards[0, 0] / 10)
        _, report = log.step(result, env)
    assert total > 0
    assert report.measures[0, 0] == total, "a catch is worth ten to every predator"


def test_environments_without_measures_report_none():
    env = make_vector_env("tests.support.counting", 2, 0)
    env.reset()
    assert env.spec.measures == ()
    assert env.final_measures().shape == (2, 0)
