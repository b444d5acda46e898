"""Agents on a line that shall reach a place of their own; observations and rewards have wild scales.

By name: `tests.support.wild:parallel_env`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box
from pettingzoo import ParallelEnv


class WildEnv(ParallelEnv):
    """An agent observes where it is in metres from afar, where it shall be in kilometres, and a constant.

    Both are within one unit of zero, which is 100 m; an agent moves up to a fifth of it in a step. Its reward
    is minus the squared distance in m^2: a return of -100 000 is a distance of a tenth of a unit during 100
    steps.

    Args:
        num_agents: N.
        max_cycles: steps of an episode.
        tame: observations and rewards in units, for comparison.
    """

    metadata: dict[str, Any] = {"name": "wild", "render_modes": []}  # noqa: RUF012 - PettingZoo's own form
    render_mode = None
    measures = {"distance": "mean distance from the places at the end, in units"}  # noqa: RUF012

    def __init__(self, num_agents: int = 2, max_cycles: int = 25, tame: bool = False) -> None:
        self.possible_agents = [f"walker_{i}" for i in range(num_agents)]
        self.agents: list[str] = []
        self.max_cycles, self.tame, self.t = max_cycles, tame, 0

    def observation_space(self, agent: str) -> Any:
        return Box(-np.inf, np.inf, (3,), np.float32)

    def action_space(self, agent: str) -> Any:
        return Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        self.agents, self.t = list(self.possible_agents), 0
        rng = np.random.default_rng(seed)
        self.places, self.goals = rng.uniform(-1.0, 1.0, (2, len(self.agents)))
        return self._observe(), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> tuple[Any, Any, Any, Any, Any]:
        moves = np.array([float(actions[agent][0]) for agent in self.possible_agents])
        self.places = np.clip(self.places + 0.2 * moves, -2.0, 2.0)
        self.t += 1
        agents, ended = self.agents, self.t == self.max_cycles
        self.agents = [] if ended else agents
        distances = np.abs(self.places - self.goals)
        rewards = -(distances**2) * (1.0 if self.tame else 1e4)
        return (
            self._observe(),
            dict(zip(agents, rewards.tolist(), strict=True)),
            dict.fromkeys(agents, False),
            dict.fromkeys(agents, ended),
            {agent: {"distance": own} for agent, own in zip(agents, distances.tolist(), strict=True)},
        )

    def close(self) -> None:
        pass

    def _observe(self) -> dict[str, Any]:
        scales = (1.0, 1.0) if self.tame else (100.0, 0.1)
        far = 0.0 if self.tame else 5_000.0
        return {
            agent: np.array([far + scales[0] * self.places[i], scales[1] * self.goals[i], 7.0], np.float32)
            for i, agent in enumerate(self.possible_agents)
        }


def parallel_env(**kwargs: Any) -> WildEnv:
    """Make a WildEnv."""
    return WildEnv(**kwargs)
