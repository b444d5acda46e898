import itertools

import numpy as np
import pytest

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import env_spec, make_vector_env
from distributed_maddpg.envs.base import StepResult, VectorEnv
from distributed_maddpg.errors import TrainingError
from distributed_maddpg.evaluation import episodes
from distributed_maddpg.evaluation.episodes import evaluate, evaluate_weights, greedy_policy
from distributed_maddpg.evaluation.matchups import evaluate_matchups
from distributed_maddpg.evaluation.scorecard import Evaluation, Scorecard
from distributed_maddpg.seeding import integer_seed
from distributed_maddpg.types import EnvSpec, EpisodeReport, policy_layout


class UnevenEnv(VectorEnv):
    """Copy e plays episodes of e + 1 steps; the return of agent i in each is i + 1 + 10 e."""

    spec = EnvSpec(("adversary_0", "agent_0"), (1, 1), (1, 1), ("continuous",) * 2)

    def __init__(self, num_envs):
        self.num_envs, self.steps = num_envs, np.zeros(num_envs, np.int64)

    def reset(self):
        return (np.zeros((self.num_envs, 1), np.float32),) * 2

    def step(self, actions):
        assert actions == "actions"
        self.steps += 1
        ended = self.steps % (np.arange(self.num_envs) + 1) == 0
        rewards = np.where(ended, 10.0 * np.arange(self.num_envs), 0)[:, None] + ended[:, None] * [[1.0, 2.0]]
        terminated, obs = np.zeros((self.num_envs, 2), bool), self.reset()
        return StepResult(obs, rewards.astype(np.float32), terminated, ended, obs)

    def final_distances(self):
        return None


def play(num_envs, num_episodes):
    return evaluate(UnevenEnv(num_envs), lambda obs: "actions", num_episodes)


def test_each_copy_plays_its_share_of_episodes_whatever_their_lengths():
    card = play(num_envs=3, num_episodes=8)
    assert sorted(card.episodes.lengths.tolist()) == [1, 1, 1, 2, 2, 2, 3, 3]
    assert card.env_steps == 15
    assert sorted(card.episodes.returns.tolist()) == [[1, 2]] * 3 + [[11, 12]] * 3 + [[21, 22]] * 2


@pytest.mark.parametrize(("num_envs", "num_episodes"), [(1, 1), (1, 5), (4, 4), (4, 3), (3, 100)])
def test_exactly_the_requested_number_of_episodes_counts(num_envs, num_episodes):
    card = play(num_envs, num_episodes)
    assert len(card.episodes.lengths) == num_episodes
    shares = np.bincount(card.episodes.lengths, minlength=num_envs + 1)[1:]
    assert shares.max() - shares.min() <= 1


def test_the_scorecard_has_mean_and_standard_deviation_of_the_returns():
    returns = np.array([[1.0, 10.0], [3.0, 20.0]])
    report = EpisodeReport(returns, np.array([4, 6]), np.zeros((2, 2, 0), np.float32), np.zeros((2, 0)))
    card = Scorecard(("adversary_0", "agent_0"), report, 10, np.zeros((2, 0)))
    assert card.intervals().keys() == {"agent_episode_returns_mean"}
    assert card.to_dict() == {
        "episodes": 2,
        "episode_return_mean": 17.0,
        "agent_episode_returns_mean": {"adversary_0": 2.0, "agent_0": 15.0},
        "agent_episode_returns_std": {"adversary_0": 1.0, "agent_0": 5.0},
        "episode_len_mean": 5.0,
    }


def test_the_scorecard_has_success_rates_if_distances_are_known():
    final = np.array([[[0.3, 1.0], [0.1, 1.0], [1.0, 0.2]], [[0.5, 1.0], [0.6, 0.3], [1.0, 1.0]]], np.float32)
    report = EpisodeReport(np.zeros((2, 3)), np.full(2, 25), final, np.zeros((2, 0)))
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
    assert intervals["delta"] == (0.0, 0.0)  # both teams succeed and fail in the same episodes
    assert intervals["success"]["agents"][0] < 50 < intervals["success"]["agents"][1]
    assert set(intervals) <= set(card)


def test_the_interval_of_delta_stays_within_100_percent():
    final = np.full((4, 3, 2), 0.3, np.float32)
    final[1:, 0, 0] = 0.9
    for distances, end in ((final, 1), (final[:, [1, 0, 0]], 0)):
        report = EpisodeReport(np.zeros((4, 3)), np.full(4, 25), distances, np.zeros((4, 0)))
        interval = Scorecard(("adversary_0", "agent_0", "agent_1"), report, 50, np.zeros((4, 3))).intervals()
        assert abs(interval["delta"][end]) == 100.0 > abs(interval["delta"][1 - end])


def test_an_evaluation_has_the_counts_of_steps_and_updates():
    report = EpisodeReport(
        np.ones((1, 1)), np.ones(1, np.int64), np.zeros((1, 1, 0), np.float32), np.zeros((1, 0))
    )
    card = Scorecard(("a_0",), report, 1, np.zeros((1, 0)))
    row = Evaluation(500, 7, card, np.zeros((1, 4), np.float32)).to_dict()
    assert (row["num_env_steps"], row["num_updates"], row["episodes"]) == (500, 7, 1)


def test_episodes_that_never_end_raise(monkeypatch):
    monkeypatch.setattr(episodes, "_MAX_EPISODE_STEPS", 50)
    env = make_vector_env("tests.support.counting:parallel_env", 1, 0, max_cycles=1000)
    with pytest.raises(TrainingError, match="no episode ended within 50 steps"):
        evaluate(env, lambda obs: [np.zeros(1, np.int64)] * 2, 1)


