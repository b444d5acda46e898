"""The scores of greedy episodes: returns, measures, and for `simple_adversary` success and distances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from distributed_maddpg.evaluation.scores import (
    EPS_GRID,
    SUCCESS_EPS,
    goal_distances,
    mean_interval,
    proportion_interval,
    success_masks,
    success_rates,
)
from distributed_maddpg.types import EpisodeReport, FloatArray


@dataclass(frozen=True)
class Scorecard:
    """The episodes of one evaluation, from which scores and their confidence intervals are computed."""

    agents: tuple[str, ...]
    episodes: EpisodeReport
    env_steps: int
    """Sum of the lengths of the counted episodes."""
    minimal_distances: FloatArray
    """[n, 3]: the smallest of each of `goal_distances`, in their order, over the frames of an episode. [n, 0]
    without landmarks."""
    measures: tuple[str, ...] = ()
    """Names of the episodes' measures."""

    @property
    def has_landmarks(self) -> bool:
        """Whether the environment reports distances to landmarks, which only `simple_adversary` does."""
        return int(self.episodes.final_distances.shape[2]) > 0

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as plain numbers; with landmarks also success, in percent, and distances."""
        returns = self.episodes.returns
        card: dict[str, Any] = {
            "episodes": len(returns),
            "episode_return_mean": float(returns.sum(axis=1).mean()),
            "agent_episode_returns_mean": dict(zip(self.agents, returns.mean(axis=0).tolist(), strict=True)),
            "agent_episode_returns_std": dict(zip(self.agents, returns.std(axis=0).tolist(), strict=True)),
            "episode_len_mean": float(self.episodes.lengths.mean()),
        }
        if self.measures:
            means = self.episodes.measures.mean(axis=0)
            card["measures"] = dict(zip(self.measures, means.tolist(), strict=True))
        if self.has_landmarks:
            by_eps = {str(eps): success_rates(self.episodes.final_distances, eps) for eps in EPS_GRID}
            card["eps"] = SUCCESS_EPS
            card["success"] = by_eps[str(SUCCESS_EPS)]
            card["delta"] = _delta(card["success"])
            card["success_by_eps"] = by_eps
            card["delta_by_eps"] = {eps: _delta(rates) for eps, rates in by_eps.items()}
            for name, distances in self._goal_distances().items():
                card[name] = {who: float(values.mean(dtype=np.float64)) for who, values in distances.items()}
        return card

    def intervals(self) -> dict[str, Any]:
        """Return 95 % confidence intervals over the episodes, under the names of `to_dict`."""
        returns = zip(self.agents, self.episodes.returns.T, strict=True)
        found: dict[str, Any] = {
            "agent_episode_returns_mean": {agent: mean_interval(own) for agent, own in returns}
        }
        if self.measures:
            values = zip(self.measures, self.episodes.measures.T, strict=True)
            found["measures"] = {name: mean_interval(own) for name, own in values}
        if self.has_landmarks:
            masks = success_masks(self.episodes.final_distances, SUCCESS_EPS)
            found["success"] = {name: proportion_interval(own) for name, own in masks.items()}
            # Both rates come from the same episodes, so this is the interval of the differences.
            delta = mean_interval(100.0 * masks["agents"] - 100.0 * masks["adversary"])
            found["delta"] = delta and (max(-100.0, delta[0]), min(100.0, delta[1]))
            for name, distances in self._goal_distances().items():
                found[name] = {who: mean_interval(values) for who, values in distances.items()}
        return found

    def with_intervals(self) -> dict[str, Any]:
        """Return the numbers of `to_dict`, and their confidence intervals under `ci95`."""
        return {**self.to_dict(), "ci95": self.intervals()}

    def _goal_distances(self) -> dict[str, dict[str, FloatArray]]:
        final = goal_distances(self.episodes.final_distances)
        return {
            "final_distance_mean": final,
            "minimal_distance_mean": dict(zip(final, self.minimal_distances.T, strict=True)),
        }


def _delta(rates: dict[str, float]) -> float:
    return rates["agents"] - rates["adversary"]


@dataclass(frozen=True)
class Evaluation:
    """A scorecard, and the counts of training at which its policies were taken."""

    env_steps: int
    updates: int
    card: Scorecard
    policies: FloatArray
    """Their parameters `[N, P]`, or with `env.normalise` `[N, P + 2 O]`."""

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as plain numbers, with the counts."""
        return {"num_env_steps": self.env_steps, "num_updates": self.updates, **self.card.to_dict()}
