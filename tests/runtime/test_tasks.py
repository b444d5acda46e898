import os
import signal
import subprocess
import sys
import time

import pytest

from distributed_maddpg.cli import main
from distributed_maddpg.errors import BadInput, TrainingError
from distributed_maddpg.runtime.tasks import run_in_parallel
from tests.support.processes import session_processes

pytestmark = pytest.mark.ray


def work(value, seconds=0.0):
    time.sleep(seconds)
    if value == -2:
        raise BadInput("n", value, "must not be negative")
    if value < 0:
        raise ValueError(f"{value} is negative")
    return value * value, os.getpid()


def test_results_come_by_name_from_other_processes(ray_cluster):
    found = dict(run_in_parallel(work, {f"of {n}": (n,) for n in range(5)}, "", 60.0))
    assert {name: result[0] for name, result in found.items()} == {f"of {n}": n * n for n in range(5)}
    assert os.getpid() not in {result[1] for result in found.values()}


def wait_for(path):
    while path and not os.path.exists(path):
        time.sleep(0.05)


def test_whoever_ends_first_comes_first(ray_cluster, tmp_path):
    seen = tmp_path / "the fast one was seen"
    ended = run_in_parallel(wait_for, {"slow": (str(seen),), "fast": ("",)}, "", 300.0)
    assert next(ended)[0] == "fast"
    seen.touch()
    assert [name for name, _ in ended] == ["slow"]


def test_a_failure_names_the_piece(ray_cluster):
    for value, reason in ((-1, "ValueError: -1 is negative"), (-2, "BadInput: n = -2: must not be negative")):
        with pytest.raises(TrainingError, match=f"^the odd one failed: {reason}$"):
            list(run_in_parallel(work, {"the odd one": (value,)}, "", 60.0))


def test_a_piece_that_never_ends_is_given_up(ray_cluster):
    started = time.monotonic()
    with pytest.raises(TrainingError, match="the endless one did not answer within 2 s"):
        list(run_in_parallel(work, {"the endless one": (1, 600.0)}, "", 2.0))
    assert time.monotonic() - started < 300


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_reproduction_that_is_stopped_leaves_nobody_and_goes_on(tmp_path, number):
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "distributed_maddpg",
        "reproduce",
        "physical-deception",
        "--budget",
        "small",
    ]
    command += ["--seeds", "2", "--episodes", "20", "--out", str(out)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 300
        while not list((out / "results").glob("*.json")):
            assert time.monotonic() < deadline and process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(timeout=300) == 1
        assert (tmp_path / "log").read_text().splitlines()[-1] == "error: interrupted"
        deadline = time.monotonic() + 120
        while (left := session_processes(process.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left
    finally:
        for each in session_processes(process.pid):
            os.kill(each, signal.SIGKILL)
    done = {path: path.stat().st_mtime_ns for path in (out / "results").iterdir()}
    assert 1 <= len(done) < 8, "it was stopped on its way"
    assert main(["reproduce", "physical-deception", *command[5:], "--in-process"]) == 0
    assert all(path.stat().st_mtime_ns == at for path, at in done.items())
    assert len(list((out / "results").iterdir())) == 8
