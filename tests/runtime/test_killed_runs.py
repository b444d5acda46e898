"""Runs over Ray that are ended at any moment, every process of them, and resumed."""

from __future__ import annotations

import itertools
import os
import random
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.trainer import MADDPG

pytest.importorskip("ray")
from tests.support.killing import GRACE_S, Job, Reference, drafts, repeat, table, whole
from tests.support.processes import abandoned_memory

pytestmark = pytest.mark.ray

_STEPS, _CAPACITY = 4000, 1500


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference.of(_lock_step(tmp_path_factory.mktemp("reference") / "run"))


@pytest.fixture(scope="module")
def loose_reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference.of(_loose(tmp_path_factory.mktemp("loose") / "run"))


def _lock_step(run_dir: Path) -> Job:
    return Job(run_dir, _STEPS, "--num-workers=2", "--sync")


def _loose(run_dir: Path, *options: str) -> Job:
    return Job(run_dir, 4 * _STEPS, "--num-workers=2", *options)


def _signal(attempt_pid: int, moments: random.Random) -> None:
    """Ask for the end as a terminal does, of the whole group, or as a service manager."""
    with suppress(ProcessLookupError):  # the run was faster than the reference and has ended
        if moments.random() < 0.5:
            os.killpg(attempt_pid, signal.SIGINT)
        else:
            os.kill(attempt_pid, signal.SIGTERM)


@pytest.mark.slow
def test_a_lock_step_run_that_is_killed_and_resumed_equals_one_that_was_not(
    reference: Reference, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = abandoned_memory()

    def one(number: int, moments: random.Random) -> list[str]:
        job, phases = _lock_step(tmp_path / f"run_{number}"), []
        for _ in range(moments.choice((1, 1, 1, 2))):
            with job.start() as attempt:
                reference.await_moment(attempt, moments)
                attempt.kill()
            phases.append(attempt.phase())
        reference.require_equal(job, job.finish())
        return phases

    with capsys.disabled():
        hits = repeat(12, 2, one)
    assert len(hits) >= 3
    assert abandoned_memory() <= before


@pytest.mark.slow
def test_a_lock_step_run_that_is_interrupted_and_resumed_equals_one_that_was_not(
    reference: Reference, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def one(number: int, moments: random.Random) -> list[str]:
        job = _lock_step(tmp_path / f"run_{number}")
        with job.start() as attempt:
            reference.await_moment(attempt, moments, only_running=True)
            _signal(attempt.process.pid, moments)
            assert attempt.end(GRACE_S) == 0, attempt.text()
        assert job.newest() and "Traceback" not in attempt.text(), attempt.text()
        phases = [f"interrupted at {job.newest()}"]
        reference.require_equal(job, job.finish())
        return phases

    with capsys.disabled():
        repeat(5, 2, one)


@pytest.mark.usefixtures("ray_cluster")
def test_rows_of_two_moments_are_never_mixed() -> None:
    small = {"num_envs": 8, "fragment_steps": 4}
    pacing = {"learning_starts": 64, "report_interval_env_steps": 200, "evaluation_interval_env_steps": 0}
    settings = {
        "num_workers": 1,
        "sync": True,
        "rollout": small,
        "pacing": pacing,
        "replay": {"capacity": 300},
    }
    with MADDPG(MADDPGConfig.from_dict({**settings, "learner": {"device": "cpu", "batch_size": 32}})) as algo:
        algo.train()
        older = algo.capture().replay
        algo.train()
        newer = algo.capture().replay
        assert older is not None and newer is not None
        assert sum(map(len, older.chunks)) == 0 < older.num_rows  # which cannot be saved
        assert sum(map(len, newer.chunks)) == newer.num_rows == 300


def _finish_loosely(job: Job, with_rows: bool) -> None:
    """Run a job to its end; require that it goes on from its newest checkpoint."""
    paths = sorted(job.checkpoints.glob("step_*"), key=lambda path: int(path.name[5:]))
    counted = 0
    for path in paths:
        checkpoint, _ = whole(path)
        counted = checkpoint.env_steps
        assert (checkpoint.replay is not None) == with_rows
        if checkpoint.replay is not None:
            assert checkpoint.replay.inserted >= counted
            assert checkpoint.replay.num_rows == min(checkpoint.replay.inserted, _CAPACITY)
    summary = job.finish()
    assert summary["finished"] and summary["env_steps"] >= max(counted, job.total)
    rows = table(job.run_dir / "metrics.csv")
    # Steps may all be in while the updates that they earn are not made: the last two rows share their steps.
    names = ("num_env_steps_sampled_lifetime", "num_updates_lifetime")
    counts = [tuple(int(row[name]) for name in names) for row in rows]
    for one, other in itertools.pairwise(counts):
        assert one < other and one[1] <= other[1], counts
    assert [int(row["training_iteration"]) for row in rows] == [*range(1, len(rows) + 1)]
    owed = 1 + (summary["env_steps"] - 500) // 20
    if with_rows or counted < job.total:  # else nothing is left to learn from
        assert summary["updates"] == owed
    assert summary["updates"] <= owed
    assert not drafts(job.checkpoints)


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--no-checkpoint-replay"]], ids=["with rows", "without rows"])
@pytest.mark.parametrize("warned", [False, True], ids=["killed", "interrupted"])
def test_an_asynchronous_run_goes_on_from_its_newest_checkpoint(
    loose_reference: Reference,
    tmp_path: Path,
    warned: bool,
    options: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = abandoned_memory()

    def one(number: int, moments: random.Random) -> list[str]:
        job = _loose(tmp_path / f"run_{number}", *options)
        with job.start() as attempt:
            loose_reference.await_moment(attempt, moments, only_running=warned)
            if warned:
                _signal(attempt.process.pid, moments)
                assert attempt.end(GRACE_S) == 0, attempt.text()
                assert job.newest() and "Traceback" not in attempt.text(), attempt.text()
            else:
                attempt.kill()
        phase = attempt.phase()
        _finish_loosely(job, with_rows=not options)
        return [phase]

    with capsys.disabled():
        repeat(2 if options else 5, 2, one)
    assert abandoned_memory() <= before
