"""A parallel environment whose numbers go wrong on purpose.

By name: `tests.support.faulty:parallel_env`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.support.counting import CountingEnv


class FaultyEnv(CountingEnv):
    """A CountingEnv in float64 that gives `value` once, or from then on.

    Args:
        part: "next observation" or "reward" of its `at`-th step, or "observation" of its `at`-th reset.
        agent: whose.     at: counted from 1 over its whole life; 0 for never.     value: what it gives.
        for_ever: at every step or reset from then on.     kwargs: of CountingEnv.
    """

    def __init__(
        self,
        part: str = "reward",
        agent: int = 0,
        at: int = 0,
        value: float = math.nan,
        for_ever: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.part, self.faulty, self.at = part, self.possible_agents[agent], at
        self.value, self.for_ever = value, for_ever
        self.steps = self.resets = 0

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        self.resets += 1
        obs, infos = super().reset(seed, options)
        return self._spoilt(obs, "observation", self.resets), infos

    def step(self, actions: dict[str, Any]) -> tuple[Any, Any, Any, Any, Any]:
        self.steps += 1
        obs, rewards, *rest = super().step(actions)
        if self._due("reward", self.steps):
            rewards[self.faulty] = self.value
        return self._spoilt(obs, "next observation", self.steps), rewards, *rest

    def _due(self, part: str, count: int) -> bool:
        return part == self.part and (count == self.at or (self.for_ever and count > self.at > 0))

    def _spoilt(self, obs: dict[str, Any], part: str, count: int) -> dict[str, Any]:
        obs = {agent: values.astype(np.float64) for agent, values in obs.items()}
        if self._due(part, count):
            obs[self.faulty][-1] = self.value
        return obs


def parallel_env(**kwargs: Any) -> FaultyEnv:
    """Make a FaultyEnv, as an environment's module does."""
    return FaultyEnv(**kwargs)
