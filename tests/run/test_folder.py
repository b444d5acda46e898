import errno
import json
import os
import subprocess
import sys
import threading
from contextlib import closing

import pytest

from distributed_maddpg.checkpoint.saver import SavingOptions
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput, CheckpointError
from distributed_maddpg.run import tables as run_tables
from distributed_maddpg.run.folder import CheckpointRecord, RunFolder, check_unused
from distributed_maddpg.types import FaultEvent


def result(env_steps):
    return {"num_env_steps_sampled_lifetime": env_steps, "timers": {"busy_s": 0.5}, "evaluation": {"x": 1}}


def evaluation(env_steps, updates=1):
    card = {"episodes": 3, "agent_episode_returns_mean": {"a_0": 1.5}, "success": {"agents": 0.5}}
    return {"num_env_steps": env_steps, "num_updates": updates, **card}


@pytest.fixture
def begun(tmp_path):
    """Return what opens a folder and begins it; all are closed at the end."""
    folders = []

    def begin(*arguments):
        for folder in folders:
            folder.close()
        folders[:] = [RunFolder(tmp_path)]
        folders[0].open_tables(*arguments)
        return folders[0]

    yield begin
    for folder in folders:
        folder.close()


def test_a_folder_that_is_free_is_accepted(tmp_path):
    check_unused(tmp_path)
    check_unused(tmp_path / "new")


def test_a_folder_with_a_run_is_refused(tmp_path):
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(BadInput, match="already holds a run; resume it with --resume"):
        check_unused(tmp_path)


def test_a_second_user_is_refused_until_the_first_has_gone(tmp_path):
    first = RunFolder(tmp_path)
    with pytest.raises(BadInput, match=r"^--run-dir = .*another process is training in it"):
        RunFolder(tmp_path)
    refused = []

    def try_it():
        try:
            RunFolder(tmp_path)
        except BadInput as error:
            refused.append(error)

    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join()
    assert len(refused) == 1
    first.close()
    RunFolder(tmp_path).close()


def test_a_second_user_of_the_checkpoints_folder_is_told_which_option_names_it(tmp_path):
    saving = SavingOptions(folder=str(tmp_path / "shared"))
    with closing(RunFolder(tmp_path / "one")) as one, closing(RunFolder(tmp_path / "other")) as other:
        one.record_checkpoint(CheckpointRecord(saving))
        with pytest.raises(
            BadInput, match=r"^--checkpoint-dir = .*shared.*another process is training in it"
        ):
            other.record_checkpoint(CheckpointRecord(saving))


def test_the_lock_is_held_by_a_process_and_gone_with_it_however_it_ends(tmp_path):
    code = "import sys; from distributed_maddpg.run.folder import RunFolder as R; "
    code += "from pathlib import Path; held = R(Path(sys.argv[1])); print('held', flush=True); input()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BadInput, match="another process is training in it"):
            RunFolder(tmp_path)
        other.kill()
        other.wait()
        RunFolder(tmp_path).close()


def test_the_tables_of_a_new_run_are_empty_and_hold_what_is_added(begun, tmp_path):
    for name in ("metrics.csv", "returns.csv"):
        (tmp_path / name).write_text("old\n1\n")
    folder = begun(None, 0)
    assert not (tmp_path / "metrics.csv").exists() and not (tmp_path / "returns.csv").exists()
    folder.add_result(result(100))
    folder.add_evaluation(evaluation(100))
    tables = folder.tables()
    assert tables["metrics.csv"] == "num_env_steps_sampled_lifetime,timers/busy_s\r\n100,0.5\r\n"
    assert tables["returns.csv"] == "env_steps,updates,episodes,a_0,success_agents\r\n100,1,3,1.5,0.5\r\n"
    for name, text in tables.items():
        assert (tmp_path / name).read_bytes().decode() == text


def test_rows_after_the_checkpoint_and_a_torn_line_are_dropped(begun, tmp_path):
    folder = begun(None, 0)
    for steps in (100, 200):
        folder.add_result(result(steps))
        folder.add_evaluation(evaluation(steps))
    kept = folder.tables()
    for steps in (300, 400):
        folder.add_result(result(steps))
        folder.add_evaluation(evaluation(steps))
    for name in kept:
        with (tmp_path / name).open("a") as file:
            file.write("500,0.")
    folder = begun(kept, 200)
    assert folder.tables() == kept
    folder.add_result(result(300))
    folder.add_evaluation(evaluation(300))
    for name in kept:
        lines = (tmp_path / name).read_text().splitlines()
        assert [line.split(",")[0] for line in lines[1:]] == ["100", "200", "300"]


def test_a_table_that_the_checkpoint_lacks_is_continued_after_its_last_whole_line(begun, tmp_path):
    folder = begun(None, 0)
    folder.add_result(result(100))
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("200,0.")
    folder = begun({}, 100)
    folder.add_result(result(300))
    assert (tmp_path / "metrics.csv").read_text().splitlines()[1:] == ["100,0.5", "300,0.5"]


