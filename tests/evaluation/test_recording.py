import numpy as np
import pytest

from distributed_maddpg.envs import make_vector_env
from distributed_maddpg.evaluation.episodes import evaluate_weights
from distributed_maddpg.evaluation.recording import record_episodes
from tests.evaluation.recorded import settings, source

SCENARIOS = ("simple_adversary", "simple_crypto", "simple_world_comm", "collect_treasure")


def recorded(config, spec, num_episodes=5, seed=7):
    run = source(config, spec, 1)
    return run, record_episodes(dict.fromkeys(spec.teams, run), num_episodes, seed)


def returns(recording):
    return [recording.rewards[recording.steps(k)].sum(axis=0) for k in range(recording.num_episodes)]


@pytest.mark.parametrize("env_id", SCENARIOS)
def test_the_episodes_are_those_that_are_evaluated(env_id):
    config, spec = settings(env_id)
    run, recording = recorded(config, spec)
    card = evaluate_weights(config, run.parameters, 5, 7)
    np.testing.assert_allclose(returns(recording), card.episodes.returns, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["vectorized", "pettingzoo"])
def test_each_frame_leads_to_the_next_by_the_actions_of_its_step(backend):
    config, spec = settings(backend=backend, kwargs={"max_cycles": 6})
    _, recording = recorded(config, spec)
    assert recording.lengths.tolist() == [6] * 5
    env = make_vector_env("simple_adversary", 1, 0)
    env.reset()
    for k in range(5):
        frames, steps = recording.frames(k), recording.steps(k)
        for step, frame in enumerate(range(frames.start, frames.stop - 1)):
            env.set_state({name: array[frame : frame + 1] for name, array in recording.states.items()})
            result = env.step([actions[steps][step][None] for actions in recording.actions])
            for agent in range(len(spec.agents)):
                np.testing.assert_allclose(recording.obs[agent][frame + 1], result.obs[agent][0], atol=1e-5)
            np.testing.assert_allclose(recording.rewards[steps][step], result.rewards[0], atol=1e-5)
            for name in ("agent_positions", "agent_velocities", "landmark_positions", "goal_landmark"):
                np.testing.assert_allclose(recording.states[name][frame + 1], env.get_state()[name][0])


def test_each_team_acts_with_the_policies_of_its_own_run():
    config, spec = settings()
    runs = {"adversary": source(config, spec, 1), "agent": source(config, spec, 2)}
    recording = record_episodes(runs, 4, 3)
    mixed = np.concatenate([runs["adversary"].parameters[:1], runs["agent"].parameters[1:]])
    card = evaluate_weights(config, mixed, 4, 3)
    np.testing.assert_allclose(returns(recording), card.episodes.returns, rtol=1e-5, atol=1e-5)


def test_environments_without_a_state_are_recorded_until_each_episode_ends():
    config, spec = settings(
        "tests.support.counting:parallel_env", kwargs={"terminate": True, "max_cycles": 4}
    )
    _, recording = recorded(config, spec, num_episodes=4)
    assert recording.states == {}
    assert recording.lengths.tolist() == [4] * 4
    for k in range(4):
        counted = recording.obs[0][recording.frames(k), 0]
        assert np.array_equal(counted - counted[0], np.arange(5))
        assert recording.terminated[recording.steps(k)].all(axis=1).tolist() == [False] * 3 + [True]


def early(env_id):
    """Return settings in which some episodes end early, by success, and others do not."""
    kwargs = {"max_cycles": 12, "terminate_on_success": True, "num_good": 1, "num_obstacles": 0}
    return settings(env_id, kwargs=kwargs)


def test_the_state_in_which_an_episode_ends_early_is_its_own():
    config, spec = early("simple_tag")
    run, recording = recorded(config, spec, num_episodes=40, seed=1)
    card = evaluate_weights(config, run.parameters, 40, 1)
    assert recording.lengths.tolist() == card.episodes.lengths.tolist()
    assert set(recording.lengths) > {12}
    np.testing.assert_allclose(returns(recording), card.episodes.returns, rtol=1e-5, atol=1e-5)
    for k, length in enumerate(recording.lengths):
        cycles = recording.states["cycle"][recording.frames(k)]
        assert cycles.tolist() == list(range(length + 1))
        positions = recording.states["agent_positions"][recording.frames(k)]
        # An observation begins with the own velocity and position.
        np.testing.assert_allclose(positions[:, 0], recording.obs[0][recording.frames(k), 2:4], atol=1e-6)


def test_episodes_of_different_lengths_are_those_that_are_evaluated():
    config, spec = settings("tests.support.coming:parallel_env")
    run, recording = recorded(config, spec, num_episodes=7)
    card = evaluate_weights(config, run.parameters, 7, 7)
    assert recording.lengths.tolist() == card.episodes.lengths.tolist()
    np.testing.assert_allclose(returns(recording), card.episodes.returns, rtol=1e-5, atol=1e-5)
