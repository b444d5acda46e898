"""Accumulates the reports of the stages over an iteration and builds its nested result.

Keys follow RLlib where RLlib has the same metric; docs/metrics.md explains each.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from distributed_maddpg.types import (
    Arrays,
    EnvSpec,
    EpisodeReport,
    LearnerReport,
    RolloutReport,
    checked_array,
)

FloatVector = npt.NDArray[np.float64]
_WINDOW_EPISODES = 1000
"""Number of newest episodes over which training returns are averaged, as in RLlib. Reports are dropped as a
whole, so the window may be larger by less than one report."""
_ROLLOUT_TIMERS = ("busy_s", "blocked_push_s", "blocked_weights_s", "blocked_pacing_s")
_LEARNER_TIMERS = ("busy_s", "blocked_replay_s", "blocked_pacing_s")
_LOG = logging.getLogger("distributed_maddpg")


@dataclass
class IterationLog:
    """Accumulates what the stages report between two results of `train()`."""

    spec: EnvSpec
    num_workers: int
    episodes_total: int = 0
    dropped_total: int = 0
    _episodes: deque[EpisodeReport] = field(default_factory=deque)
    _window_size: int = 0
    _rollout_s: FloatVector = field(default_factory=lambda: np.zeros(len(_ROLLOUT_TIMERS)))
    _learner_s: FloatVector = field(default_factory=lambda: np.zeros(len(_LEARNER_TIMERS)))
    _weights_lag: list[tuple[int, int]] = field(default_factory=list)

    def add_rollout(self, report: RolloutReport, latest_version: int) -> None:
        """Add the report of a worker's fragment; `latest_version` is that of the newest published weights."""
        self._rollout_s += [getattr(report, name) for name in _ROLLOUT_TIMERS]
        self.dropped_total += len(report.dropped)
        for line in report.dropped:
            _LOG.warning("rollout worker %d: %s", report.worker, line)
        self.episodes_total += len(report.episodes.lengths)
        self._weights_lag.append((report.worker, max(0, latest_version - report.weights_version)))
        if len(report.episodes.lengths):
            self._episodes.append(report.episodes)
            self._window_size += len(report.episodes.lengths)
            while self._window_size - len(self._episodes[0].lengths) >= _WINDOW_EPISODES:
                self._window_size -= len(self._episodes.popleft().lengths)

    def add_learner(self, report: LearnerReport) -> None:
        """Add the report of one call of the learner."""
        self._learner_s += [getattr(report, name) for name in _LEARNER_TIMERS]

    def result(
        self, counters: Mapping[str, Any], learner: Mapping[str, npt.NDArray[np.float64]]
    ) -> dict[str, Any]:
        """Return the nested result of the iteration so far; `learner` has the metrics `[N]` by name."""
        known = self.progress(counters)
        return {
            **counters,
            "env_runners": self._env_runners(),
            "learners": {
                agent: {name: float(values[index]) for name, values in learner.items()}
                for index, agent in enumerate(self.spec.agents)
            },
            "weights": {**known["weights"], "versions_behind": self._lag_by_worker()},
            "timers": known["timers"],
            "fault_tolerance": known["fault_tolerance"],
        }

    def progress(self, counters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the part of a result that takes next to no time, nested alike."""
        lags = [lag for _, lag in self._weights_lag]
        return {
            **counters,
            "weights": {"versions_behind_mean": _mean(lags), "versions_behind_max": max(lags, default=0)},
            "timers": self._timers(),
            "fault_tolerance": {
                **counters.get("fault_tolerance", {}),
                "num_quarantined_blocks": self.dropped_total,
            },
        }

    def next_iteration(self) -> None:
        """Reset what is counted per iteration."""
        self._rollout_s[:], self._learner_s[:], self._weights_lag = 0.0, 0.0, []

    def get_state(self) -> Arrays:
        """Return the iteration so far and the window of episodes."""
        episodes = self._recent_episodes()
        return {
            "totals": np.array((self.episodes_total, self.dropped_total), np.int64),
            "rollout_s": self._rollout_s.copy(),
            "learner_s": self._learner_s.copy(),
            "behind": np.array(self._weights_lag, np.int64).reshape(-1, 2),
            "reports": np.array([len(report.lengths) for report in self._episodes], np.int64),
            "returns": episodes.returns,
            "lengths": episodes.lengths,
            "final_distances": episodes.final_distances,
            **({"measures": episodes.measures} if self.spec.measures else {}),
        }

    def set_state(self, state: Arrays) -> None:
        """Restore what `get_state` returned.

        Raises:
            ValueError: if an array is missing, or has another shape or type, or impossible values.
        """
        agents = self.spec.num_agents
        reports = checked_array(state, "reports", (None,), np.int64)
        totals = checked_array(state, "totals", (2,), np.int64)
        lags = checked_array(state, "behind", (None, 2), np.int64)
        known = len(state.get("lengths", ()))  # keeps the sum of reports from overflowing
        if (reports < 1).any() or (reports > known).any() or (totals < 0).any() or (lags < 0).any():
            raise ValueError("reports, totals or behind holds numbers that cannot be counts")
        ends = np.cumsum(reports)
        episodes = int(ends[-1]) if len(ends) else 0
        returns = checked_array(state, "returns", (episodes, agents), np.float64)
        lengths = checked_array(state, "lengths", (episodes,), np.int64)
        if (lengths < 1).any():
            raise ValueError("lengths holds numbers below 1")
        distances = checked_array(state, "final_distances", (episodes, agents, None), np.float32)
        measures = self._checked_measures(state, episodes)
        columns = (np.split(array, ends[:-1]) for array in (returns, lengths, distances, measures))
        self._episodes = deque(map(EpisodeReport, *columns)) if len(ends) else deque()
        self._window_size = episodes
        self.episodes_total, self.dropped_total = totals.tolist()
        self._rollout_s = checked_array(state, "rollout_s", self._rollout_s.shape, np.float64)
        self._learner_s = checked_array(state, "learner_s", self._learner_s.shape, np.float64)
        self._weights_lag = [(worker, lag) for worker, lag in lags.tolist()]

    def _checked_measures(self, state: Arrays, episodes: int) -> FloatVector:
        """Return the saved measures `[episodes, K]`; unknown (NaN) in a state with others, or none."""
        unknown = np.full((episodes, len(self.spec.measures)), math.nan)
        if "measures" not in state:
            return unknown
        saved = checked_array(state, "measures", (episodes, None), np.float64)
        return saved if saved.shape == unknown.shape else unknown

    def _recent_episodes(self) -> EpisodeReport:
        return EpisodeReport.concatenate(list(self._episodes), self.spec.num_agents)

    def _env_runners(self) -> dict[str, Any]:
        episodes = self._recent_episodes()
        returns = episodes.returns
        known = len(returns) > 0
        means = returns.mean(axis=0) if known else np.full(self.spec.num_agents, math.nan)
        totals = returns.sum(axis=1) if known else np.array([math.nan])
        names = [measure.name for measure in self.spec.measures]
        measures = episodes.measures.mean(axis=0) if known else np.full(len(names), math.nan)
        return {
            **({"measures": dict(zip(names, measures.tolist(), strict=True))} if names else {}),
            "episode_return_mean": float(totals.mean()),
            "episode_return_min": float(totals.min()),
            "episode_return_max": float(totals.max()),
            "episode_len_mean": float(episodes.lengths.mean()) if known else math.nan,
            "agent_episode_returns_mean": dict(zip(self.spec.agents, means.tolist(), strict=True)),
            "num_episodes_lifetime": self.episodes_total,
        }

    def _lag_by_worker(self) -> dict[str, float]:
        own: dict[int, list[int]] = {worker: [] for worker in range(max(1, self.num_workers))}
        for worker, lag in self._weights_lag:
            if worker in own:
                own[worker].append(lag)
        return {f"worker_{worker}": _mean(lags) for worker, lags in own.items()}

    def _timers(self) -> dict[str, float]:
        """Return the seconds of the iteration by stage; those of rollout workers are means over workers."""
        rollout_s = self._rollout_s / max(1, self.num_workers)
        return {
            **{f"rollout_{name}": float(s) for name, s in zip(_ROLLOUT_TIMERS, rollout_s, strict=True)},
            **{f"learner_{name}": float(s) for name, s in zip(_LEARNER_TIMERS, self._learner_s, strict=True)},
        }


def _mean(values: list[int]) -> float:
    return float(np.mean(values)) if values else 0.0


def flatten(result: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested result with joined keys, such as `env_runners/episode_return_mean`."""
    flat: dict[str, Any] = {}
    for key, value in result.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}/"))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def digest(*arrays: npt.NDArray[Any]) -> str:
    """Return the SHA-256 of the arrays' bytes; equal digests mean bit-identical numbers."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()
