"""Where a run without a cluster of its own listens: on loopback only, Ray's processes included."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from pathlib import Path

import psutil
import pytest

pytest.importorskip("ray")
from tests.runtime.test_command import _ENDLESS, Command
from tests.support.processes import session_processes

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(not psutil.LINUX, reason="on macOS and Windows Ray itself chooses loopback"),
]

_DOCUMENT = Path(__file__).parents[2] / "docs" / "security.md"


def _documented() -> dict[str, int]:
    rows = re.findall(r"^\| `([\w:]+)` \| (\d)", _DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: int(sockets) for name, sockets in rows if name != "watch"}  # tests/run/test_watch.py


def test_a_local_runs_sockets_are_those_of_the_document_and_on_loopback(tmp_path: Path) -> None:
    command = Command(tmp_path / "run", *_ENDLESS, f"--run-dir={tmp_path / 'run'}")
    try:
        command.wait_for("env-steps/s")
        listening: Counter[str] = Counter()
        for pid, words in session_processes(command.process.pid).items():
            for connection in psutil.Process(pid).net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN or not connection.raddr:
                    address = ipaddress.ip_address(connection.laddr.ip)
                    address = getattr(address, "ipv4_mapped", None) or address
                    assert address.is_loopback, (words, connection)
                    listening[_name(pid, command.process.pid, words)] += 1
        listening.pop("ray::IDLE", None)  # ready for the next process
        assert listening == _documented()
    finally:
        command.process.terminate()
        code, _, stderr = command.end(within_s=500)
    assert code == 0, stderr


def _name(pid: int, driver: int, words: str) -> str:
    if pid == driver:
        return "driver"
    return words.split(" ")[0].rpartition("/")[2].partition(".")[0]
