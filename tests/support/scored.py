"""An environment with measures in its infos: a CountingEnv whose agents report the step number.

By name: `tests.support.scored:parallel_env`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.support.counting import CountingEnv


class ScoredEnv(CountingEnv):
    """The score of counter_i after step t of an episode is t + 10 * i, and `Half way` is whether t is even.

    Args:
        infos: replaces each agent's infos.
        **kwargs: of CountingEnv.
    """

    measures = {"score": "steps so far,\n plus ten for the second"}  # noqa: RUF012
    step_measures = {"Half way": "share of even steps"}  # noqa: RUF012

    def __init__(self, infos: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._infos = infos

    def step(self, actions: dict[str, Any]) -> tuple[Any, Any, Any, Any, Any]:
        *result, _ = super().step(actions)
        infos = {
            agent: {
                "score": np.array([self.t + 10.0 * i]),
                "Half way": self.t % 2 == 0,
                "other": i,
                "name": "x",
            }
            for i, agent in enumerate(self.possible_agents)
        }
        if self._infos is not None:
            infos = {agent: self._infos for agent in self.possible_agents}
        return *result, infos


class UndeclaredEnv(ScoredEnv):
    """The same without declaring what is in its infos."""

    measures = step_measures = None


def parallel_env(**kwargs: Any) -> ScoredEnv:
    """Make a ScoredEnv, as an environment's module does."""
    return ScoredEnv(**kwargs)


def undeclared(**kwargs: Any) -> UndeclaredEnv:
    """Make an UndeclaredEnv."""
    return UndeclaredEnv(**kwargs)
