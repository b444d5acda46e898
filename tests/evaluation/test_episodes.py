import itertools

import numpy as np
import pytest

from distributed_maddpg.acting.joint_policy import JointPolicy
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import env_spec, make_vector_env
from distributed_maddpg.envs.base import StepResult
from distributed_maddpg.errors import TrainingError
from distributed_maddpg.evaluation import episodes
from distributed_maddpg.evaluation.episodes import evaluate, evaluate_weights
from distributed_maddpg.evaluation.matchups import evaluate_matchups
from distributed_maddpg.evaluation.scorecard import Evaluation, Scorecard
from distributed_maddpg.types import EpisodeReport, policy_layout


class UnevenEnv:
    """Copy e plays episodes of e + 1 steps; agent i earns i + 1 + 10 e in each."""

    agents = ("adversary_0", "agent_0")

    def __init__(self, num_envs):
        self.num_envs, self.steps = num_envs, np.zeros(num_envs, np.int64)

    def reset(self):
        return (np.zeros((self.num_envs, 1), np.float32),) * 2

    def step(self, actions):
        assert actions == "acted"
        self.steps += 1
        ended = self.steps % (np.arange(self.num_envs) + 1) == 0
        rewards = np.where(ended, 10.0 * np.arange(self.num_envs), 0)[:, None] + ended[:, None] * [[1.0, 2.0]]
        terminated, obs = np.zeros((self.num_envs, 2), bool), self.reset()
        return StepResult(obs, rewards.astype(np.float32), terminated, ended, obs)

    def final_distances(self):
        return None


def play(num_envs, num_episodes):
    return evaluate(UnevenEnv(num_envs), lambda obs: "acted", num_episodes)


def test_each_copy_plays_its_share_whatever_the_lengths():
    card = play(num_envs=3, num_episodes=8)
    assert sorted(card.episodes.lengths.tolist()) == [1, 1, 1, 2, 2, 2, 3, 3]
    assert card.env_steps == 15
    assert sorted(card.episodes.returns.tolist()) == [[1, 2]] * 3 + [[11, 12]] * 3 + [[21, 22]] * 2


@pytest.mark.parametrize(("num_envs", "num_episodes"), [(1, 1), (1, 5), (4, 4), (4, 3), (3, 100)])
def test_exactly_the_asked_number_of_episodes_counts(num_envs, num_episodes):
    card = play(num_envs, num_episodes)
    assert len(card.episodes.lengths) == num_episodes
    shares = np.bincount(card.episodes.lengths, minlength=num_envs + 1)[1:]
    assert shares.max() - shares.min() <= 1


def test_a_card_is_the_mean_and_spread_of_the_returns():
    returns = np.array([[1.0, 10.0], [3.0, 20.0]])
    report = EpisodeReport(returns, np.array([4, 6]), np.zeros((2, 2, 0), np.float32))
    card = Scorecard(("adversary_0", "agent_0"), report, 10, np.zeros((2, 0)))
    assert card.intervals().keys() == {"agent_episode_returns_mean"}
    assert card.to_dict() == {
        "episodes": 2,
        "episode_return_mean": 17.0,
        "agent_episode_returns_mean": {"adversary_0": 2.0, "agent_0": 15.0},
        "agent_episode_returns_std": {"adversary_0": 1.0, "agent_0": 5.0},
        "episode_len_mean": 5.0,
    }


