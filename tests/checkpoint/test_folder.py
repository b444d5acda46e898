import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from distributed_maddpg import files
from distributed_maddpg.checkpoint import folder as module
from distributed_maddpg.checkpoint import listing
from distributed_maddpg.checkpoint.folder import Checkpoint, load_checkpoint, save_checkpoint
from distributed_maddpg.checkpoint.listing import checkpoints_of, remove_drafts, remove_old
from distributed_maddpg.config import AlgorithmConfig, LearnerConfig, MADDPGConfig
from distributed_maddpg.errors import BadInput, CheckpointError
from distributed_maddpg.learner import Learner
from distributed_maddpg.metrics import digest
from distributed_maddpg.replay.ring import Draw
from distributed_maddpg.types import StoredTransitions
from tests.checkpoint.samples import NAMES, ROWS, SPEC, STATE, assert_equal, make, refuse, reseal, rows
from tests.support.target import target_config


def child(place, name):
    return listing._join(place, name)


def test_a_round_trip_is_exact(place):
    path = save_checkpoint(child(place, "step_40"), make(replay=rows()))
    assert path == child(place, "step_40")
    assert_equal(load_checkpoint(path))


def test_a_checkpoint_without_replay_rows_and_tables(place):
    loaded = load_checkpoint(save_checkpoint(child(place, "x"), make(tables={})))
    assert (loaded.replay, loaded.tables) == (None, {})


def test_an_empty_replay_buffer_comes_back_empty(tmp_path):
    loaded = load_checkpoint(save_checkpoint(tmp_path / "x", make(replay=StoredTransitions(0, 0, iter(())))))
    assert (loaded.replay.inserted, loaded.replay.num_rows, list(loaded.replay.chunks)) == (0, 0, [])


def test_the_configuration_of_any_environment_comes_back(tmp_path):
    saved = save_checkpoint(tmp_path / "x", make(config=target_config()))
    assert load_checkpoint(saved).config == target_config()


def test_nothing_is_pickled_and_nothing_else_is_left(saved):
    assert sorted(os.listdir(saved)) == NAMES
    assert os.listdir(saved.parent) == ["step_40"]
    assert b"PROTO" not in (saved / "state.safetensors").read_bytes()
    manifest = json.loads((saved / "manifest.json").read_text())
    assert (manifest["format_version"], manifest["counters"]) == (3, {"env_steps": 40, "updates": 12})
    assert manifest["replay"] == {"inserted": 9, "num_rows": 7}
    assert manifest["packages"]["numpy"] == np.__version__


def test_the_files_are_what_the_safetensors_library_reads(saved):
    np.testing.assert_array_equal(
        safetensors.numpy.load_file(saved / "replay.safetensors")["rows"], ROWS, strict=True
    )
    assert set(safetensors.numpy.load_file(saved / "state.safetensors")) == set(STATE)


def test_saving_again_replaces_the_checkpoint(place):
    save_checkpoint(child(place, "step_40"), make(replay=rows()))
    path = save_checkpoint(child(place, "step_40"), make(env_steps=50, tables={}))
    loaded = load_checkpoint(path)
    assert (loaded.env_steps, loaded.replay, loaded.tables) == (50, None, {})
    assert checkpoints_of(place) == [path]


def test_saving_again_leaves_nothing_beside(saved):
    save_checkpoint(saved, make(env_steps=50))
    assert os.listdir(saved.parent) == ["step_40"]
    assert sorted(os.listdir(saved)) == ["manifest.json", "metrics.csv", "returns.csv", "state.safetensors"]


@pytest.mark.parametrize("foreign", ["notes.txt", "link", "folder"])
def test_what_is_no_checkpoint_is_never_replaced(saved, foreign):
    if foreign == "link":
        (saved / "metrics.csv").unlink()
        (saved / "metrics.csv").symlink_to(saved / "manifest.json")
    elif foreign == "folder":
        (saved / "metrics.csv").unlink()
        (saved / "metrics.csv").mkdir()
    else:
        (saved / foreign).write_text("mine")
    with pytest.raises(BadInput, match="holds something other than a checkpoint"):
        save_checkpoint(saved, make(env_steps=50))
    remove_old(saved.parent, keep=1)
    assert saved.exists()


