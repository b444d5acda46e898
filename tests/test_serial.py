import dataclasses

import numpy as np
import pytest

from distributed_maddpg.envs import env_spec
from distributed_maddpg.learner import Learner, make_learner
from distributed_maddpg.rollout import make_rollout_worker
from tests.support.serial_runs import learner_digest, run_all, start, tiny
from tests.support.target import IDLE_RETURN, target_config


def final_digest(config):
    runner = start(config)
    run_all(runner)
    return learner_digest(runner)


@pytest.mark.parametrize("algorithm", [{}, {"share_policies": True}, {"initial_weights": "glorot"}])
def test_a_worker_starts_with_the_initial_weights_of_the_learner(algorithm):
    config = tiny(algorithm=algorithm)
    env = config.env
    learner = make_learner(config, env_spec(env.id, env.backend, env.kwargs), [config.seed])
    untouched, updated, negated = (make_rollout_worker(config, 0) for _ in range(3))
    updated.set_weights(learner.weights(0))
    negated.set_weights(dataclasses.replace(learner.weights(0), policies=-learner.weights(0).policies))
    assert untouched.weights_version == 0
    rows, same, other = (worker.collect(4, 0)[0] for worker in (untouched, updated, negated))
    assert np.array_equal(rows, same) and not np.array_equal(rows, other)


@pytest.mark.parametrize("continuous", [True, False])
def test_the_same_configuration_and_seed_give_the_same_bits(continuous):
    env = {"kwargs": {"continuous_actions": continuous}}
    first, again, other = (final_digest(tiny(env=env, seed=seed)) for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize("samples_on_device", [False, True])
def test_runs_trained_together_equal_runs_trained_alone(samples_on_device, monkeypatch):
    monkeypatch.setattr(Learner, "samples_on_device", samples_on_device)
    configs = [tiny(seed=seed) for seed in (4, 5)]
    together, alone = start(*configs), [start(config) for config in configs]
    results = run_all(together)
    for index, runner in enumerate(alone):
        expected = run_all(runner)
        state, own = together.learner_state(index), runner.learner_state(0)
        assert all(np.array_equal(state[name], own[name]) for name in own)
        for key in ("env_runners", "learners", "num_updates_lifetime"):
            assert [result[key] for result in results[index::2]] == [result[key] for result in expected]
        cards = [[e.to_dict() for e in r.pop_evaluations(i)] for r, i in ((together, index), (runner, 0))]
        assert cards[0] == cards[1] != []
        seeds = dict(num_episodes=3, seed=1)
        assert together.evaluate(**seeds, run=index).to_dict() == runner.evaluate(**seeds, run=0).to_dict()


def test_a_learner_that_samples_on_the_device_takes_no_minibatches_from_the_buffer(monkeypatch):
    monkeypatch.setattr(Learner, "samples_on_device", True)
    runner = start(tiny())
    monkeypatch.setattr(runner._runs[0].replay, "sample", None)
    results = run_all(runner)
    assert results[-1]["num_updates_lifetime"] == runner.weights(0).updates == 21
    assert final_digest(tiny()) == final_digest(tiny())


def test_a_run_reports_its_steps_updates_and_episodes():
    runner = start(tiny())
    results = run_all(runner)
    assert [result["num_env_steps_sampled_lifetime"] for result in results] == [80, 160, 240]
    assert [result["num_updates_lifetime"] for result in results] == [5, 13, 21]
    assert results[-1]["replay_buffer"] == {"num_env_steps_stored": 240, "fill": 0.24}
    assert results[-1]["env_runners"]["num_episodes_lifetime"] == 24
    assert results[-1]["env_runners"]["episode_len_mean"] == 10
    assert results[-1]["weights_seq_no"] == runner.weights(0).version == 21 // 2


def test_evaluations_run_at_their_intervals_and_do_not_change_training():
    runner = start(tiny())
    run_all(runner)
    taken = runner.pop_evaluations(0)
    assert [(each.env_steps, each.updates) for each in taken] == [
        (80, 5),
        (160, 13),
    ]  # none after the last step
    assert [len(each.card.episodes.lengths) for each in taken] == [3, 3]
    assert runner.pop_evaluations(0) == []
    assert final_digest(tiny()) == final_digest(tiny(pacing={"evaluation_interval_env_steps": 0}))


def test_a_stop_ends_a_run_between_two_rounds():
    runner = start(tiny())
    answers = iter([False, False, True])
    runner.run(lambda: next(answers))
    assert runner.pacer.env_steps == 16


def test_published_weights_reach_the_worker():
    runner = start(tiny())
    runner.run(lambda: runner.pacer.updates >= 2)
    assert runner.weights(0).version == 1
    assert runner._runs[0].worker.weights_version == 1


def test_a_restored_run_has_the_saved_weights_and_counts():
    old = start(tiny())
    old.run(lambda: old.pacer.env_steps >= 80)
    new = start(tiny(seed=9))
    new.restore(0, old.capture(0, with_replay=False))
    assert np.array_equal(new.weights(0).policies, old.weights(0).policies)
    assert (new.pacer.env_steps, new.pacer.updates) == (80, 5)
    run_all(new)
    assert new.pacer.env_steps == 240
    assert new.pacer.updates == 1 + (240 - 40) // 10


def test_stored_transitions_of_a_counting_environment_are_correct():
    runner = start(tiny("tests.support.counting:parallel_env", kwargs={"max_cycles": 6}))
    results = run_all(runner)
    assert results[-1]["env_runners"]["agent_episode_returns_mean"] == {"counter_0": 21, "counter_1": 21}
    rows = runner._runs[0].replay.ring.read_from(0)[0]
    first_next_obs = 3 + 6 + 2  # after obs, actions and rewards
    assert (rows[:, first_next_obs] == rows[:, 0] + 1).all()
    assert np.isfinite(rows).all()


COMING = "tests.support.coming:parallel_env"


@pytest.mark.parametrize("continuous", [True, False])
def test_nothing_is_trained_on_steps_without_an_agent(continuous):
    kwargs = {"comes": [0, 0, 99], "ends": [5, 2, 100], "continuous": continuous}
    runner = start(tiny(COMING, kwargs=kwargs, algorithm={"regulariser_weight": 0.1}))
    before = runner.learner_state(0)
    results = run_all(runner)
    after = runner.learner_state(0)
    assert results[-1]["num_updates_lifetime"] == 21
    for part in ("policy", "critic", "target_policy", "target_critic"):
        changed = (before[part] != after[part]).any(axis=1)
        assert changed.tolist() == [True, True, False], part  # the third agent never comes
    returns = results[-1]["env_runners"]["agent_episode_returns_mean"]
    assert returns == {"comer_0": 15.0, "comer_1": 203.0, "comer_2": 0.0}


@pytest.mark.parametrize("kind", ["epsilon", "gumbel"])
@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [(COMING, {"masks": "info"}), (COMING, {"masks": "observation"}), ("tests.support.coming:turns", {})],
)
def test_what_a_mask_forbids_is_never_done(env_id, kwargs, kind):
    exploration = {"kind": kind, "start": 1.0, "end": 1.0}
    runner = start(tiny(env_id, kwargs=kwargs, exploration=exploration))  # the environment would refuse it
    results = run_all(runner)
    assert results[-1]["num_updates_lifetime"] == 21
    layout, rows = runner._runs[0].worker._spec.transitions, runner._runs[0].replay.ring.read_from(0)[0]
    for actions, allowed in zip(layout.actions, layout.allowed, strict=True):
        assert (rows[:, actions] <= rows[:, allowed]).all()
    assert len(runner.evaluate(3, seed=1, run=0).episodes.lengths) == 3


