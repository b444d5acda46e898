import dataclasses
import json

import numpy as np
import pytest
import torch

from distributed_maddpg import MADDPG
from distributed_maddpg.acting.policy import NumpyPolicy
from distributed_maddpg.algo.device_replay import DeviceReplay
from distributed_maddpg.checkpoint.folder import load_checkpoint, save_checkpoint
from distributed_maddpg.cli import main
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput, CheckpointError
from distributed_maddpg.learner import Learner, make_learner
from distributed_maddpg.moments import Moments
from distributed_maddpg.normalisation import (
    FragmentMoments,
    RunMoments,
    row_transform,
    run_moments,
    unknown,
    with_normaliser,
)
from distributed_maddpg.replay.ring import Draw
from distributed_maddpg.rollout import make_rollout_worker
from distributed_maddpg.types import EnvSpec, initial_policies, policy_layout
from tests.support.serial_runs import run_all, start, tiny

SPEC = EnvSpec(("red_0", "blue_0"), (2, 1), (1, 1), ("continuous",) * 2)
TEAM = EnvSpec(("red_0", "red_1"), (1, 1), (1, 1), ("continuous",) * 2)
WILD = "tests.support.wild:parallel_env"


def wild(**changes):
    """Return the settings of a short run that normalises."""
    return tiny(WILD, {"max_cycles": 5}, **{**changes, "env": {"normalise": True, **changes.get("env", {})}})


def finished(config):
    runner = start(config)
    run_all(runner)
    return runner


def steps(obs, rewards):
    """Return 1-step transitions `[T, E, width]` of observations `[T, E, 3]` and rewards `[T, E, 2]`."""
    layout = SPEC.transitions
    rows = np.full((*obs.shape[:2], layout.width), 99.0, np.float32)
    rows[:, :, :3], rows[:, :, layout.rewards] = obs, rewards
    return rows


def test_moments_are_those_of_observations_acted_on_and_of_discounted_returns():
    rng = np.random.default_rng(0)
    obs, rewards = rng.normal(size=(4, 2, 3)), rng.normal(size=(4, 2, 2))
    ended = np.zeros((4, 2), np.bool_)
    ended[1, 0] = True
    fragment = FragmentMoments(2, SPEC, 0.5)
    rows = steps(obs, rewards)
    fragment.add(rows[:3], ended[:3])
    fragment.add(rows[3:], ended[3:])
    moments = fragment.pop()
    r = rows[:, :, SPEC.transitions.rewards].astype(np.float64)
    copies = [
        [r[0, 0], r[1, 0] + 0.5 * r[0, 0], r[2, 0], r[3, 0] + 0.5 * r[2, 0]],
        [sum(0.5 ** (t - k) * r[k, 1] for k in range(t + 1)) for t in range(4)],
    ]
    expected = np.concatenate([rows[:, :, :3].reshape(8, 3), np.stack(copies, axis=1).reshape(8, 2)], axis=1)
    np.testing.assert_allclose(moments.mean, expected.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.variance, expected.var(axis=0), rtol=1e-12)
    assert moments.count.tolist() == [8] * 5
    assert not fragment.pop().count.any()


def test_new_episodes_start_with_returns_of_zero_and_a_state_goes_on():
    rows, running = steps(np.zeros((1, 2, 3)), np.full((1, 2, 2), 4.0)), np.zeros((1, 2), np.bool_)
    first, other, restarted = (FragmentMoments(2, SPEC, 0.5) for _ in range(3))
    first.add(rows, running)
    other.set_state(first.get_state())
    restarted.set_state(first.get_state())
    restarted.restart()
    for fragment, expected in ((first, 5.0), (other, 6.0), (restarted, 4.0)):
        fragment.add(rows, running)
        assert fragment.pop().mean[3:].tolist() == [expected] * 2, "4, and half of 4 before"


def test_a_normaliser_has_means_and_inverse_deviations_padded_to_the_widest_observation():
    moments = RunMoments(SPEC)
    moments.add(Moments.of(np.array([[1.0, 5.0, 3.0, 10.0, 0.0], [3.0, 5.0, 11.0, 30.0, 0.0]])))
    moments.add(None)
    small = np.float32(1e4)  # of a column that does not vary: 1 / sqrt(1e-8)
    expected = np.array([[2, 5, 1, small, 0.1], [7, 0, 0.25, 0, small]], np.float32)
    np.testing.assert_allclose(moments.normaliser(), expected, rtol=1e-6)


