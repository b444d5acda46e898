import os

import fsspec
import pytest

from distributed_maddpg.checkpoint import folder as module
from distributed_maddpg.checkpoint import listing
from distributed_maddpg.checkpoint.folder import load_checkpoint, save_checkpoint
from distributed_maddpg.checkpoint.listing import checkpoints_of, remove_drafts, remove_old
from distributed_maddpg.errors import CheckpointError
from tests.checkpoint.samples import make, rows


def child(place, name):
    return listing._join(place, name)


def test_checkpoints_are_listed_by_their_steps(tmp_path):
    odd = ["step_x", "step_", "step_²", f"step_{'9' * 4000}"[:200], ".step_99999.0123abcd.tmp", "step_1x"]
    for name in ("step_900", "step_10000", *odd):
        (tmp_path / name).mkdir()
    (tmp_path / "step_20000").touch()
    assert [path.name for path in checkpoints_of(tmp_path)] == ["step_10000", "step_900"]


def test_checkpoints_behind_a_url_are_listed_by_their_steps(url):
    for steps in (900, 10000):
        save_checkpoint(f"{url}/step_{steps}", make(env_steps=steps))
    for folder in (url, f"{url}/"):
        assert checkpoints_of(folder) == [f"{url}/step_10000", f"{url}/step_900"]


def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"file: cannot be listed \(Not a directory\)"):
        checkpoints_of(tmp_path / "file")


def test_old_checkpoints_are_deleted(place):
    paths = [save_checkpoint(child(place, f"step_{n}"), make(env_steps=n)) for n in (5, 10, 200, 40)]
    remove_old(place, keep=2)
    assert checkpoints_of(place) == [paths[2], paths[3]]
    remove_old(place, keep=2)
    assert len(checkpoints_of(place)) == 2
    with pytest.raises(ValueError, match="keep = 0"):
        remove_old(place, keep=0)


def test_only_complete_checkpoints_are_counted_and_deleted(tmp_path):
    for steps in (1, 2, 3):
        save_checkpoint(tmp_path / f"step_{steps}", make(env_steps=steps))
    outside = save_checkpoint(tmp_path / "elsewhere" / "step_0", make())
    (tmp_path / "step_0").symlink_to(outside)
    (tmp_path / "step_9").mkdir()
    (tmp_path / "step_9" / "thesis.txt").touch()
    (tmp_path / "step_1" / "notes.txt").touch()
    (tmp_path / "mine").mkdir()
    remove_old(tmp_path, keep=1)
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "mine", "step_0", "step_1", "step_3", "step_9"]
    assert (outside / "manifest.json").exists()


def test_a_half_deleted_checkpoint_is_none(tmp_path, monkeypatch):
    for steps in (1, 2):
        save_checkpoint(tmp_path / f"step_{steps}", make(env_steps=steps))
    monkeypatch.setattr(module.shutil, "rmtree", lambda *arguments, **options: None)
    remove_old(tmp_path, keep=1)
    monkeypatch.undo()
    assert checkpoints_of(tmp_path) == [tmp_path / "step_2"]
    remove_drafts(tmp_path)
    assert os.listdir(tmp_path) == ["step_2"]


def test_drafts_are_deleted_and_nothing_else(tmp_path):
    save_checkpoint(tmp_path / "step_1", make())
    save_checkpoint(tmp_path / ".step_1.0123abcd.tmp", make())
    (tmp_path / ".step_2.0123abce.tmp").mkdir()
    kept = [".step_1.0123abc.tmp", ".step_1.0123abcg.tmp", ".git", ".step_1.tmp", "step_1.0123abcd.tmp"]
    for name in kept:
        (tmp_path / name).mkdir()
    (tmp_path / ".step_5.0123abcd.tmp").mkdir()
    (tmp_path / ".step_5.0123abcd.tmp" / "mine.txt").touch()
    (tmp_path / ".step_6.0123abcd.tmp").symlink_to(tmp_path / "step_1")
    remove_drafts(tmp_path)
    remove_drafts(tmp_path / "nothing")
    assert sorted(os.listdir(tmp_path)) == sorted(
        [*kept, "step_1", ".step_5.0123abcd.tmp", ".step_6.0123abcd.tmp"]
    )
    assert len(os.listdir(tmp_path / "step_1")) == 4


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_drafts_behind_a_url_are_deleted_and_nothing_else(scheme, url, tmp_path):
    folder = url if scheme == "memory" else f"file://{tmp_path}/run"
    for steps in (1, 2, 3, 4):
        save_checkpoint(f"{folder}/step_{steps}", make(env_steps=steps, replay=rows()))
    system, root = fsspec.core.url_to_fs(folder)
    for steps in (2, 3):
        system.rm_file(f"{root}/step_{steps}/manifest.json")
    system.touch(f"{root}/step_3/mine.txt")
    remove_drafts(folder)
    remove_drafts(f"{folder}/nothing")
    assert sorted(path.rpartition("/")[2] for path in system.ls(root, detail=False)) == [
        "step_1",
        "step_3",
        "step_4",
    ]
    remove_old(folder, keep=1)
    assert not system.exists(f"{root}/step_1") and system.exists(f"{root}/step_3/state.safetensors")
    assert checkpoints_of(folder) == [f"{folder}/step_4"]


def test_a_checkpoint_that_stepped_aside_gets_its_name_back(tmp_path):
    save_checkpoint(tmp_path / "step_1", make())
    (tmp_path / "step_1").rename(tmp_path / ".step_1.0123abcd.old")
    save_checkpoint(tmp_path / ".step_2.0123abcd.old", make())
    save_checkpoint(tmp_path / "step_2", make(env_steps=41))
    remove_drafts(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["step_1", "step_2"]
    assert load_checkpoint(tmp_path / "step_2").env_steps == 41
