import dataclasses

import numpy as np
import pytest

from distributed_maddpg.config import AlgorithmConfig, ExplorationConfig, MADDPGConfig
from distributed_maddpg.envs import make_vector_env
from distributed_maddpg.envs.pettingzoo import PettingZooVectorEnv
from distributed_maddpg.errors import TrainingError
from distributed_maddpg.rollout import RolloutWorker, make_rollout_worker, pack_rows
from distributed_maddpg.seeding import generator
from distributed_maddpg.types import TransitionLayout, Weights, policy_layout
from tests.support.coming import ComingEnv

HIDDEN = (4,)


def make(num_envs=2, exploration=None, algorithm=AlgorithmConfig(), **kwargs):  # noqa: B008 (frozen)
    """Return a worker on CountingEnv, whose observations and rewards are step numbers."""
    env = make_vector_env("tests.support.counting:parallel_env", num_envs, 0, **kwargs)
    worker = RolloutWorker(
        dataclasses.replace(algorithm, policy_hidden_sizes=HIDDEN),
        exploration or ExplorationConfig(),
        env,
        np.random.default_rng(0),
    )
    size = policy_layout(env.spec, HIDDEN).num_parameters
    flat = np.random.default_rng(1).normal(size=(env.spec.num_agents, size)).astype(np.float32)
    worker.set_weights(Weights(7, 70, flat))
    return worker, env.spec.transitions


def split(rows, layout):
    return {name: rows[:, getattr(layout, name)] for name in ("rewards", "discounts")} | {
        f"{name}_{agent}": rows[:, columns]
        for name in ("obs", "next_obs")
        for agent, columns in enumerate(getattr(layout, name))
    }


def packed_by_numpy(layout, obs, actions, rewards, next_obs, discounts):
    rows = np.full((len(rewards), layout.width), np.nan, np.float32)
    for agent in range(len(obs)):
        rows[:, layout.obs[agent]] = obs[agent]
        rows[:, layout.actions[agent]] = actions[agent, :, : layout.action_sizes[agent]]
        rows[:, layout.next_obs[agent]] = next_obs[agent]
    rows[:, layout.rewards], rows[:, layout.discounts] = rewards, discounts
    return rows


@pytest.mark.parametrize(
    ("obs_sizes", "action_sizes"), [((3,), (2,)), ((4, 6, 6), (5, 5, 5)), ((2, 9), (3, 1))]
)
def test_rows_are_packed_as_the_layout_says(obs_sizes, action_sizes):
    layout, rng, agents = TransitionLayout(obs_sizes, action_sizes), np.random.default_rng(0), len(obs_sizes)
    obs, next_obs = ([rng.random((7, size), np.float32) for size in obs_sizes] for _ in range(2))
    actions = rng.random((agents, 7, max(action_sizes)), np.float32)
    rewards, discounts = (rng.random((7, agents), np.float32) for _ in range(2))
    rows = np.full((7, layout.width), np.nan, np.float32)
    both = (tuple(obs), tuple(next_obs))
    pack_rows(rows, both, actions, np.array(action_sizes), rewards, discounts)
    assert np.array_equal(rows, packed_by_numpy(layout, obs, actions, rewards, next_obs, discounts))


@pytest.mark.parametrize("terminate", [False, True])
def test_every_next_observation_is_one_step_on_within_and_at_the_end_of_an_episode(terminate):
    worker, layout = make(num_agents=3, max_cycles=4, terminate=terminate)
    rows, _ = worker.collect(11, 0)
    part = split(rows, layout)
    step, episode = np.arange(11) % 4, np.arange(11) // 4
    for agent in range(3):
        expected = np.repeat(step + 1000 * episode + 1_000_000 * agent, 2)[:, None]
        assert (part[f"obs_{agent}"] == expected).all()
        assert (part[f"next_obs_{agent}"] == expected + 1).all()
        assert part[f"obs_{agent}"].shape == (22, agent + 1)
    assert (part["rewards"] == np.repeat(step + 1, 2)[:, None]).all()


@pytest.mark.parametrize("terminate", [False, True])
def test_only_termination_cuts_the_bootstrap(terminate):
    worker, layout = make(num_agents=2, max_cycles=4, terminate=terminate)
    rows, _ = worker.collect(8, 0)
    last = np.repeat(np.arange(8) % 4 == 3, 2)
    assert (rows[:, layout.discounts] == np.where(last & terminate, 0, np.float32(0.95))[:, None]).all()


