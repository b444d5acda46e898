"""Greedy episodes on fresh start states, and what they say of deception (floor F3; no torch)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distributed_maddpg.acting.joint_policy import JointPolicy
from distributed_maddpg.acting.scripted import Play, by_team, random_play, straight_play
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import make_vector_env
from distributed_maddpg.envs.adversary_rules import landmark_distances
from distributed_maddpg.envs.base import VectorEnv
from distributed_maddpg.envs.episode_log import EpisodeLog
from distributed_maddpg.envs.finite import bad_observation
from distributed_maddpg.errors import TrainingError
from distributed_maddpg.scores import (
    EPS_GRID,
    SUCCESS_EPS,
    goal_distances,
    mean_interval,
    share_interval,
    success_rates,
    successes,
)
from distributed_maddpg.types import EpisodeReport, FloatArray

_LONGEST_EPISODE = 100_000
_MOST_CROSSED = 2
_CROSS_PLAY_COPIES = 64
"""Whatever the runs had: the number decides the start states, which all pairings must share."""


@dataclass(frozen=True)
class Scorecard:
    """What greedy episodes showed."""

    agents: tuple[str, ...]
    episodes: EpisodeReport
    env_steps: int
    """Steps of one environment summed over the counted episodes."""
    closest: FloatArray
    """[n, 3] the smallest of `goal_distances` of any frame of an episode, in their order; or [n, 0]."""

    @property
    def knows_landmarks(self) -> bool:
        """Whether the environment has landmarks to be near to."""
        return int(self.episodes.final_distances.shape[2]) > 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers: returns per agent, lengths, and where known success in percent, distances."""
        returns = self.episodes.returns
        card: dict[str, Any] = {
            "episodes": len(returns),
            "episode_return_mean": float(returns.sum(axis=1).mean()),
            "agent_episode_returns_mean": dict(zip(self.agents, returns.mean(axis=0).tolist(), strict=True)),
            "agent_episode_returns_std": dict(zip(self.agents, returns.std(axis=0).tolist(), strict=True)),
            "episode_len_mean": float(self.episodes.lengths.mean()),
        }
        if self.knows_landmarks:
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
        if self.knows_landmarks:
            hits = successes(self.episodes.final_distances, SUCCESS_EPS)
            found["success"] = {name: share_interval(own) for name, own in hits.items()}
            # In the same episodes, so of the differences.
            delta = mean_interval(100.0 * hits["agents"] - 100.0 * hits["adversary"])
            found["delta"] = delta and (max(-100.0, delta[0]), min(100.0, delta[1]))
            for name, distances in self._goal_distances().items():
                found[name] = {who: mean_interval(values) for who, values in distances.items()}
        return found

    def _goal_distances(self) -> dict[str, dict[str, FloatArray]]:
        final = goal_distances(self.episodes.final_distances)
        return {
            "final_distance_mean": final,
            "minimal_distance_mean": dict(zip(final, self.closest.T, strict=True)),
        }


def _delta(rates: dict[str, float]) -> float:
    return rates["agents"] - rates["adversary"]


