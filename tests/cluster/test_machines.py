"""A run over real `ray start` processes on machines with their own addresses, which crash or are cut off."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

pytest.importorskip("ray")
from tests.support.machines import Machine, can_be_made, cut_off, machines, reconnect

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(not can_be_made(), reason="needs root and Linux namespaces"),
]

_ROOT = Path(__file__).resolve().parents[2]
_BIN = Path(sys.executable).parent
_START = 'for try in 1 2 3; do "$@" && break; done'  # a busy machine may delay Ray's agents for too long
_RUN = (
    "--num-workers 3 --ray.min-workers 2 --ray.wait-for-nodes 5m --ray.timeout-s 60 --resume auto "
    "--env.id tests.support.target:parallel_env --env.kwargs pause_s 0.002 --rollout.num-envs 8 "
    "--learner.batch-size 32 --learner.device cpu --replay.capacity 20000 --pacing.learning-starts 256 "
    "--pacing.total-env-steps 1000000000 --pacing.report-interval-env-steps 512 "
    "--pacing.evaluation-interval-env-steps 0 --ray.snapshot-interval-s 1"
).split()


class Lab:
    """Three machines, a head among them, and the run's command on the second."""

    def __init__(self, made: list[Machine], folder: Path) -> None:
        self.head, self.driver, self.other = made
        self.folder, self.run_dir = folder, folder / "run"
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
            "HOME": str(folder),
            "PYTHONPATH": str(_ROOT),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
            "RAY_worker_niceness": "0",
            # A node that was cut off is given up after some seconds, not after a minute.
            "RAY_health_check_initial_delay_ms": "0",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "1000",
            "RAY_health_check_failure_threshold": "5",
        }

    def join(self, machine: Machine, cpus: int) -> None:
        """Start Ray on a machine, as the head or as a node of it."""
        head = machine is self.head
        role = (
            ["--head", "--port=6379", "--include-dashboard=false"] if head else ["--address=10.77.0.1:6379"]
        )
        own = [f"--node-ip-address={machine.address}", f"--num-cpus={cpus}", "--block"]
        words = [str(_BIN / "ray"), "start", *role, *own, "--object-store-memory=100000000"]
        with (self.folder / f"ray-{machine.number}.log").open("ab") as log:
            machine.start(["sh", "-c", _START, "start", *words], self.env, log)

    def train(self, log: Path) -> subprocess.Popen[bytes]:
        words = [str(_BIN / "python"), "-m", "distributed_maddpg", "train", "--run-dir", str(self.run_dir)]
        with log.open("wb") as file:
            return self.driver.start([*words, "--ray.address", "10.77.0.1:6379", *_RUN], self.env, file)

    def env_steps(self) -> int:
        """Return the env steps of the last report."""
        table = self.run_dir / "metrics.csv"
        lines = table.read_text().splitlines() if table.exists() else []
        column = lines[0].split(",").index("num_env_steps_sampled_lifetime") if lines else 0
        return int(float(lines[-1].split(",")[column])) if len(lines) > 1 else 0


@pytest.fixture
def lab() -> Iterator[Lab]:
    folder = Path(tempfile.mkdtemp(prefix="mm", dir="/tmp"))  # short: Ray's socket paths begin with it
    with machines(3, folder) as made:
        yield Lab(made, folder)
    shutil.rmtree(folder, ignore_errors=True)


def _until(reached: Callable[[], bool], log: Path, within_s: float = 240) -> None:
    deadline = time.monotonic() + within_s
    while not reached():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def _train_on(lab: Lab, log: Path, env_steps: int) -> subprocess.Popen[bytes]:
    """Resume until so many env steps; once more where Ray did not connect to a head that just starts."""
    for _ in range(3):
        process = lab.train(log)
        _until(lambda own=process: own.poll() is not None or lab.env_steps() > env_steps, log)
        if process.poll() is None or "Failed to connect" not in log.read_text():
            break
    assert process.poll() is None, log.read_text()
    return process


def test_nodes_join_are_cut_off_and_come_back_and_the_head_dies(lab: Lab) -> None:
    log = lab.folder / "train.log"
    lab.join(lab.head, cpus=1)
    lab.join(lab.driver, cpus=1)
    process = lab.train(log)
    _until(lambda: "waiting up to 5m for nodes" in log.read_text(), log)
    needs = "ray.min_workers = 2: needs 3 CPUs together with the learner, but the cluster has 2 ("
    assert needs in log.read_text()

    lab.join(lab.other, cpus=2)
    _until(lambda: lab.env_steps() > 1000, log)

    cut_off(lab.other)
    _until(lambda: "did not answer within" in log.read_text() or " died: " in log.read_text(), log)
    lab.other.crash()
    reconnect(lab.other)
    lab.join(lab.other, cpus=2)
    _until(lambda: log.read_text().count("was replaced after") >= 2, log)
    steps = lab.env_steps()
    _until(lambda: lab.env_steps() > steps + 1000, log)

    steps = lab.env_steps()
    lab.head.crash()
    assert process.wait(timeout=120) == 1
    lines = log.read_text().splitlines()
    assert "error: the cluster's head does not answer; resume the run when it does" in lines
    newest = max(
        int(path.name.removeprefix("step_")) for path in (lab.run_dir / "checkpoints").glob("step_*")
    )
    assert newest >= steps, "what was done until then is saved"

    for machine in (lab.driver, lab.other):
        machine.crash()
    for machine in (lab.head, lab.driver, lab.other):
        lab.join(machine, cpus=2)
    again = lab.folder / "again.log"
    process = _train_on(lab, again, newest + 1000)
    assert f"resuming from {lab.run_dir}/checkpoints/step_{newest}" in again.read_text()
    psutil.Process(process.pid).children()[0].terminate()  # its parent entered the machine with it
    assert process.wait(timeout=120) == 0
