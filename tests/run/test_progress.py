import io
import time
from pathlib import Path

from distributed_maddpg.bottleneck import SHARES
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.run.progress import Progress

CARD = {
    "episodes": 20,
    "agent_episode_returns_mean": {"adversary_0": -12.345, "agent_0": 3.2},
    "success": {"agents": 81.5, "adversary": 40.0, "coverage": 12.25},
    "eps": 0.4,
}


def result(env_steps=50_000, evaluation=None):
    return {
        "num_env_steps_sampled_lifetime": env_steps,
        "num_updates_lifetime": 400,
        "env_steps_per_s": 12_345.6,
        "updates_per_s": 80.4,
        "time_this_iter_s": 10.0,
        "timers": {**dict.fromkeys(map("{}_s".format, SHARES), 0.5), "learner_busy_s": 8.0},
        "weights": {"versions_behind_mean": 1.25, "versions_behind_max": 4},
        "fault_tolerance": {"num_quarantined_blocks": 0},
        "evaluation": evaluation or {},
    }


def summary(**changes):
    files = dict.fromkeys(("run_dir", "checkpoint", "returns", "metrics", "report", "summary"), "runs/x")
    return {
        "interrupted": False, "env_id": "simple_adversary", "env_steps": 100_000, "updates": 901,
        "env_steps_per_s": 5000.0, "updates_per_s": 45.0, "training_s": 20.0, "device": "cpu",
        "device_reason": "auto: cpu", "files": files, **changes,
    }  # fmt: skip


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def shown(config=None, num_seeds=1, clock=time.monotonic):
    stream = io.StringIO()
    progress = Progress(stream, clock)
    progress.print_start(
        config or MADDPGConfig.from_dict({"num_workers": 0, "pacing": {"total_env_steps": 100_000}}),
        Path("runs/x"),
        num_seeds,
    )
    return progress, stream


def test_the_start_says_what_runs_where():
    assert "training simple_adversary with one process; files go to runs/x" in shown()[1].getvalue()
    lock_step = MADDPGConfig.from_dict({"num_workers": 3, "sync": True})
    assert "with 3 rollout workers on Ray, lock-step" in shown(lock_step)[1].getvalue()
    assert "one process, 4 seeds side by side" in shown(num_seeds=4)[1].getvalue()


def test_a_run_too_short_to_learn_says_so():
    pacing = {"total_env_steps": 500, "learning_starts": 500}  # enough for one update
    enough = MADDPGConfig.from_dict({"pacing": pacing})
    assert "nothing will be learnt" not in shown(enough)[1].getvalue()
    short = MADDPGConfig.from_dict({"pacing": {**pacing, "total_env_steps": 499}})
    lines = shown(short)[1].getvalue()
    assert "total_env_steps 499" in lines and "learning_starts 500" in lines and "raise the first" in lines


def test_a_plain_line_has_the_counts():
    progress, stream = shown()
    with progress:
        progress.print_result(result())
    line = stream.getvalue().splitlines()[1]
    assert line.startswith("[ 50 %] 50,000 env steps  400 updates  12,346 env-steps/s  80 updates/s")
    assert "80 updates/s  4s left  bottleneck: learner  weights 1.2 versions behind" in line


def test_plain_lines_come_now_and_then_and_at_the_end():
    progress, stream = shown()
    with progress:
        for env_steps in (10_000, 20_000, 30_000, 100_000):
            progress.print_result(result(env_steps))
    lines = stream.getvalue().splitlines()[1:]
    assert [line[:7] for line in lines] == ["[ 10 %]", "[100 %]"]


def test_a_line_comes_between_two_results_if_they_are_far_apart():
    clock = Clock()
    progress, stream = shown(clock=clock)
    with progress:
        for second in range(13):
            clock.now += 1.0
            progress.print_counts(1_000 * second, 10 * second)
    assert stream.getvalue().splitlines()[1:] == [
        "[  4 %] 4,000 env steps  40 updates  1,000 env-steps/s  10 updates/s  1m36s left",
        "[  9 %] 9,000 env steps  90 updates  1,000 env-steps/s  10 updates/s  1m31s left",
    ]


def test_the_first_result_has_a_line_also_after_a_line_of_counts():
    clock = Clock()
    progress, stream = shown(clock=clock)
    with progress:
        clock.now += 6.0
        progress.print_counts(0, 0)
        clock.now += 1.0
        progress.print_result(result(10_000))
    assert [line[:7] for line in stream.getvalue().splitlines()[1:]] == ["[  0 %]", "[ 10 %]"]


def test_a_pipe_gets_lines_even_where_colours_are_forced(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    progress, stream = shown()
    with progress:
        progress.print_result(result())
    assert "[ 50 %] 50,000 env steps" in stream.getvalue()
    assert "?25l" not in stream.getvalue()


def test_the_latest_evaluation_stays_in_the_line():
    progress, stream = shown()
    with progress:
        progress.print_result(result(10_000, CARD))
        progress.print_result(result(100_000))
    assert stream.getvalue().count("greedy success: agents 82 %, adversary 40 %, coverage 12 %") == 2


def test_without_success_the_returns_are_shown():
    progress, stream = shown()
    with progress:
        progress.print_result(
            result(10_000, {key: CARD[key] for key in ("episodes", "agent_episode_returns_mean")})
        )
    assert "greedy returns: adversary_0 -12.3, agent_0 3.2" in stream.getvalue()


def test_the_summary_of_a_finished_run():
    progress, stream = shown()
    progress.print_summary(summary(evaluation=CARD))
    text = stream.getvalue()
    for part in (
        "finished",
        "100,000 env steps, 5,000 a second",
        "901 updates, 45.0 a second",
        "20.0 s on cpu (auto: cpu)",
    ):
        assert part in text
    assert "adversary_0 -12.35, agent_0 +3.20  (20 episodes)" in text
    assert "agents 81.5 %" in text
    assert "--resume" not in text


def test_the_summary_of_an_interrupted_run_says_how_to_go_on():
    progress, stream = shown()
    progress.print_summary(summary(interrupted=True))
    assert "interrupted" in stream.getvalue()
    assert "resume with: distributed-maddpg train --resume runs/x" in stream.getvalue()


def test_an_environment_of_ones_own_is_named_in_the_way_to_go_on():
    progress, stream = shown()
    progress.print_summary(summary(interrupted=True, env_id="mine.env"))
    assert "train --resume runs/x --env.id mine.env" in stream.getvalue()


def test_a_table_shows_headers_and_numbers_flush_right():
    stream = io.StringIO()
    Progress(stream).print_table("env", ("figure", "median"), [("env steps/s", "+17,000"), ("ratio", "-3")])
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    assert lines == ["env", "figure        median", "env steps/s  +17,000", "ratio             -3"]
