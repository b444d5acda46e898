import math

import numpy as np
import pytest

from distributed_maddpg.metrics import IterationLog, digest, flatten
from distributed_maddpg.types import EnvSpec, EpisodeReport, LearnerReport, Measure, RolloutReport

SPEC_PARTS = (("red_0", "blue_0"), (1, 1), (1, 1), ("continuous",) * 2)
SPEC = EnvSpec(*SPEC_PARTS)
LOSSES = {"critic_loss": np.array([0.5, 0.25])}


def rollout(*returns, worker=0, version=1, busy_s=2.0, blocked_push_s=0.5):
    episodes = EpisodeReport(
        np.array(returns, float).reshape(-1, 2),
        np.full(len(returns), 25),
        np.zeros((len(returns), 2, 0)),
        np.zeros((len(returns), 0)),
    )
    return RolloutReport(worker, 100, episodes, version, busy_s, blocked_push_s)


def test_returns_and_losses_are_reported_by_agent():
    log = IterationLog(SPEC, 0)
    log.add_rollout(rollout((1, 10), (3, 30)), 1)
    result = log.result({"num_updates_lifetime": 7}, LOSSES)
    runners = result["env_runners"]
    assert result["num_updates_lifetime"] == 7
    assert runners["agent_episode_returns_mean"] == {"red_0": 2.0, "blue_0": 20.0}
    means = [runners[f"episode_return_{name}"] for name in ("mean", "min", "max")]
    assert means == [22.0, 11.0, 33.0]
    assert (runners["episode_len_mean"], runners["num_episodes_lifetime"]) == (25.0, 2)
    assert result["learners"] == {"red_0": {"critic_loss": 0.5}, "blue_0": {"critic_loss": 0.25}}


def test_without_episodes_returns_are_nan():
    runners = IterationLog(SPEC, 0).result({}, LOSSES)["env_runners"]
    assert math.isnan(runners["episode_return_mean"])
    assert all(math.isnan(value) for value in runners["agent_episode_returns_mean"].values())


def test_timers_are_means_over_workers_and_are_reset_each_iteration():
    log = IterationLog(SPEC, 2)
    for worker in (0, 1, 1):
        log.add_rollout(rollout(worker=worker), 1)
    log.add_learner(LearnerReport(3, 1, 1.5, 0.25, 0.125))
    log.add_learner(LearnerReport(3, 1, 1.5, 0.25, 0.125))
    timers = log.result({}, LOSSES)["timers"]
    assert log.result({}, LOSSES)["timers"] == timers
    assert (timers["rollout_busy_s"], timers["rollout_blocked_push_s"]) == (3.0, 0.75)
    assert (timers["learner_busy_s"], timers["learner_blocked_replay_s"]) == (3.0, 0.5)
    assert timers["learner_blocked_pacing_s"] == 0.25
    log.next_iteration()
    assert set(log.result({}, LOSSES)["timers"].values()) == {0.0}


def test_the_age_of_the_weights_is_reported_by_worker():
    log = IterationLog(SPEC, 3)
    for worker, version, latest in ((0, 5, 5), (0, 5, 7), (1, 1, 7), (1, 9, 7)):
        log.add_rollout(rollout(worker=worker, version=version), latest)
    weights = log.result({}, LOSSES)["weights"]
    assert weights["versions_behind"] == {"worker_0": 1.0, "worker_1": 3.0, "worker_2": 0.0}
    assert (weights["versions_behind_mean"], weights["versions_behind_max"]) == (2.0, 6)
    assert log.result({}, LOSSES)["weights"] == weights
    log.next_iteration()
    assert log.result({}, LOSSES)["weights"]["versions_behind_max"] == 0


def test_training_returns_are_means_over_the_newest_thousand_episodes():
    log = IterationLog(SPEC, 0)
    log.add_rollout(rollout(*[(100, 0)] * 600), 1)
    log.next_iteration()
    log.add_rollout(rollout(*[(1, 0)] * 600), 1)
    assert log.result({}, LOSSES)["env_runners"]["agent_episode_returns_mean"]["red_0"] == pytest.approx(50.5)
    log.add_rollout(rollout(*[(1, 0)] * 400), 1)
    runners = log.result({}, LOSSES)["env_runners"]
    assert (runners["agent_episode_returns_mean"]["red_0"], runners["num_episodes_lifetime"]) == (1.0, 1600)


def test_flatten_joins_keys():
    assert flatten({"a": 1, "b": {"c": 2, "d": {"e": 3}}, "f": {}}) == {"a": 1, "b/c": 2, "b/d/e": 3}


def test_a_digest_depends_on_every_bit_and_on_the_order():
    a, b = np.arange(4, dtype=np.float32), np.zeros(2, np.float32)
    changed = a.copy()
    changed[3] = np.nextafter(a[3], 9)
    assert digest(a, b) == digest(a.copy(), b)
    assert len({digest(a, b), digest(b, a), digest(changed, b), digest(a, -b)}) == 4
    assert digest(np.arange(6).reshape(2, 3).T) == digest(np.arange(6).reshape(2, 3).T.copy())


def test_measures_are_means_over_the_same_episodes_and_survive_a_restart():
    spec = EnvSpec(*SPEC_PARTS, measures=(Measure("covered", "landmarks"),))
    log = IterationLog(spec, 0)
    for values in ([1.0, 2.0], [6.0]):
        count = len(values)
        episodes = EpisodeReport(
            np.zeros((count, 2)),
            np.full(count, 25),
            np.zeros((count, 2, 0), np.float32),
            np.array(values)[:, None],
        )
        log.add_rollout(RolloutReport(0, 100, episodes, 1, 1.0), 1)
    other = IterationLog(spec, 0)
    other.set_state(log.get_state())
    for each in (log, other):
        assert each.result({}, LOSSES)["env_runners"]["measures"] == {"covered": 3.0}
    old = {name: array for name, array in log.get_state().items() if name != "measures"}
    other.set_state(old)  # from before there were measures
    assert math.isnan(other.result({}, LOSSES)["env_runners"]["measures"]["covered"])
    other = IterationLog(EnvSpec(*SPEC_PARTS, measures=(*spec.measures, Measure("more", "of it"))), 0)
    other.set_state(log.get_state())  # from before there was another one
    assert all(map(math.isnan, other.result({}, LOSSES)["env_runners"]["measures"].values()))
    empty = IterationLog(spec, 0)
    empty.set_state(IterationLog(spec, 0).get_state())
    assert "measures" not in IterationLog(SPEC, 0).get_state()
