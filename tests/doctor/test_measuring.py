import json
import os
import platform
from importlib import metadata

import psutil
import torch

from distributed_maddpg.cli import main
from distributed_maddpg.doctor import measuring
from distributed_maddpg.doctor.facts import Gpu


def test_the_real_machine_is_measured(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert main(["doctor", "--json"]) in (0, 1)
    result = json.loads(capsys.readouterr().out)
    facts = result["facts"]
    assert facts["packages"]["python"] == platform.python_version()
    assert facts["packages"]["installed"]["torch"] == metadata.version("torch")
    assert "torch>=2.6" in facts["packages"]["requirements"]
    assert not any("moto" in each for each in facts["packages"]["requirements"])  # of an extra
    assert facts["machine"]["cores"] == os.cpu_count()
    assert facts["machine"]["memory_bytes"] == psutil.virtual_memory().total
    assert facts["machine"]["folder"] == str(tmp_path)
    assert facts["gpu"]["torch_version"] == torch.__version__
    assert len(facts["gpu"]["seen"]) == torch.cuda.device_count()
    assert facts["numerics"]["threads"]["OMP_NUM_THREADS"] == "1"
    levels = [each["level"] for each in result["findings"]]
    assert result["problems"] == levels.count("problem")
    assert os.listdir(tmp_path) == []


def test_lines_name_what_was_found_and_a_problem_is_exit_code_1(capsys, monkeypatch):
    monkeypatch.setattr(measuring, "_gpu", lambda: Gpu(torch_error="OSError: no libtorch.so"))
    assert main(["doctor"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "problem: torch cannot be imported (OSError: no libtorch.so)" in captured.err
    assert "  install torch again, see pytorch.org/get-started" in captured.err


def test_a_folder_without_write_permission_is_no_numba_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert measuring._numba_cache_problem() == ""
    monkeypatch.setattr(measuring.os, "access", lambda path, mode: False)
    assert measuring._numba_cache_problem() == f"none of these can be written to: {tmp_path}"


def test_files_below_a_folder_are_added_up(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"x" * 100_000)
    assert 100_000 <= measuring._bytes_below(tmp_path) <= 120_000
    assert measuring._bytes_below(tmp_path / "none") == 0


def test_cards_of_nvidia_are_counted(tmp_path):
    for name, vendor, kind in (
        ("a", "0x10de", "0x030200"),
        ("b", "0x10de", "0x040300"),
        ("c", "0x8086", "0x030000"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "class").write_text(f"{kind}\n")
    assert measuring._cards(tmp_path) == 1
