"""A parallel environment whose observations are step numbers, so that a mixed-up transition is visible.

By name: `tests.support.counting:parallel_env`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv


class CountingEnv(ParallelEnv):
    """Agent i sees i + 1 equal numbers, `t + 1000 * episode + 1_000_000 * i`, and every reward is t.

    t is 0 after a reset and 1 after the first step; episode is 0 after the first reset. All numbers are exact
    in float32 for up to 1000 episodes of up to 1000 steps and 16 agents. Actions have no effect, but they are
    checked and kept in `last_actions`.

    Args:
        num_agents: N, named counter_0 to counter_<N-1>.     max_cycles: steps of an episode.
        terminate: episodes end by termination, not by truncation.
        continuous: actions are a Box of two numbers within `bounds` instead of Discrete(3).
        bounds: of continuous actions.
        episode_from_seed: the episode's number is its seed modulo 1000, so that a replay of the episode gives
            the same observations.
    """

    metadata: dict[str, Any] = {"name": "counting", "render_modes": []}  # noqa: RUF012 - PettingZoo's own form
    render_mode = None

    def __init__(
        self,
        num_agents: int = 2,
        max_cycles: int = 5,
        terminate: bool = False,
        continuous: bool = False,
        bounds: tuple[float, float] = (0.0, 1.0),
        episode_from_seed: bool = False,
    ) -> None:
        self.possible_agents = [f"counter_{i}" for i in range(num_agents)]
        self.agents: list[str] = []
        self.max_cycles, self.terminate, self.episode_from_seed = max_cycles, terminate, episode_from_seed
        box = Box(bounds[0], bounds[1], (2,), np.float32)
        self._action_space = box if continuous else Discrete(3)
        self.t, self.episode = 0, -1
        self.seeds: list[int | None] = []
        self.last_actions: dict[str, Any] = {}

    def observation_space(self, agent: str) -> Any:
        return Box(0.0, 2.0**24, (self.possible_agents.index(agent) + 1,), np.float32)

    def action_space(self, agent: str) -> Any:
        return self._action_space

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        self.seeds.append(seed)
        self.episode = (seed or 0) % 1000 if self.episode_from_seed else self.episode + 1
        self.t = 0
        self.agents = list(self.possible_agents)
        return self._observe(), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> tuple[Any, Any, Any, Any, Any]:
        assert self.agents, "stepped before reset"
        assert set(actions) == set(self.agents)
        for agent, action in actions.items():
            assert self.action_space(agent).contains(action), (agent, action)
        self.last_actions = actions
        self.t += 1
        ended, agents = self.t >= self.max_cycles, self.possible_agents
        if ended:
            self.agents = []
        return (
            self._observe(),
            dict.fromkeys(agents, float(self.t)),
            dict.fromkeys(agents, ended and self.terminate),
            dict.fromkeys(agents, ended and not self.terminate),
            {agent: {} for agent in agents},
        )

    def close(self) -> None:
        pass

    def _observe(self) -> dict[str, Any]:
        value = self.t + 1000 * self.episode
        return {
            agent: np.full(i + 1, value + 1_000_000 * i, np.float32)
            for i, agent in enumerate(self.possible_agents)
        }


def parallel_env(**kwargs: Any) -> CountingEnv:
    """Make a CountingEnv, as an environment's module does."""
    return CountingEnv(**kwargs)
