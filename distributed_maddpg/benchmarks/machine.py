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
        "gpu": _gpu_name(),
        "os": platform.system() + " " + platform.release().partition("-")[0],
        "versions": versions,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


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
