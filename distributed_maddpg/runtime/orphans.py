"""Ends processes that Ray leaves running when a run is killed or hangs."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

_MARK = "DISTRIBUTED_MADDPG_CLUSTER"
_PR_SET_PDEATHSIG = 1
_LINUX = sys.platform.startswith("linux")


def end_with_raylet() -> None:
    """Have the kernel kill this Ray worker when the raylet that started it ends; Linux only.

    A hanging worker does not check for this, and Ray's own check takes seconds.
    """
    raylet = os.environ.get("RAY_RAYLET_PID")
    if not _LINUX or raylet is None:
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(raylet):  # the raylet died before the kernel was asked
        os._exit(1)


@contextmanager
def mark_processes() -> Iterator[None]:
    """Mark every process that is started inside as belonging to this process."""
    hidden = os.environ.get("SPT_NOENV")
    os.environ[_MARK] = _mark()
    os.environ["SPT_NOENV"] = "1"  # otherwise the titles that Ray's agents set hide the mark
    try:
        yield
    finally:  # other children of this program are not marked
        del os.environ[_MARK]
        if hidden is None:
            del os.environ["SPT_NOENV"]


def marked_processes_of_this_run() -> set[psutil.Process]:
    """Return the marked processes that this process started, and their children."""
    mine = _mark()
    return {member for process, mark in _marked() if mark == mine for member in _with_children(process)}


def marked_pids() -> set[int]:
    """Return the ids of the marked processes of all runs, those that go on among them."""
    return {process.pid for process, _ in _marked()}


def orphans() -> Iterator[psutil.Process]:
    """Yield marked processes of runs that were killed before they could end them, and their children."""
    for process, mark in _marked():
        if not _alive(mark):
            yield from _with_children(process)


def kill_orphans() -> None:
    """Kill what such runs have left."""
    for process in orphans():
        with suppress(psutil.Error):
            process.kill()


def _mark() -> str:
    """Return this process's id, its start time, because ids are reused, and the namespace of its id."""
    return f"{os.getpid()}:{_start_time(os.getpid())}:{_pid_namespace()}"


def _alive(mark: str) -> bool:
    pid, started, namespace = (*mark.split(":", 2), "", "")[:3]
    if namespace != _pid_namespace():
        return True  # processes of another namespace cannot be checked
    try:
        # A dead process stays listed until its parent reaps it.
        return _start_time(int(pid)) == started and psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError, ValueError):
        return False


def _start_time(pid: int) -> str:
    """Return when a process started, in a clock that cannot be set."""
    if not _LINUX:
        return str(psutil.Process(pid).create_time())
    # The name, in parentheses, may hold anything; the start is the 22nd field, in ticks since the boot.
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    return text.rpartition(")")[2].split()[19]


def _pid_namespace() -> str:
    """Return the scope of process ids: this boot and this container."""
    if not _LINUX:
        return ""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot}:{os.readlink('/proc/self/ns/pid')}"


def _marked() -> Iterator[tuple[psutil.Process, str]]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if mark := process.environ().get(_MARK):
                yield process, mark


def _with_children(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return [process, *process.children(recursive=True)]
    return [process]
