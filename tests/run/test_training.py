import contextlib
import csv
import io
import json
import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import SessionLog

from distributed_maddpg.checkpoint import saver
from distributed_maddpg.checkpoint.folder import load_checkpoint, save_checkpoint
from distributed_maddpg.checkpoint.listing import checkpoints_of
from distributed_maddpg.checkpoint.saver import SavingOptions
from distributed_maddpg.cli import main
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput, CheckpointError, CheckpointUnavailable, TrainingError
from distributed_maddpg.learner import Learner
from distributed_maddpg.pacing import Pacer
from distributed_maddpg.run import resume as resume_module
from distributed_maddpg.run import training
from distributed_maddpg.run.folder import (
    CheckpointRecord,
    RunFolder,
    check_checkpoints_present,
    checkpoints_folder,
    newest_checkpoint,
    read_checkpoint_record,
)
from distributed_maddpg.run.progress import Progress
from distributed_maddpg.run.resume import checkpoints_to_resume
from distributed_maddpg.run.tables import CSVTable
from distributed_maddpg.run.training import RunOptions, default_run_dir, train_run, train_seeds
from tests.support.event_files import events
from tests.support.target import SHORT_RUN, target_config


def short(**changes):
    return MADDPGConfig.from_dict(changes, target_config(**SHORT_RUN))


def train(config, run_dir, resume=False, **options):
    checkpoint = checkpoints_to_resume([str(run_dir / "checkpoints")], False, print)[0] if resume else None
    return train_run(config, run_dir, Progress(io.StringIO()), checkpoint, **options)


def resumed_config(run_dir):
    return load_checkpoint(newest_checkpoint(run_dir)).config


class Interrupting(Progress):
    """Sends the run a signal after its first report."""

    def __init__(self, number):
        super().__init__(io.StringIO())
        self.number = number

    def print_result(self, result):
        super().print_result(result)
        os.kill(os.getpid(), self.number)


def test_the_default_folder_has_the_presets_name_and_the_time():
    assert re.fullmatch(r"runs/notebook-\d{8}-\d{6}", str(default_run_dir("notebook")))


def test_a_folder_that_cannot_be_created_is_refused_before_anything_starts(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"cannot be used \(Not a directory\)"):
        train(short(), tmp_path / "file" / "run")


