"""The experiment: an undisturbed job, then the same one under faults, and what both came to."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

from distributed_maddpg.benchmarks.machine import machine
from distributed_maddpg.chaos.disturb import Disturbed, Disturber
from distributed_maddpg.chaos.job import Job
from distributed_maddpg.chaos.options import KEEP_CHECKPOINTS, ChaosOptions, JobSettings
from distributed_maddpg.chaos.recovery import missing_checkpoints, unexplained
from distributed_maddpg.chaos.result import Checkpoints, by_kind, lost, verdict
from distributed_maddpg.chaos.scores import compare, good_return_std
from distributed_maddpg.checkpoint.folder import load_checkpoint
from distributed_maddpg.errors import BadInput, CheckpointError, TrainingError
from distributed_maddpg.files import write_atomic

_CALIBRATION_ENV_STEPS = 100_000
_UNDISTURBED = 0.45
"""Share of the minutes that the job takes when nothing disturbs it."""
_LOOK_S = 0.2


def default_run_dir() -> Path:
    """Return `runs/chaos-<date>-<time>`."""
    return Path("runs") / f"chaos-{datetime.now():%Y%m%d-%H%M%S}"


def run_chaos(options: ChaosOptions, run_dir: Path, note: Callable[[str], None]) -> dict[str, Any]:
    """Run both jobs into a folder, and return what was found; it is also in the folder's `chaos.json`.

    Whatever happens, nothing of the jobs is left running.

    Args:
        options: how.
        run_dir: a folder that does not exist, or is empty.
        note: takes a line for a person.

    Raises:
        BadInput: if the folder is taken.
        TrainingError: if the undisturbed job fails.
    """
    if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
        raise BadInput("--run-dir", str(run_dir), "must be a new or an empty folder")
    jobs: list[Job] = []
    load = os.getloadavg()[0]
    with _ended_at_last(jobs):
        settings = JobSettings.of(options, options.env_steps or _length(options, run_dir, jobs, note))
        twin = Job(run_dir / "twin", settings.to_arguments(options))
        jobs.append(twin)
        note(f"the undisturbed twin: {settings.env_steps:,} env steps")
        twin_s = _undisturbed(twin, options)
        disturbed = Job(run_dir / "disturbed", settings.to_arguments(options))
        jobs.append(disturbed)
        note("the same job, disturbed")
        outcome = Disturber(disturbed, settings, options, note).run()
        result = _result(options, settings, twin, disturbed, outcome) | {"twin_s": twin_s}
    result["load_average"] = [load, os.getloadavg()[0]]
    result["against"] = verdict(result)
    result["passed"] = not result["against"]
    write_atomic(run_dir / "chaos.json", json.dumps(result, indent=1) + "\n")
    return result


def _length(options: ChaosOptions, run_dir: Path, jobs: list[Job], note: Callable[[str], None]) -> int:
    """Return how many env steps a job makes undisturbed in its share of the minutes."""
    note(f"a job of {_CALIBRATION_ENV_STEPS:,} env steps, for the rate")
    settings = JobSettings.of(
        options, 10 * _CALIBRATION_ENV_STEPS
    )  # it reports and evaluates as long ones do
    settings = dataclasses.replace(settings, env_steps=_CALIBRATION_ENV_STEPS)
    job = Job(run_dir / "calibration", settings.to_arguments(options))
    jobs.append(job)
    _undisturbed(job, options)
    first, *more = job.rows()
    seconds = sum(float(row["time_this_iter_s"]) for row in more)
    steps = [int(float(row["num_env_steps_sampled_lifetime"])) for row in (first, *more)]
    rate = (steps[-1] - steps[0]) / seconds
    note(f"{rate:,.0f} env steps/s")
    return max(_CALIBRATION_ENV_STEPS, 1000 * round(_UNDISTURBED * 60 * options.minutes * rate / 1000))


def _undisturbed(job: Job, options: ChaosOptions) -> float:
    """Run a job to its end; return how long it took.

    Raises:
        TrainingError: if it fails, or reports nothing for long.
    """
    begun = reported = time.monotonic()
    patience_s = 2 * options.deadline_s + options.timeout_s
    steps = 0
    job.start()
    while job.exit_code is None:
        time.sleep(_LOOK_S)
        job.rows()
        if job.seen.env_steps != steps:
            steps, reported = job.seen.env_steps, time.monotonic()
        if time.monotonic() - reported > patience_s:
            raise TrainingError(f"the undisturbed job reported nothing for {patience_s:.0f} s: {job.run_dir}")
    if job.exit_code:
        raise TrainingError(f"the undisturbed job failed: {(job.log().splitlines() or ['silently'])[-1]}")
    job.rows()
    seconds = time.monotonic() - begun
    job.finish()
    return seconds


def _result(
    options: ChaosOptions, settings: JobSettings, twin: Job, disturbed: Job, outcome: Disturbed
) -> dict[str, Any]:
    events, seen, summary = disturbed.events(), disturbed.seen, disturbed.summary()
    checkpoints = check_checkpoints(disturbed)
    completed = (
        disturbed.exit_code == 0
        and bool(summary.get("finished"))
        and summary["env_steps"] >= settings.env_steps
    )
    card, twin_card = summary.get("evaluation", {}) if completed else {}, twin.summary()["evaluation"]
    comparison = (
        compare(twin.evaluations(), disturbed.evaluations(), good_return_std(twin_card)) if completed else []
    )
    return {
        "command": options.command_line(),
        "options": dataclasses.asdict(options),
        "settings": dataclasses.asdict(settings),
        "machine": machine(),
        "faults": [fault.to_dict() for fault in outcome.faults],
        "by_kind": by_kind(outcome.faults),
        "lost": lost(seen.env_steps_lost, seen.updates_lost, outcome, events),
        "hangs": outcome.hangs,
        "restarts": outcome.resumed,
        "problems": outcome.problems,
        "lost_checkpoints": checkpoints.lost,
        "checkpoints": {"saved": checkpoints.saved, "loaded": checkpoints.loaded},
        "completed": completed,
        "leftover_processes": disturbed.leftover + twin.leftover,
        "last_process_gone_after_s": disturbed.slowest_end_s,
        "unexplained_losses": unexplained(events, outcome.faults),
        "scorecard": card,
        "twin": twin_card,
        "comparison": comparison,
        "within_noise": completed and all(each["within"] for each in comparison),
        "disturbed_s": outcome.seconds,
    }


def check_checkpoints(job: Job) -> Checkpoints:
    """Read every checkpoint of a job that has ended, and look for those that should be there."""
    listed, saved = job.listed(), job.saved()
    problems = [
        f"step_{steps} was saved and is not there"
        for steps in missing_checkpoints(saved, list(listed), KEEP_CHECKPOINTS)
    ]
    if broken := job.set_aside():
        problems.append(f"{broken} were damaged and set aside")
    loaded = 0
    for path in listed.values():
        try:
            checkpoint = load_checkpoint(path)
            rows = sum(len(chunk) for chunk in checkpoint.replay.chunks) if checkpoint.replay else 0
            if checkpoint.replay and rows != checkpoint.replay.num_rows:
                raise CheckpointError(f"{path}: has {rows} rows of {checkpoint.replay.num_rows}")
            loaded += 1
        except CheckpointError as error:
            problems.append(str(error))
    return Checkpoints(len(saved), loaded, problems)


@contextmanager
def _ended_at_last(jobs: list[Job]) -> Iterator[None]:
    """End all jobs when this ends, also by Ctrl-C or SIGTERM."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    in_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if in_main else ()
    previous = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for job in jobs:
            job.kill()
        for number, handler in previous.items():
            signal.signal(number, handler)
