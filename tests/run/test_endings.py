import csv
import io
import json
import math
import os

import pytest

from distributed_maddpg.checkpoint.folder import load_checkpoint
from distributed_maddpg.checkpoint.saver import SavingOptions
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput, CheckpointError
from distributed_maddpg.evaluation.episodes import evaluate_weights
from distributed_maddpg.run.endings import Ending, EndingOptions
from distributed_maddpg.run.folder import read_checkpoint_record
from distributed_maddpg.run.goals import parse_goals
from distributed_maddpg.run.progress import Progress
from distributed_maddpg.run.resume import checkpoints_to_resume
from distributed_maddpg.run.training import RunOptions, train_run, train_seeds
from distributed_maddpg.seeding import integer_seed
from distributed_maddpg.trainer import MADDPG
from tests.support.target import target_config

SHORT = {
    "rollout": {"num_envs": 4},  # a round is 16 env steps
    "learner": {"batch_size": 16},
    "pacing": {
        "total_env_steps": 320,
        "learning_starts": 160,
        "env_steps_per_update": 16,
        "report_interval_env_steps": 32,
        "evaluation_interval_env_steps": 64,
        "checkpoint_interval_env_steps": 64,
    },
    "evaluation": {"episodes": 3, "final_episodes": 5},
}


def short(**changes):
    return MADDPGConfig.from_dict(changes, target_config(**SHORT))


class Clock:
    """Moves on by some seconds whenever it is read."""

    def __init__(self, *steps):
        self.now, self.steps = 0.0, [*steps]

    def __call__(self):
        self.now += self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        return self.now


def ending(stop_at=(), runs=1, reached=None, **options):
    goals = parse_goals(stop_at)
    return Ending(EndingOptions(goals, **options), short(), [reached or {}] * runs)


def evaluation(env_steps, **success):
    return {"num_env_steps": env_steps, "num_updates": 0, "success": success}


# Time


def test_without_a_limit_a_run_never_runs_out_of_time():
    assert not any(ending(clock=Clock(1e9)).check_time() for _ in range(3))


@pytest.mark.parametrize(("limit", "reserve"), [(100.0, 10.0), (3_600.0, 60.0), (21_000.0, 60.0)])
def test_at_least_a_tenth_of_the_time_or_a_minute_is_kept_for_saving(limit, reserve):
    clock = Clock(limit - reserve - 0.5, 0.0)
    running = ending(max_time_s=limit, clock=clock)
    assert not running.check_time()
    clock.steps = [0.5]
    assert running.check_time()
    assert running.time_is_up


def test_slow_checkpoints_rounds_and_fragments_make_it_stop_earlier():
    def stops_at(env_steps_per_s=math.inf, slowest_save_s=0.0, round_s=0.25):
        clock = Clock(round_s)
        running = ending(max_time_s=1_000.0, clock=clock)
        running.add_result({"env_steps_per_s": env_steps_per_s}, slowest_save_s)
        while not running.check_time():
            pass
        return clock.now

    assert stops_at() == 1_000 - 60 - 0.25
    assert stops_at(slowest_save_s=10.0) == 1_000 - 60 - 0.25
    assert stops_at(slowest_save_s=50.0) == 1_000 - 150 - 0.25
    assert stops_at(round_s=5.0) == 1_000 - 60 - 5
    assert stops_at(env_steps_per_s=0.5) == 1_000 - 60 - 2 * 16 / 0.5
    assert stops_at(env_steps_per_s=0.0) == stops_at()


def test_the_time_counts_from_the_start_of_the_command():
    running = ending(max_time_s=100.0, started=50.0, clock=Clock(139.0, 1.0))
    assert not running.check_time()
    assert running.check_time()
    assert running.reason == (
        "stopped after 1m30s (--max-time 1m40s); the same command with --resume auto goes on"
    )


# Goals


def test_all_goals_have_to_be_reached_by_one_evaluation():
    running = ending(["success.agents=90", "success.adversary<=30"])
    running.add_evaluations(
        0, [evaluation(1, agents=95, adversary=40), evaluation(2, agents=80, adversary=10)]
    )
    assert not running.is_reached and running.reason == ""
    running.add_evaluations(
        0, [evaluation(3, agents=91, adversary=30), evaluation(4, agents=0, adversary=50)]
    )
    assert running.is_reached
    assert running.scores == [{"success.agents": 91.0, "success.adversary": 30.0}]
    assert running.reason == (
        "ended early, because an evaluation reached success.agents>=90, success.adversary<=30 (--stop-at)"
    )


def test_several_runs_have_to_reach_them_in_the_same_evaluation_whenever_it_arrives():
    running = ending(["success.agents=90"], runs=2)
    running.add_evaluations(0, [evaluation(1, agents=95), evaluation(2, agents=93)])
    running.add_evaluations(1, [evaluation(1, agents=80)])
    assert not running.is_reached
    running.add_evaluations(0, [evaluation(3, agents=10)])
    running.add_evaluations(1, [evaluation(2, agents=92)])
    assert running.scores == [{"success.agents": 93.0}, {"success.agents": 92.0}]