def test_success_stands_in_the_card_where_distances_are_known():
    final = np.array([[[0.3, 1.0], [0.1, 1.0], [1.0, 0.2]], [[0.5, 1.0], [0.6, 0.3], [1.0, 1.0]]], np.float32)
    report = EpisodeReport(np.zeros((2, 3)), np.full(2, 25), final)
    scorecard = Scorecard(
        ("adversary_0", "agent_0", "agent_1"), report, 50, np.array([[0.1, 0.2, 0.3], [0.3, 0.4, 0.5]])
    )
    card = scorecard.to_dict()
    assert card["success"] == card["success_by_eps"]["0.4"] == {"agents": 50, "adversary": 50, "coverage": 50}
    assert card["success_by_eps"]["0.7"] == {"agents": 100, "adversary": 100, "coverage": 100}
    assert (card["delta"], card["delta_by_eps"]["0.2"]) == (0.0, 50.0)
    assert list(card["success_by_eps"]) == list(card["delta_by_eps"]) == [f"{k / 10}" for k in range(1, 11)]
    assert card["eps"] == 0.4
    assert card["final_distance_mean"] == pytest.approx({"agents": 0.35, "adversary": 0.4, "coverage": 0.4})
    assert card["minimal_distance_mean"] == pytest.approx({"agents": 0.2, "adversary": 0.3, "coverage": 0.4})
    intervals = scorecard.intervals()
    assert intervals["delta"] == (0.0, 0.0)  # of the differences: both hit and missed together
    assert intervals["success"]["agents"][0] < 50 < intervals["success"]["agents"][1]
    assert set(intervals) <= set(card)


def test_the_interval_of_delta_ends_where_delta_does():
    final = np.full((4, 3, 2), 0.3, np.float32)
    final[1:, 0, 0] = 0.9
    for distances, end in ((final, 1), (final[:, [1, 0, 0]], 0)):
        report = EpisodeReport(np.zeros((4, 3)), np.full(4, 25), distances)
        interval = Scorecard(("adversary_0", "agent_0", "agent_1"), report, 50, np.zeros((4, 3))).intervals()
        assert abs(interval["delta"][end]) == 100.0 > abs(interval["delta"][1 - end])


def test_an_evaluation_names_its_moment():
    report = EpisodeReport(np.ones((1, 1)), np.ones(1, np.int64), np.zeros((1, 1, 0), np.float32))
    row = Evaluation(500, 7, Scorecard(("a_0",), report, 1, np.zeros((1, 0)))).to_dict()
    assert (row["num_env_steps"], row["num_updates"], row["episodes"]) == (500, 7, 1)


def test_an_environment_that_never_ends_is_given_up(monkeypatch):
    monkeypatch.setattr(episodes, "_LONGEST_EPISODE", 50)
    env = make_vector_env("tests.support.counting:parallel_env", 1, 0, max_cycles=1000)
    with pytest.raises(TrainingError, match="no episode ended within 50 steps"):
        evaluate(env, lambda obs: [np.zeros(1, np.int64)] * 2, 1)


def test_one_copy_that_never_ends_is_given_up_though_others_end(monkeypatch):
    monkeypatch.setattr(episodes, "_LONGEST_EPISODE", 50)
    env = make_vector_env("tests.support.counting:parallel_env", 2, 0, max_cycles=5)
    env.envs[1].max_cycles = 10_000
    with pytest.raises(TrainingError, match="no episode ended within 50 steps"):
        evaluate(env, lambda obs: [np.zeros(2, np.int64)] * 2, 4)


def scorecard(seed, episodes=7, num_envs=3):
    config = MADDPGConfig.from_dict({"rollout": {"num_envs": num_envs}})
    spec = env_spec(config.env.id, "auto", config.env.kwargs)
    flat = np.zeros((3, policy_layout(spec, (64, 64)).num_parameters), np.float32)
    return evaluate_weights(config, flat, episodes, seed).to_dict()


def test_the_seed_decides_the_start_states():
    assert scorecard(5) == scorecard(5)
    assert scorecard(5) != scorecard(6)


def test_idle_policies_stay_where_they_start():
    config = MADDPGConfig.from_dict({"rollout": {"num_envs": 2000}})
    spec = env_spec(config.env.id, "auto", config.env.kwargs)
    flat = np.zeros((3, policy_layout(spec, (64, 64)).num_parameters), np.float32)
    distances = evaluate_weights(config, flat, 2000, 0).episodes.final_distances
    assert distances.shape == (2000, 3, 2)
    assert distances.mean() == pytest.approx(
        2 * 0.5214, abs=0.03
    )  # mean distance of points in a square of side 2


