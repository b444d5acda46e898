"""Convert logits to actions, greedy or with exploration noise.

Gumbel-softmax: Jang et al. 2017 (arXiv:1611.01144), eq. 1-2. Ornstein-Uhlenbeck noise: Lillicrap et al. 2016
(arXiv:1509.02971), section 7. Uniform random actions with a small probability: the teaching notebook.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from distributed_maddpg.acting.kernels import normalise, subtract_max
from distributed_maddpg.config import ExplorationConfig, Head
from distributed_maddpg.seeding import pack_generator, restore_generator
from distributed_maddpg.types import Arrays, EnvSpec, FloatArray, Roster, checked_array

MASKED_LOGIT = np.float32(-1e9)
"""Logit of an action that an agent does not have, or must not take."""
_AUTO_GAUSSIAN_STD = np.float32(0.3)
"""Standard deviation of Gaussian noise at magnitude 1 under "auto"; Gumbel noise is not rescaled."""


class ActionHead:
    """Converts logits to the actions that the critic sees and those that the environment takes."""

    def __init__(self, spec: EnvSpec, heads: tuple[Head, ...], temperature: float) -> None:
        """Build the masks for an environment's action sizes and its policies' heads."""
        self.spec = spec
        self.is_gumbel = np.array([head == "gumbel" for head in heads])[:, None, None]  # [N, 1, 1]
        self._temperature = np.float32(temperature)
        width = max(spec.action_sizes)
        self.is_own_column = np.array([[k < size for k in range(width)] for size in spec.action_sizes])[
            :, None, :
        ]

    def relaxed(self, logits: FloatArray) -> FloatArray:
        """Return actions `[N, E, A]` in [0, 1] without noise: softmax or sigmoid, depending on the head."""
        if self.is_gumbel.all():
            return self._softmax(logits)
        sigmoid: FloatArray = np.reciprocal(1 + np.exp(-np.clip(logits, -60, 60)), dtype=np.float32)
        if not self.is_gumbel.any():
            return sigmoid
        mixed: FloatArray = np.where(self.is_gumbel, self._softmax(logits), sigmoid)
        return mixed

    def _softmax(self, logits: FloatArray) -> FloatArray:
        scaled: FloatArray = np.where(self.is_own_column, logits / self._temperature, MASKED_LOGIT)
        subtract_max(scaled)
        np.exp(scaled, out=scaled)
        normalise(scaled)
        return scaled

    def uniform(self, rng: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
        """Return uniform random actions `[N, E, A]`.

        One draw serves both action types: the largest of A_i uniform numbers is at each index equally often,
        so discrete agents choose uniformly.
        """
        draws: FloatArray = np.where(self.is_own_column, rng.random(shape, dtype=np.float32), np.float32(-1))
        return draws

    def to_critic_and_env(
        self, actions: FloatArray, roster: Roster | None = None
    ) -> tuple[FloatArray, tuple[npt.NDArray[np.generic], ...]]:
        """Return (actions as the critic sees them `[N, E, A]`, actions for the environment).

        Discrete agents take their largest entry, of those that `roster` allows: one-hot for the critic, `[E]`
        int64 for the environment. For the critic, actions of agents that do not act are zeros. The values of
        padded columns are undefined. `actions` is modified in place, and continuous actions for the
        environment are views of it.
        """
        for_env: list[npt.NDArray[np.generic]] = []
        for agent, (size, kind) in enumerate(
            zip(self.spec.action_sizes, self.spec.action_types, strict=True)
        ):
            agent_actions = actions[agent, :, :size]
            if kind == "discrete":
                if roster is not None:
                    agent_actions[~roster.allowed[agent, :, :size]] = -1.0
                choice = agent_actions.argmax(axis=1)
                agent_actions[:] = 0.0
                agent_actions[np.arange(len(agent_actions)), choice] = 1.0
                for_env.append(choice)
            else:
                for_env.append(agent_actions)
        if roster is not None:
            actions *= roster.acting.T[:, :, None]
        return actions, tuple(for_env)


class Explorer:
    """Adds the configured noise; its state is generator, Ornstein-Uhlenbeck walk and episode offsets."""

    def __init__(
        self,
        config: ExplorationConfig,
        head: ActionHead,
        num_envs: int,
        rng: np.random.Generator,
        greedy: Sequence[bool] = (),
    ) -> None:
        """Prepare noise for `num_envs` copies, drawn from `rng`; `greedy` agents get none."""
        config.check_heads(
            tuple("gumbel" if is_gumbel else "sigmoid" for is_gumbel in head.is_gumbel[:, 0, 0])
        )
        self._config, self._head, self._rng = config, head, rng
        shape = (head.spec.num_agents, num_envs, max(head.spec.action_sizes))
        self._ou_state = np.zeros(shape, np.float32)  # [N, E, A]
        self._offset = np.zeros(shape, np.float32)  # [N, E, A]
        noisy = ~np.array(greedy or (False,) * head.spec.num_agents)[:, None, None]  # [N, 1, 1]
        self._noisy_mask = noisy
        self._gumbel_mask = head.is_gumbel & noisy & (config.kind in ("auto", "gumbel"))
        self._additive_mask = ~head.is_gumbel & noisy & (config.kind in ("auto", "gaussian", "ou"))
        self.reset(np.ones(num_envs, np.bool_))

    def magnitude(self, env_steps: int) -> float:
        """Return the noise magnitude after `env_steps` environment steps of the whole run."""
        config = self._config
        if env_steps >= config.decay_env_steps:
            return config.end
        return config.start + (config.end - config.start) * env_steps / config.decay_env_steps

    def actions(self, logits: FloatArray, env_steps: int) -> FloatArray:
        """Return noisy actions `[N, E, A]` in [0, 1] for logits of the same shape."""
        magnitude = np.float32(self.magnitude(env_steps))
        if self._config.episode_offset > 0:
            logits = logits + self._offset
        if self._gumbel_mask.any():
            logits = logits + self._gumbel_mask * magnitude * self._gumbel_noise(logits.shape)
        actions = self._head.relaxed(logits)
        if self._additive_mask.any():
            scale = magnitude * (_AUTO_GAUSSIAN_STD if self._config.kind == "auto" else np.float32(1))
            actions = np.clip(actions + self._additive_mask * self._additive_noise(scale), 0.0, 1.0)
        if self._config.kind == "epsilon":
            chosen = np.less(self._rng.random(logits.shape[1]), magnitude)  # of a copy, for all agents
            random = self._head.uniform(self._rng, logits.shape)
            actions = np.where(chosen[None, :, None] & self._noisy_mask, random, actions)
        return actions

    def get_state(self) -> Arrays:
        """Return the generator, and the walk and offsets `[N, E, A]`."""
        generator = pack_generator(self._rng)
        return {"generator": generator, "walk": self._ou_state.copy(), "offset": self._offset.copy()}

    def set_state(self, state: Arrays) -> None:
        """Continue from what `get_state` returned; ValueError for a wrong shape, type or value."""
        walk, offset = (
            checked_array(state, name, self._ou_state.shape, np.float32) for name in ("walk", "offset")
        )
        if not np.isfinite(walk).all() or not np.isfinite(offset).all():
            raise ValueError("walk or offset holds values that are not finite")
        self._ou_state, self._offset = walk, offset
        restore_generator(self._rng, checked_array(state, "generator", (6,), np.uint64))

    def reset(self, ended: npt.NDArray[np.bool_]) -> None:
        """For copies `[E]` whose episode ended, reset the walk to zero and draw new offsets."""
        if self._config.kind == "ou":
            self._ou_state[:, ended] = 0.0
        if self._config.episode_offset > 0 and ended.any():
            agents, _, width = self._offset.shape
            drawn = self._rng.standard_normal((agents, int(ended.sum()), width), dtype=np.float32)
            self._offset[:, ended] = np.float32(self._config.episode_offset) * drawn * self._noisy_mask

    def _gumbel_noise(self, shape: tuple[int, ...]) -> FloatArray:
        # -log of a standard exponential is a standard Gumbel; the floor keeps a draw of 0 finite.
        exponential = self._rng.standard_exponential(shape, dtype=np.float32)
        noise: FloatArray = -np.log(np.maximum(exponential, np.float32(1e-30)))
        return noise

    def _additive_noise(self, magnitude: np.float32) -> FloatArray:
        normal: FloatArray = magnitude * self._rng.standard_normal(self._ou_state.shape, dtype=np.float32)
        if self._config.kind != "ou":
            return normal
        self._ou_state += normal - np.float32(self._config.ou_theta) * self._ou_state
        return self._ou_state
