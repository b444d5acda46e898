"""What `submit` sends to a cluster, and what it refuses before; the cluster is a web server of the tests."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")
import ray
import yaml

from distributed_maddpg.cli import main
from distributed_maddpg.cli.submit import _Log, _report
from distributed_maddpg.runtime import jobs
from distributed_maddpg.runtime.jobs import JobResult

_ROOT = Path(__file__).parents[1]


class Dashboard(ThreadingHTTPServer):
    """Answers as the jobs API of a cluster without jobs; keeps what is submitted."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Requests)
        self.submitted: list[dict[str, Any]] = []
        self.packages: list[str] = []
        self.refusal = 0
        self.silent = False
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Requests(BaseHTTPRequestHandler):
    server: Dashboard

    def do_GET(self) -> None:
        if self.server.silent:
            time.sleep(3)
            return
        if self.path == "/api/version":
            version = {"version": "4", "ray_version": ray.__version__, "ray_commit": "", "session_name": ""}
            self._answer(self.server.refusal or 200, version)
        else:
            self._answer(404, "does not exist")

    def do_PUT(self) -> None:
        self._read()
        self.server.packages.append(self.path)
        self._answer(200, {})

    def do_POST(self) -> None:
        self.server.submitted.append(json.loads(self._read()))
        self._answer(200, {"job_id": "x", "submission_id": "x"})

    def _read(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _answer(self, code: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Dashboard]:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)
    with Dashboard() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def _submit(dashboard: Dashboard, *words: str) -> dict[str, Any]:
    assert main(["submit", "--address", dashboard.url, "--no-wait", *words]) == 0
    return dashboard.submitted.pop()


def test_the_job_is_the_train_command_with_a_folder_of_its_own(
    dashboard: Dashboard, capsys: pytest.CaptureFixture[str]
) -> None:
    job = _submit(dashboard, "--", "train", "--num-workers", "3", "--env.kwargs", "N", "3")
    name = job["submission_id"]
    assert re.fullmatch(r"maddpg-\d{8}-\d{6}-[0-9a-f]{4}", name)
    words = "train --num-workers 3 --env.kwargs N 3"
    assert job["entrypoint"] == f"python -m distributed_maddpg {words} --run-dir ~/maddpg/{name}"
    assert job["metadata"]["run_dir"] == f"~/maddpg/{name}"
    resume = (
        f"distributed-maddpg submit --address {dashboard.url} -- {words} "
        f"--run-dir '~/maddpg/{name}' --resume auto"
    )
    assert job["metadata"]["resume"] == resume
    assert "working_dir" not in job["runtime_env"] and dashboard.packages == []
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        f"submitted {name} to {dashboard.url}; files go to ~/maddpg/{name} on the head",
        f"print its log with: distributed-maddpg submit --address {dashboard.url} --follow {name}",
        f"stop it with: ray job stop --address {dashboard.url} {name}",
        f"resume with: {resume}",
    ]


def test_words_reach_the_heads_shell_as_they_are(dashboard: Dashboard) -> None:
    folder = "/data/a b;$(touch x)'"
    job = _submit(dashboard, "--submission-id", "mine", "--", "train", f"--run_dir={folder}")
    assert job["submission_id"] == "mine" and job["metadata"]["run_dir"] == folder
    assert job["entrypoint"].endswith("""train --run-dir '/data/a b;$(touch x)'"'"''""")
    job = _submit(dashboard, "--", "train", "--run-dir", "~/a b", "--checkpoint-dir", "s3://bucket/x")
    assert job["entrypoint"].endswith("train --run-dir ~/'a b' --checkpoint-dir s3://bucket/x")


def test_a_run_that_is_resumed_is_resumed_again_by_the_same_command(dashboard: Dashboard) -> None:
    # Fits the run's own settings, which are on the head: with this machine's defaults it would be refused.
    job = _submit(dashboard, "--", "train", "--ray.min-workers", "4", "--resume", "/data/run")
    assert job["entrypoint"].endswith("train --ray.min-workers 4 --resume /data/run")
    assert job["metadata"]["run_dir"] == "/data/run"
    assert job["metadata"]["resume"].endswith("-- train --ray.min-workers 4 --resume /data/run")
    job = _submit(dashboard, "--", "train", "--resume", "auto", "--run-dir", "/data/run")
    assert job["metadata"]["resume"].count("--resume") == 1


