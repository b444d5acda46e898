"""Serves the page of runs on loopback, and renews it while they train, from the files of their folders."""

from __future__ import annotations

import errno
import gzip
import hashlib
import html
import json
import math
import os
import re
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from distributed_maddpg.errors import BadInput, one_line, reason
from distributed_maddpg.files import is_locked
from distributed_maddpg.report.page import page_of, report_data

_LOOPBACK = "127.0.0.1"
_PAGE, _DATA = "/", "/data.json"
_OWN_NAMES = ("localhost", _LOOPBACK)
"""Of an SSH tunnel too, whatever its port. Another name is that of a foreign site, whose DNS leads here."""
_HOST = re.compile(r"([a-z0-9.-]+)(?::[0-9]{1,5})?", re.IGNORECASE)
_CONFIG = "config.toml"
_NOT_DATA = ("report.html",)
_BUSY_SHARE = 0.2
"""Part of the time that reading the folders may take."""
_IDLE_S = 30.0
"""How long a connection may say nothing."""
_HEADERS = {
    "Cache-Control": "no-cache",  # ask again each time, with the version
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class Edition:
    """What the folders said at one moment."""

    version: str
    """Differs if anything in them has changed."""
    data: dict[str, Any] | None
    """What the page draws; None if there is nothing to draw."""
    message: str = ""
    """Why there is nothing to draw."""


class Editions:
    """Reads the folders of runs anew when their files have changed and somebody asks."""

    def __init__(
        self,
        run_dirs: Sequence[Path],
        interval_s: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare to read.

        Args:
            run_dirs: folders of runs, or parents of several seeds' runs; they need not exist yet.
            interval_s: least time between two looks at their files.
            clock: counts seconds.
        """
        self._run_dirs, self._interval_s, self._clock = tuple(run_dirs), interval_s, clock
        self._newest: Edition | None = None
        self._failed = False
        self._look_again_at = -math.inf
        self._reading = threading.Lock()

    def newest(self) -> Edition:
        """Return the newest edition; while another thread reads one, that before it if there is one."""
        if not self._reading.acquire(blocking=self._newest is None):
            assert self._newest is not None
            return self._newest
        try:
            began = self._clock()
            if self._newest is None or began >= self._look_again_at:
                version = _version(self._run_dirs)
                if self._newest is None or version != self._newest.version:
                    self._newest = self._renewed(version)
                now = self._clock()
                self._look_again_at = now + max(self._interval_s, (now - began) / _BUSY_SHARE)
            return self._newest
        finally:
            self._reading.release()

    def _renewed(self, version: str) -> Edition:
        """Read the folders; if that fails once, keep what was read before: a file may just be written."""
        begun = [path for path in self._run_dirs if _has_begun(path)]
        if not begun:
            names = ", ".join(one_line(str(path)) for path in self._run_dirs)
            return Edition(version, None, f"waiting for the run to start: {names}")
        try:
            edition = Edition(version, report_data(begun))
        except Exception as error:  # noqa: BLE001 - damaged files; the page must say so, not lose its server
            failed_before, self._failed = self._failed, True
            if self._newest is not None and self._newest.data is not None and not failed_before:
                return self._newest
            return Edition(version, None, str(error) if isinstance(error, BadInput) else reason(error))
        self._failed = False
        return edition


def _has_begun(run_dir: Path) -> bool:
    return any((path / _CONFIG).exists() for path in _folders(run_dir))


def _folders(run_dir: Path) -> list[Path]:
    return [run_dir, *sorted(run_dir.glob("seed_*"))]


def _version(run_dirs: Sequence[Path]) -> str:
    """Return a digest of the names, sizes and times of the files from which the page is made."""
    sha = hashlib.sha256()
    for run_dir in run_dirs:
        for folder in _folders(run_dir):
            sha.update(f"{folder}\0{is_locked(folder)}\0".encode(errors="surrogateescape"))
            for entry in (*_files(folder), *_files(folder / "policies")):
                sha.update(entry.encode(errors="surrogateescape"))
    return sha.hexdigest()[:32]


def _files(folder: Path) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            known = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return  # not there yet
    for entry in known:
        if entry.name.startswith(".") or entry.name in _NOT_DATA:
            continue
        try:
            status = entry.stat()
        except OSError:
            continue  # just renamed
        yield f"{entry.name}\0{status.st_size}\0{status.st_mtime_ns}\0"


class PageServer(socketserver.ThreadingTCPServer):
    """Answers GET of the page and of its data on loopback, and nothing else."""

    allow_reuse_address = True  # right after another one has ended; two cannot listen at a time
    daemon_threads = True

    def __init__(self, editions: Editions, port: int) -> None:
        """Listen, without answering yet; `serve_forever` does.

        Args:
            editions: what to show.
            port: to listen on; 0 for any that is free.

        Raises:
            BadInput: if the port cannot be had.
        """
        self.editions = editions
        try:
            super().__init__((_LOOPBACK, port), _Handler)
        except OSError as error:
            in_use = error.errno == errno.EADDRINUSE
            reason = "is in use" if in_use else f"cannot be used ({error.strerror})"
            raise BadInput("--port", port, f"{reason}; name another, or 0 for any that is free") from None

    @property
    def url(self) -> str:
        """Address of the page on this machine."""
        return f"http://{_LOOPBACK}:{self.server_address[1]}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a browser that closed its connection."""


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    timeout = _IDLE_S
    server_version, sys_version = "distributed-maddpg", ""

    def do_GET(self) -> None:
        if not self._is_own_name():
            self._send(HTTPStatus.FORBIDDEN, b"only for 127.0.0.1 and localhost\n", "text/plain")
            return
        path = self.path.partition("?")[0]
        if path not in (_PAGE, _DATA):
            self._send(HTTPStatus.NOT_FOUND, b"only / and /data.json\n", "text/plain")
            return
        edition = self.server.editions.newest()
        if path == _DATA:
            self._send_data(edition)
        elif edition.data is None:
            self._send(HTTPStatus.OK, _waiting_page(edition.message), "text/html")
        else:
            page = page_of(edition.data, live_url=_DATA.removeprefix("/"))
            self._send(HTTPStatus.OK, page.encode(), "text/html", edition.version)

    def _is_own_name(self) -> bool:
        match = _HOST.fullmatch(self.headers.get("Host", ""))
        return match is not None and match[1].lower() in _OWN_NAMES

    def _send_data(self, edition: Edition) -> None:
        if edition.data is None:
            body = json.dumps({"problem": edition.message}).encode()
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, body, "application/json")
        else:
            body = json.dumps(edition.data, separators=(",", ":"), allow_nan=False).encode()
            self._send(HTTPStatus.OK, body, "application/json", edition.version)

    def _send(self, status: HTTPStatus, body: bytes, kind: str, version: str = "") -> None:
        """Send a response; only its head if the browser has this version."""
        tag = f'W/"{version}"'  # weak: zipped and not
        unchanged = bool(version) and self.headers.get("If-None-Match", "") == tag
        zipped = len(body) > 1_000 and "gzip" in self.headers.get("Accept-Encoding", "")
        headers = {**_HEADERS, "Content-Type": f"{kind}; charset=utf-8", "Vary": "Accept-Encoding"}
        headers |= {"ETag": tag} if version else {}
        if unchanged:
            status, body = HTTPStatus.NOT_MODIFIED, b""
        elif zipped:  # pages of some megabytes also go through SSH
            body = gzip.compress(body, 5)
            headers["Content-Encoding"] = "gzip"
        headers |= {} if unchanged else {"Content-Length": str(len(body))}
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet: the terminal is for what the user should know."""


def _waiting_page(message: str) -> bytes:
    return _WAITING.format(message=html.escape(message)).encode()


_WAITING = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="2">
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<title>waiting</title><style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }}
body {{ display: grid; place-content: center; min-height: 90vh; margin: 0 16px; overflow-wrap: anywhere; }}
</style></head><body><p role="status">{message}</p></body></html>
"""
