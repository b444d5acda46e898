"""A run in one process that is ended at any moment and resumed equals one that was left alone."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from tests.support.killing import GRACE_S, Job, Reference, repeat
from tests.support.processes import abandoned_memory

pytestmark = pytest.mark.processes

_STEPS = 8000


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference.of(_job(tmp_path_factory.mktemp("reference") / "run"))


def _job(run_dir: Path) -> Job:
    return Job(run_dir, _STEPS, "--num-workers=0")


@pytest.mark.parametrize("count", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_and_resumed_equals_one_that_was_not(
    reference: Reference, tmp_path: Path, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    before = abandoned_memory()

    def one(number: int, moments: random.Random) -> list[str]:
        job, phases = _job(tmp_path / f"run_{number}"), []
        for _ in range(moments.choice((1, 1, 2, 3))):
            with job.start() as attempt:
                reference.await_moment(attempt, moments)
                attempt.kill()
            phases.append(attempt.phase())
        reference.require_equal(job, job.finish())
        return phases

    with capsys.disabled():
        hits = repeat(count, 2, one)
    assert count < 20 or len(hits) >= 4
    assert abandoned_memory() <= before


@pytest.mark.parametrize("count", [pytest.param(5, marks=pytest.mark.slow)])
def test_a_run_that_is_interrupted_and_resumed_equals_one_that_was_not(
    reference: Reference, tmp_path: Path, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def one(number: int, moments: random.Random) -> list[str]:
        job, phases = _job(tmp_path / f"run_{number}"), []
        for _ in range(moments.choice((1, 2))):
            with job.start() as attempt:
                reference.await_moment(attempt, moments, only_running=True)
                attempt.process.send_signal(moments.choice((signal.SIGINT, signal.SIGTERM)))
                assert attempt.end(GRACE_S) == 0, attempt.text()
            assert job.newest() and "Traceback" not in attempt.text(), attempt.text()
            phases.append(f"interrupted at {job.newest()}")
        reference.require_equal(job, job.finish())
        return phases

    with capsys.disabled():
        repeat(count, 2, one)
