import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from distributed_maddpg import MADDPG
from distributed_maddpg.cli import main
from distributed_maddpg.player import Policy
from tests.support.serial_runs import tiny


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Return a checkpoint of simple_adversary; tests must leave it as it is."""
    path = tmp_path_factory.mktemp("export") / "step_0"
    with MADDPG(tiny()) as algo:
        algo.save(path)
    return str(path)


def refused(arguments, capsys, code=2):
    """Run a command that must fail; return its only line on stderr."""
    assert main(["export", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    return line


@pytest.mark.parametrize("format", ["npz", "safetensors"])
def test_the_files_are_listed_as_json(checkpoint, tmp_path, capsys, format):
    out = str(tmp_path / "x")
    assert main(["export", checkpoint, "--format", format, "--out", out, "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert captured.err == ""
    assert (result["checkpoint"], result["format"]) == (checkpoint, format)
    assert [file["agent"] for file in result["files"]] == ["adversary_0", "agent_0", "agent_1"]
    assert sorted(os.path.basename(file["path"]) for file in result["files"]) == sorted(os.listdir(out))
    assert [file["description"]["layers"][0][0] for file in result["files"]] == [8, 10, 10]
    assert all(file["largest_difference"] <= 1e-5 for file in result["files"])


def test_onnx_is_the_default_and_shown_as_a_table(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["export", checkpoint]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "played by onnxruntime" in captured.err
    assert "exported/agent_1.onnx" in captured.err
    assert len(os.listdir("exported")) == 3


def test_what_is_exported_acts_as_the_checkpoint(checkpoint, tmp_path, capsys):
    assert main(["export", checkpoint, "--format", "npz", "--out", str(tmp_path)]) == 0
    obs = np.random.default_rng(0).normal(0, 1, (20, 8)).astype(np.float32)
    expected = MADDPG.from_checkpoint(checkpoint).compute_actions({"adversary_0": obs})["adversary_0"]
    found = Policy.load(tmp_path / "adversary_0.npz").act(obs)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_a_damaged_checkpoint_is_exit_code_3(checkpoint, tmp_path, capsys):
    line = refused([str(tmp_path / "none"), "--out", str(tmp_path / "x")], capsys, code=3)
    assert "is not a checkpoint" in line
    state = Path(shutil.copytree(checkpoint, tmp_path / "step_0")) / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-9])
    line = refused([str(tmp_path / "step_0"), "--out", str(tmp_path / "x")], capsys, code=3)
    assert "state.safetensors: has" in line
    assert not (tmp_path / "x").exists()


def test_best_needs_a_best_checkpoint(checkpoint, tmp_path, capsys):
    line = refused([checkpoint, "--best", "--out", str(tmp_path / "x")], capsys, code=3)
    assert "holds no best checkpoint" in line


def test_bad_options_are_refused_in_one_line(checkpoint, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "agent_0.npz").write_text("")
    npz = [checkpoint, "--format", "npz", "--out"]
    for arguments, words in [
        ([checkpoint, "--format", "pickle"], "'pickle'"),
        ([*npz, str(tmp_path / "file")], "is a file; name a folder"),
        ([*npz, str(tmp_path / "file" / "x")], "cannot be used (Not a directory); name another"),
        ([*npz, str(tmp_path)], "holds agent_0.npz already; name another folder, or delete it"),
        ([*npz, ""], "--out = '': is empty"),
        ([checkpoint, "--ot", "x"], "did you mean --out"),
        ([checkpoint, "--env.id", "simple_spread"], "was trained in simple_adversary"),
        ([], "checkpoint"),
    ]:
        assert words in refused(arguments, capsys)
    assert sorted(os.listdir(tmp_path)) == ["agent_0.npz", "file"]


def test_onnx_without_its_packages_names_the_extra(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    line = refused([checkpoint, "--out", str(tmp_path / "x")], capsys)
    assert line == "error: --format = 'onnx': needs onnxscript; pip install 'distributed-maddpg[onnx]'"
    assert not (tmp_path / "x").exists()