def test_training_finds_a_known_optimum():
    runner = start(target_config())
    untrained = runner.evaluate(50, seed=1, run=0).to_dict()["agent_episode_returns_mean"]
    run_all(runner)
    trained = runner.evaluate(50, seed=1, run=0).to_dict()["agent_episode_returns_mean"]
    assert min(trained.values()) > 0.2 * IDLE_RETURN
    assert max(untrained.values()) < 0.8 * IDLE_RETURN


ADAPTED = [
    ("mpe2.simple_spread_v3", {"N": 2, "max_cycles": 5}),
    ("mpe2.simple_tag_v3", {"num_good": 1, "num_adversaries": 2, "num_obstacles": 1, "max_cycles": 5}),
    ("mpe2.simple_speaker_listener_v4", {"max_cycles": 5}),
]


@pytest.mark.parametrize("continuous", [True, False])
@pytest.mark.parametrize(("env_id", "kwargs"), ADAPTED)
def test_other_mpe2_environments_train(env_id, kwargs, continuous):
    kwargs = {**kwargs, "continuous_actions": continuous}
    runner = start(tiny(env_id, kwargs=kwargs, pacing={"evaluation_interval_env_steps": 0}))
    before = runner.weights(0).policies
    results = run_all(runner)
    assert results[-1]["num_updates_lifetime"] == 21
    assert all(np.isfinite(list(agent.values())).all() for agent in results[-1]["learners"].values())
    assert (runner.weights(0).policies != before).any(axis=1).all()
    runner.close()


@pytest.mark.slow
@pytest.mark.parametrize("continuous", [True, False])
@pytest.mark.parametrize(("env_id", "kwargs"), ADAPTED)
def test_other_mpe2_environments_train_for_hundreds_of_updates(env_id, kwargs, continuous):
    kwargs = {**kwargs, "max_cycles": 25, "continuous_actions": continuous}
    runner = start(tiny(env_id, kwargs=kwargs, pacing={"total_env_steps": 5000, "env_steps_per_update": 10}))
    results = run_all(runner)
    assert results[-1]["num_updates_lifetime"] == 497
    assert np.isfinite(runner.weights(0).policies).all()
    runner.close()
