"""When a successor is started, when that is given up, how long an answer is awaited, and what is counted."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from distributed_maddpg.errors import StageError, TrainingError
from distributed_maddpg.pacing import Pacer
from distributed_maddpg.runtime import health as module
from distributed_maddpg.runtime.health import MAX_FAILURES, FaultLog, Health
from distributed_maddpg.types import FaultEvent
from tests.support.target import target_config


class Clock:
    """A clock that stands still unless it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1e9 + self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def _backoffs(health: Health, clock: Clock, count: int) -> list[float]:
    """Return how long each of the next successors is waited for, none of which does any work."""
    found = []
    for _ in range(count):
        health.mark_lost()
        assert health.start_at is not None
        found.append(health.start_at - clock.now)
        clock.now = health.start_at
        health.mark_started()
    return found


def test_successors_come_after_growing_pauses(clock: Clock) -> None:
    assert _backoffs(Health("learner"), clock, MAX_FAILURES - 1) == [0, 1, 2, 4]


def test_work_makes_the_next_successor_come_at_once_again(clock: Clock) -> None:
    health = Health("learner")
    assert _backoffs(health, clock, 3) == [0, 1, 2]
    health.mark_ready()
    assert _backoffs(health, clock, 1) == [4], "to answer that it is there is not yet work"
    health.mark_worked(0.1)
    assert _backoffs(health, clock, 2) == [0, 1]


def test_five_losses_without_work_in_between_are_hopeless(clock: Clock) -> None:
    health = Health("learner")
    too_often = []
    for _ in range(5):
        health.mark_lost()
        too_often.append(health.failed_too_often)
        health.mark_started()
        health.mark_ready()
    assert too_often == [False] * 4 + [True]
    health.mark_worked(0.1)
    assert not health.failed_too_often


def test_a_process_is_ready_down_or_starting(clock: Clock) -> None:
    health = Health("learner")
    assert (health.ready, health.down, health.incarnation) == (False, False, 0)
    assert health.mark_ready() == 0, "it was never missed"
    assert (health.ready, health.down, health.incarnation) == (True, False, 0)
    health.mark_lost()
    assert (health.ready, health.down, health.incarnation) == (False, True, 0)
    health.mark_started()
    assert (health.ready, health.down, health.incarnation) == (False, False, 1)


def test_it_is_missed_from_its_first_loss_to_the_answer_of_a_successor(clock: Clock) -> None:
    health = Health("learner")
    health.mark_ready()
    for _ in range(3):
        health.mark_lost()
        health.mark_started()
        clock.now += 7
    assert health.mark_ready() == 21
    assert health.mark_ready() == 0
    clock.now += 5
    health.mark_lost()
    clock.now += 2
    assert health.mark_ready() == 2


def test_a_deadline_follows_what_the_process_showed() -> None:
    health = Health("learner")
    assert health.deadline_s(80) == 80
    health.mark_worked(0.5)
    assert health.deadline_s(80) == 10, "never less than an eighth"
    slow = Health("learner")
    slow.mark_worked(2.0)
    assert slow.deadline_s(80) == 20, "ten times the usual"
    slow.mark_worked(4.5)
    assert slow.deadline_s(80) == pytest.approx(25), "a fifth of the news"
    slow.mark_worked(1000)
    assert slow.deadline_s(80) == 80, "never more than the longest wait"


def test_a_successor_has_all_the_time_to_start(clock: Clock) -> None:
    health = Health("learner")
    health.mark_worked(0.1)
    health.mark_lost()
    assert health.deadline_s(80) == 80