def test_agents_with_one_policy_share_what_they_are_normalised_by():
    moments = RunMoments(TEAM, ((0, 1),))
    moments.add(Moments.of(np.array([[0.0, 1.0, 2.0, -2.0], [0.0, 1.0, 4.0, -4.0]])))
    first, second = moments.normaliser()
    deviations = np.std([0.0, 0.0, 1.0, 1.0]), np.std([2.0, 4.0, -2.0, -4.0])
    np.testing.assert_allclose(first, [0.5, 1 / deviations[0], 1 / deviations[1]], rtol=1e-6)
    assert np.array_equal(first, second), "the first column tells them apart, so it must not become zero"
    config = tiny(algorithm={"share_policies": True}, env={"normalise": True})
    assert run_moments(TEAM, config)._groups == ((0, 1),)
    assert run_moments(TEAM, tiny()) is None


def test_rows_are_normalised_clipped_and_only_scaled_where_they_hold_rewards():
    normaliser = np.array([[1, 2, 10, 0.5, 0.25], [-1, 0, 2, 0, 4]], np.float32)
    row = np.array([[1.5, 4, 0, 0.3, 0.6, -8, 0.5, 9, -4, -100, 0.95, 0]], np.float32)
    row_transform(normaliser, SPEC.transitions).apply(row)
    expected = [5, 1, 2, 0.3, 0.6, -2, 2, 10, -3, -10, 0.95, 0]
    np.testing.assert_array_equal(row, np.array([expected], np.float32))


def test_an_unknown_normaliser_makes_observations_zero():
    rows = np.full((1, SPEC.transitions.width), 5.0, np.float32)
    row_transform(unknown(SPEC), SPEC.transitions).apply(rows)
    assert rows[0, :3].tolist() == [0.0] * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": np.full(5, -1)}, "numbers that cannot be moments"),
        ({"mean": np.zeros(3)}, r"mean has shape \(3,\)"),
        ({"squares": np.full(5, -1.0)}, "numbers that cannot be moments"),
        ({"mean": np.full(5, np.nan)}, "numbers that cannot be moments"),
    ],
)
def test_a_damaged_state_is_refused(change, message):
    moments = RunMoments(SPEC)
    with pytest.raises(ValueError, match=message):
        moments.set_state({**moments.get_state(), **change})


def test_policies_that_normalise_act_as_plain_ones_on_normalised_observations():
    rng = np.random.default_rng(0)
    obs = tuple(rng.normal(50.0, 20.0, (6, size)).astype(np.float32) for size in SPEC.observation_sizes)
    normaliser = np.array([[40, 60, 0.1, 2, 1], [50, 0, 0.05, 0, 1]], np.float32)
    flat = initial_policies(SPEC, (4,), 0)
    normalising, plain = NumpyPolicy(SPEC, (4,), 6), NumpyPolicy(SPEC, (4,), 6)
    normalising.set_parameters(with_normaliser(flat, normaliser))
    plain.set_parameters(flat)
    rows = np.zeros((6, SPEC.transitions.width), np.float32)
    rows[:, :3] = np.concatenate(obs, axis=1)
    row_transform(normaliser, SPEC.transitions).apply(rows)
    expected = plain.logits((rows[:, :2], rows[:, 2:3])).copy()
    assert np.abs(rows[:, :3]).max() == 10, "some are clipped"
    for _ in range(2):
        assert np.array_equal(normalising.logits(obs), expected), "the same bits as the learner has"
    normalising.set_parameters(flat)
    assert np.array_equal(normalising.logits(obs), plain.logits(obs))


def test_a_learner_learns_from_raw_rows_what_a_plain_one_learns_from_normalised_ones():
    plain, normalising = tiny(WILD), wild()
    first, second = (
        make_learner(config, start(config)._runs[0].worker._spec) for config in (plain, normalising)
    )
    rng, width = np.random.default_rng(0), second._spec.transitions.width
    rows = rng.normal(30.0, 10.0, (4 * 16, width)).astype(np.float32)
    moments = RunMoments(second._spec)
    moments.add(Moments.of(rng.normal(30.0, 10.0, (100, 8))))
    second.normalise_by([moments.normaliser()])
    second.learn([Draw.of(rows.copy())])
    row_transform(moments.normaliser(), second._spec.transitions).apply(rows)
    first.learn([Draw.of(rows)])
    for name in ("policy", "critic", "target_critic"):
        assert np.array_equal(first.get_state()[name], second.get_state()[name])
    expected = with_normaliser(first.get_state()["policy"], moments.normaliser())
    assert np.array_equal(second.publish()[0].policies, expected)


def test_a_run_normalises_by_the_mean_and_variance_of_all_that_it_observed():
    runner = finished(wild())
    captured = runner.capture(0, True)
    rows = np.concatenate(list(captured.replay.chunks)).astype(np.float64)
    assert captured.stages["moments/count"].tolist() == [len(rows)] * 8 == [240] * 8
    layout = runner._runs[0].worker._spec.transitions
    joint = slice(0, layout.obs[-1].stop)
    np.testing.assert_allclose(
        captured.stages["moments/mean"][joint], rows[:, joint].mean(axis=0), rtol=1e-12
    )
    variance = captured.stages["moments/squares"][joint] / len(rows)
    np.testing.assert_allclose(variance, rows[:, joint].var(axis=0), rtol=1e-9, atol=1e-18)
    assert rows[:, 0].mean() > 4000, "and the rows are as the environment gave them"
    acting = runner.weights(0).policies
    size = acting.shape[1] - 6
    np.testing.assert_allclose(acting[0, size : size + 3], rows[:, :3].mean(axis=0), rtol=1e-6)


