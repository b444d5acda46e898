"""The batch scripts: shellcheck, sbatch's options by a list of ours, what they start, with stand-ins."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.support.cluster_files import CLUSTER, tool, train_arguments
from tests.support.stand_ins import calls, install, records

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the scripts are for Linux")
_SCRIPTS = ("by-hand.sbatch", "symmetric-run.sbatch")
# Long options of sbatch (Slurm 24.11) that a script of ours may give.
_OPTIONS = set(
    "account constraint cpus-per-gpu cpus-per-task error exclude exclusive gpus-per-node gres job-name "
    "mail-type mail-user mem mem-per-cpu mem-per-gpu no-kill nodelist nodes ntasks ntasks-per-node open-mode "
    "output partition qos requeue reservation signal threads-per-core time".split()
)


def script(name: str) -> str:
    return (CLUSTER / "slurm" / name).read_text(encoding="utf-8")


def check_options(text: str) -> dict[str, str]:
    """Return the `#SBATCH` options; refuse one that is not in the list, or that sbatch would not see."""
    directives = re.findall(r"^#SBATCH (.*)$", text, re.MULTILINE)
    options = {}
    for directive in directives:
        match = re.fullmatch(r"--([a-z-]+)(?:=(\S+))?", directive)
        assert match and match[1] in _OPTIONS, directive
        options[match[1]] = match[2] or ""
    first_command = re.search(r"^[^#\n]", text, re.MULTILINE)
    assert first_command and "#SBATCH" not in text[first_command.start() :], "after the first command"
    return options


def shellcheck(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tool("shellcheck"), "--shell=bash", "-"], input=text, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("name", _SCRIPTS)
def test_scripts_pass_shellcheck(name: str) -> None:
    checked = shellcheck(script(name))
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("name", _SCRIPTS)
@pytest.mark.parametrize("variable", ["head", "cpus"])
def test_shellcheck_refuses_a_misspelt_variable(name: str, variable: str) -> None:
    text = re.sub(rf"^{variable}=", f"{variable}x=", script(name), flags=re.MULTILINE)
    assert f"{variable} is referenced but not assigned" in shellcheck(text).stdout


@pytest.mark.parametrize("name", _SCRIPTS)
def test_options_of_sbatch(name: str) -> None:
    options = check_options(script(name))
    assert options["signal"].startswith("B:TERM@")  # to the script alone
    assert {"requeue", "time"} <= set(options)
    hours, minutes, _ = options["time"].split(":")
    limit = re.search(r"MAX_TIME:-(\d+)h(\d+)m", script(name))
    assert limit
    spare_s = (int(hours) - int(limit[1])) * 3600 + (int(minutes) - int(limit[2])) * 60
    assert spare_s > int(options["signal"].removeprefix("B:TERM@"))
    assert ("exclusive" in options) == (
        name == "symmetric-run.sbatch"
    )  # its `ray stop` ends all Ray on a node


@pytest.mark.parametrize("name", _SCRIPTS)
@pytest.mark.parametrize("option", ["nodes", "cpus-per-task", "time", "signal", "open-mode", "requeue"])
def test_a_misspelt_option_of_sbatch_is_refused(name: str, option: str) -> None:
    text = re.sub(rf"(#SBATCH --{option})\b", r"\1x", script(name))
    with pytest.raises(AssertionError):
        check_options(text)


@dataclass
class Job:
    """A script as Slurm would start it on the first of three nodes, with stand-ins for all that it calls."""

    folder: Path
    name: str

    @property
    def log(self) -> Path:
        return self.folder / "calls"

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    def start(self, trainer: str, *arguments: str, **more: str) -> subprocess.Popen[str]:
        job_id = str(os.getpid())
        env = {
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder / "tmp"),
            "PATH": f"{self.folder / 'slurm'}:/usr/bin:/bin",
            "VENV": str(self.folder / "venv"),
            "RUN_DIR": str(self.run_dir),
            "STAND_IN_LOG": str(self.log),
            "STAND_IN_TRAINER": trainer,
            "SLURM_JOB_ID": job_id,
            "SLURM_CPUS_PER_TASK": "4",
            "SLURM_JOB_NUM_NODES": "3",
            "SLURM_JOB_NODELIST": "n[1-3]",
            **more,
        }
        return subprocess.Popen(
            ["bash", CLUSTER / "slurm" / self.name, *arguments],
            env=env,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, trainer: str, *arguments: str, **more: str) -> tuple[int, str]:
        """Return the exit code and the output."""
        process = self.start(trainer, *arguments, **more)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output


@pytest.fixture
def by_hand(tmp_path: Path) -> Iterator[Job]:
    yield from _job(tmp_path, "by-hand.sbatch")


@pytest.fixture
def symmetric_run(tmp_path: Path) -> Iterator[Job]:
    yield from _job(tmp_path, "symmetric-run.sbatch")


@pytest.fixture(params=_SCRIPTS)
def job(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Job]:
    yield from _job(tmp_path, request.param)


def _job(folder: Path, name: str) -> Iterator[Job]:
    install(folder / "slurm")
    install(folder / "venv" / "bin")
    (folder / "calls").touch()
    (folder / "tmp").mkdir()
    yield Job(folder, name)
    shutil.rmtree(f"/tmp/ray-{os.getpid()}", ignore_errors=True)


def _port() -> int:
    return 20000 + os.getpid() % 2500 * 4


def test_what_by_hand_starts(by_hand: Job) -> None:
    code, output = by_hand.run("finishes", SLURM_GPUS_ON_NODE="1")
    assert code == 0, output
    port = _port()
    common = (
        f"--block --num-cpus=4 --num-gpus=1 --disable-usage-stats --dashboard-agent-listen-port={port + 3}"
    )
    head, *others = [" ".join(words[2:]) for words in calls(by_hand.log, "ray") if words[1] == "start"]
    assert head == (
        f"--head --node-ip-address=10.1.2.3 --port={port} --dashboard-host=127.0.0.1 "
        f"--dashboard-port={port + 1} --ray-client-server-port={port + 2} {common}"
    )
    assert others == [f"--address=10.1.2.3:{port} {common}"] * 2
    steps = [words[1:4] for words in calls(by_hand.log, "srun")]
    assert sorted(steps) == [["--nodes=1", "--ntasks=1", f"--nodelist={node}"] for node in ("n2", "n3")]


def test_what_symmetric_run_starts(symmetric_run: Job) -> None:
    code, output = symmetric_run.run("finishes", SLURM_GPUS_ON_NODE="1")
    assert code == 0, output
    [words] = calls(symmetric_run.log, "ray")[1:]
    assert " ".join(words[: words.index("--")]) == (
        "ray symmetric-run --address 10.1.2.3:6379 --min-nodes 3 --num-cpus=4 --num-gpus=1 "
        "--disable-usage-stats"
    )
    assert [words[1] for words in calls(symmetric_run.log, "srun")] == ["--ntasks-per-node=1"]


def test_the_trainer_gets_the_cluster_and_the_scripts_arguments(job: Job) -> None:
    job.run("finishes", "--env.id", "simple_spread")
    [words] = [words for words in calls(job.log, "python") if words[1] == "-m"]
    assert words[:3] == ["python", "-m", "distributed_maddpg"]
    command = train_arguments(words[3:])
    port = 6379 if job.name == "symmetric-run.sbatch" else _port()
    assert command.settings.ray.address == f"10.1.2.3:{port}"
    assert command.settings.num_workers == 3 * 4 - 2
    assert command.settings.env.id == "simple_spread"
    assert (command.run_dir, command.resume) == (str(job.run_dir), "auto")
    assert words[words.index("--max-time") + 1] == "5h50m"


def test_every_process_has_the_token_and_a_short_folder_and_the_log_has_no_token(job: Job) -> None:
    _, output = job.run("finishes")
    for record in records(job.log):
        if record["words"][0] in ("ray", "srun"):
            assert record["environment"] == {
                "RAY_AUTH_MODE": "token",
                "RAY_TMPDIR": f"/tmp/ray-{os.getpid()}",
                "SRUN_CPUS_PER_TASK": "4",
            }
    assert "secret-token" not in output
    assert (job.folder / ".ray" / "auth_token").stat().st_mode & 0o077 == 0
    assert ["ray", "get-auth-token", "--generate"] in calls(job.log)
    job.log.write_text("")
    job.run("finishes")
    assert ["ray", "get-auth-token", "--generate"] not in calls(job.log)


@pytest.mark.parametrize(
    ("trainer", "expected", "requeued"),
    [("finishes", 0, False), ("stops early", 0, True), ("fails", 3, False)],
)
def test_only_a_run_that_stopped_early_is_put_into_the_queue_again(
    job: Job, trainer: str, expected: int, requeued: bool
) -> None:
    code, output = job.run(trainer)
    assert code == expected, output
    requeues = [words[2:] for words in calls(job.log, "scontrol") if words[1] == "requeue"]
    assert requeues == ([[str(os.getpid())]] if requeued else [])


def test_sigterm_reaches_the_trainer_alone_and_the_job_is_put_into_the_queue_again(job: Job) -> None:
    process = job.start("waits")
    deadline = time.monotonic() + 30
    while not any("distributed_maddpg" in words for words in calls(job.log, "python")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert ["trainer got SIGTERM"] in calls(job.log)
    assert ["scontrol", "requeue", str(os.getpid())] in calls(job.log)


@pytest.mark.parametrize("trainer", ["finishes", "fails"])
def test_nothing_of_the_job_is_left(job: Job, trainer: str) -> None:
    job.run(trainer)
    assert not [record for record in records(job.log) if psutil.pid_exists(record["pid"])]
    assert not list((job.folder / "tmp").iterdir())


def test_a_ray_that_did_not_start_is_a_failure_and_not_repeated(symmetric_run: Job) -> None:
    symmetric_run.run("stops early")  # leaves a summary that says: not finished
    symmetric_run.log.write_text("")
    code, output = symmetric_run.run("stops early", STAND_IN_NO_RAY="1")
    assert code == 1, output
    assert not calls(symmetric_run.log, "scontrol")