@pytest.mark.parametrize("terminate", [False, True])
@pytest.mark.parametrize("n_step", [1, 2, 3, 10])
def test_n_step_transitions_sum_rewards_until_episode_or_fragment_end(n_step, terminate):
    worker, layout = make(
        num_agents=2, max_cycles=5, terminate=terminate, algorithm=AlgorithmConfig(n_step=n_step, gamma=0.5)
    )
    for start in (0, 7):  # fragments of 7 steps: steps 0 to 6 of episodes of 5, then 7 to 13
        rows, _ = worker.collect(7, 0)
        rows = rows.reshape(7, 2, -1)
        for t in range(7):
            step, episode = (start + t) % 5, (start + t) // 5
            taken = min(n_step, 5 - step, 7 - t)
            total = sum(0.5**k * (step + 1 + k) for k in range(taken))  # a reward is the step's number
            assert rows[t, :, layout.rewards] == pytest.approx(total)
            for agent in range(2):
                first = step + 1000 * episode + 1_000_000 * agent
                assert (rows[t, :, layout.obs[agent]] == first).all()
                assert (rows[t, :, layout.next_obs[agent]] == first + taken).all()
            over = terminate and step + taken == 5
            assert (rows[t, :, layout.discounts] == (0.0 if over else 0.5**taken)).all()


def test_a_fragment_continues_where_the_last_one_ended():
    worker, layout = make(num_envs=1, max_cycles=100)
    firsts = [worker.collect(3, 0)[0][:, layout.obs[0]].ravel().tolist() for _ in range(2)]
    assert firsts == [[0, 1, 2], [3, 4, 5]]


def test_rewards_stand_in_their_agents_column():
    env = make_vector_env("tests.support.target:parallel_env", 2, 0)
    algorithm = AlgorithmConfig(policy_hidden_sizes=HIDDEN)
    worker = RolloutWorker(algorithm, ExplorationConfig("none"), env, np.random.default_rng(0))
    size = policy_layout(env.spec, HIDDEN).num_parameters
    worker.set_weights(Weights(1, 0, np.zeros((2, size), np.float32)))
    rows, layout = worker.collect(5, 0)[0], env.spec.transitions
    for agent in range(2):
        miss = rows[:, layout.actions[agent]] - (1 - rows[:, layout.obs[agent]])
        np.testing.assert_allclose(rows[:, layout.rewards.start + agent], -(miss**2).mean(axis=1), atol=1e-6)


def test_packed_actions_are_what_the_environment_was_given():
    for continuous in (True, False):
        worker, layout = make(num_envs=1, continuous=continuous)
        rows, _ = worker.collect(1, 0)
        taken = worker._env.envs[0].last_actions
        for agent, columns in enumerate(layout.actions):
            packed, given = rows[0, columns], taken[f"counter_{agent}"]
            np.testing.assert_array_equal(packed, given if continuous else np.eye(3)[given])


def test_episodes_are_reported_by_value_in_the_fragment_they_end_in():
    worker, _ = make(num_envs=2, max_cycles=4)
    reports = [worker.collect(3, 0)[1] for _ in range(3)]
    assert [report.lengths.tolist() for report in reports] == [[], [4, 4], [4, 4]]
    assert reports[1].returns.tolist() == [[1 + 2 + 3 + 4.0] * 2] * 2
    assert reports[1].final_distances.shape == (2, 2, 0)


def test_final_distances_come_with_the_episode():
    config = MADDPGConfig.from_dict(
        {"rollout": {"num_envs": 3}, "env": {"kwargs": {"N": 2, "max_cycles": 2}}}
    )
    worker = make_rollout_worker(config, 0)
    size = policy_layout(worker._spec, (64, 64)).num_parameters
    worker.set_weights(Weights(1, 0, np.zeros((3, size), np.float32)))
    rows, report = worker.collect(2, 0)
    goal = rows[3:, worker._spec.transitions.next_obs[1]][:, :2]  # good agents see the goal first
    np.testing.assert_allclose(report.final_distances[:, 1, 0], np.hypot(*goal.T), rtol=1e-5)


