"""The machine that a figure depends on: processor, cores, GPU, system, versions."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "ray", "numpy", "numba", "mpe2")
_GPU_TIMEOUT_S = 20


def machine() -> dict[str, Any]:
    """Return cores, processor, GPU or "none", operating system, and versions of the main packages."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # a GPU machine may have no Ray
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "avx512": " avx512f " in _cpu_info("flags"),
        "gpu": _gpu_name(),
        "os": platform.system() + " " + platform.release().partition("-")[0],
        "versions": versions,
    }


def _cpu_name() -> str:
    return _cpu_info("model name").strip() or platform.processor() or platform.machine()


def _cpu_info(key: str) -> str:
    """Return what Linux tells of the first processor, with a space at both ends; empty if it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    found = [line.partition(":")[2] for line in lines if line.startswith(key)]
    return f" {found[0].strip()} " if found else ""


def _gpu_name() -> str:
    """Return the first GPU's name, from the driver: importing torch to learn it takes seconds."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return "none"
    query = [command, "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=_GPU_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return "none"
    return (done.stdout.splitlines() or ["none"])[0].strip()
