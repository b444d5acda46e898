import threading

import numpy as np
import pytest

from distributed_maddpg.checkpoint import saver as module
from distributed_maddpg.checkpoint.folder import Checkpoint, load_checkpoint, save_checkpoint
from distributed_maddpg.checkpoint.saver import CheckpointSaver, SavingOptions
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput
from distributed_maddpg.types import StoredTransitions

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


def checkpoint(env_steps, with_replay=True):
    replay = StoredTransitions(4, 4, iter([ROWS[:3], ROWS[3:]])) if with_replay else None
    return Checkpoint(MADDPGConfig(), ("a_0",), env_steps, 1, {"x/y": np.zeros(5)}, replay)


@pytest.fixture
def lines():
    return []


@pytest.fixture
def saver(lines):
    return CheckpointSaver(2, lines.append)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write(saver, folder, env_steps):
    saver.start([(str(folder), checkpoint(env_steps))])
    saver._thread.join()


FULL = OSError(28, "No space left on device")


def failing(monkeypatch, fails, error=FULL):
    """Let saving fail for the checkpoints that `fails` says."""

    def save(path, checkpoint):
        if fails(path, checkpoint):
            raise error
        return save_checkpoint(path, checkpoint)

    monkeypatch.setattr(module, "save_checkpoint", save)


def test_the_newest_stay_and_each_is_said_in_a_line(saver, lines, tmp_path):
    for steps in (5, 30, 100):
        write(saver, tmp_path, steps)
    assert lines == []  # they are for the main thread
    saver.report()
    assert names(tmp_path) == ["step_100", "step_30"]
    assert [line.partition(" (")[0] for line in lines] == [f"saved {tmp_path}/step_{n}" for n in (5, 30, 100)]
    assert lines[0].partition(" (")[2].startswith("0.0 MB in ")
    assert np.array_equal(np.concatenate(list(load_checkpoint(tmp_path / "step_100").replay.chunks)), ROWS)


def test_to_keep_zero_checkpoints_keeps_all_of_them(tmp_path):
    saver = CheckpointSaver(0, print)
    for steps in (5, 30, 100):
        write(saver, tmp_path, steps)
    assert names(tmp_path) == ["step_100", "step_30", "step_5"]
    with pytest.raises(BadInput, match="--keep-checkpoints = -1"):
        SavingOptions(keep=-1)


def test_writing_does_not_hold_up_whoever_asks_for_it(saver, tmp_path, monkeypatch):
    go_on = threading.Event()
    failing(monkeypatch, lambda *_: not go_on.wait(60))
    saver.start([(str(tmp_path), checkpoint(5))])
    assert saver.busy and not tmp_path.joinpath("step_5").exists()
    go_on.set()
    saver.finish(lambda: [(str(tmp_path), checkpoint(6))])
    assert not saver.busy
    assert names(tmp_path) == ["step_5", "step_6"]


def test_a_failure_is_one_line_and_tried_again_after_a_while(saver, lines, tmp_path, monkeypatch):
    write(saver, tmp_path, 1)
    for path in tmp_path.glob("step_1/*"):
        path.chmod(0o444)
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    failing(monkeypatch, lambda *_: now[0] < 105)
    write(saver, tmp_path, 5)
    saver.report()
    problem = f"{tmp_path}/step_5 was not saved ([Errno 28] No space left on device)"
    assert lines[1:] == [problem] and saver.problem == problem
    assert not saver.retry_due
    now[0] += 10.1
    assert saver.retry_due
    assert names(tmp_path) == ["step_1"]
    write(saver, tmp_path, 7)
    assert not saver.retry_due and saver.problem == ""
    assert names(tmp_path) == ["step_1", "step_7"]


@pytest.mark.parametrize(
    "error", [RuntimeError("torn"), MemoryError("none left"), ValueError("what"), OSError("x\ny" * 900)]
)
def test_whatever_goes_wrong_is_said_in_one_line(saver, lines, tmp_path, monkeypatch, error):
    failing(monkeypatch, lambda *_: True, error)
    write(saver, tmp_path, 5)
    saver.report()
    assert len(lines) == 1 and lines[0].isprintable() and saver.problem == lines[0]


def test_what_does_not_fit_at_the_end_is_saved_without_transitions(saver, tmp_path, monkeypatch):
    failing(monkeypatch, lambda path, checkpoint: checkpoint.replay and "step_9" in path)
    first, second = tmp_path / "seed_0", tmp_path / "seed_1"
    for steps in range(3, 7):
        save_checkpoint(second / f"step_{steps}", checkpoint(steps))
    saver.finish(lambda: [(str(first), checkpoint(8)), (str(second), checkpoint(9))])
    assert saver.problem.startswith(f"{second}/step_9 was not saved")
    assert saver.problem.endswith("; it was saved without its transitions")
    assert names(second) == ["step_3", "step_4", "step_5", "step_6", "step_9"], "whole ones are worth more"
    assert load_checkpoint(first / "step_8").replay.num_rows == 4  # this one did fit
    assert load_checkpoint(second / "step_9").replay is None


def test_old_ones_stay_until_those_of_all_runs_are_written(lines, tmp_path, monkeypatch):
    saver, folders = CheckpointSaver(1, lines.append), [tmp_path / "seed_0", tmp_path / "seed_1"]
    saver.start([(str(folder), checkpoint(3)) for folder in folders])
    saver._thread.join()
    failing(monkeypatch, lambda path, _: "seed_1" in path)
    saver.start([(str(folder), checkpoint(5)) for folder in folders])
    saver._thread.join()
    assert [names(folder) for folder in folders] == [["step_3", "step_5"], ["step_3"]], "step_3 is shared"


def test_one_that_fails_does_not_keep_another_run_from_being_saved(saver, tmp_path, monkeypatch):
    failing(monkeypatch, lambda path, checkpoint: "step_8" in path)
    saver.finish(lambda: [(str(tmp_path / "a"), checkpoint(8)), (str(tmp_path / "b"), checkpoint(9))])
    assert "step_8 was not saved" in saver.problem
    assert load_checkpoint(tmp_path / "b" / "step_9").replay is not None


def test_old_ones_that_cannot_be_deleted_do_no_harm(saver, lines, tmp_path, monkeypatch):
    def refuse(folder, keep):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(module, "remove_old", refuse)
    saver.finish(lambda: [(str(tmp_path), checkpoint(8))])
    assert saver.problem == "" and load_checkpoint(tmp_path / "step_8").replay is not None
    assert "older checkpoints could not be deleted" in lines[1]


def test_the_last_checkpoint_is_captured_when_the_one_before_is_written(tmp_path):
    go_on, reading = threading.Event(), threading.Event()
    latest = 0

    def captured(number):
        nonlocal latest
        latest = number

        def rows():
            for _ in range(3):
                reading.set()
                assert go_on.wait(10)
                yield np.full(
                    (2, 4), latest, np.float32
                )  # as a replay buffer that has one snapshot at a time

        stored = StoredTransitions(6, 6, rows())
        return Checkpoint(MADDPGConfig(), ("a",), number, number, {"x": np.zeros(1)}, stored)

    def capture_last():
        assert not saver.busy
        return [(str(tmp_path), captured(2))]

    saver = CheckpointSaver(0, lambda _: None)
    saver.start([(str(tmp_path), captured(1))])
    assert reading.wait(10)
    threading.Timer(0.2, go_on.set).start()
    saver.finish(capture_last)
    assert not saver.problem
    for number in (1, 2):
        stored = load_checkpoint(tmp_path / f"step_{number}").replay
        assert stored is not None
        assert (np.concatenate(list(stored.chunks)) == number).all()
