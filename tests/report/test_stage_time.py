from pathlib import Path

import pytest

from distributed_maddpg.bottleneck import SHARES
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.report.runs import Group, Run
from distributed_maddpg.report.stage_time import bottleneck, shares_of_reports


def run(num_workers, rows, starts=(), **timers):
    """Return a run with a report for each 100 env steps, of ten seconds each."""
    metrics = {f"timers/{name}_s": [0.0] * rows for name in SHARES}
    metrics |= {f"timers/{name}_s": values for name, values in timers.items()}
    metrics["num_env_steps_sampled_lifetime"] = [100.0 * (k + 1) for k in range(rows)]
    metrics["time_this_iter_s"] = [10.0] * rows
    config = MADDPGConfig(num_workers=num_workers)
    return Run(Path("run"), "gone", config, metrics, {}, {}, [], [{"time": 0.0, "env_steps": 0}, *starts])


def group(*runs):
    return Group("name", Path("run"), runs)


def test_parts_of_several_seeds_in_one_process_add_up():
    runs = [run(0, 2, learner_busy=[3.0, 3.0], rollout_busy=[1.0, 0.5]) for _ in range(3)]
    found = shares_of_reports(group(*runs))
    assert [own["learner_busy"] for own in found] == pytest.approx([0.9, 0.9])
    assert [own["rollout_busy"] for own in found] == pytest.approx([0.3, 0.15])
    assert bottleneck(group(*runs))["name"] == "learner"


def test_a_learners_process_tells_each_seed_of_all_its_time():
    runs = [
        run(2, 2, learner_busy=[4.0, 4.0], rollout_busy=[4.5, 4.5], learner_blocked_pacing=[6.0, 6.0])
    ] * 2
    found = bottleneck(group(*runs))
    assert found["shares"]["learner_busy"] == pytest.approx(0.4)
    assert found["shares"]["rollout_busy"] == pytest.approx(0.9)
    assert (found["name"], found["remedy"]) == ("worker CPU", "more workers or cores")
    assert "40% of the time updating" in found["text"] and "90% acting" in found["text"]


def test_reports_that_cover_a_start_do_not_decide():
    busy = [0.1, 9.0, 9.0, 0.1, 9.0]
    found = bottleneck(group(run(2, 5, [{"time": 9.0, "env_steps": 300}], learner_busy=busy)))
    assert (found["name"], found["shares"]["learner_busy"]) == ("learner", pytest.approx(0.9))


def test_shares_of_a_stage_are_all_of_the_time_at_most():
    [found] = shares_of_reports(group(run(2, 1, learner_busy=[15.0], learner_blocked_replay=[5.0])))
    assert (found["learner_busy"], found["learner_blocked_replay"]) == (0.75, 0.25)


def test_tables_without_timers_tell_nothing():
    known = run(2, 1)
    del known.metrics["timers/learner_busy_s"]
    assert bottleneck(group(known)) is None and shares_of_reports(group(known)) == []
