"""How a run is doing, read from the files of its folder, which a running process may be writing to."""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from distributed_maddpg.bottleneck import SHARES, name_bottleneck, time_shares
from distributed_maddpg.checkpoint.remote import is_url
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput, CheckpointError
from distributed_maddpg.files import is_locked, open_regular, parse_json, read_small
from distributed_maddpg.run.folder import checkpoints_folder, read_checkpoint_record

_CONFIG, _METRICS, _RETURNS = "config.toml", "metrics.csv", "returns.csv"
_EVENTS, _SUMMARY = "events.jsonl", "summary.json"
_MAX_HEADER_BYTES, _MAX_TAIL_BYTES, _MAX_SUMMARY_BYTES = 2**18, 2**18, 2**20
_NEEDED = {
    _METRICS: (
        *("num_env_steps_sampled_lifetime", "num_updates_lifetime", "time_this_iter_s"),
        *("env_steps_per_s", "updates_per_s", *(f"timers/{name}_s" for name in SHARES)),
    ),
    _RETURNS: ("env_steps",),
}
_WINDOW_S = 30.0
"""Rates and shares are those of the newest reports that cover this time, at least of one."""
_RECENT_FAULTS = 5
_FAULTS = "fault_tolerance/"

Row = Mapping[str, float]


def run_status(run_dir: Path) -> dict[str, Any]:
    """Return how a run is doing, as plain values that JSON can hold; None stands for what is not known yet.

    Of several seeds' runs it returns the status of each, as `runs`.

    Args:
        run_dir: folder of a run, or the parent of several seeds' runs.

    Raises:
        BadInput: if the folder holds no run, or a file of it is damaged.
    """
    if not run_dir.is_dir():
        raise BadInput("RUN_DIR", str(run_dir), "is no folder; name the folder of a run")
    seeds = sorted(run_dir.glob("seed_*/.lock"))
    if seeds and not (run_dir / _CONFIG).exists():
        return {"run_dir": str(run_dir), "runs": [run_status(lock.parent) for lock in seeds]}
    locked = is_locked(run_dir)
    if not locked and not (run_dir / _CONFIG).exists():
        raise BadInput("RUN_DIR", str(run_dir), "holds no run; name the folder of a run")
    return _status(run_dir, locked)


def _status(run_dir: Path, locked: bool) -> dict[str, Any]:
    config = MADDPGConfig.from_toml(run_dir / _CONFIG) if (run_dir / _CONFIG).exists() else None
    rows = _newest_rows(run_dir / _METRICS)
    newest = rows[-1] if rows else {}
    status = {
        "run_dir": str(run_dir),
        "state": _state(run_dir, locked, newest),
        "last_report_age_s": _age_s(run_dir / _METRICS) if rows else None,
        "env_id": config.env.id if config else None,
        "num_workers": config.num_workers if config else None,
        **_progress(newest, config),
        **_rates(rows, config),
        "versions_behind_mean": newest.get("weights/versions_behind_mean"),
        "versions_behind_max": _count(newest.get("weights/versions_behind_max")),
        "replay_fill": _replay_fill(newest, config),
        "num_healthy_workers": _count(newest.get(f"{_FAULTS}num_healthy_workers")),
        "evaluation": _evaluation(run_dir / _RETURNS),
        "checkpoint": _checkpoint(run_dir),
        "faults": {
            "counts": {
                name.removeprefix(_FAULTS): _count(value)
                for name, value in newest.items()
                if name.startswith(_FAULTS) and name != f"{_FAULTS}num_healthy_workers"
            },
            "recent": _recent_faults(run_dir / _EVENTS),
        },
    }
    status["time_left_s"] = _time_left_s(status)
    known: dict[str, Any] = _without_nan(status)
    return known


def _state(run_dir: Path, locked: bool, newest: Row) -> str:
    """Return `starting`, `running`, `finished`, `interrupted` or `not running here`.

    The last one means that the run was killed, or runs on a machine whose locks this one cannot see.
    """
    if locked:
        return "running" if newest else "starting"
    try:
        summary = parse_json(read_small(run_dir / _SUMMARY, _MAX_SUMMARY_BYTES))
        # A run that was resumed and killed leaves the summary of the time before.
        if newest and summary["env_steps"] < newest["num_env_steps_sampled_lifetime"]:
            return "not running here"
        return "finished" if summary["finished"] else "interrupted"
    except (OSError, ValueError, KeyError, TypeError):
        return "not running here"


def _progress(newest: Row, config: MADDPGConfig | None) -> dict[str, Any]:
    steps = _count(newest.get("num_env_steps_sampled_lifetime")) or 0
    total = config.pacing.total_env_steps if config else None
    return {
        "env_steps": steps,
        "total_env_steps": total,
        "progress": min(1.0, steps / total) if total else None,  # the last fragment may exceed the total
        "updates": _count(newest.get("num_updates_lifetime", 0.0)),
    }