@pytest.mark.parametrize("samples_on_device", [False, True])
def test_runs_side_by_side_normalise_each_by_its_own(samples_on_device, monkeypatch):
    monkeypatch.setattr(Learner, "samples_on_device", samples_on_device)
    configs = [wild(seed=seed) for seed in (4, 5)]
    together = start(*configs)
    run_all(together)
    for index, config in enumerate(configs):
        state, alone = together.learner_state(index), finished(config).learner_state(0)
        assert all(np.array_equal(state[name], alone[name]) for name in alone)
    first, second = (together.learner_state(index)["normaliser"] for index in (0, 1))
    assert not np.array_equal(first, second)


def test_n_step_returns_do_not_change_what_is_counted():
    algorithm = {"n_step": 2}
    one, two = (make_rollout_worker(wild(algorithm=own), 0) for own in ({}, algorithm))
    one.collect(4, 0), two.collect(4, 0)
    moments = one.pop_moments(), two.pop_moments()
    assert np.array_equal(moments[0].mean, moments[1].mean)
    assert np.array_equal(moments[0].squares, moments[1].squares)


def test_a_dropped_fragment_is_not_counted():
    faulty = {"id": "tests.support.faulty:parallel_env", "kwargs": {"part": "reward", "at": 3}}
    worker = make_rollout_worker(
        tiny(**{"env": {**faulty, "normalise": True}, "rollout": {"num_envs": 1}}), 0
    )
    worker.collect(4, 0)
    assert len(worker.pop_dropped()) == 1
    assert worker.pop_moments().count.tolist() == [4] * 5


def test_workers_with_the_same_weights_act_alike_whatever_they_have_seen():
    runner = finished(wild())
    obs = (np.float32([[5100, 0.05, 7]] * 4), np.float32([[4900, -0.1, 7]] * 4))
    workers = [make_rollout_worker(wild(), index, incarnation=index) for index in (0, 3)]
    workers[1].collect(20, 0)
    before = [worker._policies.act(obs)[0].tolist() for worker in workers]
    assert before[0] == before[1], "before the first publication too"
    for worker in workers:
        worker.set_weights(runner.weights(0))
    after = [worker._policies.act(obs)[0].tolist() for worker in workers]
    assert after[0] == after[1] != before[0]


def test_settings_that_move_parts_of_observations_are_refused(capsys):
    base = {"env": {"normalise": True, "kwargs": {"N": 2, "max_cycles": 10}}}
    for algorithm, field in (
        ({"information_weight": 1.0}, r"algorithm\.information_weight = 1\.0: cannot be used with env\.norm"),
        ({"private_values": "mean"}, r"algorithm\.private_values = 'mean': cannot be used with env\.normal"),
    ):
        with pytest.raises(BadInput, match=field):
            MADDPG(tiny(**base, algorithm=algorithm))
    assert main(["train", "--env.normalise", "--num-workers", "0"]) == 2
    assert "algorithm.information_weight = 1.0: cannot be used with env.normalise" in capsys.readouterr().err
    assert MADDPG(wild(algorithm={"information_weight": 1.0})).spec.private_parts == (), "nothing is private"