@dataclass(frozen=True)
class Evaluation:
    """A scorecard and the moment of training it belongs to."""

    env_steps: int
    updates: int
    card: Scorecard

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers."""
        return {"num_env_steps": self.env_steps, "num_updates": self.updates, **self.card.to_dict()}


def evaluate(
    env: VectorEnv,
    play: Play,
    num_episodes: int,
) -> Scorecard:
    """Play exactly `num_episodes` episodes, shared out evenly over the copies of `env`.

    Each copy's first episodes count, whatever their length: taking the first to finish over all copies would
    favour short ones.

    Raises:
        TrainingError: if an episode does not end within 100 000 steps, or gives an observation or a return
            that is not finite.
    """
    quota = np.full(env.num_envs, num_episodes // env.num_envs)
    quota[: num_episodes % env.num_envs] += 1
    log = EpisodeLog(env.num_envs, len(env.agents))
    reports, minima = [], []
    obs = env.reset()
    closest = _Closest(env)
    idle = 0
    while quota.any():
        if line := bad_observation(obs, env.agents):
            raise TrainingError(f"evaluation: {line}; check what the environment computes")
        result = env.step(play(obs))
        obs = result.obs
        ended, report = log.step(result, env)
        minimal = closest.step(ended)
        idle += 1
        if report is not None:
            _check_returns(report, np.flatnonzero(ended), env.agents)
            counted = quota[ended] > 0
            idle = 0 if counted.any() else idle
            reports.append(
                EpisodeReport(
                    report.returns[counted], report.lengths[counted], report.final_distances[counted]
                )
            )
            minima.append(minimal[counted])
            quota[ended & (quota > 0)] -= 1
        if idle > _LONGEST_EPISODE:
            raise TrainingError(f"evaluation: no episode ended within {_LONGEST_EPISODE} steps")
    episodes = EpisodeReport.concatenate(reports, len(env.agents))
    return Scorecard(env.agents, episodes, int(episodes.lengths.sum()), np.concatenate(minima))


class _Closest:
    """The smallest `goal_distances` of the running episodes, `[E, 3]`, or `[E, 0]` without landmarks."""

    def __init__(self, env: VectorEnv) -> None:
        """Begin with the first frames of `env`."""
        self._env, self._known = env, env.final_distances() is not None
        self._smallest = self._now()

    def step(self, ended: npt.NDArray[np.bool_]) -> FloatArray:
        """Count the frame a step led to; return `[n, 3]` of the copies `[E]` that ended."""
        final, now = self._env.final_distances(), self._now()
        if final is None:
            return now[ended]
        over = ended[:, None]
        smallest = np.minimum(self._smallest, np.where(over, _goal_columns(final), now))
        self._smallest = np.where(over, now, smallest)
        return smallest[ended]

    def _now(self) -> FloatArray:
        if not self._known:
            return np.zeros((self._env.num_envs, 0), np.float32)
        return _goal_columns(landmark_distances(self._env.get_state()))


def _goal_columns(distances: FloatArray) -> FloatArray:
    """Return `goal_distances` of `[E, N, L]` side by side, `[E, 3]`."""
    return np.stack(list(goal_distances(distances).values()), axis=1)


def _check_returns(report: EpisodeReport, copies: npt.NDArray[np.int64], agents: tuple[str, ...]) -> None:
    """Refuse returns `[n, N]` that are not finite, naming the agent and the one of the copies `[n]`."""
    if not np.isfinite(report.returns).all():
        episode, agent = np.argwhere(~np.isfinite(report.returns))[0].tolist()
        raise TrainingError(
            f"evaluation: return of {agents[agent]} in copy {copies[episode]} is "
            f"{report.returns[episode, agent]:g}; check the environment's rewards"
        )


def evaluate_weights(config: MADDPGConfig, parameters: FloatArray, num_episodes: int, seed: int) -> Scorecard:
    """Play greedy episodes with policy parameters `[N, P]`, from fresh start states drawn from `seed`."""
    with _copies(config, num_episodes, seed) as env:
        return evaluate(env, greedy_play(config, env, parameters), num_episodes)


def evaluate_matchups(
    config: MADDPGConfig, parameters: FloatArray, num_episodes: int, seed: int
) -> list[tuple[dict[str, str], Scorecard]]:
    """Play trained and scripted teams against each other, each time from the same start states.

    Returns:
        For each pairing who played which team, "trained", "random" or, where the environment knows
        landmarks, "straight" to the goal; and the card. Of more than two teams at most one is trained, or
        not, alone.
    """
    with _copies(config, 1, seed) as env:
        teams, knows_landmarks = tuple(dict.fromkeys(env.spec.teams)), env.final_distances() is not None
    names = ("trained", "random", "straight") if knows_landmarks else ("trained", "random")
    pairings = list(itertools.product(names, repeat=len(teams)))
    if len(teams) > _MOST_CROSSED:
        pairings = [
            own for own in pairings if 1 in (own.count("trained"), own.count("random")) or len(set(own)) == 1
        ]
    played_by = [dict(zip(teams, own, strict=True)) for own in pairings]
    return [(who, evaluate_scripted(config, parameters, who, num_episodes, seed)) for who in played_by]


def evaluate_scripted(
    config: MADDPGConfig, parameters: FloatArray, played_by: Mapping[str, str], num_episodes: int, seed: int
) -> Scorecard:
    """Play with each team "trained", "random" or "straight", as `played_by` says; see `evaluate_matchups`."""
    with _copies(config, num_episodes, seed) as env:
        players = {
            "trained": greedy_play(config, env, parameters),
            "random": random_play(env.spec, np.random.default_rng(seed)),
            "straight": straight_play(env.spec, env.get_state, bool(config.env.kwargs.get("velocity_first"))),
        }
        play = by_team(env.spec, {team: players[name] for team, name in played_by.items()})
        return evaluate(env, play, num_episodes)


class Side(NamedTuple):
    """A run whose policies play."""

    config: MADDPGConfig
    parameters: FloatArray
    """[N, P]"""


def evaluate_sides(sides: Mapping[str, Side], num_episodes: int, seed: int) -> Scorecard:
    """Play greedy episodes in which each team acts as the run says that is named for it.

    Args:
        sides: by team; of the same environment, which is built as for the first.
        num_episodes: how many.
        seed: of the start states.
    """
    with _copies(next(iter(sides.values())).config, num_episodes, seed, _CROSS_PLAY_COPIES) as env:
        players = {team: greedy_play(side.config, env, side.parameters) for team, side in sides.items()}
        return evaluate(env, by_team(env.spec, players), num_episodes)


def greedy_play(config: MADDPGConfig, env: VectorEnv, parameters: FloatArray) -> Play:
    """Return the player that acts greedily with policy parameters `[N, P]` of a run."""
    policies = JointPolicy(config.algorithm, env.spec, env.num_envs)
    policies.set_parameters(parameters)
    return policies.act


@contextmanager
def _copies(config: MADDPGConfig, num_episodes: int, seed: int, most: int = 0) -> Iterator[VectorEnv]:
    """Make the environment copies of an evaluation, at most so many or the run's own number; close them."""
    copies = min(num_episodes, most or config.rollout.num_envs)
    env = make_vector_env(config.env.id, copies, seed, backend=config.env.backend, **config.env.kwargs)
    try:
        yield env
    finally:
        env.close()