def test_a_refused_configuration_leaves_no_folder(tmp_path):
    with pytest.raises(BadInput, match=r"env\.id"):
        train(short(env={"id": "nowhere.env"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_whole_run_leaves_its_settings_checkpoints_and_summary(tmp_path):
    summary = train(short(), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary
    assert (summary["finished"], summary["interrupted"]) == (True, False)
    assert (summary["env_steps"], summary["updates"]) == (320, 11)
    assert MADDPGConfig.from_toml(tmp_path / "run" / "config.toml") == short()
    saved = load_checkpoint(summary["files"]["checkpoint"])
    assert (saved.env_steps, saved.updates, saved.config) == (320, 11, short())
    assert sorted(os.listdir(tmp_path / "run" / "checkpoints")) == ["step_160", "step_320"]


def test_measures_in_infos_reach_every_table_the_report_and_evaluations(tmp_path, capsys):
    env = {
        "id": "tests.support.scored:parallel_env",
        "kwargs": {"max_cycles": 5, "continuous": True},
        "measures": ["other"],
    }
    summary = train(short(env=env), tmp_path)
    expected = {"score": 10.0, "half_way": 0.4, "other": 0.5}
    assert summary["evaluation"]["measures"] == pytest.approx(expected)
    rows = {}
    for name in ("metrics.csv", "returns.csv"):
        with (tmp_path / name).open(newline="") as file:
            rows[name] = list(csv.DictReader(file))[-1]
    tags = {}
    for path in tmp_path.rglob("events*"):
        for event in events(path):
            tags |= {value.tag: value.simple_value for value in event.summary.value}
    for name, value in expected.items():
        assert float(rows["metrics.csv"][f"env_runners/measures/{name}"]) == pytest.approx(value)
        assert float(rows["returns.csv"][f"measure_{name}"]) == pytest.approx(value)
        for stage in ("env_runners", "evaluation"):
            assert tags[f"{stage}/measures/{name}"] == pytest.approx(value)
    assert "Steps so far, plus ten for the second" in (tmp_path / "report.html").read_text()
    evaluation = ["evaluate", str(tmp_path), "--episodes", "3", "--env.id", env["id"], "--json"]
    assert main([*evaluation, "--no-matchups"]) == 0
    assert json.loads(capsys.readouterr().out)["measures"] == pytest.approx(expected)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_can_go_on(number, tmp_path):
    first = train_run(short(), tmp_path / "run", Interrupting(number))
    assert (first["interrupted"], first["env_steps"], "evaluation" in first) == (True, 160, False)
    assert resumed_config(tmp_path / "run") == short()
    longer = short(pacing={"total_env_steps": 480})
    second = train(longer, tmp_path / "run", resume=True)
    assert (second["finished"], second["env_steps"]) == (True, 480)
    assert second["updates"] == 1 + (480 - 160) // 16  # as without the interruption
    assert resumed_config(tmp_path / "run") == longer
    assert MADDPGConfig.from_toml(tmp_path / "run" / "config.toml") == longer


class InterruptingAtTheEnd(Progress):
    """Sends the run a signal when all that is left to do is to print its summary."""

    def __init__(self):
        self.printed = io.StringIO()
        super().__init__(self.printed)

    def print_summary(self, summary):
        os.kill(os.getpid(), signal.SIGTERM)
        super().print_summary(summary)


@pytest.mark.parametrize("train_some", [train_run, lambda config, *rest: train_seeds(config, 2, *rest)])
def test_a_signal_after_the_end_changes_nothing(tmp_path, train_some):
    progress, unhandled = InterruptingAtTheEnd(), []
    before = signal.signal(signal.SIGTERM, lambda number, _: unhandled.append(number))
    try:
        summary = train_some(short(), tmp_path / "run", progress)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not unhandled
    assert (summary["finished"], summary["interrupted"]) == (True, False)
    assert re.search(r"result +finished", progress.printed.getvalue())


def test_an_iteration_that_was_cut_has_its_row_when_it_is_whole(tmp_path, monkeypatch):
    done = Pacer.collection_done

    def interrupting(pacer, env_steps):
        done(pacer, env_steps)
        if pacer.env_steps == 240:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Pacer, "collection_done", interrupting)
        cut = train(short(), tmp_path)
    assert (cut["interrupted"], cut["env_steps"]) == (True, 240)
    assert rows_of(tmp_path / "metrics.csv") == ["160"]
    assert train(short(), tmp_path, resume=True)["finished"]
    assert rows_of(tmp_path / "metrics.csv") == ["160", "320"]


def test_signals_are_given_back_after_a_run(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    train(short(), tmp_path / "run")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_run_may_live_in_another_thread(tmp_path):
    done = []
    thread = threading.Thread(target=lambda: done.append(train(short(), tmp_path / "run")))
    thread.start()
    thread.join(60)
    assert done[0]["finished"]


def test_resuming_what_holds_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint to resume from"):
        train(short(), tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


def test_the_same_run_twice_gives_the_same_digest(tmp_path):
    first, second = (train(short(), tmp_path / name)["weights_digest"] for name in ("a", "b"))
    assert first == second


def test_several_seeds_leave_a_run_folder_each_and_a_summary_of_all(tmp_path):
    summary = train_seeds(short(seed=3), 2, tmp_path / "run", Progress(io.StringIO()))
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary
    assert (summary["num_seeds"], summary["updates"], summary["finished"]) == (2, 2 * 11, True)
    for seed, own in zip((3, 4), summary["runs"], strict=True):
        folder = tmp_path / "run" / f"seed_{seed}"
        alone = train(short(seed=seed), tmp_path / f"alone_{seed}")
        assert own["weights_digest"] == alone["weights_digest"]
        assert own["evaluation"] == alone["evaluation"]
        files = [sorted(path.name for path in run.iterdir()) for run in (folder, tmp_path / f"alone_{seed}")]
        assert [name for name in files[0] if "tfevents" not in name] == [
            name for name in files[1] if "tfevents" not in name
        ]
        assert MADDPGConfig.from_toml(folder / "config.toml").seed == seed
    with pytest.raises(BadInput, match=r"already holds runs; resume one with --resume .*seed_3"):
        train_seeds(short(seed=7), 2, tmp_path / "run", Progress(io.StringIO()))


def test_one_of_several_runs_is_continued_by_itself(tmp_path):
    train_seeds(short(pacing={"total_env_steps": 320}), 2, tmp_path, Progress(io.StringIO()))
    longer = short(seed=1, pacing={"total_env_steps": 480})
    assert train(longer, tmp_path / "seed_1", resume=True)["env_steps"] == 480


def test_a_run_that_fails_to_start_leaves_its_folder_free(tmp_path):
    env = {"id": "tests.support.failing:parallel_env", "kwargs": {"fail_at": 6}}
    failing = short(env=env, exploration={"kind": "auto"})
    with pytest.raises(RuntimeError, match="boom"):
        train(failing, tmp_path / "run")
    assert train(short(), tmp_path / "run")["finished"]


# Checkpoints beside the training, and what goes wrong with them


def rows_of(path):
    """Return the first column of a table."""
    return [line.partition(",")[0] for line in path.read_text().splitlines()[1:]]


def often(**changes):
    """Return settings with a report every 32 steps, of 320, and a checkpoint every 64."""
    pacing = {"report_interval_env_steps": 32, "checkpoint_interval_env_steps": 64}
    return short(pacing={**pacing, "evaluation_interval_env_steps": 64, **changes})


class Waiting(Progress):
    """Lets the thread that saves have its way after each report, and collects all lines."""

    def __init__(self, monkeypatch):
        self.stream = io.StringIO()
        super().__init__(self.stream)
        start = saver.CheckpointSaver.start

        def start_and_wait(saver, checkpoints):
            start(saver, checkpoints)
            saver._thread.join()

        monkeypatch.setattr(saver.CheckpointSaver, "start", start_and_wait)

    def lines(self, part):
        return [line for line in self.stream.getvalue().splitlines() if part in line]


def fail(monkeypatch, fails):
    """Let saving fail for the attempts, numbered from 1, and checkpoints that `fails` says."""
    attempts = []

    def save(path, checkpoint):
        attempts.append(checkpoint.env_steps)
        if fails(len(attempts), checkpoint):
            raise OSError(28, "No space left on device")
        return save_checkpoint(path, checkpoint)

    monkeypatch.setattr(saver, "save_checkpoint", save)
    return attempts


def test_a_checkpoint_follows_each_interval_and_the_newest_stay(tmp_path, monkeypatch):
    attempts, progress = fail(monkeypatch, lambda *_: False), Waiting(monkeypatch)
    summary = train_run(often(), tmp_path, progress, options=RunOptions(SavingOptions(keep=2)))
    assert attempts == [64, 128, 192, 256, 320]
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["step_256", "step_320"]
    assert len(progress.lines("saved ")) == 5
    assert summary["files"]["checkpoint"] == f"{tmp_path}/checkpoints/step_320"
    middle = load_checkpoint(tmp_path / "checkpoints" / "step_256")
    steps = [line.partition(",")[0] for line in middle.tables["metrics.csv"].splitlines()[1:]]
    assert steps == [str(32 * n) for n in range(1, 9)]


def test_a_run_killed_after_a_checkpoint_has_no_row_twice_and_none_missing(tmp_path, monkeypatch):
    whole = train_run(often(), tmp_path / "whole", Waiting(monkeypatch))

    class Killed(Waiting):
        def print_result(self, result):
            super().print_result(result)
            if result["num_env_steps_sampled_lifetime"] == 224:
                raise KeyboardInterrupt

    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train_run(often(), run, Killed(monkeypatch))
    assert newest_checkpoint(run).name == "step_192"
    assert rows_of(run / "metrics.csv")[-1] == "224"
    for name in ("metrics.csv", "returns.csv"):
        with (run / name).open("a") as file:
            file.write("256,1,2\r\n288,")
    again = train(often(), run, resume=True)
    assert again["weights_digest"] == whole["weights_digest"]
    assert again["evaluation"] == whole["evaluation"]
    for name in ("metrics.csv", "returns.csv"):
        assert rows_of(run / name) == rows_of(tmp_path / "whole" / name)
    assert (run / "returns.csv").read_bytes() == (tmp_path / "whole" / "returns.csv").read_bytes()


def test_tensorboard_is_told_to_drop_what_came_after_the_checkpoint(tmp_path):
    train_run(short(), tmp_path, Interrupting(signal.SIGINT))
    time.sleep(1.1)  # TensorBoard reads files in the order of their names, which hold the second
    train(short(), tmp_path, resume=True)
    files = sorted(tmp_path.glob("events.out.tfevents*"))
    assert len(files) == 2
    first, second = (list(map(read_event, events(path))) for path in files)
    purged = [[step for step, start, _ in events if start] for events in (first, second)]
    assert purged == [[1], [161]]
    assert {step for step, _, tags in first if "timers/learner_busy_s" in tags} == {160}
    assert {step for step, _, tags in second if "timers/learner_busy_s" in tags} == {320}


def read_event(event):
    """Return (step, whether it says that a run began, tags) of an event."""
    started = event.HasField("session_log") and event.session_log.status == SessionLog.START
    return event.step, started, {value.tag for value in event.summary.value}


def test_a_checkpoint_that_fails_is_one_line_and_the_training_goes_on(tmp_path, monkeypatch):
    attempts, progress = fail(monkeypatch, lambda number, _: number == 2), Waiting(monkeypatch)
    summary = train_run(often(), tmp_path, progress)
    assert attempts == [64, 128, 192, 256, 320]
    problems = progress.lines("was not saved")
    assert problems == [f"{tmp_path}/checkpoints/step_128 was not saved ([Errno 28] No space left on device)"]
    assert (summary["finished"], "problem" in summary) == (True, False)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["step_192", "step_256", "step_320"]


def test_a_failure_is_tried_again_before_the_next_interval(tmp_path, monkeypatch):
    monkeypatch.setattr(saver, "_RETRY_S", 0.0)
    attempts = fail(monkeypatch, lambda number, _: number < 3)
    train_run(often(checkpoint_interval_env_steps=128), tmp_path, Waiting(monkeypatch))
    assert attempts == [128, 160, 192, 256, 320]


def test_where_nothing_can_be_saved_the_run_ends_with_a_problem_and_the_last_good_one(tmp_path, monkeypatch):
    fail(monkeypatch, lambda number, _: number > 1)
    summary = train_run(often(), tmp_path, Waiting(monkeypatch))
    assert summary["finished"]
    assert summary["problem"].startswith(f"{tmp_path}/checkpoints/step_320 was not saved")
    assert "checkpoint" not in summary["files"]
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert os.listdir(tmp_path / "checkpoints") == ["step_64"]
    assert load_checkpoint(tmp_path / "checkpoints" / "step_64").env_steps == 64
    monkeypatch.undo()
    again = train(often(), tmp_path, resume=True)
    assert again["weights_digest"] == summary["weights_digest"]


def test_a_last_checkpoint_that_does_not_fit_is_saved_without_transitions(tmp_path, monkeypatch):
    fail(monkeypatch, lambda _, checkpoint: checkpoint.replay and checkpoint.env_steps == 320)
    summary = train_run(often(), tmp_path, Waiting(monkeypatch))
    assert summary["problem"].endswith("it was saved without its transitions")
    assert load_checkpoint(tmp_path / "checkpoints" / "step_320").replay is None


def test_transitions_may_be_left_out(tmp_path):
    summary = train(short(), tmp_path, options=RunOptions(SavingOptions(replay=False)))
    assert load_checkpoint(summary["files"]["checkpoint"]).replay is None


def test_a_run_that_fails_leaves_a_checkpoint_of_that_moment(tmp_path, monkeypatch):
    learn = Learner.learn

    def failing(learner, batches):
        if learner.updates >= 5:
            raise TrainingError("it broke")
        learn(learner, batches)

    with monkeypatch.context() as patched:
        patched.setattr(Learner, "learn", failing)
        with pytest.raises(TrainingError, match="it broke"):
            train(short(), tmp_path)
    assert load_checkpoint(newest_checkpoint(tmp_path)).updates == 5


def test_tables_that_cannot_be_written_for_a_while_lose_no_row(tmp_path, monkeypatch):
    flush, progress = CSVTable.flush, Waiting(monkeypatch)

    def sometimes(table):
        if table._path.name == "metrics.csv" and 96 <= int(table.text().splitlines()[-1].split(",")[0]) < 192:
            raise OSError(28, "No space left on device")
        flush(table)

    monkeypatch.setattr(CSVTable, "flush", sometimes)
    summary = train_run(often(), tmp_path, progress)
    assert "problem" not in summary
    assert rows_of(tmp_path / "metrics.csv") == [str(32 * n) for n in range(1, 11)]
    assert len(progress.lines("cannot be written to (No space left on device)")) == 3


@pytest.mark.parametrize("failing", ["write_report", "write_atomic"])
def test_a_file_that_cannot_be_written_at_the_end_is_a_problem_in_the_summary(tmp_path, monkeypatch, failing):
    real, calls = getattr(training, failing), []

    def fail_once(*arguments, **named):
        calls.append(arguments)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        return real(*arguments, **named)

    monkeypatch.setattr(training, failing, fail_once)
    progress = Waiting(monkeypatch)
    summary = train_run(short(), tmp_path, progress)
    problem = f"{tmp_path}: cannot be written to (No space left on device)"
    assert (summary["finished"], summary["problem"]) == (True, problem)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert progress.lines("cannot be written to") == [problem]
    assert (
        ("report" in summary["files"]) == (failing != "write_report") == (tmp_path / "report.html").exists()
    )


def test_a_report_that_a_damaged_table_prevents_names_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(training.RunFolder, "add_result", lambda self, result: junk.write_text("a,b\n1,2\n"))
    junk = tmp_path / "metrics.csv"
    summary = train_run(short(), tmp_path, Progress(io.StringIO()))
    problem = f"report.html was not written (RUN_DIR = {str(tmp_path)!r}: metrics.csv is not a run's table"
    assert summary["problem"].startswith(problem)


def test_a_report_of_several_seeds_that_cannot_be_written_is_a_problem_in_their_summary(
    tmp_path, monkeypatch
):
    write = training.write_report

    def failing(folders, **named):
        if folders == [tmp_path]:
            raise OSError(28, "No space left on device")
        return write(folders, **named)

    monkeypatch.setattr(training, "write_report", failing)
    summary = train_seeds(short(), 2, tmp_path, Progress(io.StringIO()))
    assert summary["problem"] == f"{tmp_path}: cannot be written to (No space left on device)"
    assert not any("problem" in run for run in summary["runs"])
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


def test_a_folder_in_use_is_left_alone(tmp_path):
    held = RunFolder(tmp_path)
    (tmp_path / "metrics.csv").write_text("kept\n1\n")
    with pytest.raises(BadInput, match="another process is training in it"):
        train(short(), tmp_path)
    held.close()
    assert (tmp_path / "metrics.csv").read_text() == "kept\n1\n"
    assert train(short(), tmp_path)["finished"]


def test_a_folder_is_let_go_at_the_end_of_a_run_and_after_a_failure(tmp_path):
    train(short(), tmp_path / "run")
    with pytest.raises(RuntimeError, match="boom"):
        env = {"id": "tests.support.failing:parallel_env", "kwargs": {"fail_at": 6}}
        train(short(env=env, exploration={"kind": "auto"}), tmp_path / "failed")
    for name in ("run", "failed"):
        RunFolder(tmp_path / name).close()


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_checkpoints_may_be_behind_a_url(kind, tmp_path, monkeypatch):
    url = f"memory://{tmp_path}/there" if kind == "memory" else f"file://{tmp_path}/there"
    options = SavingOptions(folder=url, keep=2)
    first = train_run(
        often(total_env_steps=192), tmp_path / "run", Waiting(monkeypatch), options=RunOptions(options)
    )
    assert first["files"]["checkpoint"] == f"{url}/step_192"
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert [str(path).rpartition("/")[2] for path in checkpoints_of(url)] == ["step_192", "step_128"]
    checkpoint = checkpoints_to_resume([url], False, print)[0]
    second = train_run(often(), tmp_path / "run", Waiting(monkeypatch), checkpoint, RunOptions(options))
    assert (second["finished"], second["env_steps"]) == (True, 320)
    assert rows_of(tmp_path / "run" / "metrics.csv") == [str(32 * n) for n in range(1, 11)]


def test_a_new_runs_checkpoints_take_nobodys_place(tmp_path):
    options = SavingOptions(folder=str(tmp_path / "shared"))
    train(short(), tmp_path / "first", options=RunOptions(options))
    with pytest.raises(BadInput, match=r"--checkpoint-dir = .*: already holds checkpoints"):
        train(short(), tmp_path / "second", options=RunOptions(options))
    assert not (tmp_path / "second").exists()


def test_several_seeds_take_no_folder_for_checkpoints(tmp_path):
    options = SavingOptions(folder=str(tmp_path / "shared"))
    with pytest.raises(BadInput, match=r"--checkpoint-dir = .*: is for one run"):
        train_seeds(short(), 2, tmp_path / "run", Progress(io.StringIO()), None, RunOptions(options))


# --resume auto


def auto(run_dir, config=None):
    """Continue in a folder or begin there; return the summary and what was said."""
    said = []
    checkpoint = next(iter(checkpoints_to_resume([str(run_dir / "checkpoints")], True, said.append)), None)
    progress = Progress(io.StringIO())
    return train_run(config or short(), run_dir, progress, checkpoint, restart=True), said


def test_where_there_is_nothing_a_run_is_begun(tmp_path):
    summary, said = auto(tmp_path / "run")
    assert summary["finished"]
    assert said == [f"{tmp_path}/run/checkpoints holds no checkpoint that can be read: starting a new run"]


def test_a_run_without_a_checkpoint_is_begun_anew_with_clean_tables(tmp_path):
    (tmp_path / "config.toml").write_text("seed = 99\n")
    for name in ("metrics.csv", "returns.csv"):
        (tmp_path / name).write_text("num_env_steps_sampled_lifetime,env_steps\n7,7\n8,")
    summary, _ = auto(tmp_path)
    assert summary["finished"]
    assert rows_of(tmp_path / "metrics.csv") == ["160", "320"]
    assert rows_of(tmp_path / "returns.csv") == ["320"]
    assert MADDPGConfig.from_toml(tmp_path / "config.toml") == short()


def test_a_broken_checkpoint_is_named_and_set_aside_and_an_older_one_taken(tmp_path):
    whole = train(short(), tmp_path)
    newest = tmp_path / "checkpoints" / "step_320" / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    summary, said = auto(tmp_path)
    assert said[0].startswith(f"skipped: {newest}: has ")
    assert said[1:] == [f"resuming from {tmp_path}/checkpoints/step_160"]
    assert summary["weights_digest"] == whole["weights_digest"]
    names = sorted(os.listdir(tmp_path / "checkpoints"))
    assert len(names) == 3 and names[0] == "step_160" and names[1] == "step_320"
    assert re.fullmatch(r"step_320\.broken\.[0-9a-f]{8}", names[2])
    assert load_checkpoint(tmp_path / "checkpoints" / "step_320").env_steps == 320
    assert auto(tmp_path)[1] == [f"resuming from {tmp_path}/checkpoints/step_320"]


def test_where_all_are_broken_a_run_is_begun(tmp_path):
    whole = train(short(), tmp_path)
    for name in ("step_160", "step_320"):
        (tmp_path / "checkpoints" / name / "manifest.json").write_text("{")
    summary, said = auto(tmp_path)
    assert [line.partition(" ")[0] for line in said] == ["skipped:"] * 2 + [f"{tmp_path}/checkpoints"]
    assert summary["weights_digest"] == whole["weights_digest"]
    assert rows_of(tmp_path / "metrics.csv") == ["160", "320"]
    assert len(list((tmp_path / "checkpoints").glob("*.broken.*"))) == 2


def test_without_auto_a_broken_checkpoint_is_refused_and_stays(tmp_path):
    train(short(), tmp_path)
    (tmp_path / "checkpoints" / "step_320" / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"step_320/manifest\.json: is not valid JSON"):
        train(short(), tmp_path, resume=True)
    assert (tmp_path / "checkpoints" / "step_320").is_dir()


def test_a_checkpoint_of_another_version_is_set_aside_but_never_begun_over(tmp_path):
    train(short(), tmp_path)
    folder = tmp_path / "checkpoints"
    newest, older = (folder / name / "manifest.json" for name in ("step_320", "step_160"))
    before = {path: path.read_bytes() for path in newest.parent.iterdir()}
    for manifest in (newest, older):
        manifest.write_text(manifest.read_text().replace('"format_version": 3', '"format_version": 4'))
    with pytest.raises(CheckpointError, match="format version 4, this package reads 1 to 3; upgrade"):
        auto(tmp_path)
    assert sorted(os.listdir(folder)) == ["step_160", "step_320"]
    older.write_text(older.read_text().replace('"format_version": 4', '"format_version": 3'))
    said = auto(tmp_path)[1]
    assert "format version 4" in said[0] and "resuming from" in said[1] and "step_160" in said[1]
    [kept] = folder.glob("step_320.aside.*")
    assert all((kept / path.name).read_bytes() == data for path, data in before.items() if path != newest)


def test_one_that_may_be_whole_is_never_where_it_could_be_replaced(tmp_path, monkeypatch):
    train(short(), tmp_path)
    newest = tmp_path / "checkpoints" / "step_320"
    monkeypatch.setattr(resume_module, "load_checkpoint", unreadable("step_320"))
    monkeypatch.setattr(resume_module, "set_aside", refusing)
    with pytest.raises(CheckpointError, match="Permission denied"):
        auto(tmp_path)
    assert newest.is_dir()


def unreadable(name):
    def load(path):
        if name in str(path):
            raise CheckpointUnavailable(f"{path}: cannot be read (Permission denied)")
        return load_checkpoint(path)

    return load


def refusing(path, why):
    raise PermissionError(13, "Permission denied")


def test_a_run_remembers_where_its_checkpoints_are_and_how_they_are_saved(tmp_path):
    options = SavingOptions(folder=str(tmp_path / "there"), replay=False, keep=7)
    train(short(), tmp_path / "run", options=RunOptions(options))
    newest = tmp_path / "there" / "step_320"
    assert read_checkpoint_record(tmp_path / "run") == CheckpointRecord(options, str(newest))
    assert read_checkpoint_record(tmp_path / "other") == CheckpointRecord(SavingOptions())
    assert checkpoints_folder(tmp_path / "other") == str(tmp_path / "other" / "checkpoints")
    for place in (tmp_path / "run", tmp_path / "there", newest):
        assert newest_checkpoint(place) == newest
    shutil.rmtree(newest)
    shutil.rmtree(newest.with_name("step_160"))
    with pytest.raises(CheckpointError, match="this run has no checkpoint yet"):
        newest_checkpoint(tmp_path / "run")
    for text in (
        "",
        "[]",
        "{",
        '{"folder": "a\\u0000b", "replay": true, "keep": 3, "newest": ""}',
        "[" * 9999,
        '{"folder": "", "replay": true, "keep": 1e5, "newest": ""}',
        '{"folder": "", "replay": true, "keep": true, "newest": ""}',
        '{"folder": "", "replay": 1, "keep": 3, "newest": ""}',
        '{"folder": 3}',
    ):
        (tmp_path / "run" / "checkpoints.json").write_text(text)
        reason = (
            "" if "folder" not in text else r".*folder(: str, replay: bool, keep: int, newest: str|'s name)"
        )
        with pytest.raises(CheckpointError, match=rf"checkpoints\.json: cannot be read{reason}"):
            read_checkpoint_record(tmp_path / "run")


def test_checkpoints_that_are_not_there_any_more_are_not_taken_for_none(tmp_path):
    train(short(), tmp_path)
    folder = tmp_path / "checkpoints"
    check_checkpoints_present(tmp_path, str(folder))
    folder.rename(tmp_path / "unmounted")
    for make in (lambda: None, folder.mkdir):
        make()
        with pytest.raises(
            CheckpointError, match=r"holds no checkpoint, but the run saved .*step_320; restore it"
        ):
            check_checkpoints_present(tmp_path, str(folder))
    (folder / "step_320.broken.01234567").mkdir()  # whoever set it aside knew that it was there
    check_checkpoints_present(tmp_path, str(folder))
    rows = (tmp_path / "metrics.csv").read_text()
    auto(tmp_path)
    [kept] = tmp_path.glob("metrics.csv.aside.*")
    assert kept.read_text() == rows


def test_a_run_holds_the_folder_of_its_checkpoints(tmp_path):
    for scheme in ("", "file://"):
        options = SavingOptions(folder=f"{scheme}{tmp_path}/there{len(scheme)}")
        train(short(), tmp_path / f"run{len(scheme)}", options=RunOptions(options))
        checkpoint = checkpoints_to_resume([options.folder], False, print)[0]
        with contextlib.closing(RunFolder(tmp_path / "another")) as folder:
            folder.open_tables({}, 0)
            folder.record_checkpoint(CheckpointRecord(options))
            with pytest.raises(
                BadInput, match=r"^--checkpoint-dir = .*there.*another process is training in it"
            ):
                run_dir = tmp_path / f"run{len(scheme)}"
                train_run(short(), run_dir, Progress(io.StringIO()), checkpoint, RunOptions(options))


def test_one_run_is_not_begun_among_those_of_several_seeds(tmp_path):
    train_seeds(short(), 2, tmp_path, Progress(io.StringIO()))
    with pytest.raises(BadInput, match="already holds runs; resume one with --resume"):
        train_run(short(), tmp_path, Progress(io.StringIO()), restart=True)


def test_runs_of_several_seeds_go_on_together_from_the_newest_moment_they_share(tmp_path):
    whole = train_seeds(short(), 2, tmp_path / "whole", Progress(io.StringIO()))
    train_seeds(short(), 2, tmp_path / "cut", Progress(io.StringIO()))
    shutil.rmtree(tmp_path / "cut" / "seed_1" / "checkpoints" / "step_320")
    folders = [str(tmp_path / "cut" / f"seed_{seed}" / "checkpoints") for seed in (0, 1)]
    checkpoints = checkpoints_to_resume(folders, False, print)
    assert [each.env_steps for each in checkpoints] == [160, 160]
    again = train_seeds(short(), 2, tmp_path / "cut", Progress(io.StringIO()), checkpoints)
    digests = [[run["weights_digest"] for run in each["runs"]] for each in (whole, again)]
    assert digests[0] == digests[1]
    shutil.rmtree(folders[0])
    said: list[str] = []
    assert checkpoints_to_resume(folders, True, said.append) == []
    assert "renamed" in said[0] and "starting a new run" in said[-1]
    assert all(".aside." in name for name in os.listdir(folders[1])), "else they outlive newer ones"
    with pytest.raises(CheckpointError, match="not checkpoints of the seeds 5 to 6"):
        train_seeds(short(seed=5), 2, tmp_path / "cut", Progress(io.StringIO()), checkpoints)


@pytest.mark.parametrize(("seeds", "names"), [(1, ["mine"]), (2, ["mine/seed_0", "mine/seed_1"])])
def test_metrics_are_tagged_with_the_folder(tmp_path, monkeypatch, seeds, names):
    seen, train = [], training.train_together

    def watch(runs, *stop):
        seen.append([run.name for run in runs])
        return train(runs, *stop)

    monkeypatch.setattr(training, "train_together", watch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir("mine")
    config = target_config(pacing={"total_env_steps": 64})
    if seeds == 1:
        train_run(config, Path("."), Progress())
    else:
        train_seeds(config, seeds, Path("."), Progress())
    assert seen[0] == names
