"""Chaos: what is drawn, how events become recoveries, and a short real one whose invariants hold."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from distributed_maddpg.benchmarks.options import command_line
from distributed_maddpg.chaos import injector
from distributed_maddpg.chaos.experiment import check_checkpoints, run_chaos
from distributed_maddpg.chaos.faults import (
    KINDS,
    ROLES,
    Fault,
    Plan,
    endless_kinds,
    mark_overlapping,
    may_overlap,
    parse_kinds,
    role_of,
    send_fault,
    session_processes,
)
from distributed_maddpg.chaos.injector import FaultInjector, InjectionResult
from distributed_maddpg.chaos.job import Job, read_table
from distributed_maddpg.chaos.options import ChaosOptions, JobSettings
from distributed_maddpg.chaos.recovery import (
    Counts,
    counts,
    failed_saves,
    missing_checkpoints,
    recovered_at,
    resumed_from,
    saved_steps,
    unexplained,
)
from distributed_maddpg.chaos.result import by_kind, compare, failures, losses
from distributed_maddpg.chaos.tables import tables, write_document
from distributed_maddpg.errors import BadInput


def _fault(name: str, time: float = 100.0, **changes: Any) -> Fault:
    kind = KINDS[name]
    return Fault(kind, time, kind.victim_counts(2), **changes)


def _event(time: float, process: str, kind: str, line: str = "") -> dict[str, Any]:
    return {"time": time, "process": process, "kind": kind, "message": line, "seconds": 0.0}


# Drawing


def test_every_kind_comes_once_before_any_comes_again() -> None:
    drawn = itertools.islice(endless_kinds(tuple(KINDS.values()), np.random.default_rng(5)), len(KINDS))
    assert sorted(kind.name for kind in drawn) == sorted(KINDS)


def test_the_order_is_the_seeds() -> None:
    def names(seed: int) -> list[str]:
        source = endless_kinds(tuple(KINDS.values()), np.random.default_rng(seed))
        return [kind.name for kind in itertools.islice(source, 40)]

    assert names(5) == names(5) != names(6)


def test_kinds_cover_every_role_killed_and_frozen() -> None:
    for act in ("kill", "freeze"):
        hit = {role for kind in KINDS.values() if kind.action == act for role in kind.victims}
        assert hit == set(ROLES)


def test_victims_are_never_more_than_there_are() -> None:
    assert KINDS["kill workers"].victim_counts(1) == {"rollout worker": 1}
    assert KINDS["kill workers"].victim_counts(5) == {"rollout worker": 2}
    assert KINDS["kill all workers"].victim_counts(5) == {"rollout worker": 5}
    assert KINDS["kill everything"].victim_counts(5) == {}


def test_an_unknown_kind_is_named_with_its_nearest() -> None:
    with pytest.raises(BadInput, match="kill learner"):
        parse_kinds("kill lerner")
    assert [kind.name for kind in parse_kinds("SIGTERM, kill worker")] == ["SIGTERM", "kill worker"]


def test_an_impossible_kind_keeps_its_place() -> None:
    kinds = parse_kinds("kill worker,kill learner,freeze worker")
    plan = Plan(kinds, np.random.default_rng(0))
    first = plan.next_kind(lambda kind: kind.name != "kill learner", blocks=lambda _: False)
    assert first is not None and first.name != "kill learner"
    rest = [plan.next_kind(lambda _: True, lambda _: False) for _ in range(2)]
    assert {kind.name for kind in (first, *rest) if kind} == {kind.name for kind in kinds}


def test_nothing_overtakes_a_kind_that_blocks() -> None:
    plan = Plan(parse_kinds("SIGTERM"), np.random.default_rng(0))
    assert plan.next_kind(lambda kind: not kind.ends_job, blocks=lambda kind: kind.ends_job) is None
    assert plan.next_kind(lambda _: True, blocks=lambda _: True) is KINDS["SIGTERM"]


def test_a_fault_joins_others_of_other_roles_unless_it_ends_the_job() -> None:
    worker, learner = KINDS["kill worker"], KINDS["kill learner"]
    assert may_overlap(worker, [], overlap=False)
    assert not may_overlap(worker, [_fault("kill learner")], overlap=False)
    assert may_overlap(worker, [_fault("kill learner")], overlap=True)
    assert not may_overlap(worker, [_fault("freeze worker")], overlap=True), "one role at a time"
    assert may_overlap(learner, [_fault("freeze evaluator")], overlap=False), "slow ones overlap"
    assert not may_overlap(KINDS["SIGTERM"], [_fault("freeze evaluator")], overlap=True)
    assert not may_overlap(worker, [_fault("kill everything")], overlap=True)


def test_a_fault_that_loses_nothing_leaves_the_losses_of_others_alone() -> None:
    evaluator, learner, worker = _fault("kill evaluator"), _fault("kill learner"), _fault("kill worker")
    mark_overlapping(evaluator, learner)
    assert learner.alone and not evaluator.alone
    mark_overlapping(learner, worker)
    assert not learner.alone and not worker.alone


@pytest.mark.parametrize(
    ("title", "role"),
    [
        ("ray::RolloutWorkerActor.collect ", "rollout worker"),
        ("ray::ReplayBufferActor", "replay buffer"),
        ("ray::LearnerActor.learn", "learner"),
        ("ray::EvaluationActor.evaluate", "evaluator"),
        ("ray::LearnerActor.__init__", None),
        ("ray::IDLE", None),
        ("python -m distributed_maddpg train --title ray::LearnerActor", None),
    ],
)
def test_roles_are_told_by_titles(title: str, role: str | None) -> None:
    assert role_of(title) == role


def test_processes_of_a_session_are_found_frozen_and_killed() -> None:
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        [found] = session_processes(child.pid)
        send_fault([found], "freeze")
        deadline = time.monotonic() + 120
        while found.status() != "stopped":
            assert time.monotonic() < deadline
        send_fault([found], "kill")
        assert child.wait(60) == -signal.SIGKILL
        assert session_processes(child.pid) == []
    finally:
        child.kill()


# From what a job wrote


def test_a_recovery_is_a_loss_and_a_return_after_the_fault() -> None:
    events = [
        _event(90, "rollout worker 0", "lost"),
        _event(101, "rollout worker 0", "recovered"),  # of the loss before
        _event(102, "rollout worker 1", "lost"),
    ]
    assert recovered_at({"rollout worker": 1}, 100, events) is None
    events.append(_event(105, "rollout worker 1", "recovered"))
    assert recovered_at({"rollout worker": 1}, 100, events) == 105


def test_all_victims_must_be_back() -> None:
    victims = {"learner": 1, "replay buffer": 1}
    events = [_event(101, "learner", "lost"), _event(101, "replay buffer", "lost")]
    events.append(_event(103, "replay buffer", "recovered"))
    assert recovered_at(victims, 100, events) is None
    events.append(_event(107, "learner", "recovered"))
    assert recovered_at(victims, 100, events) == 107
    both = {"rollout worker": 2}
    one = [_event(101, "rollout worker 0", "lost"), _event(102, "rollout worker 0", "recovered")]
    assert recovered_at(both, 100, one) is None


def test_one_that_is_lost_once_more_is_not_back() -> None:
    events = [_event(101 + at, "learner", kind) for at, kind in enumerate(("lost", "recovered", "lost"))]
    assert recovered_at({"learner": 1}, 100, events) is None
    assert recovered_at({"learner": 1}, 100, [*events, _event(110, "learner", "recovered")]) == 110


def test_losses_without_a_fault_are_told() -> None:
    events = [
        _event(101, "rollout worker 0", "lost"),
        _event(102, "rollout worker 1", "lost"),
        _event(99, "learner", "lost"),
    ]
    extra = unexplained(events, [_fault("kill worker"), _fault("kill learner")])
    assert [event["time"] for event in extra] == [102, 99]


def test_lines_tell_of_checkpoints_even_folded() -> None:
    log = "saved /runs/a/checkpoints/step_200 (1.0 MB in\n0.1 s)\n/runs/step_300 was\nnot saved (no folder)\n"
    assert saved_steps(log) == [200]
    assert failed_saves(log) == 1
    assert resumed_from("resuming from\n/runs/a/checkpoints/step_200\n") == 200
    assert resumed_from("starting a new run") == 0


def test_missing_checkpoints_are_those_of_the_newest() -> None:
    assert missing_checkpoints([1, 2, 3, 4], [2, 3, 4], keep=3) == []
    assert missing_checkpoints([1, 2, 3, 4], [2, 4], keep=3) == [3]
    assert missing_checkpoints([], [], keep=3) == []


def test_counts_come_from_the_last_row() -> None:
    row = {
        "num_env_steps_sampled_lifetime": "300",
        "num_updates_lifetime": "2",
        "fault_tolerance/env_steps_lost": "64",
        "fault_tolerance/updates_lost": "",
    }
    assert counts([{}, row]) == Counts(300, 2, 64, 0)
    assert counts([]) == Counts()


def test_a_half_written_line_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,2\n3,")
    assert read_table(tmp_path / "a.csv") == [{"x": "1", "y": "2"}]
    assert read_table(tmp_path / "b.csv") == []


# The job, with a program that is not a training


class _Script(Job):
    """A job whose command is a few lines of Python."""

    def begin(self, script: str) -> None:
        self.run_dir.mkdir(exist_ok=True)
        self._file(len(self.incarnations), "log").touch()
        self.incarnations.append(subprocess.Popen([sys.executable, "-c", script], start_new_session=True))


def test_what_outlives_its_driver_is_counted_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distributed_maddpg.chaos.job._EXIT_GRACE_S", 0.3)
    job = _Script(tmp_path / "run", [])
    job.begin("import subprocess; subprocess.Popen(['sleep', '60'])")
    assert job.wait(20) == 0
    assert len(session_processes(job.incarnations[-1].pid)) == 1
    job.finish()
    assert job.leftover == 1
    assert session_processes(job.incarnations[-1].pid) == []


def test_a_job_that_leaves_nothing_is_not_blamed(tmp_path: Path) -> None:
    job = _Script(tmp_path / "run", [])
    job.begin("pass")
    assert job.wait(20) == 0
    job.finish()
    assert job.leftover == 0
    job.kill()


def test_blocked_checkpoints_come_back_as_they_were(tmp_path: Path) -> None:
    job = Job(tmp_path, [])
    (tmp_path / "checkpoints" / "step_5").mkdir(parents=True)
    assert list(job.checkpoints()) == [5]
    job.block_checkpoints()
    assert job.checkpoints() == {}
    with pytest.raises(OSError):
        (tmp_path / "checkpoints" / "step_6").mkdir(parents=True)
    job.unblock_checkpoints()
    job.unblock_checkpoints()
    assert list(job.checkpoints()) == [5]


def test_a_damaged_and_a_missing_checkpoint_are_lost(tmp_path: Path) -> None:
    job = _Script(tmp_path / "run", [])
    job.begin("pass")
    job.wait(20)
    job._file(0, "log").write_text("saved x/step_5 (1 MB in 0 s)\nsaved x/step_6 (1 MB in 0 s)\n")
    (tmp_path / "run" / "checkpoints" / "step_6").mkdir(parents=True)
    checked = check_checkpoints(job)
    assert (checked["saved"], checked["loaded"], len(checked["lost"])) == (2, 0, 2)


def test_settings_become_options_of_train() -> None:
    options = ChaosOptions(num_workers=3, seed=7)
    arguments = JobSettings.of(options, 800_000).to_arguments(options)
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert given["--num-workers"] == "3" and given["--seed"] == "7"
    assert given["--pacing.checkpoint-interval-env-steps"] == "100000"
    assert JobSettings.of(options, 60_000).checkpoint_interval_env_steps == 10_000


@pytest.mark.parametrize("changes", [{"minutes": 0.0}, {"seed": -1}, {"kinds": "flood"}, {"preset": "no"}])
def test_bad_options_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        ChaosOptions(**changes)


def test_a_taken_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(BadInput, match="--run-dir"):
        run_chaos(ChaosOptions(), tmp_path, print)


# One fault after the other


class _FakeJob(Job):
    """A job that collects 1 000 env steps per poll, and recovers from faults if `mends`."""

    def __init__(self, run_dir: Path, env_steps: int, mends: bool) -> None:
        super().__init__(run_dir, [])
        self.env_steps, self.end, self.mends = 0, env_steps, mends
        self.happened: list[dict[str, Any]] = []
        self.starts, self.killed = 0, False
        (run_dir / "checkpoints" / "step_1").mkdir(parents=True)
        (run_dir / "checkpoints" / "step_1" / "manifest.json").write_text('{"counters": {"updates": 3}}')

    def start(self) -> None:
        self.starts += 1
        self.env_steps = self.resumed_from = 1 if self.starts > 1 else 0

    @property
    def exit_code(self) -> int | None:
        return 0 if self.env_steps >= self.end or self.killed else None

    def rows(self) -> list[Any]:
        self.env_steps += 1000
        return []

    @property
    def has_new_row(self) -> bool:
        return self.env_steps > self.resumed_from

    @property
    def counts(self) -> Counts:
        return Counts(self.env_steps, self.env_steps // 100)

    def log(self, incarnation: int = -1) -> str:
        return ""

    def events(self) -> list[dict[str, Any]]:
        return self.happened

    def processes(self) -> list[Any]:
        return []

    def signal(self, number: int) -> None:
        pass

    def wait(self, within_s: float) -> int | None:
        return 0

    def mark_ended(self) -> None:
        pass

    def kill(self) -> None:
        self.killed = True

    def finish(self) -> None:
        pass

    def hit(self, names: list[str]) -> None:
        now = time.time()
        self.happened += [_event(now, name, "lost") for name in names]
        self.happened += [_event(now + 0.5, name, "recovered") for name in names if self.mends]


def _injected(
    job: _FakeJob, monkeypatch: pytest.MonkeyPatch, kinds: str, **changes: Any
) -> tuple[InjectionResult, list[str]]:
    named: dict[Any, list[Any]] = {
        "rollout worker": ["rollout worker 0", "rollout worker 1"],
        "learner": ["learner"],
    }
    monkeypatch.setattr(injector, "_POLL_S", 0.001)
    monkeypatch.setattr(injector, "_MIN_PAUSE_S", 0.0)
    monkeypatch.setattr(injector, "_MAX_PAUSE_S", 0.01)
    monkeypatch.setattr(injector, "by_role", lambda processes: named)
    monkeypatch.setattr(injector, "send_fault", lambda processes, action: job.hit(processes))
    options = ChaosOptions(kinds=kinds, **changes)
    lines: list[str] = []
    return FaultInjector(job, JobSettings.of(options, job.end), options, lines.append).run(), lines


def test_faults_follow_each_other_until_the_job_is_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = _FakeJob(tmp_path, 300_000, mends=True)
    injection, lines = _injected(job, monkeypatch, "kill all workers,kill learner")
    assert {fault.kind.name for fault in injection.faults} == {"kill all workers", "kill learner"}
    assert len(injection.faults) > 4 and injection.hangs == 0 and injection.problems == []
    mended = [fault for fault in injection.faults if fault.note != "the job ended first"]
    assert all(fault.recovered_after_s == pytest.approx(0.5, abs=0.1) for fault in mended)
    assert len(lines) == 2 * len(injection.faults)


def test_a_recovery_that_does_not_come_is_a_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = _FakeJob(tmp_path, 1_000_000, mends=False)
    injection, _ = _injected(job, monkeypatch, "kill learner", deadline_s=0.1)
    assert injection.hangs >= 1 and injection.faults[0].hang and injection.faults[0].recovered_after_s is None


def test_what_a_restart_repeats_is_measured_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = _FakeJob(tmp_path, 100_000, mends=True)
    job.events = lambda: []  # type: ignore[method-assign]
    injection, _ = _injected(job, monkeypatch, "kill everything", minutes=0.001)
    assert injection.restarts == job.starts - 1 >= 1
    assert injection.env_steps_redone == sum(fault.env_steps_lost for fault in injection.faults) >= 999
    assert injection.hangs == 0 and injection.problems == []


# The result


def test_figures_are_those_of_each_kinds_own_faults() -> None:
    faults = [
        _fault("kill learner", recovered_after_s=2.0, updates_lost=30),
        _fault("kill learner", recovered_after_s=5.0, updates_lost=900, alone=False),
        _fault("kill learner", recovered_after_s=None),
        _fault("kill worker", recovered_after_s=1.0, env_steps_lost=256),
    ]
    figures = by_kind(faults)
    assert list(figures) == ["kill worker", "kill learner"]
    assert figures["kill learner"] == {
        "count": 3,
        "recovered": 2,
        "median_s": 3.5,
        "max_s": 5.0,
        "env_steps_lost_max": 0,
        "updates_lost_max": 30,
    }


def _evaluations(rates: list[float], episodes: int = 200) -> list[dict[str, float]]:
    return [{"episodes": episodes, "success_agents": rate, "agent_0": rate / 10} for rate in rates]


def test_scores_within_their_own_spread_are_within_noise() -> None:
    [success, returns] = compare(
        _evaluations([90, 94, 90, 94]), _evaluations([88, 92, 88, 92]), return_std=2.0
    )
    assert success["difference"] == pytest.approx(-2)
    assert success["bound"] == pytest.approx(3 * np.std([90, 94], ddof=1)), "of the latter halves"
    assert success["within"] and returns["within"]


def test_scores_far_apart_are_not_within_noise() -> None:
    [success, _] = compare(_evaluations([90, 94] * 4), _evaluations([60, 64] * 4), return_std=2.0)
    assert not success["within"]


def test_the_bound_is_never_tighter_than_the_episodes_allow() -> None:
    [success, returns] = compare(_evaluations([50.0]), _evaluations([55.0]), return_std=2.0)
    assert success["bound"] == pytest.approx(3 * np.sqrt(52.5 * 47.5 * 2 / 200))
    assert returns["bound"] == pytest.approx(3 * 2.0 * np.sqrt(2 / 200))


def _result(**changes: Any) -> dict[str, Any]:
    faults = [_fault("kill worker", recovered_after_s=1.25, env_steps_lost=256), _fault("SIGTERM")]
    options = ChaosOptions()
    events = [_event(1, "replay buffer", "recovered", "replay buffer is back, without its transitions")]
    return {
        "command": command_line("chaos", options),
        "options": {"preset": "default", "num_workers": 2, "deadline_s": 60.0},
        "settings": {"env_steps": 1000},
        "machine": {"cpu": "x", "cores": 2, "gpu": "none", "os": "Linux", "versions": {"ray": "2"}},
        "faults": [fault.to_dict() for fault in faults],
        "by_kind": by_kind(faults),
        "lost": losses(Counts(env_steps_lost=256), InjectionResult(env_steps_redone=12_000), events),
        "hangs": 0,
        "restarts": 1,
        "problems": [],
        "lost_checkpoints": [],
        "checkpoints": {"saved": 4, "loaded": 3},
        "completed": True,
        "leftover_processes": 0,
        "last_process_gone_after_s": 0.5,
        "unexplained_losses": [],
        "comparison": compare(_evaluations([90.0]), _evaluations([90.0]), return_std=2.0),
        "within_noise": True,
        "baseline_s": 60.0,
        "disturbed_s": 100.0,
        "load_average": [0.1, 2.5],
        **changes,
    }


def test_what_was_lost_is_told_apart() -> None:
    assert _result()["lost"] == {
        "env_steps_of_dead_processes": 256,
        "updates_of_dead_processes": 0,
        "env_steps_after_the_checkpoint": 12_000,
        "updates_after_the_checkpoint": 0,
        "replay_buffers_back_empty": 1,
        "replay_buffers_back_from_snapshot": 0,
    }


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"completed": False}, "complete"),
        ({"hangs": 2}, "2 hangs"),
        ({"lost_checkpoints": ["step_5"]}, "1 checkpoints"),
        ({"leftover_processes": 1}, "left over"),
        ({"within_noise": False}, "noise"),
        ({"problems": ["exit code 3"]}, "exit code 3"),
    ],
)
def test_one_thing_wrong_is_enough(changes: dict[str, Any], word: str) -> None:
    assert failures(_result()) == []
    [line] = failures(_result(**changes))
    assert word in line


def test_the_tables_tell_all(tmp_path: Path) -> None:
    faults, summary, scores = tables(_result())
    assert faults.rows[0][0] == "kill worker" and faults.rows[0][2:] == (
        "1",
        "1.2 s",
        "1.2 s",
        "256 env steps",
    )
    assert faults.rows[1][2:] == ("1, 0 seen to recover", "", "", "")
    assert dict(summary.rows)["faults"].endswith("the job was too short")
    assert scores.rows[0][-1] == "yes"


def test_a_document_keeps_what_stands_around_the_tables(tmp_path: Path) -> None:
    path = tmp_path / "reliability.md"
    path.write_text("# Reliability\n")
    write_document(path, _result())
    path.write_text(path.read_text() + "\n## After\n")
    write_document(path, _result(hangs=7))
    text = path.read_text()
    assert text.startswith("# Reliability\n") and text.endswith("## After\n")
    assert text.count("distributed-maddpg chaos\n") == 1 and "| hangs | 7 |" in text


# For real


@pytest.mark.slow
@pytest.mark.ray
def test_a_short_chaos_loses_nothing_for_good(tmp_path: Path) -> None:
    kinds = "kill worker,kill replay buffer,kill learner,freeze replay buffer,kill everything"
    command = [sys.executable, "-m", "distributed_maddpg", "chaos", "--json", "--kinds", kinds]
    command += ["--env-steps", "90000", "--minutes", "0.7", "--final-episodes", "200", "--seed", "5"]
    command += ["--run-dir", str(tmp_path / "chaos"), "--out", str(tmp_path / "reliability.md")]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.stdout, done.stderr
    result = json.loads(done.stdout)
    assert result["completed"] and result["problems"] == [], done.stderr
    assert result["hangs"] == 0 and result["lost_checkpoints"] == [] and result["leftover_processes"] == 0
    assert len(result["faults"]) >= 2
    assert result["checkpoints"]["loaded"] >= 1
    assert result["scorecard"]["episodes"] == 200
    assert done.returncode == (0 if result["within_noise"] else 1)
    assert "kill" in (tmp_path / "reliability.md").read_text()


@pytest.mark.slow
@pytest.mark.ray
def test_ctrl_c_ends_the_job_as_well(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "distributed_maddpg", "chaos", "--env-steps", "1000000"]
    command += ["--run-dir", str(tmp_path / "chaos")]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    chaos = subprocess.Popen(
        command, env=env, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 300
        found: list[psutil.Process] = []
        while not any(role_of(" ".join(process.cmdline())) for process in found if process.is_running()):
            assert time.monotonic() < deadline and chaos.poll() is None
            time.sleep(0.2)
            found = psutil.Process(chaos.pid).children(recursive=True)
        [job] = psutil.Process(chaos.pid).children()
        chaos.send_signal(signal.SIGINT)
        stderr = chaos.communicate(timeout=300)[1]
        assert chaos.returncode == 1 and stderr.splitlines()[-1] == "error: interrupted"
        assert session_processes(job.pid) == []
    finally:
        chaos.kill()
