"""The Python of docs/exports.md, run on files that the command wrote."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from distributed_maddpg import MADDPG, player
from distributed_maddpg.export.folder import export_policies
from distributed_maddpg.export.formats import encode
from distributed_maddpg.export.policy import agent_policies
from tests.export.zoo import zoo_run
from tests.support.serial_runs import tiny

TEXT = (Path(__file__).parents[2] / "docs" / "exports.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return a folder with the player and the files of simple_adversary in all formats."""
    folder = tmp_path_factory.mktemp("document")
    with MADDPG(tiny(env={"kwargs": {"max_cycles": 25}})) as algo:
        for name in ("onnx", "npz", "safetensors"):
            export_policies(algo, folder / "exported", name)
    shutil.copy(player.__file__, folder)
    return folder


@pytest.mark.parametrize(
    "code", re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL), ids=["numpy", "onnx", "torch"]
)
def test_the_examples_run(exported, code):
    command = [sys.executable, "-W", "error::UserWarning", "-c", code]
    done = subprocess.run(command, cwd=exported, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_operators_and_versions_are_those_of_the_graphs():
    graphs = []
    for run in (
        zoo_run("discrete", normalise=True),
        zoo_run("mixed"),
        zoo_run("continuous", policy_head="gumbel", temperature=0.5),
    ):
        policy = agent_policies(run)[1]
        graphs.append(onnx.load_from_string(encode(policy, "onnx")))
    operators = {node.op_type for graph in graphs for node in graph.graph.node}
    [named] = re.findall(r"they need (Gemm.*?)\.$", TEXT, re.DOTALL | re.MULTILINE)
    assert operators == set(re.findall(r"[A-Z]\w+", named))
    for graph in graphs:
        assert f"opset {graph.opset_import[0].version}, IR version {graph.ir_version}," in TEXT
