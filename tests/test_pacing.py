import math

import pytest

from distributed_maddpg.config import MADDPGConfig, PacingConfig
from distributed_maddpg.pacing import Pacer, fragments_per_call, in_chunks, updates_per_call
from distributed_maddpg.types import LearnerReport


def pacer(**settings):
    defaults = {
        "total_env_steps": 1000,
        "learning_starts": 100,
        "env_steps_per_update": 10.0,
        "tolerance_updates": 4,
        "publish_interval_updates": 3,
        "report_interval_env_steps": 250,
        "evaluation_interval_env_steps": 300,
        "checkpoint_interval_env_steps": 500,
    }
    return Pacer(PacingConfig(**{**defaults, **settings}))


def collect(pacer, env_steps):
    pacer.collection_started(env_steps)
    pacer.collection_done(env_steps)


def learn(pacer, updates):
    pacer.learning_started(updates)
    pacer.learning_done(updates)


def lock_step(config):
    """Count a whole run as SerialRunner does; return the pacer and the most updates due at once."""
    pacer, largest = Pacer(config.pacing), 0
    while not pacer.finished:
        collect(pacer, config.rollout.fragment_env_steps)
        largest = max(largest, pacer.updates_due())
        learn(pacer, pacer.updates_due())
    return pacer, largest


@pytest.mark.parametrize(
    ("env_steps", "due"), [(0, 0), (99, 0), (100, 1), (109, 1), (110, 2), (125, 3), (200, 11), (1000, 91)]
)
def test_the_updates_due_follow_from_the_env_steps(env_steps, due):
    counts = pacer()
    collect(counts, env_steps)
    assert counts.updates_due() == due


def test_less_than_one_env_step_per_update_allows_several_updates_per_step():
    counts = pacer(env_steps_per_update=0.25)
    collect(counts, 103)
    assert counts.updates_due() == 1 + 12


def test_updates_made_or_in_flight_are_not_due_again():
    counts = pacer()
    collect(counts, 200)
    counts.learning_started(4)
    assert counts.updates_due() == 7
    counts.learning_done(4)
    assert (counts.updates_due(), counts.updates) == (7, 4)
    learn(counts, 7)
    assert counts.updates_due() == 0


def test_steps_in_flight_allow_no_updates():
    counts = pacer()
    counts.collection_started(500)
    assert (counts.env_steps, counts.updates_due()) == (0, 0)
    counts.collection_done(500)
    assert (counts.env_steps, counts.updates_due()) == (500, 41)


def test_the_notebook_preset_makes_1961_updates_one_at_a_time():
    counts, largest = lock_step(MADDPGConfig.preset("notebook"))
    assert (counts.env_steps, counts.updates, largest) == (200_000, 1961, 1)


def test_the_paper_preset_makes_one_update_per_100_env_steps():
    counts, _ = lock_step(MADDPGConfig.preset("paper"))
    assert counts.env_steps == 1_500_160  # whole fragments of 256
    assert counts.updates == 1 + (1_500_160 - 25_600) // 100


@pytest.mark.parametrize(
    ("env_steps", "running", "updates", "fragment", "allowed"),
    [
        (0, 0, 0, 50, True),
        (90, 0, 0, 50, True),  # before learning starts there is no limit
        (100, 0, 0, 40, True),  # the steps of 4 updates ahead
        (100, 0, 0, 41, True),  # a single fragment may be larger than the tolerance
        (100, 1, 0, 41, False),
        (100, 20, 0, 20, True),
        (100, 20, 0, 21, False),
        (140, 0, 0, 1, False),
        (140, 0, 1, 10, True),
        (140, 0, 1, 11, False),
        (990, 0, 89, 40, True),  # the last fragment may exceed the total
        (1000, 0, 91, 1, False),
        (900, 100, 91, 1, False),
    ],
)
def test_collection_may_be_ahead_of_the_updates_by_the_tolerance(
    env_steps, running, updates, fragment, allowed
):
    counts = pacer()
    collect(counts, env_steps)
    counts.collection_started(running)
    learn(counts, updates)
    assert counts.may_collect(fragment) is allowed


def test_a_run_stays_within_the_tolerance_and_never_stalls():
    counts = pacer(total_env_steps=5000)
    while not counts.finished:
        while counts.may_collect(8):
            collect(counts, 8)
        assert counts.env_steps <= 100 + 10 * counts.updates + 40 or counts.updates == 0
        assert counts.updates_due() > 0, "neither collection nor learning may continue"
        learn(counts, 1)
    assert (counts.env_steps, counts.updates) == (5000, 491)


def test_weights_are_published_once_per_interval_of_started_updates():
    counts, published = pacer(), []
    collect(counts, 1000)
    for updates in (1, 1, 1, 1, 1, 5, 1, 1):
        counts.learning_started(updates)
        published.append(counts.publish_due())
        counts.learning_done(updates)
    assert published == [False, False, True, False, False, True, False, False]


