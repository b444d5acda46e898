"""What a run's counts and results say of it: rates, time left, trends, bottleneck and faults."""

from __future__ import annotations

import pytest

from distributed_maddpg.bottleneck import REMEDIES, bottleneck_text
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.run.endings import EndingOptions
from distributed_maddpg.run.standing import StandingLog
from tests.support.scripted_progress import result


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def log_of(clock: Clock, learning_starts: int = 0, **ending: float) -> StandingLog:
    pacing = {"total_env_steps": 100_000, "learning_starts": max(1, learning_starts)}
    config = MADDPGConfig.from_dict({"num_workers": 2, "pacing": pacing})
    return StandingLog(config, EndingOptions(started=clock.now, **ending), clock)


def test_nothing_is_known_before_the_first_counts(clock: Clock) -> None:
    standing = log_of(clock).standing()
    assert (standing.env_steps, standing.updates, standing.progress) == (0, 0, 0.0)
    assert standing.env_steps_per_s is standing.time_left_s is standing.bottleneck is standing.scores is None


def test_rates_are_those_of_the_last_half_minute(clock: Clock) -> None:
    log, env_steps = log_of(clock), 0
    for second in range(100):
        clock.now += 1.0
        env_steps += 100 if second < 50 else 200
        log.add_counts(env_steps, env_steps // 100)
    standing = log.standing()
    assert (standing.env_steps, standing.elapsed_s, standing.stalled_s) == (15_000, 100.0, 0.0)
    assert (standing.env_steps_per_s, standing.updates_per_s) == (200.0, 2.0)
    assert standing.time_left_s == (100_000 - 15_000) / 200


def test_the_rate_of_collecting_alone_says_nothing_of_the_time_that_is_left(clock: Clock) -> None:
    log = log_of(clock, learning_starts=10_000)
    for env_steps in (2_000, 4_000, 6_000, 8_000):
        clock.now += 1.0
        log.add_counts(env_steps, 0)
    assert log.standing().env_steps_per_s == 2_000
    assert log.standing().time_left_s is None
    for updates in (1, 2, 3, 4):
        clock.now += 1.0
        log.add_counts(10_000 + 100 * updates, updates)
    assert log.standing().env_steps_per_s == pytest.approx(100)
    assert log.standing().time_left_s == pytest.approx(896)


def test_a_run_too_short_to_learn_has_a_time_left_too(clock: Clock) -> None:
    log = log_of(clock, learning_starts=200_000)
    for env_steps in (1_000, 2_000, 3_000):
        clock.now += 1.0
        log.add_counts(env_steps, 0)
    assert log.standing().time_left_s == 97


def test_the_time_left_is_that_of_max_time_if_that_is_less(clock: Clock) -> None:
    log = log_of(clock, max_time_s=60.0)
    clock.now += 10.0
    log.add_result(result(10_000, 50.0))
    assert log.standing().time_left_s == 50.0
    clock.now += 100.0
    assert log.standing().time_left_s == 0.0


def test_counts_that_stand_still_are_known(clock: Clock) -> None:
    log = log_of(clock)
    log.add_counts(100, 1)
    clock.now += 25.0
    log.add_counts(100, 1)
    assert log.standing().stalled_s == 25.0


def test_trends_faults_staleness_and_bottleneck_are_those_of_the_results(clock: Clock) -> None:
    log = log_of(clock)
    for index, success in enumerate((10.0, 40.0, 90.0)):
        faults = {"num_learner_restarts": index, "updates_lost": 7 * index, "num_replay_buffer_restarts": 0}
        log.add_result(result(10_000 * (index + 1), success, **faults))
    standing = log.standing()
    assert standing.scores is not None
    assert standing.scores.kind == "success"
    assert standing.scores.values["agents"] == 90.0
    assert standing.scores.trends["agents"] == (10.0, 40.0, 90.0)
    assert standing.scores.trends["adversary"] == (90.0, 60.0, 10.0)
    assert standing.faults == {"learner_restarts": 2, "updates_lost": 14}
    assert (standing.versions_behind, standing.healthy_workers) == ((1.25, 4), (2, 2))
    assert standing.bottleneck == "learner"
    assert standing.shares["learner_busy"] == 0.8


def test_an_evaluation_that_is_not_a_number_is_no_point_of_a_trend(clock: Clock) -> None:
    log = log_of(clock)
    for value in (1.0, float("nan"), 3.0):
        own = result(10_000, 0.0)
        own["evaluation"] = {"agent_episode_returns_mean": {"agent_0": 0.0}, "measures": {"hits": value}}
        log.add_result(own)
    scores = log.standing().scores
    assert scores is not None
    assert (scores.kind, scores.trends["hits"]) == ("measures", (1.0, 3.0))


@pytest.mark.parametrize("bottleneck", REMEDIES)
def test_each_bottleneck_has_words(bottleneck: str) -> None:
    shares = {"rollout_busy": 0.9, "rollout_blocked_push": 0.9, "rollout_blocked_weights": 0.9}
    shares |= {"learner_busy": 0.9, "learner_blocked_replay": 0.9, "rollout_blocked_pacing": 0.9}
    text = bottleneck_text(bottleneck, shares)  # type: ignore[arg-type]
    assert text.startswith(f"{bottleneck}: ") and " 90 %; " in text
