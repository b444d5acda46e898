"""What `watch` serves, to whom, and when it says that nothing has changed."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from distributed_maddpg.cli import main
from distributed_maddpg.report.page import report_data
from distributed_maddpg.run.progress import Progress
from distributed_maddpg.run.training import train_run
from distributed_maddpg.run.watch import Editions, PageServer
from tests.support.serial_runs import tiny

_ROOT = Path(__file__).resolve().parents[2]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that has finished."""
    folder = tmp_path_factory.mktemp("watch") / "run"
    with open(os.devnull, "w") as nowhere:
        train_run(tiny(), folder, Progress(nowhere))
    return folder


@pytest.fixture
def run_dir(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@contextmanager
def serving(*run_dirs: Path, clock: Clock) -> Iterator[int]:
    """Serve the page of runs; return the port."""
    with PageServer(Editions(run_dirs, 2.0, clock), 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def get(port: int, path: str = "/", method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=named)
        response = connection.getresponse()
        return response.status, response.read(), dict(response.headers)
    finally:
        connection.close()


def documented_sockets() -> int:
    """Return how many sockets docs/security.md says that it listens on."""
    found = re.search(r"^\| `watch` \| (\d)", (_ROOT / "docs" / "security.md").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def cut_metrics(run_dir: Path, rows: int) -> str:
    """Leave this many rows in the metrics; return the whole text."""
    text = (run_dir / "metrics.csv").read_text()
    (run_dir / "metrics.csv").write_text("".join(text.splitlines(keepends=True)[: rows + 1]))
    return text


def drawn(run_dir: Path) -> dict[str, object]:
    return without_moment(json.loads(json.dumps(report_data([run_dir]))))


def without_moment(data: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in data.items() if name not in ("written", "live_url")}


def test_it_serves_the_page_and_the_data_that_it_draws(run_dir: Path, clock: Clock) -> None:
    with serving(run_dir, clock=clock) as port:
        status, page, headers = get(port)
        assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert b'"live_url":"data.json"' in page
        status, body, headers = get(port, "/data.json")
        assert (status, headers["Content-Type"]) == (200, "application/json; charset=utf-8")
        assert without_moment(json.loads(body)) == drawn(run_dir)
        zipped = get(port, "/data.json", Accept_Encoding="gzip")
        assert zipped[2]["Content-Encoding"] == "gzip" and gzip.decompress(zipped[1]) == body


def test_nothing_is_sent_again_until_the_run_has_gone_on(run_dir: Path, clock: Clock) -> None:
    whole = cut_metrics(run_dir, 2)
    with serving(run_dir, clock=clock) as port:
        _, first, headers = get(port, "/data.json")
        known = {"If_None_Match": headers["ETag"]}
        assert get(port, "/data.json", **known)[:2] == (304, b"")
        (run_dir / "metrics.csv").write_text(whole)
        assert get(port, "/data.json", **known)[0] == 304, "the folder was looked at before the interval"
        clock.now = 2.0
        status, body, headers = get(port, "/data.json", **known)
        assert (status, headers["ETag"] != known["If_None_Match"]) == (200, True)
        assert without_moment(json.loads(body)) == drawn(run_dir)
        assert without_moment(json.loads(first)) != drawn(run_dir)
        assert get(port, "/data.json", If_None_Match=headers["ETag"])[0] == 304


def test_the_folder_is_left_as_it_was(run_dir: Path, clock: Clock) -> None:
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    with serving(run_dir, clock=clock) as port:
        assert get(port)[0] == 200
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == before


def test_it_waits_for_a_run_that_has_not_started(trained: Path, tmp_path: Path, clock: Clock) -> None:
    run_dir = tmp_path / "<later>"
    with serving(run_dir, clock=clock) as port:
        status, page, _ = get(port)
        assert status == 200
        assert b"waiting for the run to start: " in page and b"/&lt;later&gt;" in page
        assert b'http-equiv="refresh"' in page
        status, body, headers = get(port, "/data.json")
        assert (status, "ETag" in headers) == (503, False)
        assert json.loads(body)["problem"].startswith("waiting for the run to start: ")
        shutil.copytree(trained, run_dir)
        clock.now = 2.0
        assert get(port, "/data.json")[0] == 200


def test_a_damaged_file_is_named_if_it_stays_so(run_dir: Path, clock: Clock) -> None:
    with serving(run_dir, clock=clock) as port:
        _, good, _ = get(port, "/data.json")
        (run_dir / "metrics.csv").write_text("a,b\n1,2\n")
        clock.now = 2.0
        assert get(port, "/data.json")[:2] == (200, good)
        clock.now = 4.0
        status, body, _ = get(port, "/data.json")
        assert status == 503 and "metrics.csv" in json.loads(body)["problem"]
        assert b"metrics.csv" in get(port)[1]


@pytest.mark.parametrize(
    "path",
    [
        *("/report.html", "/config.toml", "/../config.toml", "/%2e%2e/config.toml"),
        *("/data.json/", "/favicon.ico", "/data.json%00"),
    ],
)
def test_nothing_else_is_served(run_dir: Path, clock: Clock, path: str) -> None:
    with serving(run_dir, clock=clock) as port:
        assert get(port, path)[:2] == (404, b"only / and /data.json\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD"])
def test_no_other_method_is_answered(run_dir: Path, clock: Clock, method: str) -> None:
    with serving(run_dir, clock=clock) as port:
        assert get(port, "/", method)[0] == 501


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *(("localhost:8270", 200), ("LOCALHOST", 200), ("127.0.0.1:1", 200)),
        *(("evil.example", 403), ("127.0.0.1.evil.example:8270", 403), ("localhost@evil.example", 403)),
        *(("", 403), ("192.168.0.7:8270", 403), ("evil.example:80/localhost", 403)),
    ],
)
def test_only_requests_by_a_name_of_this_machine_are_answered(
    run_dir: Path, clock: Clock, host: str, status: int
) -> None:
    with serving(run_dir, clock=clock) as port:
        assert get(port, "/data.json", Host=host)[0] == status


