"""Measures the facts on this machine; starts nothing but nvidia-smi."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import psutil

import distributed_maddpg
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.doctor.facts import (
    THREAD_VARIABLES,
    Facts,
    Gpu,
    Machine,
    Numerics,
    Packages,
    Process,
    RayFacts,
)
from distributed_maddpg.errors import reason
from distributed_maddpg.preflight import memory_bytes
from distributed_maddpg.runtime.orphans import marked_pids, orphans
from distributed_maddpg.runtime.store import object_store_bytes
from distributed_maddpg.threads import available_cores

_NAME = "distributed-maddpg"
_GPU_TIMEOUT_S = 20
_MOST_FILES = 200_000
_SHM = Path("/dev/shm")


def measure() -> Facts:
    """Return the facts of this machine; importing torch takes seconds."""
    return Facts(_packages(), _machine(), _gpu(), _numerics(), _ray())


def _packages() -> Packages:
    from packaging.requirements import Requirement  # noqa: PLC0415 (as in findings)

    try:
        own = metadata.metadata(_NAME)
        texts = metadata.requires(_NAME) or []
    except metadata.PackageNotFoundError:
        return Packages(platform.python_version(), "", (), {})
    required = [
        each for each in map(Requirement, texts) if each.marker is None or each.marker.evaluate({"extra": ""})
    ]
    installed = {}
    for requirement in required:
        with suppress(metadata.PackageNotFoundError):
            installed[requirement.name] = metadata.version(requirement.name)
    names = tuple(f"{each.name}{each.specifier}" for each in required)
    return Packages(platform.python_version(), own["Requires-Python"] or "", names, installed)


def _machine() -> Machine:
    memory, folder = psutil.virtual_memory(), Path.cwd()
    shm = shutil.disk_usage(_SHM) if _SHM.is_dir() else None
    sources = Path(distributed_maddpg.__file__).parent.rglob("*.py")
    return Machine(
        cores=os.cpu_count() or 1,
        usable_cores=available_cores(),
        memory_bytes=memory.total,
        memory_limit_bytes=memory_bytes(),
        memory_free_bytes=memory.available,
        folder=str(folder),
        folder_writable=os.access(folder, os.W_OK),
        folder_free_bytes=shutil.disk_usage(folder).free,
        shm_bytes=shm.total if shm else 0,
        shm_free_bytes=shm.free if shm else 0,
        now=time.time(),
        package_written=max(path.stat().st_mtime for path in sources),
    )


def _gpu() -> Gpu:
    there, driver_cuda = _driver()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        import torch  # noqa: PLC0415 - takes seconds, and may be broken
    except Exception as error:  # noqa: BLE001 - a library that does not fit raises OSError, among others
        return Gpu(reason(error), "", "", (), there, driver_cuda, visible, _cards())
    sees = torch.cuda.is_available()
    seen = tuple(
        torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count() if sees else 0)
    )
    return Gpu("", torch.__version__, torch.version.cuda or "", seen, there, driver_cuda, visible, _cards())


def _cards(devices: Path = Path("/sys/bus/pci/devices")) -> int:
    """Return how many display devices of NVIDIA are on the PCI bus."""
    count = 0
    for device in devices.glob("*"):
        with suppress(OSError):
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
            count += vendor == "0x10de" and kind.startswith("0x03")
    return count


def _driver() -> tuple[tuple[str, ...], str]:
    """Return the names of the GPUs that the driver lists, and the newest CUDA version that it knows."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return (), ""
    query = [command, "--query-gpu=name", "--format=csv,noheader"]
    texts = []
    for words in ([command], query):
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=_GPU_TIMEOUT_S, check=True)
        except (OSError, subprocess.SubprocessError):
            return (), ""
        texts.append(done.stdout)
    version = re.search(r"CUDA Version: *([\d.]+)", texts[0])
    return tuple(line.strip() for line in texts[1].splitlines() if line.strip()), version[
        1
    ] if version else ""


def _numerics() -> Numerics:
    import numpy  # noqa: F401, PLC0415 - loads the library that is asked for
    from threadpoolctl import threadpool_info  # noqa: PLC0415

    pools = [pool for pool in threadpool_info() if pool["internal_api"] == "openblas"]
    return Numerics(
        threads={name: os.environ[name] for name in THREAD_VARIABLES if os.environ.get(name)},
        coretype=os.environ.get("OPENBLAS_CORETYPE", ""),
        openblas=str(pools[0].get("architecture", "")) if pools else "",
        vectors=_vectors(),
        numba_cache_problem=_numba_cache_problem(),
    )


def _vectors() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    return "avx512" if "avx512f" in flags else "avx2" if "avx2" in flags else ""


def _numba_cache_problem() -> str:
    """Return why numba finds no folder for its cache; it looks in the order of this function."""
    beside = Path(distributed_maddpg.__file__).parent / "__pycache__"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numba"
    named = os.environ.get("NUMBA_CACHE_DIR")
    places = [Path(named)] if named else [beside, cache]
    if any(os.access(_existing(place), os.W_OK) for place in places):
        return ""
    return f"none of these can be written to: {', '.join(map(str, places))}"


def _existing(path: Path) -> Path:
    return next(each for each in (path, *path.absolute().parents) if each.exists())


def _ray() -> RayFacts:
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    has_file = token.is_file()
    folder = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray"
    return RayFacts(
        address=os.environ.get("RAY_ADDRESS", ""),
        auth_mode=os.environ.get("RAY_AUTH_MODE", ""),
        has_token=has_file or bool(os.environ.get("RAY_AUTH_TOKEN")),
        token_file=str(token) if has_file else "",
        token_permissions=token.stat().st_mode & 0o777 if has_file else 0o600,
        object_store_bytes=object_store_bytes(MADDPGConfig()),
        orphans=tuple(map(_process, orphans())),
        clusters=tuple(map(_process, _raylets())),
        temp_folder=str(folder),
        temp_bytes=_bytes_below(folder),
        temp_free_bytes=shutil.disk_usage(_existing(folder)).free,
    )


def _raylets() -> Iterator[psutil.Process]:
    """Yield the raylets that no run of this package has started for itself."""
    own = marked_pids()
    for process in psutil.process_iter(["name"]):
        if process.info["name"] == "raylet" and process.pid not in own:
            yield process


def _process(process: psutil.Process) -> Process:
    name, owned = "ended meanwhile", True
    with suppress(psutil.Error):
        name = process.name()
        owned = process.uids().real == os.getuid()
    return Process(process.pid, name, owned)


def _bytes_below(folder: Path) -> int:
    """Return the size of the files in a folder; of a very large one, of the first files."""
    total = count = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(path, name)).st_blocks * 512
        count += len(names)
        if count > _MOST_FILES:
            break
    return total