def test_a_run_that_had_reached_them_has_ended_unless_more_is_asked_for():
    had = {"success.agents": 93.0}
    assert ending(["success.agents=90"], reached=had).is_reached
    assert not ending(["success.agents=95"], reached=had).is_reached
    assert not ending(["success.agents=90", "success.coverage=50"], reached=had).is_reached
    assert not ending([], reached=had).is_reached
    assert not ending(["success.agents=90"]).is_reached


# Whole runs


def options(*stop_at, saving=None, **ending):
    return RunOptions(saving or SavingOptions(), EndingOptions(parse_goals(stop_at), **ending))


def train(run_dir, config=None, options=None, stream=None):
    """Continue in a folder or begin there, as --resume auto does; return the summary."""
    checkpoints = checkpoints_to_resume([str(run_dir / "checkpoints")], True, lambda _: None)
    checkpoint = checkpoints[0] if checkpoints else None
    progress = Progress(stream or io.StringIO())
    return train_run(config or short(), run_dir, progress, checkpoint, options or RunOptions(), restart=True)


def column(path, name):
    with path.open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file)]


def test_a_run_out_of_time_is_interrupted_and_goes_on_with_the_same_command(tmp_path):
    whole, stream = train(tmp_path / "whole"), io.StringIO()
    limited = options(max_time_s=1_000.0, clock=Clock(90.0))
    first = train(tmp_path / "run", options=limited, stream=stream)
    # Before the tenth round, at 900 s, no 60 s for saving and 90 s for another round are left.
    assert (first["interrupted"], first["finished"], first["env_steps"]) == (True, False, 9 * 16)
    assert "evaluation" not in first
    assert first["reason"].startswith("stopped after 15m (--max-time 16m40s); ")
    assert first["reason"] in " ".join(stream.getvalue().split())
    assert load_checkpoint(first["files"]["checkpoint"]).env_steps == 9 * 16
    second = train(tmp_path / "run", options=options(max_time_s=1e6, clock=Clock(90.0)))
    assert (second["finished"], second["interrupted"], "reason" in second) == (True, False, False)
    assert second["weights_digest"] == whole["weights_digest"]


def test_time_that_is_up_at_once_leaves_a_checkpoint_too(tmp_path):
    summary = train(tmp_path, options=options(max_time_s=10.0, clock=Clock(90.0)))
    assert (summary["interrupted"], summary["env_steps"]) == (True, 0)
    assert train(tmp_path)["finished"]


def test_several_runs_are_out_of_time_together(tmp_path):
    limited = options(max_time_s=1_000.0, clock=Clock(90.0))
    summary = train_seeds(short(), 2, tmp_path, Progress(io.StringIO()), None, limited)
    assert summary["interrupted"] and summary["reason"] == summary["runs"][1]["reason"]
    assert [run["env_steps"] for run in summary["runs"]] == [9 * 16] * 2


def test_a_run_that_reaches_its_goal_has_finished_early(tmp_path):
    summary = train(tmp_path, options=options("episode_return_mean=-100"))
    assert (summary["finished"], summary["interrupted"], summary["env_steps"]) == (True, False, 64)
    assert (
        summary["reason"]
        == "ended early, because an evaluation reached episode_return_mean>=-100 (--stop-at)"
    )
    assert summary["evaluation"]["episodes"] == 5
    assert load_checkpoint(summary["files"]["checkpoint"]).env_steps == 64
    assert (tmp_path / "report.html").exists()
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert column(tmp_path / "returns.csv", "episodes") == [3, 5]


def test_the_same_command_again_ends_at_once_and_with_more_asked_for_goes_on(tmp_path):
    whole = train(tmp_path / "whole")
    goal = options("episode_return_mean=-100")
    first = train(tmp_path / "run", options=goal)
    again = train(tmp_path / "run", options=goal)
    for name in ("finished", "env_steps", "weights_digest", "evaluation", "reason"):
        assert again[name] == first[name]
    assert column(tmp_path / "run" / "returns.csv", "env_steps") == [64, 64]
    record = read_checkpoint_record(tmp_path / "run")
    assert (record.stop_at, record.reached_at) == (("episode_return_mean>=-100",), 64)
    more = train(tmp_path / "run", options=options("episode_return_mean=100"))
    assert (more["env_steps"], "reason" in more) == (320, False)
    assert more["weights_digest"] == whole["weights_digest"]
    # The evaluation that ended the run first stays in the table.
    steps = column(tmp_path / "run" / "returns.csv", "env_steps")
    assert steps == [64, 64, 128, 192, 256, 320]


