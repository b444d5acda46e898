"""A driver that is killed takes its processes along, or the next run ends them; other runs are left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

pytest.importorskip("ray")
from distributed_maddpg.runtime import orphans
from distributed_maddpg.runtime.orphans import kill_orphans, mark_processes, marked_processes_of_this_run
from tests.support.processes import abandoned_memory, gone, session_processes

pytestmark = pytest.mark.ray

_ROOT = Path(__file__).resolve().parents[2]


class Run:
    """An endless run in a session of its own."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.endless_run"],
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.actors: dict[str, int] = {}

    def wait(self) -> None:
        """Wait until all of its actors work."""
        assert self.process.stdout is not None
        self.actors = json.loads(self.process.stdout.readline())

    def processes(self) -> dict[int, str]:
        return session_processes(self.process.pid)

    def family(self) -> set[int]:
        """Return the ids of all its processes, also those that have left its session."""
        return {child.pid for child in psutil.Process(self.process.pid).children(recursive=True)}

    def close(self) -> None:
        for process in (*self.processes(), *self.actors.values()):
            with_suppressed(lambda process=process: os.kill(process, signal.SIGKILL))
        self.process.wait(timeout=120)
        if self.process.stdout is not None:
            self.process.stdout.close()


def with_suppressed(action: Callable[[], None]) -> None:
    try:
        action()
    except ProcessLookupError:
        pass


@pytest.fixture
def runs() -> Iterator[tuple[Run, Run]]:
    both: list[Run] = []
    try:
        for _ in range(2):  # one after the other, for two that start at once keep each other waiting
            both.append(Run())
            both[-1].wait()
        yield both[0], both[1]
    finally:
        for run in both:
            run.close()


def test_a_killed_drivers_processes_end_and_another_runs_do_not(runs: tuple[Run, Run]) -> None:
    killed, other = runs
    mine, others = killed.family(), other.family()
    assert set(killed.actors.values()) <= mine
    shared = abandoned_memory()
    stopped = killed.actors["rollout worker 0"]
    os.kill(stopped, signal.SIGSTOP)
    started = time.monotonic()
    killed.process.kill()
    assert gone(killed.actors.values(), within_s=120), "even the one that was stopped"
    print(f"all actors ended after {time.monotonic() - started:.1f} s")
    kill_orphans()  # what the next run does as it starts
    assert gone(mine, within_s=120)
    assert not gone(others, within_s=0.2), "they belong to a run that lives"
    assert others <= other.family(), "not one of them"
    assert other.process.poll() is None
    assert abandoned_memory() <= shared


@pytest.mark.parametrize("change", ["clock", "container", "version"])
def test_processes_of_whom_nothing_is_known_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    with mark_processes():
        mark = os.environ[orphans._MARK]
        if change == "container":
            number, began, numbering = mark.split(":", 2)
            mark = f"9{number}:{began}:{numbering[:-2]}7]"
        elif change == "version":
            mark = f"{os.getpid()}:1764000000.12"
        sleeper = subprocess.Popen(["sleep", "600"], env={**os.environ, orphans._MARK: mark})
    try:
        if change == "clock":  # it was set an hour forward
            began = psutil.Process.create_time
            monkeypatch.setattr(psutil.Process, "create_time", lambda process: began(process) + 3600)
        kill_orphans()
        assert not gone([sleeper.pid], within_s=0.3)
    finally:
        sleeper.kill()
        sleeper.wait()


def test_orphans_are_told_by_their_starter() -> None:
    script = (
        "import subprocess, sys\n"
        "from distributed_maddpg.runtime.orphans import mark_processes\n"
        "with mark_processes():\n"
        "    child = subprocess.Popen(['sleep', '600'])\n"
        "bare = subprocess.Popen(['sleep', '600'])\n"
        "print(child.pid, bare.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", script], cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert starter.stdin is not None and starter.stdout is not None
    marked, bare = map(int, starter.stdout.readline().split())
    try:
        kill_orphans()
        assert not gone([marked], within_s=0.3), "its starter lives"
        starter.kill()
        starter.wait()
        kill_orphans()
        assert gone([marked], within_s=120)
        assert not gone([bare], within_s=0.3), "it is not marked"
    finally:
        for number in (marked, bare):
            with_suppressed(lambda number=number: os.kill(number, signal.SIGKILL))
        starter.stdin.close()
        starter.stdout.close()


def test_own_processes_are_found_with_their_children_and_the_environment_is_as_before() -> None:
    before = dict(os.environ)
    with mark_processes():
        child = subprocess.Popen(["sh", "-c", "sleep 600 & wait"])
    assert dict(os.environ) == before
    bare = subprocess.Popen(["sleep", "600"])
    try:
        deadline = time.monotonic() + 120
        while len(family := marked_processes_of_this_run()) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(family) == 2 and child.pid in {process.pid for process in family}
        assert bare.pid not in {process.pid for process in family}
    finally:
        for process in marked_processes_of_this_run():
            process.kill()
        bare.kill()
        child.wait()
        bare.wait()