@pytest.mark.parametrize(
    ("name", "due_at"),
    [("report", [250, 500, 750]), ("evaluation", [300, 600, 900]), ("checkpoint", [500, 1000])],
)
def test_intervals_are_due_once_when_passed(name, due_at):
    counts, seen = pacer(), []
    for _ in range(20):
        collect(counts, 50)
        if getattr(counts, f"{name}_due")():
            seen.append(counts.env_steps)
        assert not getattr(counts, f"{name}_due")()
    assert seen == due_at


def test_a_step_over_several_intervals_is_due_once():
    counts = pacer()
    collect(counts, 900)
    assert [counts.evaluation_due(), counts.evaluation_due()] == [True, False]


def test_no_evaluation_is_due_after_the_last_step():
    counts = pacer(evaluation_interval_env_steps=500)
    collect(counts, 500)
    assert counts.evaluation_due()
    collect(counts, 500)
    assert not counts.evaluation_due()


def test_an_interval_of_zero_is_never_due():
    counts = pacer(evaluation_interval_env_steps=0, checkpoint_interval_env_steps=0)
    collect(counts, 1000)
    assert not counts.evaluation_due()
    assert not counts.checkpoint_due()


def test_a_report_is_due_after_the_last_update():
    counts = pacer(report_interval_env_steps=10**6)
    collect(counts, 1000)
    assert not counts.report_due()
    learn(counts, 91)
    assert counts.report_due()


def test_a_run_is_finished_after_all_steps_and_all_updates_they_allow():
    counts = pacer()
    collect(counts, 990)
    learn(counts, 90)
    assert (counts.collection_finished, counts.finished) == (False, False)
    collect(counts, 10)
    assert (counts.collection_finished, counts.finished) == (True, False)
    learn(counts, 1)
    assert counts.finished


def test_a_run_too_short_to_learn_finishes():
    counts = pacer(total_env_steps=50)
    collect(counts, 50)
    assert (counts.finished, counts.updates) == (True, 0)


def resume(pacer, env_steps, updates):
    """Restore a pacer to counts, with an empty replay buffer."""
    pacer.set_state(pacer.get_state(env_steps, updates))
    pacer.restart_warmup()


def test_resume_continues_counts_and_fills_the_buffer_before_learning():
    counts = pacer()
    resume(counts, 400, 31)
    assert (counts.env_steps, counts.updates, counts.updates_due()) == (400, 31, 0)
    collect(counts, 99)
    assert (counts.updates_due(), counts.may_collect(40)) == (0, True)
    collect(counts, 21)
    assert counts.updates_due() == 12  # the same total as without the interruption
    learn(counts, 12)
    assert counts.updates == 1 + (520 - 100) // 10


def test_after_the_warmup_collection_waits_until_updates_catch_up():
    counts = pacer()
    resume(counts, 400, 31)
    collect(counts, 100)
    assert not counts.may_collect(40)
    learn(counts, counts.updates_due())
    assert counts.may_collect(40)


def test_a_resume_near_the_end_makes_the_remaining_updates():
    counts = pacer()
    resume(counts, 960, 80)
    collect(counts, 40)
    assert (counts.finished, counts.updates_due()) == (False, 11)
    learn(counts, 11)
    assert counts.finished


def test_resume_does_not_repeat_intervals_that_were_passed():
    counts = pacer()
    resume(counts, 620, 53)
    assert not (counts.report_due() or counts.evaluation_due() or counts.checkpoint_due())
    collect(counts, 130)
    assert (counts.report_due(), counts.evaluation_due(), counts.checkpoint_due()) == (True, False, False)


def test_a_resumed_finished_run_is_finished():
    counts = pacer()
    resume(counts, 1000, 91)
    assert (counts.finished, counts.may_collect(1), counts.updates_due()) == (True, False, 0)


def test_many_updates_are_split_into_chunks_that_fit_into_memory():
    assert list(in_chunks(0)) == []
    assert list(in_chunks(3)) == [3]
    assert list(in_chunks(130)) == [64, 64, 2]


@pytest.mark.parametrize(
    ("updates", "busy_s", "now", "tolerance", "expected"),
    [
        (1, 0.0025, 1, 128, 16),  # 20 fit into 0.05 s
        (20, 0.02, 16, 128, 32),  # a quarter of the tolerance
        (8, 8.0, 8, 128, 1),  # slower than that
        (16, 0.06, 16, 128, 16),  # a little slower: kept
        (16, 0.07, 16, 128, 8),
        (16, 0.03, 8, 128, 16),
        (1, 0.0, 1, 128, 32),
        (0, 0.0, 4, 128, 1),
        (8, 0.01, 1, 3, 1),
    ],
)
def test_a_call_of_the_learner_lasts_a_twentieth_of_a_second(updates, busy_s, now, tolerance, expected):
    assert updates_per_call(LearnerReport(updates, 1, busy_s), now, tolerance) == expected


@pytest.mark.parametrize(
    ("fragments_per_s", "expected"), [(0.1, 1), (3.9, 1), (4.0, 2), (31.9, 15), (32.0, 16), (math.inf, 16)]
)
def test_a_workers_calls_take_half_a_second_or_sixteen_fragments(fragments_per_s, expected):
    assert fragments_per_call(fragments_per_s) == expected
