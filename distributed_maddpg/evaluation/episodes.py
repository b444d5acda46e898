"""Plays greedy episodes and collects their returns, lengths and distances in a scorecard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from distributed_maddpg.acting.joint_policy import JointPolicy
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import EnvFactory, make_vector_env
from distributed_maddpg.envs.base import VectorEnv
from distributed_maddpg.envs.episode_log import EpisodeLog
from distributed_maddpg.envs.finite import bad_observation
from distributed_maddpg.envs.mpe.simple_adversary import landmark_distances
from distributed_maddpg.errors import TrainingError
from distributed_maddpg.evaluation.scorecard import Scorecard
from distributed_maddpg.evaluation.scores import goal_distances
from distributed_maddpg.evaluation.scripted import JointPolicyFn
from distributed_maddpg.types import EpisodeReport, FloatArray

_MAX_EPISODE_STEPS = 100_000


def evaluate(env: VectorEnv, policy: JointPolicyFn, num_episodes: int) -> Scorecard:
    """Play exactly `num_episodes` episodes, divided evenly among the copies of `env`.

    The first episodes of each copy count. Counting the first that end over all copies would favour short
    episodes.

    Raises:
        TrainingError: if no counted episode ends for 100 000 steps, or an observation or a return is not
            finite.
    """
    quota = np.full(env.num_envs, num_episodes // env.num_envs)
    quota[: num_episodes % env.num_envs] += 1
    log = EpisodeLog(env.num_envs, env.spec)
    reports, minima = [], []
    obs = env.reset()
    minimal_distances = _MinimalDistances(env)
    steps_since_episode = 0
    while quota.any():
        if line := bad_observation(obs, env.agents):
            raise TrainingError(f"evaluation: {line}; check what the environment computes")
        result = env.step(policy(obs))
        obs = result.obs
        ended, report = log.step(result, env)
        minimal = minimal_distances.step(ended)
        steps_since_episode += 1
        if report is not None:
            _check_returns(report, np.flatnonzero(ended), env.agents)
            counted = quota[ended] > 0
            if counted.any():
                steps_since_episode = 0
            reports.append(report.chosen(counted))
            minima.append(minimal[counted])
            quota[ended & (quota > 0)] -= 1
        if steps_since_episode > _MAX_EPISODE_STEPS:
            raise TrainingError(f"evaluation: no episode ended within {_MAX_EPISODE_STEPS} steps")
    episodes = EpisodeReport.concatenate(reports, len(env.agents))
    return Scorecard(
        env.agents,
        episodes,
        int(episodes.lengths.sum()),
        np.concatenate(minima),
        tuple(measure.name for measure in env.spec.measures),
    )


class _MinimalDistances:
    """The smallest `goal_distances` of the running episodes, `[E, 3]`, or `[E, 0]` without landmarks."""

    def __init__(self, env: VectorEnv) -> None:
        """Start with the first frames of `env`."""
        self._env, self._has_landmarks = env, env.final_distances() is not None
        self._smallest = self._current()

    def step(self, ended: npt.NDArray[np.bool_]) -> FloatArray:
        """Add the frame after a step; return `[n, 3]` of the n copies that ended, given as a mask `[E]`."""
        final, current = self._env.final_distances(), self._current()
        if final is None:
            return current[ended]
        # A copy that ended is reset already: its state is the first frame of the next episode.
        last = np.where(ended[:, None], _stacked_goal_distances(final), current)
        smallest = np.minimum(self._smallest, last)
        self._smallest = np.where(ended[:, None], current, smallest)
        return smallest[ended]

    def _current(self) -> FloatArray:
        if not self._has_landmarks:
            return np.zeros((self._env.num_envs, 0), np.float32)
        return _stacked_goal_distances(landmark_distances(self._env.get_state()))


def _stacked_goal_distances(distances: FloatArray) -> FloatArray:
    """Return the `goal_distances` of distances `[E, N, L]` as columns, `[E, 3]`."""
    return np.stack(list(goal_distances(distances).values()), axis=1)


def _check_returns(report: EpisodeReport, copies: npt.NDArray[np.int64], agents: tuple[str, ...]) -> None:
    """Raise TrainingError if a return `[n, N]` is not finite, naming the agent and the copy, of `[n]`."""
    if not np.isfinite(report.returns).all():
        episode, agent = np.argwhere(~np.isfinite(report.returns))[0].tolist()
        raise TrainingError(
            f"evaluation: return of {agents[agent]} in copy {copies[episode]} is "
            f"{report.returns[episode, agent]:g}; check the environment's rewards"
        )


def evaluate_weights(
    config: MADDPGConfig,
    parameters: FloatArray,
    num_episodes: int,
    seed: int,
    env_factory: EnvFactory | None = None,
) -> Scorecard:
    """Play greedy episodes with policy parameters `[N, P]`, from start states drawn from `seed`.

    `env_factory` makes the environment if the run was given a callable.
    """
    with evaluation_env(config, num_episodes, seed, env_factory=env_factory) as env:
        return evaluate(env, greedy_policy(config, env, parameters), num_episodes)


def greedy_policy(config: MADDPGConfig, env: VectorEnv, parameters: FloatArray) -> JointPolicyFn:
    """Return the function that acts greedily with policy parameters `[N, P]` of a run."""
    policies = JointPolicy(config.algorithm, env.spec, env.num_envs)
    policies.set_parameters(parameters)
    return lambda obs: policies.act(obs, env.roster())


@contextmanager
def evaluation_env(
    config: MADDPGConfig,
    num_episodes: int,
    seed: int,
    max_copies: int = 0,
    env_factory: EnvFactory | None = None,
) -> Iterator[VectorEnv]:
    """Make the vector environment of an evaluation and close it on exit.

    It has at most one copy per episode, and at most `max_copies` or, if that is 0, `rollout.num_envs` copies.
    """
    copies = min(num_episodes, max_copies or config.rollout.num_envs)
    env_id = config.env.id if env_factory is None else env_factory
    env = make_vector_env(
        env_id,
        copies,
        seed,
        backend=config.env.backend,
        measures=config.env.measures,
        **config.env.kwargs,
    )
    try:
        yield env
    finally:
        env.close()
