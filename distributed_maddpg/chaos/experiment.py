"""The experiment: a job without faults, then the same job under faults, and a comparison of both."""

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
from typing import Any

from distributed_maddpg.benchmarks.machine import machine
from distributed_maddpg.benchmarks.options import command_line
from distributed_maddpg.chaos.injector import FaultInjector, InjectionResult
from distributed_maddpg.chaos.job import Job
from distributed_maddpg.chaos.options import KEEP_CHECKPOINTS, ChaosOptions, JobSettings
from distributed_maddpg.chaos.recovery import env_steps_of, missing_checkpoints, unexplained
from distributed_maddpg.chaos.result import by_kind, compare, failures, good_return_std, losses
from distributed_maddpg.checkpoint.folder import load_checkpoint
from distributed_maddpg.errors import BadInput, CheckpointError, TrainingError
from distributed_maddpg.files import write_atomic

_CALIBRATION_ENV_STEPS = 100_000
_BASELINE_SHARE = 0.45
"""Share of the minutes that the job takes without faults."""
_POLL_S = 0.2


def default_run_dir() -> Path:
    """Return `runs/chaos-<date>-<time>`."""
    return Path("runs") / f"chaos-{datetime.now():%Y%m%d-%H%M%S}"


def run_chaos(options: ChaosOptions, run_dir: Path, note: Callable[[str], None]) -> dict[str, Any]:
    """Run both jobs in a folder, and return the result; it is also in the folder's `chaos.json`.

    All processes of the jobs are ended, even if this function raises.

    Args:
        options: the faults and the job.
        run_dir: a folder that does not exist, or is empty.
        note: takes a line for display.

    Raises:
        BadInput: if the folder is not empty.
        TrainingError: if the job without faults fails.
    """
    if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
        raise BadInput("--run-dir", str(run_dir), "must be a new or an empty folder")
    jobs: list[Job] = []

    def new_job(name: str, settings: JobSettings) -> Job:
        jobs.append(Job(run_dir / name, settings.to_arguments(options)))
        return jobs[-1]

    load = os.getloadavg()[0]
    with _killed_at_exit(jobs):
        settings = JobSettings.of(options, options.env_steps or _calibrate(options, new_job, note))
        baseline = new_job("baseline", settings)
        note(f"the job without faults: {settings.env_steps:,} env steps")
        baseline_s = _run_baseline(baseline, settings.stall_timeout_s(options))
        disturbed = new_job("disturbed", settings)
        note("the same job under faults")
        injection = FaultInjector(disturbed, settings, options, note).run()
        result = _result(options, settings, baseline, disturbed, injection) | {"baseline_s": baseline_s}
    result["load_average"] = [load, os.getloadavg()[0]]
    result["failures"] = failures(result)
    result["passed"] = not result["failures"]
    write_atomic(run_dir / "chaos.json", json.dumps(result, indent=1) + "\n")
    return result


def _calibrate(
    options: ChaosOptions, new_job: Callable[[str, JobSettings], Job], note: Callable[[str], None]
) -> int:
    """Return how many env steps a job makes without faults in its share of the minutes."""
    note(f"a job of {_CALIBRATION_ENV_STEPS:,} env steps, for the rate")
    # It reports and evaluates as often as long jobs do.
    settings = JobSettings.of(options, 10 * _CALIBRATION_ENV_STEPS)
    settings = dataclasses.replace(settings, env_steps=_CALIBRATION_ENV_STEPS)
    job = new_job("calibration", settings)
    _run_baseline(job, settings.stall_timeout_s(options))
    rows = job.rows()
    seconds = sum(float(row["time_this_iter_s"]) for row in rows[1:])
    rate = (env_steps_of(rows[-1]) - env_steps_of(rows[0])) / seconds
    note(f"{rate:,.0f} env steps/s")
    return max(_CALIBRATION_ENV_STEPS, 1000 * round(_BASELINE_SHARE * 60 * options.minutes * rate / 1000))


