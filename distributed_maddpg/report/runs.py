"""Runs as their folders tell of them, which a running process may be writing to."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput
from distributed_maddpg.files import LOCK, is_locked, parse_json, read_small
from distributed_maddpg.report.curves import LARGEST, read_curves, read_numbers

STEPS, SECONDS = "num_env_steps_sampled_lifetime", "time_total_s"
_NEEDED = (STEPS, "env_steps_per_s", "updates_per_s")
_RETURN = "env_runners/agent_episode_returns_mean/"
_NOT_AGENTS = ("env_steps", "updates", "episodes")
FloatArray = npt.NDArray[np.float64]
_MAX_BYTES = 64 * 2**20
_MAX_EVENTS = 1_000


@dataclass(frozen=True)
class Run:
    """What the folder of a run holds."""

    path: Path
    state: str
    """starting, running, finished, interrupted or gone: killed, or running where locks cannot be seen."""
    config: MADDPGConfig | None
    metrics: Mapping[str, list[float]]
    """Columns of `metrics.csv`; empty before the first report."""
    returns: Mapping[str, list[float]]
    """Columns of `returns.csv`; empty before the first evaluation."""
    summary: Mapping[str, Any]
    """`summary.json` if it is of the run as it stands, otherwise empty."""
    events: Sequence[Mapping[str, Any]]
    """Losses and recoveries of processes."""
    starts: Sequence[Mapping[str, float]]
    """When the run was started and resumed, and at how many env steps."""

    @property
    def env_id(self) -> str:
        """Its environment; empty if nothing tells it."""
        return self.config.env.id if self.config else str(self.summary.get("env_id", ""))

    @cached_property
    def agents(self) -> tuple[str, ...]:
        """Names of the agents, in the environment's order."""
        found = [name.removeprefix(_RETURN) for name in self.metrics if name.startswith(_RETURN)]
        others = [name for name in self.returns if name not in _NOT_AGENTS and "_" in name]
        return tuple(found or [name for name in others if not name.startswith(("success_", "measure_"))])

    @property
    def env_steps(self) -> int:
        """Env steps that are done; without a summary, until the newest report."""
        if self.summary:  # an interrupted run has gone on after its newest report
            return int(self.summary["env_steps"])
        steps = [*self.metrics.get(STEPS, ())[-1:], *self.returns.get("env_steps", ())[-1:]]
        return int(max((step for step in steps if math.isfinite(step)), default=0))

    @property
    def updates(self) -> int:
        """Updates that are done; without a summary, until the newest report."""
        known = self.summary.get("updates") or (self.metrics.get("num_updates_lifetime") or [0])[-1]
        return int(known) if math.isfinite(known) else 0

    @property
    def resumed_at(self) -> list[int]:
        """Env steps at which the run was resumed."""
        return [int(start["env_steps"]) for start in self.starts[1:]]

    def steps_at(self, time: float) -> float | None:
        """Return the env steps at a Unix time; None if the folder does not tell."""
        parts = [(index, start) for index, start in enumerate(self.starts) if start["time"] <= time]
        if not parts or not self.metrics.get(STEPS):
            return None
        times, steps = self._reports_after(parts[-1][0])
        return float(np.interp(time, times, steps))

    def _reports_after(self, start: int) -> tuple[FloatArray, FloatArray]:
        """Return the Unix times and env steps of a start, and of the reports until the next one."""
        if start not in self._reports:
            first = self.starts[start]["env_steps"]
            end = self.starts[start + 1]["env_steps"] if start + 1 < len(self.starts) else math.inf
            steps = np.array(self.metrics[STEPS])
            seconds = np.array(self.metrics.get(SECONDS) or [math.nan] * len(steps))
            before = np.fmax.reduce(seconds[steps <= first], initial=0.0)
            own = (steps > first) & (steps <= end) & np.isfinite(seconds)
            times = self.starts[start]["time"] + seconds[own] - before
            self._reports[start] = np.append(self.starts[start]["time"], times), np.append(first, steps[own])
        return self._reports[start]

    @cached_property
    def _reports(self) -> dict[int, tuple[FloatArray, FloatArray]]:
        return {}


@dataclass(frozen=True)
class Group:
    """A run, or the runs of several seeds: one curve with a band."""

    name: str
    path: Path
    runs: Sequence[Run]

    @property
    def first(self) -> Run:
        """The run whose settings stand for all: they differ in the seed alone."""
        return self.runs[0]

    @property
    def state(self) -> str:
        """That of all runs, the least final one of several."""
        states = [run.state for run in self.runs]
        order = ("running", "starting", "gone", "interrupted", "finished")
        return min(states, key=order.index)