def test_one_copy_whose_episode_never_ends_raises_although_others_end(monkeypatch):
    monkeypatch.setattr(episodes, "_MAX_EPISODE_STEPS", 50)
    env = make_vector_env("tests.support.counting:parallel_env", 2, 0, max_cycles=5)
    env.envs[1].max_cycles = 10_000
    with pytest.raises(TrainingError, match="no episode ended within 50 steps"):
        evaluate(env, lambda obs: [np.zeros(2, np.int64)] * 2, 4)


def idle_policies(config):
    """Return parameters [N, P] of zeros, whose greedy actions move no agent."""
    spec = env_spec(config.env.id, "auto", config.env.kwargs)
    return np.zeros((spec.num_agents, policy_layout(spec, (64, 64)).num_parameters), np.float32)


def test_the_seed_decides_the_start_states():
    config = MADDPGConfig.from_dict({"rollout": {"num_envs": 3}})
    first, again, other = (
        evaluate_weights(config, idle_policies(config), 7, seed).to_dict() for seed in (5, 5, 6)
    )
    assert first == again != other


def test_idle_policies_stay_where_they_start():
    config = MADDPGConfig.from_dict({"rollout": {"num_envs": 2000}})
    distances = evaluate_weights(config, idle_policies(config), 2000, 0).episodes.final_distances
    assert distances.shape == (2000, 3, 2)
    # The mean distance of two points in a square of side 2.
    assert distances.mean() == pytest.approx(2 * 0.5214, abs=0.03)


def test_minimal_distances_are_taken_over_all_frames_of_an_episode():
    config = MADDPGConfig.from_dict({"rollout": {"num_envs": 3}})
    parameters = np.random.default_rng(0).normal(size=idle_policies(config).shape).astype(np.float32)
    card = evaluate_weights(config, parameters, 3, 4)

    env = make_vector_env(config.env.id, 3, 4)
    policy = greedy_policy(config, env, parameters)
    obs, frames = env.reset(), []
    for _ in range(25):  # the first frame, and one after each of 25 steps
        state = env.get_state()
        goal, e = state["goal_landmark"], np.arange(3)
        apart = [
            np.linalg.norm(state["agent_positions"] - state["landmark_positions"][e, mark][:, None], axis=2)
            for mark in (goal, 1 - goal)
        ]
        frames.append(np.stack(apart, axis=2))
        obs = env.step(policy(obs)).obs
    frames.append(env.final_distances())
    for e, found in enumerate(card.minimal_distances):
        agents = min(min(frame[e, 1:, 0]) for frame in frames)
        adversary = min(frame[e, 0, 0] for frame in frames)
        coverage = min(
            max(min(frame[e, 1:, mark]) for mark in (0, 1)) for frame in frames
        )  # at the same time
        assert found == pytest.approx([agents, adversary, coverage], rel=1e-6)


def test_visiting_landmarks_one_after_the_other_is_no_coverage():
    class Scripted:
        agents, num_envs = ("adversary_0", "agent_0"), 1

        def __init__(self):
            self.frames = iter([[0.0, 2.0], [2.0, 0.0], [1.5, 1.0]])

        def final_distances(self):
            return np.full((1, 2, 2), 3.0, np.float32)

        def get_state(self):
            goal, other = next(self.frames)  # the agent at 0 and both landmarks are on a line
            marks = np.array([[[goal, 0.0], [-other, 0.0]]])
            return {
                "agent_positions": np.zeros((1, 2, 2)),
                "landmark_positions": marks,
                "goal_landmark": np.array([0]),
            }

    minimal = episodes._MinimalDistances(Scripted())
    minimal.step(np.array([False]))
    assert minimal.step(np.array([True])) == pytest.approx(np.array([[0.0, 0.0, 2.0]]))


@pytest.mark.parametrize("continuous", [True, False])
def test_all_matchups_are_played_from_the_same_start_states(continuous):
    config = MADDPGConfig.from_dict(
        {"rollout": {"num_envs": 50}, "env": {"kwargs": {"continuous_actions": continuous}}}
    )
    rows = evaluate_matchups(config, idle_policies(config), 100, 7)
    rates = {tuple(row["players"].values()): row["success"] for row in rows}
    assert len(rates) == len(rows) == 9
    # From a corner, 25 discrete steps along one axis each may not reach the goal.
    fewest = 100.0 if continuous else 98.0
    assert min(rates["straight", "straight"]["adversary"], rates["trained", "straight"]["agents"]) >= fewest
    # Idle policies stay where they start.
    assert rates["random", "trained"]["agents"] == rates["trained", "trained"]["agents"] < 50
    alone = evaluate_weights(config, idle_policies(config), 100, integer_seed(7, "evaluation"))
    assert rates["trained", "trained"] == alone.to_dict()["success"]


def test_trained_teams_are_compared_by_what_the_scenario_is_judged_by():
    config = MADDPGConfig.from_dict({"env": {"id": "simple_speaker_listener"}})
    rows = evaluate_matchups(config, idle_policies(config), 3, 0)
    assert [tuple(row["players"].values()) for row in rows] == list(
        itertools.product(("trained", "random", "straight"), repeat=2)
    )
    alone = evaluate_weights(config, idle_policies(config), 3, integer_seed(0, "evaluation")).to_dict()
    assert rows[0]["agent_episode_returns_mean"] == alone["agent_episode_returns_mean"]
    assert rows[0]["measures"] == alone["measures"]
    assert list(alone["measures"]) == ["final_distance", "reached"]
    assert all(row.keys() == {"players", "agent_episode_returns_mean", "measures"} for row in rows)