def _run_baseline(job: Job, stall_timeout_s: float) -> float:
    """Run a job to its end; return the seconds it took.

    Raises:
        TrainingError: if it fails, or reports nothing for `stall_timeout_s`.
    """
    started = time.monotonic()
    job.start()
    while job.exit_code is None:
        time.sleep(_POLL_S)
        job.poll()
        if job.seconds_since_progress > stall_timeout_s:
            line = f"the job without faults reported nothing for {stall_timeout_s:.0f} s: {job.run_dir}"
            raise TrainingError(line)
    if job.exit_code:
        raise TrainingError(f"the job without faults failed: {job.last_line()}")
    job.rows()
    seconds = time.monotonic() - started
    job.finish()
    return seconds


def _result(
    options: ChaosOptions, settings: JobSettings, baseline: Job, disturbed: Job, injection: InjectionResult
) -> dict[str, Any]:
    events, counts, summary = disturbed.events(), disturbed.counts, disturbed.summary()
    checkpoints = check_checkpoints(disturbed)
    lost_checkpoints = checkpoints.pop("lost")
    finished = disturbed.exit_code == 0 and bool(summary.get("finished"))
    completed = finished and summary["env_steps"] >= settings.env_steps
    baseline_card = baseline.summary()["evaluation"]
    comparison = []
    if completed:
        return_std = good_return_std(baseline_card)
        comparison = compare(baseline.evaluations(), disturbed.evaluations(), return_std)
    return {
        "command": command_line("chaos", options),
        "options": dataclasses.asdict(options),
        "settings": dataclasses.asdict(settings),
        "machine": machine(),
        "faults": [fault.to_dict() for fault in injection.faults],
        "by_kind": by_kind(injection.faults),
        "lost": losses(counts, injection, events),
        "hangs": injection.hangs,
        "restarts": injection.restarts,
        "problems": injection.problems,
        "lost_checkpoints": lost_checkpoints,
        "checkpoints": checkpoints,
        "completed": completed,
        "leftover_processes": disturbed.leftover + baseline.leftover,
        "last_process_gone_after_s": disturbed.slowest_end_s,
        "unexplained_losses": unexplained(events, injection.faults),
        "scorecard": summary.get("evaluation", {}) if completed else {},
        "baseline": baseline_card,
        "comparison": comparison,
        "within_noise": completed and all(each["within"] for each in comparison),
        "disturbed_s": injection.seconds,
    }


def check_checkpoints(job: Job) -> dict[str, Any]:
    """Read every checkpoint of a job that has ended, and list those that are missing or damaged.

    Returns:
        "saved": how many were reported as saved; "loaded": how many exist and can be read; "lost": a line on
        each that is missing or damaged, or that an incarnation found damaged.
    """
    existing, saved = job.checkpoints(), job.saved_steps()
    missing = missing_checkpoints(saved, list(existing), KEEP_CHECKPOINTS)
    lost = [f"step_{steps} was saved and does not exist" for steps in missing]
    if broken := job.num_broken():
        lost.append(f"{broken} were damaged and renamed")
    loaded = 0
    for path in existing.values():
        try:
            replay = load_checkpoint(path).replay
            rows = sum(len(chunk) for chunk in replay.chunks) if replay else 0
            if replay and rows != replay.num_rows:
                raise CheckpointError(f"{path}: has {rows} rows of {replay.num_rows}")
            loaded += 1
        except CheckpointError as error:
            lost.append(str(error))
    return {"saved": len(saved), "loaded": loaded, "lost": lost}


@contextmanager
def _killed_at_exit(jobs: list[Job]) -> Iterator[None]:
    """Kill all jobs when the context ends, also after Ctrl-C or SIGTERM."""
    in_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if in_main else ()
    previous = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for job in jobs:
            job.kill()
        for number, handler in previous.items():
            signal.signal(number, handler)
