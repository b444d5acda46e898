"""After a long run, no process holds more than after a third of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

_ROOT = Path(__file__).resolve().parents[2]
_MAX_MB = 5.0


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.ray)])
def test_memory_files_and_references_stay_as_they_are(workers: int) -> None:
    words = [sys.executable, "-m", "tests.support.soak", str(workers), "2000000"]
    done = subprocess.run(words, cwd=_ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-4000:]
    third, end = json.loads(done.stdout.splitlines()[-1])
    print(f"{workers} workers, {end['seconds']:.0f} s, {end['references']} references")
    assert third["processes"].keys() == end["processes"].keys(), "nobody was replaced"
    for process, then in end["processes"].items():
        before = third["processes"][process]
        print(f"{process}: {before['mb']:.1f} to {then['mb']:.1f} MB")
        print(f"{process}: {before['files']} to {then['files']} files")
    for process, then in end["processes"].items():
        before = third["processes"][process]
        assert then["mb"] - before["mb"] < _MAX_MB, process
        assert then["files"] - before["files"] <= 3, process
    assert end["references"] <= third["references"] + 10
