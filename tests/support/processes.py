"""Looking into a run's processes from outside."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import ray

_SHARED_MEMORY = Path("/dev/shm")


def go_on(step: Callable[[], object], within_s: float = 300) -> None:
    """Repeat a step until it raises what a test waits for, but no longer than this."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        step()


def pid(actor: Any) -> int:
    """Return the id of an actor's process."""
    return ray.get(actor.__ray_call__.remote(lambda _: os.getpid()), timeout=300)


def modules(actor: Any) -> set[str]:
    """Return the names of the top-level modules that an actor's process has loaded."""
    return set(ray.get(actor.__ray_call__.remote(lambda _: [*sys.modules]), timeout=300))


def gone(pids: Iterable[int], within_s: float) -> bool:
    """Wait until none of the processes runs any more; return whether that happened in time."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not any(_runs(process) for process in pids):
            return True
        time.sleep(0.05)
    return False


def _runs(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def session_processes(session: int) -> dict[int, str]:
    """Return id and command of every process of a session that still runs."""
    found = {}
    for process in psutil.process_iter(["cmdline", "status"]):
        try:
            belongs = os.getsid(process.pid) == session
        except ProcessLookupError:
            continue
        if belongs and process.info["status"] != psutil.STATUS_ZOMBIE:
            found[process.pid] = " ".join(process.info["cmdline"] or [])
    return found


def abandoned_memory() -> set[str]:
    """Return the names of shared memory that no running process has open: nobody will clear it away."""
    if not _SHARED_MEMORY.is_dir():
        return set()
    names = set(os.listdir(_SHARED_MEMORY))  # first: whoever makes one from now on is not asked about it
    for process in psutil.pids() if names else ():
        names -= {Path(path).name for path in _open_paths(Path(f"/proc/{process}"))}
    return {name for name in names if (_SHARED_MEMORY / name).exists()}


def _open_paths(process: Path) -> Iterator[str]:
    """Yield the paths of the files that a process has open or mapped, as far as they are ours to see."""
    with suppress(OSError):  # it ended
        for file in (process / "fd").iterdir():
            with suppress(OSError):
                yield os.readlink(file)
        for line in (process / "maps").read_text(encoding="utf-8", errors="replace").splitlines():
            yield line.rpartition(" ")[2]
