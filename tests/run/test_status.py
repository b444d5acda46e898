"""The status of a run says what its files say, also while they are written to, or which file is damaged."""

from __future__ import annotations

import csv
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from distributed_maddpg.cli import main
from distributed_maddpg.durations import format_duration
from distributed_maddpg.errors import BadInput
from distributed_maddpg.files import is_locked
from distributed_maddpg.run.folder import RunFolder
from distributed_maddpg.run.progress import Progress
from distributed_maddpg.run.status import run_status
from distributed_maddpg.run.status_text import overview, status_rows
from distributed_maddpg.run.training import train_run, train_seeds
from tests.support.serial_runs import tiny


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Return the folder of a run that has finished, and what its status was after each report."""
    folder, seen = tmp_path_factory.mktemp("status") / "run", []

    class Watched(Progress):
        def print_result(self, result: dict[str, Any]) -> None:
            seen.append(run_status(folder))

    changes = {"evaluation": {"episodes": 3, "final_episodes": 5}}
    train_run(tiny(**changes), folder, Watched(StringIO()))
    return folder, seen


@pytest.fixture
def run_dir(trained: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> Path:
    """Return a copy of that folder."""
    return Path(shutil.copytree(trained[0], tmp_path / "run"))


@pytest.fixture
def locked(run_dir: Path) -> Iterator[Path]:
    with closing(RunFolder(run_dir)):
        yield run_dir


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_metrics(path: Path, *changes: dict[str, float]) -> None:
    """Replace the table by a row for each of these changes of its first row."""
    first = rows_of(path)[0]
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(first))
        table.writeheader()
        table.writerows({**first, **own} for own in changes)


def test_a_finished_run_has_the_numbers_of_its_tables(trained: tuple[Path, list[dict[str, Any]]]) -> None:
    status = run_status(trained[0])
    last, evaluated = rows_of(trained[0] / "metrics.csv")[-1], rows_of(trained[0] / "returns.csv")[-1]
    assert status["state"] == "finished"
    assert (status["env_steps"], status["total_env_steps"], status["updates"]) == (240, 240, 21)
    assert (status["progress"], status["time_left_s"]) == (1.0, None)
    assert status["replay_fill"] == 0.24
    assert status["versions_behind_mean"] == float(last["weights/versions_behind_mean"])
    assert status["evaluation"] == {
        **{"num_env_steps": 240, "num_updates": 21, "episodes": 5},
        "agent_episode_returns_mean": {
            agent: float(evaluated[agent]) for agent in ("adversary_0", "agent_0", "agent_1")
        },
        "success": {who: float(evaluated[f"success_{who}"]) for who in ("agents", "adversary", "coverage")},
    }
    assert status["checkpoint"]["path"] == str(trained[0] / "checkpoints" / "step_240")
    assert 0 <= status["checkpoint"]["age_s"] < 600
    assert status["faults"] == {"counts": {"num_quarantined_blocks": 0}, "recent": []}
    json.dumps(status, allow_nan=False)


def test_a_run_is_running_while_it_trains(trained: tuple[Path, list[dict[str, Any]]]) -> None:
    seen = trained[1]
    assert [status["state"] for status in seen] == ["running"] * 3
    assert [status["env_steps"] for status in seen] == [80, 160, 240]
    assert [status["checkpoint"] for status in seen] == [None] * 3
    assert [status["evaluation"]["num_env_steps"] for status in seen[:2]] == [80, 160]
    first = seen[0]
    assert first["time_left_s"] == pytest.approx(160 / first["env_steps_per_s"])
    assert sum(share for name, share in first["shares"].items() if name.startswith("learner")) <= 1.000001


def test_rates_shares_and_the_bottleneck_are_those_of_the_last_half_minute(locked: Path) -> None:
    config = locked / "config.toml"
    config.write_text(config.read_text().replace("num_workers = 0", "num_workers = 2"))
    slow = {"time_this_iter_s": 900.0, "env_steps_per_s": 1.0, "updates_per_s": 1.0}
    idle = {f"timers/{name}": 0.0 for name in ("rollout_blocked_weights_s", "learner_blocked_replay_s")}
    busy = {**idle, "timers/rollout_busy_s": 2.0, "timers/rollout_blocked_push_s": 0.0}
    learns = {**busy, "timers/rollout_blocked_pacing_s": 17.0, "timers/learner_blocked_pacing_s": 2.0}
    first = {"time_this_iter_s": 20.0, "env_steps_per_s": 100.0, "updates_per_s": 4.0}
    second = {"time_this_iter_s": 20.0, "env_steps_per_s": 300.0, "updates_per_s": 8.0}
    write_metrics(
        locked / "metrics.csv",
        {**slow, "num_env_steps_sampled_lifetime": 60},
        {**learns, **first, "timers/learner_busy_s": 15.0, "num_env_steps_sampled_lifetime": 90},
        {**learns, **second, "timers/learner_busy_s": 17.0, "num_env_steps_sampled_lifetime": 140},
    )
    status = run_status(locked)
    assert (status["env_steps_per_s"], status["updates_per_s"]) == (200.0, 6.0)
    assert status["bottleneck"] == "learner"
    assert status["shares"]["learner_busy"] == pytest.approx(32 / 40)
    assert status["shares"]["rollout_busy"] == pytest.approx(4 / 40)
    assert status["time_left_s"] == pytest.approx((240 - 140) / 200)


def test_lines_that_are_still_being_written_are_left_out(run_dir: Path) -> None:
    before = run_status(run_dir)
    for name, text in (("metrics.csv", "9999,99"), ("returns.csv", "9999"), ("events.jsonl", '{"time": 1')):
        with (run_dir / name).open("a") as file:
            file.write(text)
    after = run_status(run_dir)
    assert {**after, "last_report_age_s": 0, "checkpoint": 0} == {
        **before,
        "last_report_age_s": 0,
        "checkpoint": 0,
    }


def test_only_the_end_of_long_tables_is_read(run_dir: Path) -> None:
    path = run_dir / "metrics.csv"
    header, *_, last = path.read_text().splitlines()
    path.write_text("\n".join([header, *[last.replace("240", "200", 1)] * 2_000, last, ""]))
    assert path.stat().st_size > 2**20
    assert run_status(run_dir)["env_steps"] == 240


def test_a_run_that_was_resumed_and_killed_is_not_finished(run_dir: Path) -> None:
    summary = json.loads((run_dir / "summary.json").read_text())
    (run_dir / "summary.json").write_text(json.dumps({**summary, "env_steps": 160}))
    assert run_status(run_dir)["state"] == "not running here"
    (run_dir / "summary.json").unlink()
    assert run_status(run_dir)["state"] == "not running here"


def test_an_interrupted_run_says_so(run_dir: Path) -> None:
    summary = json.loads((run_dir / "summary.json").read_text())
    (run_dir / "summary.json").write_text(json.dumps({**summary, "finished": False}))
    assert run_status(run_dir)["state"] == "interrupted"


def test_a_run_is_starting_until_its_first_report(tmp_path: Path) -> None:
    with closing(RunFolder(tmp_path / "new")):
        status = run_status(tmp_path / "new")
        assert status["state"] == "starting"
        assert (status["env_steps"], status["progress"], status["bottleneck"]) == (0, None, None)
        assert ("progress", "not known yet") in status_rows(status)


def test_the_newest_faults_are_told_with_their_age(run_dir: Path) -> None:
    events = [
        {
            "time": time.time() - 1_000 + 100 * number,
            "process": f"rollout worker {number}",
            "kind": "lost",
            "message": f"number {number}\x1b[2J",
            "seconds": 0.0,
        }
        for number in range(7)
    ]
    lines = [json.dumps(event) for event in events]
    (run_dir / "events.jsonl").write_text("\n".join(["[]", *lines[:4], "not JSON", *lines[4:], ""]))
    status = run_status(run_dir)
    recent = status["faults"]["recent"]
    assert [event["process"] for event in recent] == [f"rollout worker {number}" for number in range(2, 7)]
    assert recent[-1]["age_s"] == pytest.approx(400, abs=60)
    assert status_rows(status)[-1] == ("", f"{format_duration(recent[-1]['age_s'])} ago: number 6\\x1b[2J")


def test_a_checkpoint_behind_a_url_has_no_age(run_dir: Path) -> None:
    record = json.loads((run_dir / "checkpoints.json").read_text())
    own = {**record, "folder": "s3://bucket/run", "newest": "s3://bucket/run/step_80"}
    (run_dir / "checkpoints.json").write_text(json.dumps(own))
    assert run_status(run_dir)["checkpoint"] == {"path": "s3://bucket/run/step_80", "age_s": None}


def test_several_seeds_are_shown_one_after_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_seeds(tiny(seed=3), 2, tmp_path / "both", Progress())
    capsys.readouterr()
    assert main(["status", str(tmp_path / "both"), "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [(Path(run["run_dir"]).name, run["env_steps"]) for run in runs] == [
        ("seed_3", 240),
        ("seed_4", 240),
    ]
    assert main(["status", str(tmp_path / "both")]) == 0
    assert capsys.readouterr().err.count("finished") == 2


def test_the_terminal_shows_the_same(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(run_dir)]) == 0
    shown = {line[:16].strip(): line[16:].strip() for line in capsys.readouterr().err.splitlines()}
    status = run_status(run_dir)
    assert shown["state"].startswith("finished; last report ")
    assert shown["progress"] == "100 %: 240 of 240 env steps"
    assert shown["bottleneck"] == status["bottleneck"]
    assert shown["replay buffer"] == "24 % full"
    assert shown["evaluation"].endswith("(at 240 env steps)")


def test_jobs_are_rows_of_a_table(run_dir: Path) -> None:
    job = {"submission_id": "first", "job_status": "RUNNING", "run_dir": str(run_dir)}
    status = run_status(run_dir)
    headers, rows = overview([{**job, "status": status}, {**job, "problem": "it burns"}])
    assert rows[0][:4] == ["first", "running", "finished", "100 %"]
    assert rows[0][6:] == [status["bottleneck"], "none"]
    assert rows[1][:3] == ["first", "running", "it burns"]
    assert {len(row) for row in rows} == {len(headers)}


def damaged(run_dir: Path, name: str) -> None:
    path = run_dir / name
    if name == "no folder":
        shutil.rmtree(run_dir)
    elif name == "no run":
        (run_dir / "config.toml").unlink()
    elif name == "metrics.csv":
        path.write_text("a,b\n1,2\n")
    elif name == "returns.csv":
        path.unlink()
        os.mkfifo(path)
    else:
        path.write_bytes(b"\xff\x00 = [")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("no folder", "is no folder; name the folder of a run"),
        ("no run", "holds no run; name the folder of a run"),
        ("metrics.csv", "metrics.csv lacks the column num_env_steps_sampled_lifetime"),
        ("returns.csv", "returns.csv cannot be read (not a regular file)"),
        ("config.toml", "is not valid TOML"),
    ],
)
def test_what_cannot_be_read_is_named_in_one_line(
    run_dir: Path, name: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged(run_dir, name)
    assert main(["status", str(run_dir)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert str(run_dir) in line and remedy in line


def test_a_run_or_a_cluster_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 2
    assert capsys.readouterr().err == (
        "error: RUN_DIR = '': name a run folder, or a cluster with --address\n"
    )


def test_a_run_starts_although_its_status_is_asked_for(run_dir: Path) -> None:
    asking, asked = threading.Event(), 0

    def ask() -> None:
        nonlocal asked
        while not asking.is_set():
            is_locked(run_dir)
            asked += 1

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for _ in range(20):
            RunFolder(run_dir).close()
    finally:
        asking.set()
        thread.join()
    assert asked > 0
    with closing(RunFolder(run_dir)):
        assert is_locked(run_dir)
        with pytest.raises(BadInput, match="another process is training in it"):
            RunFolder(run_dir)
    assert not is_locked(run_dir)