def test_a_port_in_use_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["watch", str(tmp_path), "--port", str(port)]) == 2
    remedy = "is in use; name another, or 0 for any that is free"
    assert capsys.readouterr().err == f"error: --port = {port}: {remedy}\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "RUN_DIR = '': is missing; name a run folder"),
        (["x", "--port", "70000"], "--port = 70000: must be a port, 1 to 65535, or 0 for any that is free"),
        (["x", "--interval", "soon"], "--interval = 'soon': must be a duration such as 90s"),
        (["x", "--interval", "0"], "--interval = '0': must be at least 0.1s"),
        (["pyproject.toml"], "RUN_DIR = 'pyproject.toml': is no folder; name the folder of a run"),
        (["s3://bucket/run"], "RUN_DIR = 's3://bucket/run': must be a path of this machine"),
    ],
)
def test_bad_input_is_one_line(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {line}") and error.count("\n") == 1


def test_a_folder_of_runs_is_refused_with_one_of_them(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["watch", str(run_dir.parent)]) == 2
    assert capsys.readouterr().err.endswith(f"holds runs; name one or several of them, such as {run_dir}\n")


def test_the_command_prints_the_address_and_ends_quietly_with_ctrl_c(run_dir: Path) -> None:
    words = [sys.executable, "-m", "distributed_maddpg", "watch", str(run_dir), str(run_dir / "later")]
    with subprocess.Popen(
        [*words, "--port", "0"],
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address.startswith("http://127.0.0.1:") and address.endswith("/")
            assert get(int(address.strip("/").rpartition(":")[2]), "/data.json")[0] == 200
            sockets = psutil.Process(process.pid).net_connections("inet")
            listening = [each.laddr.ip for each in sockets if each.status == psutil.CONN_LISTEN]
            assert listening == ["127.0.0.1"] * documented_sockets()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out) == (0, "")
    assert err.splitlines() == [
        f"{run_dir / 'later'}: not there yet; the page waits for the run to start",
        "Ctrl-C ends it; from another machine, see --help",
    ]