def read_groups(run_dirs: Sequence[Path], ended: bool) -> list[Group]:
    """Return the runs of folders; a folder may hold the runs of several seeds as `seed_<n>`.

    Args:
        run_dirs: the folders.
        ended: whether the runs have ended, though their process may still hold the folders' locks.

    Raises:
        BadInput: if a folder holds no run, or a file of it is damaged.
    """
    names = _names(run_dirs)
    return [_read_group(path, name, ended) for path, name in zip(run_dirs, names, strict=True)]


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the folders' names, with as many of their parents as tell them apart."""
    parts = [path.resolve().parts for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(own[-depth:]) for own in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{'/'.join(own[-1:])} ({index + 1})" for index, own in enumerate(parts)]  # one of them twice


def _read_group(path: Path, name: str, ended: bool) -> Group:
    seeds = sorted(
        {found.parent for found in (*path.glob(f"seed_*/{LOCK}"), *path.glob("seed_*/metrics.csv"))},
        key=lambda folder: (len(folder.name), folder.name),
    )
    seeds = seeds or sorted({found.parent for found in path.glob("seed_*/returns.csv")})
    if seeds and not (path / "metrics.csv").exists():
        return Group(name, path, [_read_run(seed, ended) for seed in seeds])
    return Group(name, path, [_read_run(path, ended)])


def _read_run(path: Path, ended: bool) -> Run:
    has_metrics, has_returns = ((path / name).exists() for name in ("metrics.csv", "returns.csv"))
    locked = not ended and is_locked(path)
    if not (has_metrics or has_returns or locked or (path / "config.toml").exists()):
        read_numbers(path / "metrics.csv", _NEEDED)  # which says that there is none
    metrics = read_numbers(path / "metrics.csv", _NEEDED) if has_metrics else {}
    returns = read_curves(path) if has_returns else {}
    summary = _read_summary(path)
    newest = (metrics.get(STEPS) or [0.0])[-1]
    if locked or (summary and summary["env_steps"] < newest):
        summary = {}  # of the time before the run was resumed
    state = "running" if locked else "gone"
    if locked and not newest:
        state = "starting"
    if summary:
        state = "finished" if summary.get("finished", True) else "interrupted"
    config = _read_config(path / "config.toml")
    events, starts = _read_lines(path / "events.jsonl"), _read_lines(path / "starts.jsonl")
    return Run(
        path,
        state,
        config,
        metrics,
        returns,
        summary,
        [event for event in events if {"time", "process", "kind", "message"} <= event.keys()],
        [start for start in starts if {"time", "env_steps"} <= start.keys()],
    )


def _read_config(file: Path) -> MADDPGConfig | None:
    """Return the settings, None if there are none.

    Raises:
        BadInput: naming the run's folder too, as a page may be of several.
    """
    if not file.exists():
        return None
    try:
        return MADDPGConfig.from_toml(file)
    except BadInput as error:
        remedy = f"its {file.name} cannot be used ({error}); repair it, or use the version that wrote it"
        raise BadInput("RUN_DIR", str(file.parent), remedy) from None


def _read_summary(path: Path) -> dict[str, Any]:
    """Return the summary, empty if there is none.

    Raises:
        BadInput: if it is not what `train` wrote.
    """
    file = path / "summary.json"
    if not file.exists():
        return {}
    with naming(file):
        summary: dict[str, Any] = json.loads(read_small(file, _MAX_BYTES))
        for name in ("env_steps", "updates", "env_steps_per_s", "updates_per_s"):
            summary[name] = float(summary[name]) if "per_s" in name else int(summary[name])
            _refuse_not_finite(name, summary[name])
        if "training_s" in summary:
            summary["training_s"] = float(summary["training_s"])
            _refuse_not_finite("training_s", summary["training_s"])
        if "evaluation" in summary:
            summary["evaluation"] = _read_evaluation(summary["evaluation"])
        summary["measures"] = dict(summary.get("measures", {}))
        return summary


def _read_evaluation(card: dict[str, Any]) -> dict[str, Any]:
    """Return an evaluation in which all that is drawn are numbers; of measures some may be NaN."""
    if "episodes" in card:
        card["episodes"] = int(card["episodes"])
    for key in ("success", "agent_episode_returns_mean", "measures"):
        card[key] = {name: float(value) for name, value in card.get(key, {}).items()}
        for name, value in card[key].items():
            if key != "measures":
                _refuse_not_finite(name, value)
    if "ci95" in card:
        card["ci95"] = {
            key: {name: (float(ends[0]), float(ends[1])) for name, ends in own.items() if ends}
            for key, own in card["ci95"].items()
            if isinstance(own, dict)
        }
    return card


def _refuse_not_finite(name: str, value: float) -> None:
    if not abs(value) < LARGEST:
        raise ValueError(f"{name} is no finite number")


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the JSON objects of a file's lines; a line that was cut by a full disk is left out."""
    if not path.exists():
        return []
    found = []
    with naming(path):
        for line in read_small(path, _MAX_BYTES).decode("utf-8", "replace").splitlines()[-_MAX_EVENTS:]:
            try:
                values = parse_json(line.encode())
            except ValueError:
                continue
            if isinstance(values, dict) and _are_numbers(values.get("time"), values.get("env_steps", 0)):
                found.append(values)
    return found


def _are_numbers(*values: Any) -> bool:
    return all(isinstance(value, int | float) and abs(value) < LARGEST for value in values)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Refuse a file of a run whose content is not what `train` wrote."""
    try:
        yield
    except (
        *(OSError, ValueError, LookupError, TypeError),
        *(AttributeError, ArithmeticError, RecursionError),
    ) as error:
        reason = f"{path.name} cannot be used ({type(error).__name__}: {error}); repair or delete it"
        raise BadInput("RUN_DIR", os.fspath(path.parent), reason) from None
