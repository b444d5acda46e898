"""Greedy episodes, recorded step by step: what was seen, done and paid, and the states of the world."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import EnvFactory
from distributed_maddpg.envs.base import Observations, State, VectorEnv
from distributed_maddpg.errors import TrainingError
from distributed_maddpg.evaluation.episodes import evaluation_env, greedy_policy
from distributed_maddpg.evaluation.matchups import TeamSource
from distributed_maddpg.evaluation.scripted import JointPolicyFn, combine_teams
from distributed_maddpg.types import EnvSpec, FloatArray

_MAX_EPISODE_STEPS = 100_000


@dataclass(frozen=True)
class Recording:
    """K episodes, one after the other: S steps, and S + K frames, because each ends with one more."""

    spec: EnvSpec
    lengths: npt.NDArray[np.int64]
    """[K] steps of each episode; S in all."""
    obs: tuple[FloatArray, ...]
    """N arrays [S + K, O_i]."""
    actions: tuple[npt.NDArray[np.generic], ...]
    """N arrays [S, A_i] float32 in [0, 1] of continuous agents, [S] int64 of discrete ones."""
    rewards: FloatArray
    """[S, N]"""
    terminated: npt.NDArray[np.bool_]
    """[S, N]"""
    states: State
    """`VectorEnv.get_state` of each frame, [S + K, ...]; empty unless it is a scenario of MPE2."""

    @property
    def num_episodes(self) -> int:
        """K."""
        return len(self.lengths)

    def frames(self, episode: int) -> slice:
        """Return where the frames of an episode are in `obs` and `states`, the last one included."""
        first = int(self.lengths[:episode].sum()) + episode
        return slice(first, first + int(self.lengths[episode]) + 1)

    def steps(self, episode: int) -> slice:
        """Return where the steps of an episode are in `actions`, `rewards` and `terminated`."""
        first = int(self.lengths[:episode].sum())
        return slice(first, first + int(self.lengths[episode]))


def record_episodes(
    sources: Mapping[str, TeamSource],
    num_episodes: int,
    seed: int,
    env_factory: EnvFactory | None = None,
) -> Recording:
    """Play greedy episodes in which each team acts with the policies of its own run, and record them.

    In scenarios of MPE2 the episodes are those that `evaluate_weights` plays with the same seed.

    Args:
        sources: of each team; the environment is built from the settings of the first.
        num_episodes: K.
        seed: of the start states.
        env_factory: makes the environment if the run was given a callable.

    Raises:
        TrainingError: if an episode does not end within 100 000 steps.
    """
    config, length = _with_last_frame(next(iter(sources.values())).config, seed, env_factory)
    with evaluation_env(config, num_episodes, seed, env_factory=env_factory) as env:
        policies = {team: greedy_policy(run.config, env, run.parameters) for team, run in sources.items()}
        policy = combine_teams(env.spec, policies)
        episodes: list[_Episode] = []
        while len(episodes) < num_episodes:
            episodes += _play_round(env, policy, length)
        return _joined(env.spec, episodes[:num_episodes])


def _with_last_frame(
    config: MADDPGConfig, seed: int, env_factory: EnvFactory | None
) -> tuple[MADDPGConfig, int]:
    """Return settings in which the state after the last step can be read, and the steps of an episode.

    A copy is reset in the step that ends its episode. MPE2's episodes only end by their length, so one that
    may last a step longer is not reset. Other environments have no state to read, and no fixed length: 0.
    """
    with evaluation_env(config, 1, seed, env_factory=env_factory) as env:
        scenario = getattr(env, "scenario", None)
    if scenario is None:
        return config, 0
    length = int(scenario.options.max_cycles)
    kwargs = {**config.env.kwargs, "max_cycles": length + 1}
    return dataclasses.replace(config, env=dataclasses.replace(config.env, kwargs=kwargs)), length


class _Episode:
    """The frames and steps of one copy."""

    def __init__(self) -> None:
        self.obs: list[Observations] = []
        self.states: list[State] = []
        self.actions: list[list[npt.NDArray[Any]]] = []
        self.rewards: list[FloatArray] = []
        self.terminated: list[npt.NDArray[np.bool_]] = []

    def add_frame(self, obs: Observations, state: State, copy: int) -> None:
        self.obs.append(tuple(values[copy].copy() for values in obs))
        self.states.append({name: values[copy].copy() for name, values in state.items()})


def _play_round(env: VectorEnv, policy: JointPolicyFn, length: int) -> list[_Episode]:
    """Play one episode in each copy; with `length` all end after so many steps."""
    episodes = [_Episode() for _ in range(env.num_envs)]
    running = list(range(env.num_envs))
    obs = env.reset()
    state = env.get_state() if length else {}
    for copy in running:
        episodes[copy].add_frame(obs, state, copy)
    for step in range(1, (length or _MAX_EPISODE_STEPS) + 1):
        actions = policy(obs)
        result = env.step(actions)
        obs, state = result.obs, env.get_state() if length else {}
        for copy in running:
            own = episodes[copy]
            own.actions.append([values[copy].copy() for values in actions])
            own.rewards.append(result.rewards[copy].copy())
            own.terminated.append(result.terminated[copy].copy())
            own.add_frame(result.final_obs, state, copy)
        ended = result.truncated | result.terminated.all(axis=1)
        running = [copy for copy in running if not ended[copy] and step != length]
        if not running:
            return episodes
    raise TrainingError(f"recording: an episode did not end within {_MAX_EPISODE_STEPS} steps")


def _joined(spec: EnvSpec, episodes: Sequence[_Episode]) -> Recording:
    frames = [frame for episode in episodes for frame in episode.obs]
    states = [state for episode in episodes for state in episode.states]
    steps = [actions for episode in episodes for actions in episode.actions]
    return Recording(
        spec,
        np.array([len(episode.actions) for episode in episodes]),
        tuple(map(np.stack, zip(*frames, strict=True))),
        tuple(map(np.stack, zip(*steps, strict=True))),
        np.concatenate([episode.rewards for episode in episodes]),
        np.concatenate([episode.terminated for episode in episodes]),
        {name: np.stack([state[name] for state in states]) for name in states[0]},
    )