def test_the_schedule_moves_within_a_fragment():
    schedule = ExplorationConfig("gaussian", 0.5, 0.0, decay_env_steps=4)
    worker, layout = make(num_envs=2, exploration=schedule, continuous=True, max_cycles=100)
    noisy, _ = worker.collect(4, 0)
    silent, _ = make(num_envs=2, exploration=ExplorationConfig("none"), continuous=True)[0].collect(4, 0)
    same = (noisy[:, layout.actions[0]] == silent[:, layout.actions[0]]).all(axis=1)
    assert same.tolist() == [False] * 4 + [True] * 4  # two copies a step: 0, 2, then 4 and 6 steps


def test_ended_episodes_restart_the_noise():
    schedule = ExplorationConfig("ou", 0.5, 0.0, decay_env_steps=1)
    kinds = {"continuous": True, "max_cycles": 3}
    noisy, _ = make(num_envs=1, exploration=schedule, **kinds)[0].collect(6, 0)
    worker, layout = make(num_envs=1, exploration=ExplorationConfig("none"), **kinds)
    silent, _ = worker.collect(6, 0)
    same = (noisy[:, layout.actions[0]] == silent[:, layout.actions[0]]).all(axis=1)
    assert same[3:].all()
    assert not same[:3].any()


def test_weights_carry_their_version():
    worker, _ = make()
    assert worker.weights_version == 7
    config = MADDPGConfig.from_dict({"rollout": {"num_envs": 1}})
    assert make_rollout_worker(config, 0).weights_version == 0


def test_workers_of_a_run_differ_and_repeat():
    config = MADDPGConfig.from_dict({"seed": 3, "rollout": {"num_envs": 2}})
    collected = []
    for index in (0, 0, 1):
        worker = make_rollout_worker(config, index)
        size = policy_layout(worker._spec, (64, 64)).num_parameters
        worker.set_weights(Weights(1, 0, np.zeros((3, size), np.float32)))
        collected.append(worker.collect(3, 0)[0])
    assert np.array_equal(collected[0], collected[1])
    assert not np.isclose(collected[0], collected[2]).all(axis=1).any()
    assert not np.array_equal(
        generator(3, "exploration", 0).random(3), generator(3, "exploration", 1).random(3)
    )


def test_an_environment_that_ignores_its_seed_starts_new_episodes_and_is_reported():
    long, _ = make(max_cycles=9)
    long.collect(4, 0)
    short, layout = make(max_cycles=2)
    line = short.set_state(long.get_state())
    assert line.startswith("starts new episodes: copy 0 ended") and "does not honour its seed" in line
    rows, episodes = short.collect(2, 0)
    assert split(rows, layout)["rewards"][:, 0].tolist() == [1, 1, 2, 2]
    assert episodes.lengths.tolist() == [2, 2]
    assert long.set_state(long.get_state()) == ""


def test_a_sum_of_rewards_that_overflows_is_no_transition(monkeypatch):
    worker, _ = make(num_envs=2, max_cycles=8, algorithm=AlgorithmConfig(n_step=3, gamma=1.0))
    env, step = worker._env, worker._env.step
    large = np.full((2, 2), 2e38, np.float32)
    monkeypatch.setattr(env, "step", lambda actions: step(actions)._replace(rewards=large))
    with (
        np.errstate(over="ignore"),
        pytest.raises(TrainingError, match="sum of 3 rewards before vector step"),
    ):
        worker.collect(4, 0)


COMES, ENDS = (0, 0, 3), (5, 2, 7)


def collect_coming(steps, n_step=1, **kwargs):
    """Return a worker's rows [T, width] on ComingEnv, and their layout."""
    env = make_vector_env("tests.support.coming:parallel_env", 1, 0, **kwargs)
    algorithm = AlgorithmConfig(policy_hidden_sizes=HIDDEN, n_step=n_step, gamma=0.5)
    worker = RolloutWorker(algorithm, ExplorationConfig("epsilon"), env, np.random.default_rng(0))
    size = policy_layout(env.spec, HIDDEN).num_parameters
    worker.set_weights(Weights(1, 0, np.random.default_rng(1).normal(size=(3, size)).astype(np.float32)))
    return worker.collect(steps, 0)[0], env.spec.transitions


