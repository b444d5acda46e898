"""Machines in a network of their own, made of Linux namespaces: each has its address, memory and processes.

Needs root, `unshare`, `nsenter` and `ip`. They reach nothing outside, and nothing outside reaches them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil

from tests.support.processes import gone

_NEW = ["unshare", "--net", "--mount", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
_WITHIN_S = 60.0


def can_be_made() -> bool:
    """Whether this machine lets us make others."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        return False
    return subprocess.run([*_NEW, "ip", "link"], capture_output=True, timeout=_WITHIN_S).returncode == 0


class Machine:
    """One machine; the processes that are started on it end with it."""

    def __init__(self, number: int, folder: Path) -> None:
        self.number, self.address = number, f"10.77.0.{number}"
        self.folder = folder / str(number)
        """Where its programs put temporary files; all other files are shared."""
        self.folder.mkdir(parents=True)
        self._programs: list[subprocess.Popen[bytes]] = []
        own_memory = "mount -t tmpfs tmpfs /dev/shm && ip link set lo up && exec sleep infinity"
        self._shell = subprocess.Popen([*_NEW, "sh", "-c", own_memory], stderr=subprocess.DEVNULL)
        self.init = self._first_process()

    def _first_process(self) -> int:
        deadline = time.monotonic() + _WITHIN_S
        while time.monotonic() < deadline:
            children = psutil.Process(self._shell.pid).children()
            if children and children[0].name() == "sleep":
                return children[0].pid
            time.sleep(0.02)
        raise TimeoutError("the machine did not start")

    def start(self, words: list[str], env: Mapping[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start a program here."""
        enter = ["nsenter", "-t", str(self.init), "--net", "--mount", "--ipc", "--pid", "--"]
        own = {**env, "RAY_TMPDIR": str(self.folder)}
        self._programs.append(
            subprocess.Popen([*enter, *words], env=own, stdout=log, stderr=subprocess.STDOUT)
        )
        return self._programs[-1]

    def crash(self) -> None:
        """Kill every program here; others can be started."""
        enter = ["nsenter", "-t", str(self.init), "--mount", "--pid", "--"]
        subprocess.run([*enter, "sh", "-c", "kill -KILL -1"], timeout=_WITHIN_S)

    def end(self) -> None:
        """End the machine."""
        with suppress(ProcessLookupError):
            os.kill(self.init, signal.SIGKILL)
        for process in (self._shell, *self._programs):
            process.wait(timeout=_WITHIN_S)


@contextmanager
def machines(count: int, folder: Path) -> Iterator[list[Machine]]:
    """Make machines that reach each other through a switch, itself one of them; end all of them."""
    made: list[Machine] = []
    try:
        made += [Machine(number, folder) for number in range(count + 1)]
        switch, *others = made
        _on(switch, "ip link add switch type bridge", "ip link set switch up")
        for machine in others:
            port = f"port{machine.number}"
            _on(
                switch,
                f"ip link add {port} type veth peer name eth0 netns {machine.init}",
                f"ip link set {port} master switch up",
            )
            _on(machine, f"ip addr add {machine.address}/24 dev eth0", "ip link set eth0 up")
        yield others
    finally:
        for machine in made:
            machine.end()
        assert gone([machine.init for machine in made], within_s=_WITHIN_S)


def cut_off(machine: Machine) -> None:
    """Take a machine off the network: it runs on, but nobody hears of it."""
    _on(machine, "ip link set eth0 down")


def reconnect(machine: Machine) -> None:
    """Bring a machine back to the network."""
    _on(machine, "ip link set eth0 up")


def _on(machine: Machine, *commands: str) -> None:
    for command in commands:
        # In the file system and process ids of the test, in the network of the machine.
        words = ["nsenter", "-t", str(machine.init), "--net", "--", *command.split()]
        subprocess.run(words, check=True, timeout=_WITHIN_S)