def test_restarts_are_counted_by_kind_and_lines_are_logged(clock: Clock, caplog: Any) -> None:
    events: list[FaultEvent] = []
    log = FaultLog(events.append)
    assert log.counts == {
        "num_rollout_worker_restarts": 0,
        "num_replay_buffer_restarts": 0,
        "num_learner_restarts": 0,
        "num_evaluator_restarts": 0,
        "env_steps_lost": 0,
        "updates_lost": 0,
    }
    with caplog.at_level(logging.WARNING, "distributed_maddpg"):
        log.record_lost("rollout worker 12", TrainingError("rollout worker 12 died: killed"))
        clock.now += 2.5
        log.record_recovered("rollout worker 12", 2.5)
        log.record_recovered("rollout worker 3", 1.25)
        log.record_recovered("replay buffer", 0.5, ", with its transitions")
        log.record_recovered("learner", 4.0)
        log.record_recovered("evaluator", 0.0)
    assert log.counts == {
        "num_rollout_worker_restarts": 2,
        "num_replay_buffer_restarts": 1,
        "num_learner_restarts": 1,
        "num_evaluator_restarts": 1,
        "env_steps_lost": 0,
        "updates_lost": 0,
    }
    lines = [
        "rollout worker 12 died: killed",
        "rollout worker 12 was replaced after 2.5 s",
        "rollout worker 3 was replaced after 1.2 s",
        "replay buffer was replaced after 0.5 s, with its transitions",
        "learner was replaced after 4.0 s",
        "evaluator was replaced after 0.0 s",
    ]
    assert caplog.messages == lines
    assert [event.message for event in events] == lines
    assert [(event.process, event.kind, event.seconds) for event in events[:2]] == [
        ("rollout worker 12", "lost", 0.0),
        ("rollout worker 12", "recovered", 2.5),
    ]
    assert [event.time for event in events[:2]] == [1e9 + 1000, 1e9 + 1002.5]


def _raise_again(log: FaultLog, line: str) -> None:
    log.record_lost("rollout worker 0", StageError(line))


def test_one_error_five_times_within_the_while_ends_the_run(clock: Clock) -> None:
    events: list[FaultEvent] = []
    log = FaultLog(events.append)
    for _ in range(4):
        _raise_again(log, "boom")
        _raise_again(log, f"another {clock.now}")
        clock.now += 149
    with pytest.raises(TrainingError, match=r"^the same error 5 times: boom$"):
        _raise_again(log, "boom")
    assert [event.message for event in events].count("boom") == 5, "the last is told of, too"


def test_one_error_in_other_copies_and_steps_is_the_same() -> None:
    log = FaultLog()
    for number in range(4):
        _raise_again(log, f"KeyError: 'x', in copy {number} at step {number + 7} of its episode")
    with pytest.raises(TrainingError, match=r"^the same error 5 times: KeyError: 'x', in copy 9 when it was"):
        _raise_again(log, "KeyError: 'x', in copy 9 when it was reset")


def test_one_error_once_in_a_while_is_survived(clock: Clock) -> None:
    log = FaultLog()
    for _ in range(50):
        _raise_again(log, "boom")
        clock.now += 151


def test_processes_that_are_killed_again_and_again_are_no_error_of_their_own(clock: Clock) -> None:
    log = FaultLog()
    for _ in range(50):
        log.record_lost(
            "rollout worker 0", TrainingError("rollout worker 0 died: its process was killed, or crashed")
        )


def test_no_updates_are_due_from_an_empty_buffer_after_learner_and_replay_buffer_are_lost() -> None:
    config = target_config(pacing={"learning_starts": 320, "total_env_steps": 6400}).pacing
    counts = Pacer(config)
    _collect(counts, 1600)
    counts.learning_started(161)
    counts.learning_done(161)
    counts.restart_warmup()  # the replay buffer is back first
    counts.set_updates(100)  # and then the learner, as it was some time ago
    assert counts.updates_due() == 0
    _collect(counts, 319)
    assert counts.updates_due() == 0
    _collect(counts, 1)
    assert counts.updates_due() == 1 + 1600 // 8 - 100, "all that were earned and are not made"


def _collect(counts: Pacer, env_steps: int) -> None:
    counts.collection_started(env_steps)
    counts.collection_done(env_steps)
