"""The command over Ray: exit codes, files, signals as a terminal sends them, and no process left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray")
from distributed_maddpg.errors import without_place
from tests.support.processes import session_processes

pytestmark = pytest.mark.ray

_ROOT = Path(__file__).resolve().parents[2]
_TINY = (
    "--num-workers=1 --rollout.num-envs=8 --learner.batch-size=32 --learner.device=cpu "
    "--replay.capacity=5000 --pacing.learning-starts=256 --pacing.report-interval-env-steps=512 "
    "--pacing.evaluation-interval-env-steps=0 --evaluation.final-episodes=8"
).split()


class Command:
    """`distributed-maddpg train` as the leader of its own session, so that all of its processes are found."""

    def __init__(self, run_dir: Path, *options: str) -> None:
        words = [sys.executable, "-m", "distributed_maddpg", "train", *options]
        env = {**os.environ, "PYTHONPATH": str(_ROOT), "COLUMNS": "500"}
        self.run_dir, self.stderr = run_dir, run_dir.with_suffix(".log")
        with self.stderr.open("w") as log:
            self.process = subprocess.Popen(
                words,
                cwd=_ROOT,
                env=env,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def wait_for(self, text: str, within_s: float = 400) -> None:
        deadline = time.monotonic() + within_s
        while text not in self.stderr.read_text():
            assert time.monotonic() < deadline and self.process.poll() is None, self.stderr.read_text()
            time.sleep(0.05)

    def wait_for_process(self, name: str, within_s: float = 400) -> None:
        deadline = time.monotonic() + within_s
        while not any(name in command for command in session_processes(self.process.pid).values()):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def end(self, within_s: float = 400) -> tuple[int, str, str]:
        """Return exit code, stdout and stderr; require that no process outlives it."""
        try:
            stdout, _ = self.process.communicate(timeout=within_s)
            deadline = time.monotonic() + 120
            while (left := session_processes(self.process.pid)) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert not left
            return self.process.returncode, stdout, self.stderr.read_text()
        finally:
            for process in session_processes(self.process.pid):
                os.kill(process, signal.SIGKILL)
            self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()  # or it would be another test that hears of it


_ENDLESS = [*_TINY, "--pacing.total-env-steps=2000000"]
_CALM = (
    "--env.id=tests.support.target:parallel_env --algorithm.policy-head=sigmoid --env.kwargs pause_s 0.001"
)
_FAILING = "--env.id=tests.support.failing:parallel_env --algorithm.policy-head=auto --env.kwargs fail_at 60"


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    run_dir = tmp_path_factory.mktemp("runs") / "interrupted"
    command = Command(run_dir, *_ENDLESS, f"--run-dir={run_dir}")
    yield command
    with command.process:  # which closes its pipe
        command.process.kill()


def test_ctrl_c_saves_a_checkpoint_and_names_the_command_to_resume(interrupted: Command) -> None:
    command = interrupted
    command.wait_for("env-steps/s")
    os.killpg(command.process.pid, signal.SIGINT)  # a terminal signals the whole group
    code, _, stderr = command.end(within_s=500)
    assert code == 0, stderr
    assert f"--resume {command.run_dir}" in stderr and "Traceback" not in stderr
    [checkpoint] = (command.run_dir / "checkpoints").iterdir()
    assert (checkpoint / "manifest.json").exists()


def test_an_interrupted_run_is_resumed_to_its_end(interrupted: Command) -> None:
    run_dir = interrupted.run_dir
    [checkpoint] = (run_dir / "checkpoints").iterdir()
    steps = int(checkpoint.name.removeprefix("step_"))

    more = f"--pacing.total-env-steps={steps + 2000}"
    code, stdout, stderr = Command(run_dir, "--resume", str(run_dir), more, "--json").end()
    assert code == 0, stderr
    summary = json.loads(stdout)
    assert summary["finished"] and summary["env_steps"] >= steps + 2000
    assert all(Path(path).exists() for path in summary["files"].values())
    assert json.loads((run_dir / "summary.json").read_text()) == summary


@pytest.mark.slow
def test_sigterm_saves_a_checkpoint(tmp_path: Path) -> None:
    command = Command(tmp_path / "run", *_ENDLESS, f"--run-dir={tmp_path / 'run'}", *_CALM.split())
    command.wait_for("env-steps/s")
    command.process.send_signal(signal.SIGTERM)
    code, _, stderr = command.end(within_s=500)
    assert code == 0, stderr
    assert list((command.run_dir / "checkpoints").glob("step_*/manifest.json"))
    assert json.loads((command.run_dir / "summary.json").read_text())["interrupted"]


@pytest.mark.slow
def test_an_environment_that_fails_ends_the_command_with_one_line(tmp_path: Path) -> None:
    command = Command(tmp_path / "run", *_TINY, f"--run-dir={tmp_path / 'run'}", *_FAILING.split())
    code, stdout, stderr = command.end(within_s=500)  # five starts of a worker, with what lies between
    assert code == 1 and stdout == ""
    error = "error: the same error 5 times: rollout worker 0 failed: RuntimeError: boom at step 60"
    assert without_place(stderr.splitlines()[-1]) == error
    assert re.search(r", in copy \d+ at step \d+ of its episode$", stderr.splitlines()[-1])
    assert "Traceback" not in stderr


@pytest.mark.parametrize(("number", "process"), [(signal.SIGINT, "gcs_server"), (signal.SIGTERM, "raylet")])
def test_a_signal_while_ray_starts_ends_the_command(tmp_path: Path, number: int, process: str) -> None:
    command = Command(tmp_path / "run", *_TINY, f"--run-dir={tmp_path / 'run'}")
    command.wait_for_process(process)
    if number == signal.SIGINT:
        os.killpg(command.process.pid, number)
    else:
        command.process.send_signal(number)
    code, _, stderr = command.end()  # it waits until Ray has started
    assert code == 1
    assert stderr.splitlines()[-1] == "error: interrupted"


def test_a_gpu_that_is_not_there_is_refused_before_ray_starts(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command = Command(tmp_path / "run", *_TINY, f"--run-dir={tmp_path / 'run'}", "--learner.device=cuda")
    seen: set[str] = set()
    while command.process.poll() is None:
        seen |= set(session_processes(command.process.pid).values())
        time.sleep(0.02)
    code, _, stderr = command.end()
    assert code == 2 and stderr.startswith("error: learner.device = 'cuda'")
    assert not any("gcs_server" in process for process in seen)
