import os

import numpy as np
import pytest

from distributed_maddpg.errors import BadInput, TrainingError
from distributed_maddpg.export import checking, folder
from distributed_maddpg.export.folder import export_policies, file_name
from distributed_maddpg.player import Policy
from tests.export.zoo import zoo_run


def test_each_agent_has_a_file_that_plays(tmp_path):
    algo = zoo_run("mixed")
    first, second = export_policies(algo, tmp_path / "new" / "folder", "npz")
    assert [file.path for file in (first, second)] == [
        str(tmp_path / "new" / "folder" / name) for name in ("cat_0.npz", "dog_0.npz")
    ]
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == ["cat_0.npz", "dog_0.npz"]
    assert first.size_bytes == os.path.getsize(first.path)
    assert (first.checked_with, first.largest_difference <= 1e-5) == ("distributed_maddpg.player", True)
    obs = np.random.default_rng(0).normal(0, 1, (9, 6)).astype(np.float32)
    assert (Policy.load(first.path).act(obs) == algo.compute_actions({"cat_0": obs})["cat_0"]).all()


def test_the_same_run_gives_the_same_files(tmp_path):
    for name in ("a", "b"):
        export_policies(zoo_run("mixed"), tmp_path / name, "safetensors")
    for name in os.listdir(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        ("agent_0", "agent_0.npz"),
        ("owl 0", "owl 0.npz"),
        ("../../x", "%2E.%2F..%2Fx.npz"),
        ("..", "%2E..npz"),
        ("rouge é", "rouge %C3%A9.npz"),
    ],
)
def test_names_of_agents_cannot_leave_the_folder(agent, name):
    assert file_name(agent, "npz") == name


def test_files_that_exist_are_left_alone(tmp_path):
    (tmp_path / "dog_0.npz").write_text("mine")
    with pytest.raises(BadInput, match=r"--out = .*holds dog_0.npz already; name another folder"):
        export_policies(zoo_run("mixed"), tmp_path, "npz")
    assert os.listdir(tmp_path) == ["dog_0.npz"]
    assert (tmp_path / "dog_0.npz").read_text() == "mine"


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(BadInput, match="--format = 'pt': must be one of onnx, npz, safetensors"):
        export_policies(zoo_run("mixed"), tmp_path / "x", "pt")
    assert not (tmp_path / "x").exists()


def test_a_file_that_plays_otherwise_is_not_written(tmp_path, monkeypatch):
    right = checking.expected

    def wrong(*arguments):
        expected = right(*arguments)
        expected[1].actions[7] += np.float32(0.01)
        return expected

    monkeypatch.setattr(folder, "expected", wrong)
    with pytest.raises(
        TrainingError, match=r"the npz file of dog_0 differs from its policy by 0.01 .* nothing"
    ):
        export_policies(zoo_run("mixed"), tmp_path, "npz")
    assert not os.listdir(tmp_path)


def test_a_full_disk_leaves_no_files(tmp_path, monkeypatch):
    write = folder.write_atomic

    def full(path, data):
        if path.name == "dog_0.npz":
            raise OSError(28, "No space left on device")
        write(path, data)

    monkeypatch.setattr(folder, "write_atomic", full)
    with pytest.raises(BadInput, match=r"dog_0.npz': cannot be written \(No space left on device\)"):
        export_policies(zoo_run("mixed"), tmp_path, "npz")
    assert not os.listdir(tmp_path)