def _rates(rows: Sequence[Row], config: MADDPGConfig | None) -> dict[str, Any]:
    """Return rates, shares of the stages' time and the bottleneck of the newest reports."""
    window: list[Row] = []
    for row in reversed(rows):
        window.append(row)
        if sum(each["time_this_iter_s"] for each in window) >= _WINDOW_S:
            break
    seconds = sum(row["time_this_iter_s"] for row in window)
    if config is None or not seconds > 0.0:
        return dict.fromkeys(("env_steps_per_s", "updates_per_s", "bottleneck", "shares"))
    rates = {
        name: sum(row[name] * row["time_this_iter_s"] for row in window) / seconds
        for name in ("env_steps_per_s", "updates_per_s")
    }
    timers = {f"{name}_s": sum(row[f"timers/{name}_s"] for row in window) for name in SHARES}
    shares = time_shares(timers, seconds, in_turn=config.num_workers == 0)
    return {**rates, "bottleneck": name_bottleneck(shares), "shares": shares}


def _time_left_s(status: Mapping[str, Any]) -> float | None:
    """Return how long the remaining env steps take at the present rate."""
    rate, total = status["env_steps_per_s"], status["total_env_steps"]
    if status["state"] != "running" or not rate or total is None:
        return None
    return float(max(0, total - status["env_steps"]) / rate)


def _replay_fill(newest: Row, config: MADDPGConfig | None) -> float | None:
    stored = newest.get("replay_buffer/num_env_steps_stored")
    return None if stored is None or config is None else stored / config.replay.capacity


def _evaluation(path: Path) -> dict[str, Any] | None:
    """Return the newest evaluation, as `evaluate` nests it."""
    rows = _newest_rows(path)
    if not rows:
        return None
    counts = {
        name: _count(rows[-1].pop(column, math.nan))
        for name, column in (("num_env_steps", "env_steps"), ("num_updates", "updates"))
    }
    card: dict[str, Any] = {**counts, "episodes": _count(rows[-1].pop("episodes", math.nan))}
    card["agent_episode_returns_mean"] = {}
    for column, value in rows[-1].items():
        if math.isnan(value):
            continue  # not measured
        kind, _, name = column.partition("_")
        if kind == "success":
            card.setdefault("success", {})[name] = value
        elif kind == "measure":
            card.setdefault("measures", {})[name] = value
        else:
            card["agent_episode_returns_mean"][column] = value
    return card


def _checkpoint(run_dir: Path) -> dict[str, Any] | None:
    """Return the newest checkpoint that the run recorded; behind a URL its age is not known."""
    try:
        newest, folder = read_checkpoint_record(run_dir).newest, checkpoints_folder(run_dir)
    except CheckpointError as error:
        return {"path": None, "age_s": None, "problem": str(error)}
    if not newest:
        return None
    path = f"{folder.rstrip('/')}/{newest.rpartition('/')[2]}"
    return {"path": path, "age_s": None if is_url(path) else _age_s(Path(path))}


def _recent_faults(path: Path) -> list[dict[str, Any]]:
    """Return the newest losses and recoveries, oldest first, with their age."""
    recent = []
    for line in _tail(path):
        try:
            event = parse_json(line.encode())
            age_s = max(0.0, time.time() - float(event["time"]))
            told = {name: str(event[name]) for name in ("process", "kind", "message")}
            recent.append({"age_s": age_s, **told, "seconds": float(event["seconds"])})
        except (ValueError, KeyError, TypeError):
            continue  # cut by a full disk, or not ours
    return recent[-_RECENT_FAULTS:]


def _newest_rows(path: Path) -> list[dict[str, float]]:
    """Return the last complete rows of a table as numbers, NaN for other text; without a table, none.

    Raises:
        BadInput: if it is not a table of a run.
    """
    header, lines = _header(path), _tail(path)
    try:
        columns = next(csv.reader([header]), [])
        rows = [row for row in csv.reader(lines) if len(row) == len(columns) and row != columns]
    except csv.Error as error:
        raise BadInput("RUN_DIR", str(path.parent), f"{path.name} is not a run's table ({error})") from None
    numbers = [{name: _number(text) for name, text in zip(columns, row, strict=True)} for row in rows]
    if numbers and (missing := [name for name in _NEEDED[path.name] if name not in columns]):
        raise BadInput("RUN_DIR", str(path.parent), f"{path.name} lacks the column {missing[0]}")
    return numbers


def _header(path: Path) -> str:
    return _read(path, 0, _MAX_HEADER_BYTES).partition("\n")[0].rstrip("\r")


def _tail(path: Path) -> list[str]:
    """Return the last complete lines of a file; a process may be writing another one."""
    size = 0
    with suppress(OSError):
        size = path.stat().st_size
    start = max(0, size - _MAX_TAIL_BYTES)
    *lines, _ = _read(path, start, _MAX_TAIL_BYTES).split("\n")
    return [line.rstrip("\r") for line in (lines[1:] if start else lines)]


def _read(path: Path, start: int, max_bytes: int) -> str:
    """Return a part of a file as text; empty if it does not exist.

    Raises:
        BadInput: if it cannot be read.
    """
    try:
        descriptor = open_regular(path)
    except FileNotFoundError:
        return ""
    except OSError as error:
        problem = f"{path.name} cannot be read ({error.strerror})"
        raise BadInput("RUN_DIR", str(path.parent), problem) from None
    try:
        return os.pread(descriptor, max_bytes, start).decode("utf-8", "replace")
    finally:
        os.close(descriptor)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _count(value: float | None) -> int | None:
    return int(value) if value is not None and math.isfinite(value) else None


def _age_s(path: Path) -> float | None:
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return None


def _without_nan(value: Any) -> Any:
    """Return nested values with None for numbers that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {name: _without_nan(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