def there(t):
    return [a <= t < b for a, b in zip(COMES, ENDS, strict=True)]


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("truncated", [(), (1,)])
def test_rows_say_who_was_there_and_absent_agents_observe_and_do_nothing(n_step, truncated):
    rows, layout = collect_coming(14, n_step, truncated=truncated)
    for index, row in enumerate(rows):
        t = index % 7
        last = min(t + n_step, 7, 14 - index + t)
        if truncated and t < 2:
            last = min(last, 2)  # the step that truncates agent 1 ends transitions
        assert row[layout.present].tolist() == row[layout.acting].tolist() == there(t)
        for i, own in enumerate(there(t)):
            assert row[layout.obs[i]].tolist() == [own * (t + 1000.0 * i)]
            assert row[layout.actions[i]].sum() == own
            if own:
                paid = sum(0.5 ** (k - t) * (k + 1 + 100 * i) for k in range(t, min(last, ENDS[i])))
                assert row[layout.rewards][i] == pytest.approx(paid)
                ended = ENDS[i] <= last and i not in truncated
                assert row[layout.discounts][i] == (0.0 if ended else 0.5 ** (last - t))
            cut = i in truncated and last == ENDS[i]
            assert row[layout.next_acting][i] == (there(last)[i] or cut)
            if there(last)[i] or cut:
                assert row[layout.next_obs[i]].tolist() == [last + 1000.0 * i]


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("masks", ["observation", "info"])
def test_rows_hold_the_masks_of_their_moments(masks, n_step):
    rows, layout = collect_coming(14, n_step, masks=masks)  # the environment refuses what it forbids
    for index, row in enumerate(rows):
        t = index % 7
        last = min(t + n_step, 7, 14 - index + t)
        for i in range(3):
            for at, columns in ((t, layout.allowed[i]), (last, layout.next_allowed[i])):
                forbidden = (at + i) % 3 if there(at)[i] else None
                assert row[columns].tolist() == [k != forbidden for k in range(3)]
            assert (row[layout.actions[i]] <= row[layout.allowed[i]]).all()


def test_off_turn_agents_are_there_but_do_not_act():
    env = make_vector_env("tests.support.coming:turns", 1, 0)
    worker = RolloutWorker(
        AlgorithmConfig(policy_hidden_sizes=HIDDEN), ExplorationConfig(), env, np.random.default_rng(0)
    )
    size = policy_layout(env.spec, HIDDEN).num_parameters
    worker.set_weights(Weights(1, 0, np.zeros((3, size), np.float32)))
    rows, layout = worker.collect(7, 0)[0], env.spec.transitions
    order = [0, 1, 2, 0, 2, 0, 2]
    for t, row in enumerate(rows):
        assert row[layout.present].tolist() == [True, t < 4, True]
        assert row[layout.acting].tolist() == [i == order[t] for i in range(3)]
        assert [row[columns].sum() for columns in layout.actions] == [i == order[t] for i in range(3)]
        assert row[layout.actions[order[t]]].argmax() == t % 3
        assert row[layout.rewards].tolist() == [t + 1, (t < 4) * (t + 1), t + 1]


def test_a_return_ends_with_the_agents_life_although_it_comes_again():
    class Again(ComingEnv):
        def step(self, actions):
            observations, rewards, *rest = super().step(actions)
            if self.t == 4:
                self.agents.append("comer_1")
                observations["comer_1"] = np.array([1004], np.float32)
            return observations, {**rewards, "comer_1": rewards.get("comer_1", -50.0)}, *rest

    env = PettingZooVectorEnv(lambda: Again(comes=(0, 0), ends=(8, 2)), 1, 0)
    algorithm = AlgorithmConfig(policy_hidden_sizes=HIDDEN, n_step=4, gamma=0.5)
    worker = RolloutWorker(algorithm, ExplorationConfig(), env, np.random.default_rng(0))
    size = policy_layout(env.spec, HIDDEN).num_parameters
    worker.set_weights(Weights(1, 0, np.zeros((2, size), np.float32)))
    rows, layout = worker.collect(8, 0)[0], env.spec.transitions
    rewards, discounts = (rows[:, columns][:, 1].tolist() for columns in (layout.rewards, layout.discounts))
    assert rewards[:2] == [101 + 0.5 * 102, 102]  # its second reward is its last
    assert discounts[:2] == [0.0, 0.0]
    assert rewards[4] == 105  # the life that begins with the fifth step ends with it
    assert rows[:, layout.present][:, 1].tolist() == [1, 1, 0, 0, 1, 0, 0, 0]