@pytest.mark.parametrize(
    "failing", [(module.safetensors, "save"), (module, "sync"), (module.os, "fsync"), (module, "write_rows")]
)
def test_a_failing_write_leaves_the_old_checkpoint(saved, failing, monkeypatch):
    monkeypatch.setattr(*failing, refuse)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(saved, make(env_steps=50, replay=rows()))
    monkeypatch.undo()
    assert_equal(load_checkpoint(saved))
    assert os.listdir(saved.parent) == ["step_40"]


@pytest.mark.parametrize("name", ["../evil.csv", "manifest.json", "other.csv"])
def test_tables_have_their_names(tmp_path, name):
    with pytest.raises(ValueError, match="cannot be a table"):
        save_checkpoint(tmp_path / "x", make(tables={name: ""}))
    assert os.listdir(tmp_path) == []


def test_a_system_that_cannot_exchange_names_replaces_by_two_renames(saved, monkeypatch):
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    save_checkpoint(saved, make(env_steps=50))
    assert load_checkpoint(saved).env_steps == 50
    assert os.listdir(saved.parent) == ["step_40"]


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2")
def test_this_system_exchanges_names(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert files._exchange(tmp_path / "a", tmp_path / "b")
    assert os.listdir(tmp_path / "a") == ["b"]
    with pytest.raises(OSError, match="No such file"):
        files._exchange(tmp_path / "a", tmp_path / "c")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_every_file_and_both_folders_are_synced_in_time(saved, monkeypatch):
    synced = []
    monkeypatch.setattr(
        module.os, "fsync", lambda descriptor: synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
    )
    replace = module.replace_folder
    monkeypatch.setattr(module, "replace_folder", lambda *two: (synced.append("replace"), replace(*two)))
    save_checkpoint(saved, make(replay=rows()))
    draft = synced[-3]
    assert sorted(synced[:-3]) == [draft / name for name in NAMES]
    assert draft.name.startswith(".step_40.")
    assert synced[-2:] == ["replace", saved.parent]


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2")
def test_replacing_never_takes_the_name_away(saved, monkeypatch):
    monkeypatch.setattr(type(saved), "rename", refuse)
    save_checkpoint(saved, make(env_steps=50))
    assert load_checkpoint(saved).env_steps == 50


def test_a_failing_rename_brings_the_old_checkpoint_back(saved, monkeypatch):
    rename = type(saved).rename

    def refuse_draft(path, target):
        if path.suffix == ".tmp":
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    monkeypatch.setattr(type(saved), "rename", refuse_draft)
    with pytest.raises(OSError, match="Input/output"):
        save_checkpoint(saved, make(env_steps=50))
    monkeypatch.undo()
    assert_equal(load_checkpoint(saved))
    assert os.listdir(saved.parent) == ["step_40"]


REPLACING = """
import sys
import numpy as np
from pathlib import Path
from distributed_maddpg.checkpoint.folder import Checkpoint, save_checkpoint
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.types import StoredTransitions
for number in range(1, 10**9):
    chunks = iter([np.full((100, 8), number, np.float32)] * 3)
    state = {"x": np.full(1000, number, np.int64)}
    rows, tables = StoredTransitions(300, 300, chunks), {"metrics.csv": str(number)}
    checkpoint = Checkpoint(MADDPGConfig(), ("a",), number, number, state, rows, tables)
    save_checkpoint(Path(sys.argv[1]) / "step_1", checkpoint)
    print(number, flush=True)
"""


def assert_whole(folder):
    loaded = load_checkpoint(folder / "step_1")
    assert (loaded.state["x"] == loaded.env_steps).all()
    assert (np.concatenate(list(loaded.replay.chunks)) == loaded.env_steps).all()
    assert loaded.tables == {"metrics.csv": str(loaded.env_steps)}
    return loaded.env_steps


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2")
@pytest.mark.parametrize("kills", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_a_writer_killed_at_any_moment_leaves_a_whole_checkpoint(tmp_path, kills):
    moments = random.Random(kills)
    for _ in range(kills):
        command = [sys.executable, "-c", REPLACING, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            try:
                assert writer.stdout.readline()
                end = time.monotonic() + moments.uniform(0.0, 0.5)
                seen = [assert_whole(tmp_path)]
                while time.monotonic() < end:  # the reader finds one at every moment, too
                    seen.append(assert_whole(tmp_path))
            finally:
                writer.send_signal(signal.SIGKILL)
        assert seen == sorted(seen)
        assert assert_whole(tmp_path) >= seen[-1]
    remove_drafts(tmp_path)
    assert os.listdir(tmp_path) == ["step_1"]


def test_a_table_that_is_no_text_is_refused(saved):
    reseal(saved / "metrics.csv", b"\xff\xff")
    with pytest.raises(CheckpointError, match=r"metrics\.csv: 'utf-8' codec"):
        load_checkpoint(saved)


def test_a_table_that_is_too_large_is_refused_unread(saved, monkeypatch):
    monkeypatch.setitem(module.MAX_BYTES, "metrics.csv", 5)
    with pytest.raises(CheckpointError, match=r"metrics\.csv: has 10 bytes, more than the 5"):
        load_checkpoint(saved)


def test_no_folder_is_no_checkpoint(tmp_path, url):
    with pytest.raises(CheckpointError, match=r"is not a checkpoint, it cannot be opened \(No such file"):
        load_checkpoint(tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot be opened \(Not a directory"):
        load_checkpoint(tmp_path / "file")
    with pytest.raises(CheckpointError, match=r"memory://.*: is not a checkpoint, it has no manifest\.json"):
        load_checkpoint(url)


def test_a_run_or_a_folder_of_checkpoints_is_told_which_one_to_name(tmp_path):
    run = tmp_path / "run"
    for steps in (90, 1000, 200):
        save_checkpoint(run / "checkpoints" / f"step_{steps}", make())
    for folder in (run, run / "checkpoints"):
        with pytest.raises(
            CheckpointError, match=r"; name one that it holds, such as .*run/checkpoints/step_1000$"
        ):
            load_checkpoint(folder)


def test_a_checkpoint_is_found_through_a_link(saved, tmp_path):
    (tmp_path / "latest").symlink_to(saved)
    assert_equal(load_checkpoint(tmp_path / "latest"))


def learner():
    config = AlgorithmConfig(policy_hidden_sizes=(8,), critic_hidden_sizes=(8,))
    return Learner(config, LearnerConfig(device="cpu", batch_size=16), SPEC, seeds=[1])


def batches(seed, count=3):
    rng = np.random.default_rng(seed)
    return Draw.of(rng.random((count * 16, SPEC.transitions.width), dtype=np.float32))


def test_a_restored_learner_goes_on_as_if_nothing_had_happened(tmp_path):
    uninterrupted = learner()
    uninterrupted.learn([batches(0)])
    uninterrupted.publish()
    state = uninterrupted.get_state()
    saved = save_checkpoint(tmp_path / "x", Checkpoint(MADDPGConfig(), SPEC.agents, 0, 3, state))
    restored = learner()
    restored.set_state(load_checkpoint(saved).state)
    for each in (uninterrupted, restored):
        each.learn([batches(1)])
        each.publish()
    old, new = uninterrupted.get_state(), restored.get_state()
    assert old.keys() == new.keys()
    assert all(digest(old[name]) == digest(new[name]) for name in old)
    assert (restored.updates, restored.weights_version) == (6, 2)
