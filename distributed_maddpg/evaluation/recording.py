"""Greedy episodes, recorded step by step: what was seen, done and paid, and the states of the world."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from distributed_maddpg.acting.joint_policy import EnvActions
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import EnvFactory
from distributed_maddpg.envs.base import Observations, State, StepResult, VectorEnv
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

    The episodes are those that `evaluate_weights` plays with the same seed, in the same order.

    Args:
        sources: of each team; the environment is built from the settings of the first.
        num_episodes: K.
        seed: of the start states.
        env_factory: makes the environment if the run was given a callable.

    Raises:
        TrainingError: if an episode does not end within 100 000 steps.
    """
    config = next(iter(sources.values())).config
    with evaluation_env(config, num_episodes, seed, env_factory=env_factory) as env:
        policies = {team: greedy_policy(run.config, env, run.parameters) for team, run in sources.items()}
        policy = combine_teams(env.spec, policies)
        if not hasattr(env, "scenario"):
            return _joined(env.spec, _play(env, policy, num_episodes, _Stateless()))
        with evaluation_env(_endless(config, env.scenario.options), num_episodes, seed) as twin:
            return _joined(env.spec, _play(env, policy, num_episodes, _States(env, twin)))


def _endless(config: MADDPGConfig, options: Any) -> MADDPGConfig:
    """Return settings of a scenario of MPE2 in which a step that would end an episode does not."""
    kwargs = {**config.env.kwargs, "max_cycles": options.max_cycles + 1}
    if hasattr(options, "terminate_on_success"):
        kwargs["terminate_on_success"] = False
    return dataclasses.replace(config, env=dataclasses.replace(config.env, kwargs=kwargs))


class _Stateless:
    """The states of an environment that has none to read."""

    def current(self) -> State:
        """Return nothing."""
        return {}

    def after(self, actions: EnvActions, ended: bool) -> State:
        """Return nothing."""
        return {}


class _States:
    """The states of a scenario of MPE2, those in which episodes end as well.

    The environment resets a copy in the step that ends its episode. Its twin, which does not, makes this step
    again from the state before it.
    """

    def __init__(self, env: VectorEnv, twin: VectorEnv) -> None:
        self._env, self._twin, self._before = env, twin, State()

    def current(self) -> State:
        """Return the state of each copy, for a copy whose episode has ended the first of its next one."""
        self._before = self._env.get_state()
        return self._before

    def after(self, actions: EnvActions, ended: bool) -> State:
        """Return the state after a step from that which `current` returned last; `ended`: in any copy."""
        if not ended:
            return self._env.get_state()
        self._twin.set_state(self._before)
        self._twin.step(actions)
        return self._twin.get_state()


class _Episode:
    """The frames and steps of one copy."""

    def __init__(self, obs: Observations, state: State, copy: int) -> None:
        """Begin with the first frame of a copy."""
        self.obs: list[Observations] = []
        self.states: list[State] = []
        self.actions: list[list[npt.NDArray[Any]]] = []
        self.rewards: list[FloatArray] = []
        self.terminated: list[npt.NDArray[np.bool_]] = []
        self._copy = copy
        self._add_frame(obs, state)

    def add(self, actions: EnvActions, result: StepResult, state: State) -> None:
        """Add a step and the frame after it."""
        self.actions.append([values[self._copy].copy() for values in actions])
        self.rewards.append(result.rewards[self._copy].copy())
        self.terminated.append(result.terminated[self._copy].copy())
        self._add_frame(result.final_obs, state)

    def _add_frame(self, obs: Observations, state: State) -> None:
        self.obs.append(tuple(values[self._copy].copy() for values in obs))
        self.states.append({name: values[self._copy].copy() for name, values in state.items()})


def _play(
    env: VectorEnv, policy: JointPolicyFn, num_episodes: int, states: _States | _Stateless
) -> list[_Episode]:
    """Play the first episodes of each copy, as `evaluate` does, in the order in which they end."""
    left = np.full(env.num_envs, num_episodes // env.num_envs)
    left[: num_episodes % env.num_envs] += 1
    obs = env.reset()
    state = states.current()
    running = {copy: _Episode(obs, state, copy) for copy in range(env.num_envs)}
    complete: list[_Episode] = []
    while running:
        actions = policy(obs)
        result = env.step(actions)
        obs, ended = result.obs, result.truncated | result.terminated.all(axis=1)
        after = states.after(actions, bool(ended.any()))
        state = states.current()
        for copy, episode in sorted(running.items()):
            episode.add(actions, result, after)
            if not ended[copy]:
                if len(episode.actions) == _MAX_EPISODE_STEPS:
                    limit = f"within {_MAX_EPISODE_STEPS} steps"
                    raise TrainingError(f"recording: an episode did not end {limit}")
                continue
            complete.append(running.pop(copy))
            left[copy] -= 1
            if left[copy]:
                running[copy] = _Episode(obs, state, copy)
    return complete


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