def test_scores_of_a_run_or_an_environment_that_is_elsewhere_are_left_to_it(dashboard: Dashboard) -> None:
    goal = ["--stop-at", "measures.profit=5", "--keep-best", "measures.profit"]
    auto = ["--resume", "auto", "--run-dir", "/data/run"]
    for words in (["--resume", "/data/run"], auto, ["--env.id", "/data/market.py"]):
        assert "measures.profit" in _submit(dashboard, "--", "train", *words, *goal)["entrypoint"]
    spread = ["--env.id", "simple_spread_v3", "--stop-at", "measures.covered=2"]
    assert "covered" in _submit(dashboard, "--", "train", *spread)["entrypoint"]


def test_a_stopped_job_has_time_for_its_checkpoint_whatever_the_environment(dashboard: Dashboard) -> None:
    file = _ROOT / "cluster" / "runtime_env.yaml"
    ours = yaml.safe_load(file.read_text())
    assert _submit(dashboard, "--", "train")["runtime_env"]["env_vars"] == ours["env_vars"]
    own = Path("own.yaml")
    own.write_text("env_vars: {A: b}\n")
    job = _submit(dashboard, "--runtime-env", "own.yaml", "--", "train")
    assert job["runtime_env"]["env_vars"] == {"A": "b", **ours["env_vars"]}
    assert " --runtime-env own.yaml -- " in job["metadata"]["resume"]
    own.write_text("env_vars: {RAY_JOB_STOP_WAIT_TIME_S: '300'}\n")
    job = _submit(dashboard, "--runtime-env", "own.yaml", "--", "train")
    assert job["runtime_env"]["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "300"}


def test_a_folder_is_sent_only_for_an_environment_or_a_configuration_in_it(dashboard: Dashboard) -> None:
    Path("mine.py").touch()
    Path("mine.toml").write_text("seed = 3\n")
    for words in (["--env.id", "mine.py"], ["--env.id", "mine:make"], ["--config", "mine.toml"]):
        job = _submit(dashboard, "--", "train", *words)
        assert job["runtime_env"]["working_dir"].startswith("gcs://")
        assert job["runtime_env"]["excludes"] == ["/runs/", "*.safetensors"]
    assert len(dashboard.packages) == 3
    for words in (["--env.id", "simple_spread"], ["--env.id", "/data/mine.py"], ["--env.id", "other.mine"]):
        assert "working_dir" not in _submit(dashboard, "--", "train", *words)["runtime_env"]
    job = _submit(dashboard, "--working-dir", ".", "--", "train")
    assert job["runtime_env"]["working_dir"].startswith("gcs://")


def test_the_address_is_the_options_then_that_of_rays_variables(
    dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    _submit(dashboard, "--", "train")  # the option
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", dashboard.url + "/")
    assert main(["submit", "--no-wait", "--", "train"]) == 0
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS")
    capsys.readouterr()
    assert main(["submit", "--no-wait", "--", "train"]) == 1
    remedy = "start the cluster, or give the URL of its dashboard with --address"
    assert capsys.readouterr().err == f"error: http://127.0.0.1:1: no connection; {remedy}\n"


@pytest.mark.parametrize(
    ("words", "line"),
    {
        "no command": ([], "command = '': must be train, after --: submit [options] -- train"),
        "no dashes": (["train"], "command = 'train': needs -- before it: submit [options] -- train"),
        "another command": (["--", "evaluate", "x"], "command = 'evaluate': must be train, after --"),
        "Ray Client": (
            ["--address", "ray://h:1", "--", "train"],
            "--address = 'ray://h:1': Ray Client is not",
        ),
        "no URL": (["--address", "h:6379", "--", "train"], "--address = 'h:6379': must be the URL of"),
        "a bad id": (["--submission-id", "a/b", "--", "train"], "--submission-id = 'a/b': takes up to 100"),
        "two uses": (["--follow", "a", "--", "train"], "--follow = 'a': submits nothing"),
        "nothing to follow": (["--follow", "a"], "--follow = 'a': is no job of the cluster at http://"),
        "a relative folder": (
            ["--", "train", "--run-dir", "runs/x"],
            "--run-dir = 'runs/x': must be an absolute path on the head: Ray deletes the folder that the job "
            "runs in; give one that begins with / or ~/, or leave it out for ~/maddpg/<submission id>",
        ),
        "a relative run": (["--", "train", "--resume", "runs/x"], "--resume = 'runs/x': must be an absolute"),
        "relative checkpoints": (
            ["--", "train", "--checkpoint-dir", "x"],
            "--checkpoint-dir = 'x': must be an",
        ),
        "an empty folder": (["--", "train", "--run-dir="], "--run-dir = '': is empty"),
        "no folder": (["--", "train", "--resume", "auto"], "--resume = 'auto': needs --run-dir"),
        "two folders": (["--", "train", "--resume", "/a", "--run-dir", "/b"], "--run-dir = '/b': cannot be"),
        "no such option": (["--", "train", "--learner.batchsize", "8"], "did you mean --learner.batch-size"),
        "a bad value": (["--", "train", "--seed", "-1"], "seed = -1: must be zero or a positive integer"),
        "a bad value of a resumed run": (
            ["--", "train", "--resume", "/a", "--learner.batch-size", "0"],
            "learner.batch_size = 0: must be",
        ),
        "no such configuration": (
            ["--", "train", "--config", "no.toml"],
            "config = 'no.toml': cannot be read",
        ),
        "no such runtime environment": (["--runtime-env", "no.yaml", "--", "train"], "'no.yaml': is no file"),
        "no runtime environment": (["--runtime-env", ".", "--", "train"], "'.': is no file"),
        **{
            f"empty {option}": ([option, "", "--", "train"], f"{option} = '': is empty; give it a value")
            for option in ("--address", "--submission-id", "--runtime-env", "--working-dir", "--follow")
        },
        "follow without waiting": (["--follow", "a", "--no-wait"], "--follow = 'a': submits nothing"),
        "no such port": (["--address", "http://h:99999", "--", "train"], "'http://h:99999': must be the URL"),
        "half an address": (["--address", "http://[::1", "--", "train"], "'http://[::1': must be the URL"),
        "no host": (["--address", "http://:8265", "--", "train"], "'http://:8265': must be the URL"),
        "a configuration of a resumed run": (
            ["--", "train", "--resume", "/a", "--config", "a.toml"],
            "--config = 'a.toml': cannot be combined with --resume",
        ),
        "a preset of a resumed run": (
            ["--", "train", "--resume", "/a", "--preset", "paper"],
            "--preset = 'paper': cannot be combined with --resume",
        ),
        "one folder of several seeds": (
            ["--", "train", "--num-seeds", "2", "--checkpoint-dir", "/a"],
            "--checkpoint-dir = '/a': is for one run",
        ),
        "no goal": (["--", "train", "--stop-at", "success.agents"], "--stop-at = 'success.agents': must be"),
        "no goal of a resumed run": (
            ["--", "train", "--resume", "/a", "--stop-at", "success.agents"],
            "--stop-at = 'success.agents': must be",
        ),
        "no such score": (
            ["--", "train", "--stop-at", "delta=5", "success.agent=95"],
            "--stop-at = 'success.agent>=95': evaluations have no such score; did you mean 'success.agents'?",
        ),
        "no such ranking": (
            ["--", "train", "--env.id", "simple_tag_v3", "--keep-best", "success.agents"],
            "--keep-best = 'success.agents': evaluations have no such score; did you mean",
        ),
        "Ray Client for training": (
            ["--", "train", "--ray.address", "Ray://h:1"],
            "ray.address = 'Ray://h:1': Ray Client is not for training",
        ),
        "a dashboard for training": (
            ["--", "train", "--ray.address", "http://h:8265"],
            "ray.address = 'http://h:8265': must be HOST:6379",
        ),
        "no such folder": (["--working-dir", "no", "--", "train"], "--working-dir = 'no': is no folder"),
    }.values(),
)
def test_bad_input_is_one_line_and_nothing_is_sent(
    dashboard: Dashboard, capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    given = words if "--address" in words else ["--address", dashboard.url, *words]
    assert main(["submit", *given]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert said.err.startswith("error: ") and line in said.err
    assert dashboard.submitted == [] and dashboard.packages == []


@pytest.mark.parametrize(
    "text", ["[", "a", "env_vars: 3", "[1]", "", "env_vars: {A: 3}", "pip: 3", "excludes: 3"]
)
def test_a_file_that_is_no_runtime_environment_is_refused(
    dashboard: Dashboard, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    Path("own.yaml").write_text(text)
    words = ["--runtime-env", "own.yaml", "--", "train"]
    assert main(["submit", "--address", dashboard.url, *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --runtime-env = 'own.yaml': cannot be read (") and said.count("\n") == 1
    assert "object" not in said  # as in Python's own words


@pytest.mark.parametrize("code", [401, 403])
def test_a_cluster_that_refuses_the_token_gets_nothing(
    dashboard: Dashboard, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    dashboard.refusal = code
    assert main(["submit", "--address", dashboard.url, "--", "train"]) == 1
    said = capsys.readouterr().err
    assert "ray get-auth-token --generate; export RAY_AUTH_MODE=token" in said and said.count("\n") == 1
    assert dashboard.submitted == []


def test_a_cluster_that_never_answers_is_given_up(
    dashboard: Dashboard, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dashboard.silent = True
    monkeypatch.setattr(jobs, "_ANSWER_S", 0.5)
    started = time.monotonic()
    assert main(["submit", "--address", dashboard.url, "--", "train"]) == 1
    assert time.monotonic() - started < 2.5
    assert capsys.readouterr().err.count("\n") == 1


def test_a_proxys_headers_are_read_and_not_shown(
    dashboard: Dashboard, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_JOB_HEADERS", '{"X-Proxy": "secret"')
    assert main(["submit", "--address", dashboard.url, "--", "train"]) == 2
    said = capsys.readouterr().err
    assert "RAY_JOB_HEADERS" in said and "secret" not in said


@pytest.mark.parametrize(
    ("status", "code", "log", "exit_code", "line"),
    [
        ("SUCCEEDED", 0, "", 0, "it has ended"),
        ("SUCCEEDED", 0, "resume with: x\n", 0, "it has ended"),
        ("STOPPED", None, "resume with: x\n", 0, "it was stopped"),
        (
            "STOPPED",
            None,
            "resume with: x\nerror: no checkpoint\n",
            1,
            "it was stopped before it saved a checkpoint",
        ),
        ("STOPPED", None, "", 1, "it was stopped before it saved a checkpoint"),
        ("FAILED", 1, "", 1, "it failed with exit code 1"),
        ("FAILED", 2, "", 2, "it failed with exit code 2"),
        ("FAILED", 3, "", 3, "it failed with exit code 3"),
        ("FAILED", -9, "", 1, "it failed with exit code -9"),
        ("FAILED", None, "", 1, "it failed: why"),
    ],
)
def test_the_exit_code_is_the_jobs(
    capsys: pytest.CaptureFixture[str], status: str, code: int | None, log: str, exit_code: int, line: str
) -> None:
    printed = _Log()
    for at in range(len(log)):  # as it may come
        printed.write(log[at])
    assert capsys.readouterr().out == log
    assert _report("it", JobResult(status, code, "why", {"resume": "again"}), printed.saved) == exit_code
    said = capsys.readouterr().err.splitlines()
    assert said[0] == line
    assert (said[1:] == ["resume with: again"]) == (exit_code == 1 or "resume" in log)


def test_colours_of_a_log_are_left_to_terminals(capsys: pytest.CaptureFixture[str]) -> None:
    _Log().write("\x1b[36m(Worker pid=1)\x1b[0m text\x1b[32m [repeated 2x]\x1b[0m\n")
    assert capsys.readouterr().out == "(Worker pid=1) text [repeated 2x]\n"
