"""A compiled scenario as a PettingZoo parallel environment, for other libraries.

The same seed gives the same episodes as MPE2's own `parallel_env`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Discrete, Space
from pettingzoo import ParallelEnv

from distributed_maddpg.envs.base import Observations
from distributed_maddpg.envs.mpe.scenario import Scenario
from distributed_maddpg.envs.mpe.vector_env import MPEVectorEnv
from distributed_maddpg.seeding import pack_generator
from distributed_maddpg.types import MPE2_MODULES, FloatArray


class MPEParallelEnv(ParallelEnv[str, Any, Any]):  # type: ignore[misc]  # PettingZoo has no types
    """One copy of a compiled scenario with MPE2's spaces; it does not render."""

    def __init__(self, scenario: Scenario) -> None:
        """Create the environment; `reset` starts it."""
        self._env = MPEVectorEnv(scenario, 1, 0)
        spec = self._env.spec
        self.metadata = {"name": MPE2_MODULES[scenario.name].removeprefix("mpe2."), "render_modes": []}
        self.render_mode = None
        self.possible_agents = list(spec.agents)
        self.agents: list[str] = []
        self.observation_spaces: dict[str, Space[Any]] = {
            agent: Box(-np.inf, np.inf, (size,), np.float32)
            for agent, size in zip(spec.agents, spec.observation_sizes, strict=True)
        }
        self.action_spaces: dict[str, Space[Any]] = {
            agent: Box(0.0, 1.0, (size,), np.float32) if kind == "continuous" else Discrete(size)
            for agent, size, kind in zip(spec.agents, spec.action_sizes, spec.action_types, strict=True)
        }
        self.state_space = Box(-np.inf, np.inf, (sum(spec.observation_sizes),), np.float32)
        self._seed_generator(np.random.SeedSequence().entropy)
        self._next_obs: Observations | None = None  # of an episode that is drawn already
        self._obs: dict[str, FloatArray] = {}

    def observation_space(self, agent: str) -> Space[Any]:
        """Return the space of an agent's observations."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Space[Any]:
        """Return the space of an agent's actions."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, FloatArray], dict[str, dict[str, Any]]]:
        """Start an episode; with `seed`, the one that MPE2 starts with that seed."""
        if seed is not None:
            self._seed_generator(seed)
            self._next_obs = None
        first, self._next_obs = self._next_obs, None
        self.agents = self.possible_agents[:]
        return self._by_agent(self._env.reset() if first is None else first), self._infos()

    def step(
        self, actions: Mapping[str, Any]
    ) -> tuple[dict[str, FloatArray], dict[str, float], dict[str, bool], dict[str, bool], dict[str, Any]]:
        """Step once; all agents leave when the episode ends. Continuous actions are clipped to [0, 1]."""
        result = self._env.step([np.asarray(actions[agent])[None] for agent in self.possible_agents])
        agents, infos = self.agents, self._infos()
        rewards = dict(zip(agents, result.rewards[0].tolist(), strict=True))
        terminated = dict(zip(agents, result.terminated[0].tolist(), strict=True))
        truncated = dict.fromkeys(agents, bool(result.truncated[0]))
        if truncated[agents[0]] or terminated[agents[0]]:
            self.agents = []
            self._next_obs = tuple(array.copy() for array in result.obs)
        return self._by_agent(result.final_obs), rewards, terminated, truncated, infos

    def state(self) -> FloatArray:
        """Return all agents' observations in one array."""
        return np.concatenate(list(self._obs.values()))

    def render(self) -> None:
        """Do nothing; use MPE2's own environment to render."""

    def close(self) -> None:
        """Do nothing: there are no resources to release."""

    def _seed_generator(self, seed: Any) -> None:
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))  # as gymnasium does
        packed: npt.NDArray[np.uint64] = pack_generator(generator)
        self._env.set_generators(packed[None])

    def _by_agent(self, obs: Observations) -> dict[str, FloatArray]:
        self._obs = {agent: array[0].copy() for agent, array in zip(self.possible_agents, obs, strict=True)}
        return dict(self._obs)

    def _infos(self) -> dict[str, dict[str, Any]]:
        return {agent: {} for agent in self.agents}
