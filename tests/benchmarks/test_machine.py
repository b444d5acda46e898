from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from distributed_maddpg.benchmarks.machine import machine


def test_machine_names_cores_system_and_versions() -> None:
    described = machine()
    assert described["cores"] >= 1
    assert described["cpu"]
    assert described["os"]
    assert {"python", "torch", "numpy", "mpe2"} <= set(described["versions"])


@pytest.mark.parametrize(
    ("script", "name"),
    [("echo 'Card A'; echo 'Card B'", "Card A"), ("exit 9", "none"), ("true", "none")],
)
def test_the_gpu_is_the_first_the_driver_names(
    script: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda _: str(tool))
    assert machine()["gpu"] == name


def test_a_machine_without_the_drivers_tool_has_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert machine()["gpu"] == "none"
