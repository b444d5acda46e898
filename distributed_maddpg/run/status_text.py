"""The status of runs as rows of text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distributed_maddpg.durations import format_duration
from distributed_maddpg.errors import one_line
from distributed_maddpg.run.progress import evaluation_text

_MAX_FAULT_CHARS = 160
_UNKNOWN = "not known yet"
_NOT_HERE = "not running here: it was killed, or runs on a machine whose locks this one cannot see"


def status_rows(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what `run_status` says of one run, as names and texts."""
    rows = [
        ("run", one_line(status["run_dir"])),
        ("state", _state(status)),
        ("progress", _progress(status)),
    ]
    if status["bottleneck"]:
        rows += _rate_rows(status)
    if status["num_healthy_workers"] is not None:
        rows.append(("workers", f"{status['num_healthy_workers']} of {status['num_workers']} healthy"))
    if status["replay_fill"] is not None:
        rows.append(("replay buffer", f"{100 * status['replay_fill']:.0f} % full"))
    if card := status["evaluation"]:
        at = "" if card["num_env_steps"] is None else f"  (at {card['num_env_steps']:,} env steps)"
        rows.append(("evaluation", one_line(evaluation_text(card)) + at))
    rows.append(("checkpoint", _checkpoint(status["checkpoint"])))
    return rows + _fault_rows(status["faults"])


def overview(jobs: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return headers and rows of a table of jobs, as `remote_status` describes them."""
    headers = ["job", "job is", "run is", "progress", "env steps/s", "updates/s", "bottleneck", "last fault"]
    return headers, [row for job in jobs for row in _job_rows(job)]


def _job_rows(job: Mapping[str, Any]) -> list[list[str]]:
    first = [one_line(job["submission_id"]), job["job_status"].lower()]
    if "problem" in job:
        return [[*first, one_line(job["problem"]), *[""] * 5]]
    return [[*first, *_job_columns(status)] for status in runs_of(job["status"])]


def runs_of(status: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the status of each run: several seeds' runs are in one."""
    runs: Sequence[Mapping[str, Any]] = status.get("runs", [status])
    return runs


def _job_columns(status: Mapping[str, Any]) -> list[str]:
    recent, known = status["faults"]["recent"], status["bottleneck"] is not None
    return [
        status["state"],
        "" if status["progress"] is None else f"{100 * status['progress']:.0f} %",
        f"{status['env_steps_per_s']:,.0f}" if known else "",
        f"{status['updates_per_s']:,.1f}" if known else "",
        status["bottleneck"] or "",
        f"{format_duration(recent[-1]['age_s'])} ago" if recent else "none",
    ]


def _state(status: Mapping[str, Any]) -> str:
    state = _NOT_HERE if status["state"] == "not running here" else status["state"]
    age_s = status["last_report_age_s"]
    return state if age_s is None else f"{state}; last report {format_duration(age_s)} ago"


def _progress(status: Mapping[str, Any]) -> str:
    if status["progress"] is None:
        return _UNKNOWN
    share = f"{100 * status['progress']:.0f} %"
    text = f"{share}: {status['env_steps']:,} of {status['total_env_steps']:,} env steps"
    left_s = status["time_left_s"]
    return text if left_s is None else f"{text}; {format_duration(left_s)} left at this rate"


def _rate_rows(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    env_steps, updates = status["env_steps_per_s"] or 0.0, status["updates_per_s"] or 0.0
    mean, most = status["versions_behind_mean"], status["versions_behind_max"]
    behind = _UNKNOWN if mean is None else f"{mean:.1f} versions behind on average, {most} at most"
    return [
        ("rates", f"{env_steps:,.0f} env steps a second, {updates:,.1f} updates a second"),
        ("bottleneck", status["bottleneck"]),
        ("workers' time", _shares(status["shares"], "rollout_")),
        ("learner's time", _shares(status["shares"], "learner_")),
        ("weights", behind),
    ]


def _shares(shares: Mapping[str, float | None], stage: str) -> str:
    own = {name.removeprefix(stage): share for name, share in shares.items() if name.startswith(stage)}
    percent = {name.replace("_", " on "): 100 * (share or 0.0) for name, share in own.items()}
    return ", ".join(f"{name} {share:.0f} %" for name, share in percent.items())


def _checkpoint(checkpoint: Mapping[str, Any] | None) -> str:
    if checkpoint is None:
        return "none yet"
    if "problem" in checkpoint:
        return one_line(checkpoint["problem"])
    age_s = checkpoint["age_s"]
    return one_line(checkpoint["path"]) + ("" if age_s is None else f", {format_duration(age_s)} old")


def _fault_rows(faults: Mapping[str, Any]) -> list[tuple[str, str]]:
    happened = {name: count for name, count in faults["counts"].items() if count}
    counts = ", ".join(f"{name.removeprefix('num_').replace('_', ' ')} {n:,}" for name, n in happened.items())
    rows = [("faults", counts or "none")]
    for event in faults["recent"]:
        message = one_line(event["message"], _MAX_FAULT_CHARS)
        rows.append(("", f"{format_duration(event['age_s'])} ago: {message}"))
    return rows