@pytest.mark.parametrize(("longer", "steps"), [(True, ["100", "200", "300"]), (False, ["100", "300"])])
def test_the_evaluation_that_ended_a_run_stays_if_it_is_made_longer(begun, tmp_path, longer, steps):
    folder = begun(None, 0)
    folder.add_evaluation(evaluation(100))
    kept = folder.tables()
    folder.add_evaluation(evaluation(200))  # after the last checkpoint was made
    folder.add_evaluation(evaluation(200))
    folder = begun(kept, 200, longer)
    folder.add_evaluation(evaluation(300))
    lines = (tmp_path / "returns.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == steps


def test_of_another_text_or_another_moment_nothing_stays(begun, tmp_path):
    folder = begun(None, 0)
    folder.add_evaluation(evaluation(100))
    kept = folder.tables()
    folder.add_evaluation(evaluation(200))
    assert begun(kept, 150, True).tables() == kept
    folder = begun({"returns.csv": kept["returns.csv"].replace("1.5", "2.5"), "metrics.csv": ""}, 200, True)
    assert "\r\n200," not in folder.tables()["returns.csv"]


def test_a_table_of_a_checkpoint_without_a_header_is_the_checkpoints_fault(begun):
    with pytest.raises(
        CheckpointError, match=r"cannot be resumed from \(returns.csv has no header: field larger"
    ):
        begun({"returns.csv": "x" * 200_000 + "\n"}, 0)


def test_rows_that_cannot_be_written_for_a_while_are_written_later(begun, tmp_path, monkeypatch):
    folder = begun(None, 0)
    folder.add_result(result(100))
    whole = run_tables.CSVTable.flush

    def full(table):
        if table._file is not None:
            table._file.write(b"200,0")  # half a row, as a full disk leaves it
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_tables.CSVTable, "flush", full)
    for steps in (200, 300):
        folder.add_result(result(steps))
    assert folder.pop_problem() == f"{tmp_path}: cannot be written to (No space left on device)"
    assert folder.pop_problem() == ""
    assert [line.split(",")[0] for line in folder.tables()["metrics.csv"].splitlines()[1:]] == [
        "100",
        "200",
        "300",
    ]
    monkeypatch.setattr(run_tables.CSVTable, "flush", whole)
    folder.add_evaluation(evaluation(300))  # nothing more is reported: the next write of any table will do
    assert [line[:3] for line in (tmp_path / "metrics.csv").read_text().splitlines()[1:]] == [
        "100",
        "200",
        "300",
    ]
    assert folder.pop_problem() == ""


def test_a_short_write_counts_for_nothing(tmp_path):
    table = run_tables.CSVTable(tmp_path / "t.csv")
    table.add({"a": 1})
    file = table._file

    class Short:
        def write(self, data):
            return file.write(data[:2])

        def __getattr__(self, name):
            return getattr(file, name)

    table._file = Short()
    with pytest.raises(OSError, match="No space left"):
        table.add({"a": 222})
    table.add({"a": 3})
    table.close()
    assert (tmp_path / "t.csv").read_text() == "a\n1\n222\n3\n"


def test_what_is_still_unwritten_is_written_at_the_end(tmp_path, monkeypatch):
    table = run_tables.CSVTable(tmp_path / "t.csv")
    with monkeypatch.context() as patched:
        patched.setattr(run_tables.CSVTable, "flush", lambda table: None)
        table.add({"a": 1})
    table.close()
    assert (tmp_path / "t.csv").read_text() == "a\n1\n"


def test_a_table_that_cannot_be_read_is_left_out_of_checkpoints(begun, tmp_path):
    folder = begun(None, 0)
    folder.add_result(result(100))
    (tmp_path / "metrics.csv").unlink()
    assert list(folder.tables()) == ["returns.csv"]
    assert "metrics.csv: cannot be read" in folder.pop_problem()


def test_settings_are_written_with_the_first_result_and_on_a_full_disk_later(begun, tmp_path, monkeypatch):
    folder = begun(None, 0)
    assert not (tmp_path / "config.toml").exists()
    with monkeypatch.context() as patched:
        patched.setattr("distributed_maddpg.run.folder.write_atomic", _refuse)
        folder.write_config(MADDPGConfig())
    assert "cannot be written to" in folder.pop_problem()
    folder.write_config(MADDPGConfig(seed=3))
    folder.write_config(MADDPGConfig(seed=4))
    assert MADDPGConfig.from_toml(tmp_path / "config.toml").seed == 3


def _refuse(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_events_are_json_lines(begun, tmp_path):
    folder = begun(None, 0)
    folder.add_events([])
    assert not (tmp_path / "events.jsonl").exists()
    event = FaultEvent(1.5, "rollout worker 1", "recovered", "it is back", 2.0)
    for _ in range(2):
        folder.add_events([event])
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    expected = {"time": 1.5, "process": "rollout worker 1", "kind": "recovered", "message": "it is back"}
    assert [json.loads(line) for line in lines] == [{**expected, "seconds": 2.0}] * 2
