"""Greedy episodes on fresh start states, and what they say of deception (floor F3; no torch)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from distributed_maddpg.acting.joint_policy import EnvActions, JointPolicy
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import make_vector_env
from distributed_maddpg.envs.base import VectorEnv
from distributed_maddpg.envs.episode_log import EpisodeLog
from distributed_maddpg.envs.finite import bad_observation
from distributed_maddpg.errors import TrainingError
from distributed_maddpg.types import EpisodeReport, FloatArray

SUCCESS_EPS = 0.4
"""Distance that counts as reached; with it an independent replication found the paper's table again."""
_EPS_GRID = tuple(round(0.1 * k, 1) for k in range(1, 11))
_LONGEST_EPISODE = 100_000


@dataclass(frozen=True)
class Scorecard:
    """What greedy episodes showed."""

    agents: tuple[str, ...]
    episodes: EpisodeReport
    env_steps: int
    """Steps of one environment summed over the counted episodes."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers: returns per agent, lengths, and success rates in percent where known."""
        returns = self.episodes.returns
        card: dict[str, Any] = {
            "episodes": len(returns),
            "episode_return_mean": float(returns.sum(axis=1).mean()),
            "agent_episode_returns_mean": dict(zip(self.agents, returns.mean(axis=0).tolist(), strict=True)),
            "agent_episode_returns_std": dict(zip(self.agents, returns.std(axis=0).tolist(), strict=True)),
            "episode_len_mean": float(self.episodes.lengths.mean()),
        }
        if self.episodes.final_distances.shape[2]:
            card["eps"] = SUCCESS_EPS
            card["success"] = success_rates(self.episodes.final_distances, SUCCESS_EPS)
            card["success_by_eps"] = {
                str(eps): success_rates(self.episodes.final_distances, eps) for eps in _EPS_GRID
            }
        return card


@dataclass(frozen=True)
class Evaluation:
    """A scorecard and the moment of training it belongs to."""

    env_steps: int
    updates: int
    card: Scorecard

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers."""
        return {"num_env_steps": self.env_steps, "num_updates": self.updates, **self.card.to_dict()}


def success_rates(distances: FloatArray, eps: float) -> dict[str, float]:
    """Return success in the last frame, in percent of episodes.

    `agents`: the closest good agent is within eps of the goal; `adversary`: the adversary is; `coverage`:
    every landmark has a good agent within eps, which is what deception looks like. The definition is the one
    the paper's author confirmed; see docs/deviations.md for eps.

    Args:
        distances: [n, N, L] distance of each agent (the adversary first) to each landmark (the goal first).
        eps: in the environment's units of length.
    """
    reached = distances < eps
    good = reached[:, 1:]
    succeeded = {
        "agents": good[:, :, 0].any(axis=1),
        "adversary": reached[:, 0, 0],
        "coverage": np.all(good.any(axis=1), axis=1),
    }
    return {name: 100 * int(episodes.sum()) / len(distances) for name, episodes in succeeded.items()}


def evaluate(
    env: VectorEnv,
    act: Callable[[tuple[FloatArray, ...]], EnvActions],
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
    reports = []
    obs = env.reset()
    idle = 0
    while quota.any():
        if line := bad_observation(obs, env.agents):
            raise TrainingError(f"evaluation: {line}; check what the environment computes")
        result = env.step(act(obs))
        obs = result.obs
        ended, report = log.step(result, env)
        idle = 0 if report is not None else idle + 1
        if report is not None:
            _check_returns(report, np.flatnonzero(ended), env.agents)
            counted = quota[ended] > 0
            reports.append(
                EpisodeReport(
                    report.returns[counted], report.lengths[counted], report.final_distances[counted]
                )
            )
            quota[ended & (quota > 0)] -= 1
        if idle > _LONGEST_EPISODE:
            raise TrainingError(f"evaluation: no episode ended within {_LONGEST_EPISODE} steps")
    episodes = EpisodeReport.concatenate(reports, len(env.agents))
    return Scorecard(env.agents, episodes, int(episodes.lengths.sum()))


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
    copies = min(num_episodes, config.rollout.num_envs)
    env = make_vector_env(config.env.id, copies, seed, backend=config.env.backend, **config.env.kwargs)
    try:
        policies = JointPolicy(config.algorithm, env.spec, copies)
        policies.set_parameters(parameters)
        return evaluate(env, policies.act, num_episodes)
    finally:
        env.close()