def test_the_smallest_distance_is_that_of_any_frame_of_the_episode():
    config = MADDPGConfig.from_dict({"rollout": {"num_envs": 3}})
    spec = env_spec(config.env.id, "auto", config.env.kwargs)
    flat = np.random.default_rng(0).normal(0, 1, (3, policy_layout(spec, (64, 64)).num_parameters))
    card = evaluate_weights(config, flat.astype(np.float32), 3, 4)

    env = make_vector_env(config.env.id, 3, 4)
    policies = JointPolicy(config.algorithm, spec, 3)
    policies.set_parameters(flat.astype(np.float32))
    obs, frames = env.reset(), []
    for _ in range(25):  # the frame of the reset, and one after each of 25 steps
        state = env.get_state()
        goal, e = state["goal_landmark"], np.arange(3)
        apart = [
            np.linalg.norm(state["agent_positions"] - state["landmark_positions"][e, mark][:, None], axis=2)
            for mark in (goal, 1 - goal)
        ]
        frames.append(np.stack(apart, axis=2))
        obs = env.step(policies.act(obs)).obs
    frames.append(env.final_distances())
    for e, found in enumerate(card.closest):
        agents = min(min(frame[e, 1:, 0]) for frame in frames)
        adversary = min(frame[e, 0, 0] for frame in frames)
        coverage = min(max(min(frame[e, 1:, mark]) for mark in (0, 1)) for frame in frames)  # all at once
        assert found == pytest.approx([agents, adversary, coverage], rel=1e-6)


def test_whoever_visits_one_landmark_after_the_other_covers_neither():
    class Scripted:
        agents, num_envs = ("adversary_0", "agent_0"), 1

        def __init__(self):
            self.frames = iter([[0.0, 2.0], [2.0, 0.0], [1.5, 1.0]])

        def final_distances(self):
            return np.full((1, 2, 2), 3.0, np.float32)

        def get_state(self):
            goal, other = next(self.frames)  # distances of the agent on a line from both landmarks
            marks = np.array([[[goal, 0.0], [-other, 0.0]]])
            return {
                "agent_positions": np.zeros((1, 2, 2)),
                "landmark_positions": marks,
                "goal_landmark": np.array([0]),
            }

    closest = episodes._Closest(Scripted())
    closest.step(np.array([False]))
    assert closest.step(np.array([True])) == pytest.approx(np.array([[0.0, 0.0, 2.0]]))


@pytest.mark.parametrize("continuous", [True, False])
def test_matchups_play_every_pairing_from_the_same_start_states(continuous):
    config = MADDPGConfig.from_dict(
        {"rollout": {"num_envs": 50}, "env": {"kwargs": {"continuous_actions": continuous}}}
    )
    spec = env_spec(config.env.id, "auto", config.env.kwargs)
    flat = np.zeros((3, policy_layout(spec, (64, 64)).num_parameters), np.float32)
    found = {tuple(who.values()): card for who, card in evaluate_matchups(config, flat, 100, 7)}
    assert len(found) == 9
    rates = {who: card.to_dict()["success"] for who, card in found.items()}
    assert rates["straight", "straight"]["adversary"] == rates["trained", "straight"]["agents"] == 100.0
    assert (
        rates["random", "trained"]["agents"] == rates["trained", "trained"]["agents"] < 50
    )  # idle: same starts
    assert rates["trained", "trained"] == evaluate_weights(config, flat, 100, 7).to_dict()["success"]


def test_without_landmarks_random_players_are_the_measure():
    config = MADDPGConfig.from_dict({"env": {"id": "mpe2.simple_speaker_listener_v4"}})
    spec = env_spec(config.env.id, "auto", {})
    flat = np.zeros((2, policy_layout(spec, (64, 64)).num_parameters), np.float32)
    found = evaluate_matchups(config, flat, 3, 0)
    assert [tuple(who.values()) for who, _ in found] == list(
        itertools.product(("trained", "random"), repeat=2)
    )
    assert all(len(card.episodes.lengths) == 3 for _, card in found)
