from __future__ import annotations

import threading

import pytest

from distributed_maddpg.benchmarks.job import Job, Sample, run_job, slope, windows
from distributed_maddpg.errors import BadInput
from tests.support.target import target_config


def test_a_slope_is_the_counts_over_the_time() -> None:
    assert slope(Sample(1.0, 100, 2), Sample(3.0, 500, 8)) == (200.0, 3.0)
    assert slope(Sample(1.0, 100, 2), Sample(1.0, 500, 8)) == (0.0, 0.0)


def test_windows_are_whole_and_begin_where_asked() -> None:
    samples = [Sample(0.5 * k, 10 * k * k, k) for k in range(9)]  # until 4.0 s
    assert windows(samples, "env_steps", 1.0, 1.0) == [120.0, 200.0, 280.0]
    assert windows(samples, "updates", 1.0, 2.5) == [2.0]
    assert windows(samples, "updates", 9.0, 1.0) == []


def test_windows_reach_from_report_to_report() -> None:
    # 300 steps are reported every 0.75 s; whole seconds would see 300, 300, 600 of them.
    samples = [Sample(0.25 * k, 300 * (k // 3), 0) for k in range(20)]
    assert windows(samples, "env_steps", 0.0, 1.0) == [400.0, 400.0]
    assert windows(samples, "updates", 0.0, 1.0) == []


def test_the_first_sample_with_so_much_or_else_the_last() -> None:
    job = Job(samples=[Sample(1.0, 0, 0), Sample(2.0, 8, 0), Sample(3.0, 16, 1)])
    assert job.first(env_steps=1).at_s == 2.0
    assert job.first(updates=1).at_s == 3.0
    assert job.first(updates=9).at_s == 3.0


def test_a_job_is_watched_to_its_end() -> None:
    config = target_config(pacing={"total_env_steps": 640})
    job = run_job(config)
    assert (job.last.env_steps, job.last.updates) == (640, 1 + (640 - 320) // 8)
    assert job.device == "cpu"
    assert 0 < job.last.at_s <= job.total_s
    assert [sample.at_s for sample in job.samples] == sorted(sample.at_s for sample in job.samples)
    assert not [thread for thread in threading.enumerate() if thread.name == "watch"]


def test_a_job_can_end_a_time_after_its_first_update() -> None:
    job = run_job(target_config(pacing={"total_env_steps": 10**9}), learning_s=0.3)
    learning = job.last.at_s - job.first(updates=1).at_s
    assert 0.2 < learning < 5.0
    assert job.last.updates > 1


def test_a_job_that_cannot_start_leaves_no_watch() -> None:
    with pytest.raises(BadInput):
        run_job(target_config(env={"id": "tests.support.target:nothing"}))
    assert not [thread for thread in threading.enumerate() if thread.name == "watch"]
