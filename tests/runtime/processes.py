"""Looking into a run's processes from outside."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import psutil
import ray


def go_on(step: Callable[[], object], within_s: float = 120) -> None:
    """Repeat a step until it raises what a test waits for, but no longer than this."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        step()


def pid(actor: Any) -> int:
    """Return the id of an actor's process."""
    return ray.get(actor.__ray_call__.remote(lambda _: os.getpid()), timeout=60)


def modules(actor: Any) -> set[str]:
    """Return the names of the top-level modules that an actor's process has loaded."""
    return set(ray.get(actor.__ray_call__.remote(lambda _: [*sys.modules]), timeout=60))


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