def test_a_checkpoint_acts_is_evaluated_and_resumes_with_its_statistics(tmp_path, capsys):
    config = wild()
    with MADDPG(config) as algo:
        algo.train()
        path = algo.save(tmp_path / "saved")
        acting, card = algo.policy_parameters(), algo.evaluate(6, seed=5)
    restored = MADDPG.from_checkpoint(path, env_id=WILD)
    assert np.array_equal(restored.policy_parameters(), acting)
    assert restored.evaluate(6, seed=5) == card
    obs = {"walker_0": np.float32([5050, 0.02, 7])}
    plain = NumpyPolicy(restored.spec, config.algorithm.policy_hidden_sizes, 1)
    parameters = policy_layout(restored.spec, config.algorithm.policy_hidden_sizes).num_parameters
    plain.set_parameters(acting[:, :parameters])
    means, scales = acting[0, parameters : parameters + 3], acting[0, parameters + 3 :]
    normalised = np.clip((obs["walker_0"] - means) * scales, -10, 10)[None]
    logits = plain.logits((normalised, np.zeros((1, 3), np.float32)))[0, 0]
    np.testing.assert_allclose(
        restored.compute_actions(obs)["walker_0"], 1 / (1 + np.exp(-logits)), rtol=1e-5
    )
    assert main(["evaluate", path, "--episodes", "6", "--seed", "5", "--env.id", WILD, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["agent_episode_returns_mean"] == card["agent_episode_returns_mean"]
    trained = found["matchups"][0]
    assert trained["players"] == {"walker": "trained"}
    assert main(["evaluate", path, "--env.id", WILD, "--best-response"]) == 2
    assert "--best-response = True: cannot be used with env.normalise" in capsys.readouterr().err


def test_a_run_normalises_from_its_start_or_never(tmp_path):
    for own, other in ((True, False), (False, True)):
        config = wild(env={"normalise": own})
        with MADDPG(config) as algo:
            algo.train()
            path = algo.save(tmp_path / f"{own}")
        changed = MADDPGConfig.from_dict({"env": {"normalise": other}}, config)
        with pytest.raises(BadInput, match=rf"env\.normalise = {other}: it was trained with {own}"):
            MADDPG.from_checkpoint(path, changed)


@pytest.mark.parametrize("damage", [lambda a: None, lambda a: a * np.nan, lambda a: a[:, 1:]])
def test_a_checkpoint_with_a_damaged_normaliser_is_refused(damage, tmp_path):
    with MADDPG(wild()) as algo:
        algo.train()
        path = algo.save(tmp_path / "saved")
    checkpoint = load_checkpoint(path)
    state = {**checkpoint.state, "learner/normaliser": damage(checkpoint.state["learner/normaliser"])}
    kept = {name: array for name, array in state.items() if array is not None}
    save_checkpoint(tmp_path / "damaged", dataclasses.replace(checkpoint, state=kept, replay=None))
    with pytest.raises(CheckpointError, match="normalise"):
        MADDPG.from_checkpoint(tmp_path / "damaged", env_id=WILD)


def test_plain_policies_have_no_statistics():
    runner = finished(tiny())
    names = runner.capture(0, False).stages
    assert not [name for name in names if "moments" in name or "normaliser" in name]
    layout = policy_layout(runner._runs[0].worker._spec, (8,))
    assert runner.weights(0).policies.shape == (layout.num_networks, layout.num_parameters)


COMING = "tests.support.coming:parallel_env"


def test_agents_are_counted_while_they_are_in_the_episode():
    worker = make_rollout_worker(tiny(COMING, env={"normalise": True}, rollout={"num_envs": 1}), 0)
    worker.collect(7, 0)
    moments = worker.pop_moments()
    assert moments.count.tolist() == [5, 2, 4] * 2, "there before steps 1 to 5, 1 and 2, and 4 to 7"
    assert moments.mean[:3].tolist() == [2.0, 1000.5, 2004.5]
    second = [101.0, 0.95 * 101.0 + 102.0]
    assert moments.mean[4] == pytest.approx(np.mean(second))


def test_zeros_of_absent_agents_stay_zeros():
    config = tiny(COMING, env={"normalise": True}, rollout={"num_envs": 1})
    worker = make_rollout_worker(config, 0)
    rows = worker.collect(7, 0)[0]
    moments, layout = RunMoments(worker._spec), worker._spec.transitions
    moments.add(worker.pop_moments())
    transform = row_transform(moments.normaliser(), layout)
    replay = DeviceReplay(7, layout.width, [torch.Generator()])
    replay.add(0, torch.from_numpy(rows.copy()), 7)
    replay.normalise_by(0, transform)
    before = rows.copy()
    transform.apply(rows)
    for agent in range(3):
        for columns in (layout.obs[agent], layout.next_obs[agent]):
            there = before[:, columns] != 0 if agent else np.ones((7, 1), np.bool_)
            if agent == 0:  # whose first observation is zero
                there = before[:, [layout.present.start]] > 0
                there = there if columns == layout.obs[0] else np.arange(1, 8)[:, None] < 5
            expected = (before[:, columns] - transform.shift[columns]) * transform.scale[columns]
            np.testing.assert_allclose(rows[:, columns], np.clip(expected, -10, 10) * there, rtol=1e-6)
            assert not there.all() and there.any()
    sampled = replay.sample(200)[0].numpy()
    assert np.array_equal(np.unique(sampled, axis=0), np.unique(rows, axis=0)), "as on a GPU"


def test_a_run_whose_agents_come_and_leave_resumes_exactly(tmp_path):
    config = tiny(COMING, env={"normalise": True}, algorithm={"n_step": 2})
    with MADDPG(config) as algo:
        algo.train()
        path = algo.save(tmp_path / "saved")
        while not algo.finished:
            algo.train()
        whole = algo.weights_digest()
    with MADDPG.from_checkpoint(path, env_id=COMING) as algo:
        while not algo.finished:
            algo.train()
        assert algo.weights_digest() == whole
