"""A terminal for a command: a real pty of a certain size, and the screen that it shows."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import termios
import time
from pathlib import Path

import pyte

_ROOT = Path(__file__).resolve().parents[2]
_NOT_OF_THE_TEST = ("CI", "COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR")


class Terminal:
    """Runs a command as the foreground job of a terminal, until `close`."""

    def __init__(self, *words: str, columns: int = 80, lines: int = 24) -> None:
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        attributes = termios.tcgetattr(slave)
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        env = {name: value for name, value in os.environ.items() if name not in _NOT_OF_THE_TEST}
        env |= {"TERM": "xterm-256color", "PYTHONPATH": str(_ROOT), "PYTHONIOENCODING": "utf-8"}
        # A session's leader that opens a terminal gets its keys' signals.
        opening = ["sh", "-c", 'exec "$@" <"$0" >"$0" 2>"$0"', os.ttyname(slave)]
        self.process = subprocess.Popen([*opening, *words], cwd=_ROOT, env=env, start_new_session=True)
        self._slave = slave
        self.screen = pyte.HistoryScreen(columns, lines, history=1000)
        self._stream = pyte.ByteStream(self.screen)
        self.written = b""

    def lines(self) -> list[str]:
        """Return what the screen shows now, without empty lines."""
        return [line.rstrip() for line in self.screen.display if line.strip()]

    def read(self, within_s: float = 0.2) -> bool:
        """Show what the command writes next; return whether it wrote anything in time."""
        if not select.select([self._master], [], [], within_s)[0]:
            return False
        data = os.read(self._master, 1 << 16)
        self.written += data
        self._stream.feed(data)
        return True

    def wait_for(self, text: str, within_s: float = 300) -> None:
        """Wait until the screen shows a text."""
        deadline = time.monotonic() + within_s
        while self._within_frame() or not any(text in line for line in self.lines()):
            ended = self.process.poll() is not None
            if not self.read() and ended:
                raise AssertionError(f"it ended without {text!r}: {self.lines()}")
            assert time.monotonic() < deadline, self.lines()

    def _within_frame(self) -> bool:
        """Return whether the rest of a frame (synchronised output) is still to come."""
        return self.written.rfind(b"\x1b[?2026h") > self.written.rfind(b"\x1b[?2026l")

    def press(self, keys: bytes) -> None:
        """Type."""
        os.write(self._master, keys)

    def end(self, within_s: float = 300) -> int:
        """Wait for the command; return its exit code."""
        deadline = time.monotonic() + within_s
        while self.process.poll() is None or self.read(0):
            self.read()
            assert time.monotonic() < deadline, self.lines()
        return self.process.returncode

    def attributes(self) -> list[object]:
        """Return the terminal's settings, which a command should leave as they were."""
        return termios.tcgetattr(self._slave)

    def close(self) -> None:
        """End the command."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)
