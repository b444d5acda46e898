"""A headless Chromium of the system, driven by Playwright."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
_INSTALL_S = 600


def find_chromium() -> str:
    """Return the path of the system's Chromium; in CI it is installed from the system's packages.

    Where there is none, the test is skipped, in CI it fails.
    """
    in_ci = bool(os.environ.get("CI"))
    problem = _install() if in_ci and os.geteuid() == 0 and shutil.which("apt-get") else ""
    if path := _installed():
        return path
    message = f"needs Chromium: apt-get install chromium {problem}"
    if in_ci:
        pytest.fail(message)
    pytest.skip(message)


def _install() -> str:
    """Install Chromium if it is not there; return why that failed. Several processes of tests take turns."""
    with (Path(tempfile.gettempdir()) / "install-chromium.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _installed():
            return ""
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update", "-qq"], ["install", "-qq", "-y", "--no-install-recommends", "chromium"]):
            done = subprocess.run(
                ["apt-get", *command], env=environment, timeout=_INSTALL_S, capture_output=True, text=True
            )
        return f"({done.stderr[-500:]})" if done.returncode else ""


def _installed() -> str:
    return next(filter(None, map(shutil.which, _NAMES)), "")


@contextmanager
def open_browser() -> Iterator[Any]:
    """Start a browser, and end it on exit."""
    executable = find_chromium()
    from playwright.sync_api import sync_playwright

    # A container's root has no sandbox, and its /dev/shm may be small.
    flags = ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=flags)
        try:
            yield browser
        finally:
            browser.close()
