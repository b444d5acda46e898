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
from distributed_maddpg.chaos.injector import FaultInjector, InjectionResult
from distributed_maddpg.chaos.job import Job
from distributed_maddpg.chaos.options import KEEP_CHECKPOINTS, ChaosOptions, JobSettings
from distributed_maddpg.chaos.recovery import missing_checkpoints, unexplained
from distributed_maddpg.chaos.result import Checkpoints, by_kind, losses, verdict
from distributed_maddpg.chaos.scores import compare, good_return_std
from distributed_maddpg.checkpoint.folder import load_checkpoint
from distributed_maddpg.errors import BadInput, CheckpointError, TrainingError
from distributed_maddpg.files import write_aside

_CALIBRATION_ENV_STEPS = 100_000
_BASELINE_SHARE = 0.45
"""Share of the minutes that the job takes when nothing disturbs it."""
_POLL_S = 0.2


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
    with _killed_at_exit(jobs):
        settings = JobSettings.of(
            options, options.env_steps or _calibrated_length(options, run_dir, jobs, note)
        )
        baseline = Job(run_dir / "twin", settings.to_arguments(options))
        jobs.append(baseline)
        note(f"the undisturbed baseline: {settings.env_steps:,} env steps")
        baseline_s = _run_baseline(baseline, options)
        disturbed = Job(run_dir / "disturbed", settings.to_arguments(options))
        jobs.append(disturbed)
        note("the same job, disturbed")
        injection = FaultInjector(disturbed, settings, options, note).run()
        result = _result(options, settings, baseline, disturbed, injection) | {"twin_s": baseline_s}
    result["load_average"] = [load, os.getloadavg()[0]]
    result["against"] = verdict(result)
    result["passed"] = not result["against"]
    write_aside(run_dir / "chaos.json", json.dumps(result, indent=1) + "\n")
    return result


def _calibrated_length(
    options: ChaosOptions, run_dir: Path, jobs: list[Job], note: Callable[[str], None]
) -> int:
    """Return how many env steps a job makes undisturbed in its share of the minutes."""
    note(f"a job of {_CALIBRATION_ENV_STEPS:,} env steps, for the rate")
    settings = JobSettings.of(
        options, 10 * _CALIBRATION_ENV_STEPS
    )  # it reports and evaluates as long ones do
    settings = dataclasses.replace(settings, env_steps=_CALIBRATION_ENV_STEPS)
    job = Job(run_dir / "calibration", settings.to_arguments(options))
    jobs.append(job)
    _run_baseline(job, options)
    first, *more = job.rows()
    seconds = sum(float(row["time_this_iter_s"]) for row in more)
    steps = [int(float(row["num_env_steps_sampled_lifetime"])) for row in (first, *more)]
    rate = (steps[-1] - steps[0]) / seconds
    note(f"{rate:,.0f} env steps/s")
    return max(_CALIBRATION_ENV_STEPS, 1000 * round(_BASELINE_SHARE * 60 * options.minutes * rate / 1000))


def _run_baseline(job: Job, options: ChaosOptions) -> float:
    """Run a job to its end; return how long it took.

    Raises:
        TrainingError: if it fails, or reports nothing for long.
    """
    started = reported = time.monotonic()
    patience_s = 2 * options.deadline_s + options.timeout_s
    steps = 0
    job.start()
    while job.exit_code is None:
        time.sleep(_POLL_S)
        job.rows()
        if job.seen.env_steps != steps:
            steps, reported = job.seen.env_steps, time.monotonic()
        if time.monotonic() - reported > patience_s:
            raise TrainingError(f"the undisturbed job reported nothing for {patience_s:.0f} s: {job.run_dir}")
    if job.exit_code:
        raise TrainingError(f"the undisturbed job failed: {(job.log().splitlines() or ['silently'])[-1]}")
    job.rows()
    seconds = time.monotonic() - started
    job.finish()
    return seconds


def _result(
    options: ChaosOptions, settings: JobSettings, baseline: Job, disturbed: Job, injection: InjectionResult
) -> dict[str, Any]:
    events, seen, summary = disturbed.events(), disturbed.seen, disturbed.summary()
    checkpoints = check_checkpoints(disturbed)
    completed = (
        disturbed.exit_code == 0
        and bool(summary.get("finished"))
        and summary["env_steps"] >= settings.env_steps
    )
    card, baseline_card = summary.get("evaluation", {}) if completed else {}, baseline.summary()["evaluation"]
    comparison = (
        compare(baseline.evaluations(), disturbed.evaluations(), good_return_std(baseline_card))
        if completed
        else []
    )
    return {
        "command": options.command_line(),
        "options": dataclasses.asdict(options),
        "settings": dataclasses.asdict(settings),
        "machine": machine(),
        "faults": [fault.to_dict() for fault in injection.faults],
        "by_kind": by_kind(injection.faults),
        "lost": losses(seen.env_steps_lost, seen.updates_lost, injection, events),
        "hangs": injection.hangs,
        "restarts": injection.restarts,
        "problems": injection.problems,
        "lost_checkpoints": checkpoints.lost,
        "checkpoints": {"saved": checkpoints.saved, "loaded": checkpoints.loaded},
        "completed": completed,
        "leftover_processes": disturbed.leftover + baseline.leftover,
        "last_process_gone_after_s": disturbed.slowest_end_s,
        "unexplained_losses": unexplained(events, injection.faults),
        "scorecard": card,
        "twin": baseline_card,
        "comparison": comparison,
        "within_noise": completed and all(each["within"] for each in comparison),
        "disturbed_s": injection.seconds,
    }


def check_checkpoints(job: Job) -> Checkpoints:
    """Read every checkpoint of a job that has ended, and look for those that should be there."""
    listed, saved = job.checkpoints(), job.saved_steps()
    problems = [
        f"step_{steps} was saved and is not there"
        for steps in missing_checkpoints(saved, list(listed), KEEP_CHECKPOINTS)
    ]
    if broken := job.num_broken():
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
def _killed_at_exit(jobs: list[Job]) -> Iterator[None]:
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
