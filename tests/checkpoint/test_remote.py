import itertools
import sys

import fsspec
import pytest

from distributed_maddpg.checkpoint.folder import load_checkpoint, save_checkpoint
from distributed_maddpg.checkpoint.listing import checkpoints_of
from distributed_maddpg.checkpoint.remote import check_checkpoints_place
from distributed_maddpg.errors import BadInput, CheckpointError
from tests.checkpoint.samples import assert_equal, assert_one_line, make, rows


def test_what_is_no_checkpoint_is_never_replaced_behind_a_url(url):
    with fsspec.open(f"{url}/step_1/notes.txt", "w") as file:
        file.write("mine")
    with pytest.raises(BadInput, match="holds something other than a checkpoint"):
        save_checkpoint(f"{url}/step_1", make())


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    for act in (load_checkpoint, lambda url: save_checkpoint(url, make()), checkpoints_of):
        with pytest.raises(BadInput, match="needs the package s3fs, which is not installed") as error:
            act("s3://bucket/step_1")
        assert_one_line(str(error.value))


def test_an_unknown_protocol_is_bad_input():
    with pytest.raises(BadInput, match=r"path = 'nonsense://x': .*Protocol not known"):
        load_checkpoint("nonsense://x")


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("memory://x", "is lost when the process ends"),
        ("nonsense://x", "cannot be opened .*Protocol not known"),
        (__file__, "is a file; name a folder"),
        (f"{__file__}/x", r"cannot be used \(Not a directory\)"),
        ("/dev/null", "is a file; name a folder"),
        ("x" * 300, r"cannot be used \(File name too long\)"),
        ("a\x1b[2J", "must be a path of this machine, without control characters"),
    ],
)
def test_a_place_where_checkpoints_would_not_last_is_named(folder, message):
    with pytest.raises(BadInput, match=rf"^--checkpoint-dir = '.*': {message}"):
        check_checkpoints_place("--checkpoint-dir", folder)


def test_a_folder_and_a_url_are_places_for_checkpoints(tmp_path):
    for place in (str(tmp_path), str(tmp_path / "new"), f"file://{tmp_path}"):
        check_checkpoints_place("--checkpoint-dir", place)


def test_a_file_system_that_fails_is_one_line(url, monkeypatch):
    save_checkpoint(url, make())

    def fail(*arguments, **options):
        raise RuntimeError("403\nForbidden")

    system = fsspec.filesystem("memory")
    monkeypatch.setattr(type(system), "_open", fail)
    monkeypatch.setattr(type(system), "ls", fail)
    for act in (load_checkpoint, checkpoints_of):
        with pytest.raises(CheckpointError, match=r"RuntimeError: 403\\nForbidden") as error:
            act(url)
        assert_one_line(str(error.value))
    with pytest.raises(OSError, match="RuntimeError: 403"):
        save_checkpoint(url, make())


@pytest.mark.parametrize("failing", range(5))
def test_an_interrupted_upload_leaves_no_checkpoint_but_its_place(url, monkeypatch, failing):
    path = save_checkpoint(f"{url}/step_1", make(replay=rows()))
    system = type(fsspec.filesystem("memory"))
    put, count = system.put_file, itertools.count()

    def fail(self, *arguments, **options):
        if next(count) == failing:
            raise ConnectionError("lost")
        return put(self, *arguments, **options)

    monkeypatch.setattr(system, "put_file", fail)
    with pytest.raises(OSError, match="lost"):
        save_checkpoint(path, make(env_steps=50, replay=rows()))
    monkeypatch.undo()
    assert checkpoints_of(url) == []
    assert load_checkpoint(save_checkpoint(path, make(env_steps=60))).env_steps == 60


def test_a_folder_by_url_on_this_machine(tmp_path):
    path = save_checkpoint(f"file://{tmp_path}/deep/step_3", make(replay=rows()))
    assert_equal(load_checkpoint(path))
    assert checkpoints_of(f"file://{tmp_path}/deep") == [path]
