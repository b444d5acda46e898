"""The policies of all agents: observations in, actions out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from distributed_maddpg.acting.exploration import MASKED_LOGIT, ActionHead, Explorer
from distributed_maddpg.acting.policy import make_policy
from distributed_maddpg.config import AlgorithmConfig, ExplorationConfig
from distributed_maddpg.types import EnvSpec, FloatArray, Roster

EnvActions = tuple[npt.NDArray[np.generic], ...]
"""N arrays: [E, A_i] float32 in [0, 1] for continuous agents, [E] int64 for discrete ones."""


class JointPolicy:
    """The N policies acting in E copies, greedy or with exploration."""

    def __init__(self, algorithm: AlgorithmConfig, spec: EnvSpec, num_envs: int) -> None:
        """Prepare for `num_envs` copies; `set_parameters` must be called before acting."""
        self._policy = make_policy(algorithm, spec, num_envs)
        self._head = ActionHead(spec, algorithm.heads(spec), algorithm.temperature)
        self._num_envs = num_envs
        self._explorer: Explorer | None = None

    def add_exploration(
        self, config: ExplorationConfig, rng: np.random.Generator, greedy: Sequence[bool] = ()
    ) -> Explorer:
        """Add exploration noise to `explore`; return the `Explorer`, which has a state.

        Args:
            config: the noise.
            rng: its generator.
            greedy: which of the N agents get no noise.
        """
        self._explorer = Explorer(config, self._head, self._num_envs, rng, greedy)
        return self._explorer

    def set_parameters(self, flat: FloatArray) -> None:
        """Use policy parameters `[N, P]` from now on."""
        self._policy.set_parameters(flat)

    def have_finite_logits(self, obs: tuple[FloatArray, ...]) -> bool:
        """Return whether the policies compute finite logits from observations `[E, O_i]`."""
        with np.errstate(all="ignore"):
            logits = self._policy.logits(obs)
        return bool(np.isfinite(np.where(self._head.is_own_column, logits, 0)).all())

    def act(self, obs: tuple[FloatArray, ...], roster: Roster | None = None) -> EnvActions:
        """Return greedy actions for observations `[E, O_i]`, of those that `roster` allows."""
        return self._head.to_critic_and_env(self._head.relaxed(self._logits(obs, roster)), roster)[1]

    def explore(
        self, obs: tuple[FloatArray, ...], env_steps: int, roster: Roster | None = None
    ) -> tuple[FloatArray, EnvActions]:
        """Return noisy actions: as the critic sees them `[N, E, A]`, and for the environment.

        Args:
            obs: [E, O_i] per agent.
            env_steps: environment steps of the whole run so far, for the noise schedule.
            roster: who acts, and what is allowed; None: everybody, and everything.
        """
        if self._explorer is None:
            raise ValueError("call add_exploration() before explore()")
        actions = self._explorer.actions(self._logits(obs, roster), env_steps)
        return self._head.to_critic_and_env(actions, roster)

    def _logits(self, obs: tuple[FloatArray, ...], roster: Roster | None) -> FloatArray:
        logits = self._policy.logits(obs)
        return logits if roster is None else np.where(roster.allowed, logits, MASKED_LOGIT)

    def reset_noise(self, ended: npt.NDArray[np.bool_]) -> None:
        """Reset the noise of the copies `[E]` whose episode ended."""
        if self._explorer is not None:
            self._explorer.reset(ended)