def test_a_run_that_lost_the_checkpoint_of_its_goal_has_to_reach_it_again(tmp_path):
    goal = options("episode_return_mean=-100")
    train(tmp_path, options=options("episode_return_mean=-100", saving=SavingOptions(keep=0)))
    (tmp_path / "checkpoints" / "step_64" / "manifest.json").write_text("{")
    summary = train(tmp_path, options=goal)
    assert (summary["env_steps"], summary["finished"]) == (64, True)
    assert column(tmp_path / "returns.csv", "env_steps") == [64, 64]


def test_several_runs_end_together_and_stay_so(tmp_path):
    goal = options("episode_return_mean=-100")
    first = train_seeds(short(), 2, tmp_path, Progress(io.StringIO()), None, goal)
    assert (first["finished"], [run["env_steps"] for run in first["runs"]]) == (True, [64, 64])
    folders = [str(tmp_path / f"seed_{seed}" / "checkpoints") for seed in (0, 1)]
    checkpoints = checkpoints_to_resume(folders, True, lambda _: None)
    again = train_seeds(short(), 2, tmp_path, Progress(io.StringIO()), checkpoints, goal)
    assert [run["weights_digest"] for run in again["runs"]] == [
        run["weights_digest"] for run in first["runs"]
    ]
    assert again["reason"] == first["reason"]


def test_a_score_that_there_is_not_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(BadInput, match=r"--stop-at = 'success\.agents>=95': .*known: .*episode_return_mean"):
        train(tmp_path / "run", options=options("success.agents=95"))
    with pytest.raises(BadInput, match=r"--keep-best = 'success\.agents'"):
        train(tmp_path / "run", options=options(saving=SavingOptions(keep_best="success.agents")))
    with pytest.raises(BadInput, match=r"--stop-at = 'success\.agents>=95'"):
        train_seeds(short(), 2, tmp_path / "run", Progress(io.StringIO()), None, options("success.agents=95"))
    assert not (tmp_path / "run").exists()


BEST = SavingOptions(keep=1, keep_best="episode_return_mean")


def test_the_best_evaluation_has_its_checkpoint_which_survives_a_resume(tmp_path):
    first = train(tmp_path, short(pacing={"total_env_steps": 192}), options(saving=BEST))
    summary = train(tmp_path, options=options(saving=BEST))
    returns = [column(tmp_path / "returns.csv", agent) for agent in ("even_0", "odd_0")]
    scores = [sum(both) for both in zip(*returns, strict=True)]
    steps = column(tmp_path / "returns.csv", "env_steps")
    assert summary["best"]["value"] == pytest.approx(max(scores), abs=1e-12)
    assert summary["best"]["env_steps"] == steps[scores.index(max(scores))]
    assert summary["best"]["value"] >= first["best"]["value"]
    best = summary["files"]["best_checkpoint"]
    assert sorted(os.listdir(tmp_path / "checkpoints")) == sorted([os.path.basename(best), "step_320"])
    measured = load_checkpoint(best).measured
    assert (measured.name, measured.value) == (summary["best"]["name"], summary["best"]["value"])


@pytest.mark.parametrize("normalise", [False, True])
def test_the_best_checkpoint_holds_the_policies_that_were_evaluated_and_nothing_else(tmp_path, normalise):
    # The learner starts at once, so the first evaluation is the best; the report comes two updates later.
    pacing = {"learning_starts": 32, "report_interval_env_steps": 112, "evaluation_interval_env_steps": 80}
    config = short(pacing=pacing, env={"normalise": normalise})
    saving = SavingOptions(keep_best="episode_return_mean")
    summary = train(tmp_path, config, options(saving=saving))
    path = summary["files"]["best_checkpoint"]
    best = load_checkpoint(path)
    assert (best.env_steps, best.updates) == (summary["best"]["env_steps"], summary["best"]["updates"])
    assert (best.env_steps, best.updates) == (80, 1 + (80 - 32) // 16)
    seed = integer_seed(config.seed, "evaluation", 1)
    card = evaluate_weights(config, best.policies, 3, seed).to_dict()
    assert card["episode_return_mean"] == summary["best"]["value"]
    with MADDPG.from_checkpoint(path, env_id=config.env.id) as algo:
        assert algo.evaluate(3)["episodes"] == 3
        with pytest.raises(
            CheckpointError, match="the policies of an evaluation alone; resume from a checkpoint"
        ):
            algo.train()


def test_keeping_the_best_changes_nothing_of_the_run(tmp_path):
    plain, kept = train(tmp_path / "plain"), train(tmp_path / "kept", options=options(saving=BEST))
    assert kept["weights_digest"] == plain["weights_digest"]
    assert "best" not in plain and "best_checkpoint" not in plain["files"]


def test_each_of_several_runs_keeps_its_own_best(tmp_path):
    summary = train_seeds(short(), 2, tmp_path, Progress(io.StringIO()), None, options(saving=BEST))
    for seed, run in enumerate(summary["runs"]):
        assert run["files"]["best_checkpoint"].startswith(str(tmp_path / f"seed_{seed}" / "checkpoints"))
        assert load_checkpoint(run["files"]["best_checkpoint"]).config.seed == seed
