"""What a run reports: accumulation over an iteration, result keys, and the files they go to (floor F3).

Keys follow RLlib, so that dashboards and Tune metrics carry over; docs/metrics.md explains each.
"""

from __future__ import annotations

import csv
import hashlib
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from distributed_maddpg.types import EnvSpec, EpisodeReport, LearnerReport, RolloutReport

_WINDOW_EPISODES = 1000
"""Training returns are means over at most so many of the newest episodes, as RLlib smooths its own."""


@dataclass
class IterationLog:
    """Collects what the stages report between two results of `train()`."""

    spec: EnvSpec
    num_workers: int
    episodes_total: int = 0
    _episodes: deque[EpisodeReport] = field(default_factory=deque)
    _window: int = 0
    _rollouts: list[RolloutReport] = field(default_factory=list)
    _learner: list[LearnerReport] = field(default_factory=list)
    _behind: dict[int, list[int]] = field(default_factory=dict)

    def add_rollout(self, report: RolloutReport, latest_version: int) -> None:
        """Note a worker's fragment, collected while the newest weights were `latest_version`."""
        self._rollouts.append(report)
        self.episodes_total += len(report.episodes.lengths)
        self._behind.setdefault(report.worker, []).append(max(0, latest_version - report.weights_version))
        if len(report.episodes.lengths):
            self._episodes.append(report.episodes)
            self._window += len(report.episodes.lengths)
            while self._window - len(self._episodes[0].lengths) >= _WINDOW_EPISODES:
                self._window -= len(self._episodes.popleft().lengths)

    def add_learner(self, report: LearnerReport) -> None:
        """Note a call of the learner."""
        self._learner.append(report)

    def take(
        self, counters: Mapping[str, Any], learner: Mapping[str, npt.NDArray[np.float64]]
    ) -> dict[str, Any]:
        """Return the iteration as a nested result and start the next."""
        agents = self.spec.agents
        episodes = EpisodeReport.concatenate(list(self._episodes), self.spec.num_agents)
        result = {
            **counters,
            "env_runners": self._env_runners(episodes),
            "learners": {
                agent: {name: float(values[index]) for name, values in learner.items()}
                for index, agent in enumerate(agents)
            },
            "weights": self._weights(),
            "timers": self._timers(),
        }
        self._rollouts, self._learner, self._behind = [], [], {}
        return result

    def _env_runners(self, episodes: EpisodeReport) -> dict[str, Any]:
        returns = episodes.returns
        known = len(returns) > 0
        means = returns.mean(axis=0) if known else np.full(self.spec.num_agents, math.nan)
        totals = returns.sum(axis=1) if known else np.array([math.nan])
        return {
            "episode_return_mean": float(totals.mean()),
            "episode_return_min": float(totals.min()),
            "episode_return_max": float(totals.max()),
            "episode_len_mean": float(episodes.lengths.mean()) if known else math.nan,
            "agent_episode_returns_mean": dict(zip(self.spec.agents, means.tolist(), strict=True)),
            "num_episodes_lifetime": self.episodes_total,
        }

    def _weights(self) -> dict[str, Any]:
        everyone = [lag for lags in self._behind.values() for lag in lags]
        return {
            "versions_behind_mean": _mean(everyone),
            "versions_behind_max": max(everyone, default=0),
            "versions_behind": {
                f"worker_{worker}": _mean(self._behind.get(worker, []))
                for worker in range(max(1, self.num_workers))
            },
        }

    def _timers(self) -> dict[str, float]:
        """Seconds of the iteration by stage; the workers' are means over workers."""
        workers = max(1, self.num_workers)
        names = ("busy_s", "blocked_push_s", "blocked_weights_s", "blocked_pacing_s")
        timers = {
            f"rollout_{name}": sum(getattr(report, name) for report in self._rollouts) / workers
            for name in names
        }
        for name in ("busy_s", "blocked_replay_s", "blocked_pacing_s"):
            timers[f"learner_{name}"] = sum(getattr(report, name) for report in self._learner)
        return timers


def _mean(values: list[int]) -> float:
    return float(np.mean(values)) if values else 0.0


def flatten(result: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested result with joined keys, as in `env_runners/episode_return_mean`."""
    flat: dict[str, Any] = {}
    for key, value in result.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}/"))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def digest(*arrays: npt.NDArray[Any]) -> str:
    """Return the SHA-256 of the arrays' bytes: equal digests mean bit-identical numbers."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


class CSVTable:
    """A CSV file whose columns are fixed by its first row; every row is on disk when `add` returns."""

    def __init__(self, path: Path) -> None:
        """Continue `path` under its own header where it exists, else create it at the first row."""
        self._path = path
        self._file: TextIO | None = None
        self._columns: list[str] = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                self._columns = next(csv.reader(file), [])

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one row; a column the first row did not have is left out."""
        if self._file is None:
            self._file = self._path.open("a", newline="", encoding="utf-8")
        if not self._columns:
            self._columns = list(row)
            csv.writer(self._file).writerow(self._columns)
        csv.writer(self._file).writerow([row.get(column, "") for column in self._columns])
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class TensorBoardWriter:
    """Writes every number of a result as a TensorBoard scalar over environment steps."""

    def __init__(self, folder: Path) -> None:
        """Create the event file in `folder`."""
        # Imported here because it costs a second that --help and --version should not pay.
        from tensorboardX import SummaryWriter  # noqa: PLC0415

        self._writer = SummaryWriter(str(folder))

    def add(self, result: Mapping[str, Any], env_steps: int) -> None:
        """Write all finite numbers of a nested result."""
        for key, value in flatten(result).items():
            if isinstance(value, int | float) and math.isfinite(value):
                self._writer.add_scalar(key, value, env_steps)

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()
