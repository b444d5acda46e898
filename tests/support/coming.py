"""Agents that come, leave and wait, and observe step numbers, so that a mixed-up row is visible.

By name: `tests.support.coming:parallel_env` and `tests.support.coming:turns`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from pettingzoo import AECEnv, ParallelEnv

ACTIONS = 3


class ComingEnv(ParallelEnv):
    """Agent i sees `t + 1000 * i` from step `comes[i]` to step `ends[i]`, and every reward is t + 100 * i.

    Args:
        comes: the step after which each agent is there; 0: from the start.
        ends: the step that ends each agent's episode.
        truncated: which agents are truncated, not terminated.
        masks: "observation" or "info": at step t only action (t + i) % 3 is forbidden to agent i.
        continuous: actions are a Box of two numbers.
    """

    metadata: dict[str, Any] = {"name": "coming", "render_modes": []}  # noqa: RUF012 - PettingZoo's own form
    render_mode = None

    def __init__(
        self,
        comes: tuple[int, ...] = (0, 0, 3),
        ends: tuple[int, ...] = (5, 2, 7),
        truncated: tuple[int, ...] = (),
        masks: str = "",
        continuous: bool = False,
    ) -> None:
        self.possible_agents = [f"comer_{i}" for i in range(len(comes))]
        self.agents: list[str] = []
        self.comes, self.ends, self.truncated, self.masks = comes, ends, truncated, masks
        self._action_space = Box(0, 1, (2,), np.float32) if continuous else Discrete(ACTIONS)
        self.t = 0
        self.taken: list[dict[str, Any]] = []

    def observation_space(self, agent: str) -> Any:
        box = Box(0.0, 2.0**24, (1,), np.float32)
        if self.masks != "observation":
            return box
        return Dict({"observation": box, "action_mask": Box(0, 1, (ACTIONS,), np.int8)})

    def action_space(self, agent: str) -> Any:
        return self._action_space

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        self.t, self.taken = 0, []
        self.agents = [
            agent for agent, comes in zip(self.possible_agents, self.comes, strict=True) if not comes
        ]
        return self._observe(self.agents), self._infos(self.agents)

    def step(self, actions: dict[str, Any]) -> tuple[Any, Any, Any, Any, Any]:
        assert set(actions) == set(self.agents), (actions, self.agents)
        for agent, action in actions.items():
            if self.masks:
                assert self.mask(agent)[action], (agent, action, self.t)
        self.taken.append(actions)
        self.t += 1
        there = list(self.agents)
        numbers = {agent: i for i, agent in enumerate(self.possible_agents)}
        ended = {agent: self.ends[numbers[agent]] <= self.t for agent in there}
        came = [agent for agent, i in numbers.items() if 0 < self.comes[i] == self.t]
        self.agents = [agent for agent in there if not ended[agent]] + came
        return (
            self._observe([*there, *came]),
            {agent: self.t + 100.0 * numbers[agent] for agent in there},
            {agent: ended[agent] and numbers[agent] not in self.truncated for agent in there},
            {agent: ended[agent] and numbers[agent] in self.truncated for agent in there},
            self._infos([*there, *came]),
        )

    def mask(self, agent: str) -> Any:
        """Return the action mask of an agent now."""
        mask = np.ones(ACTIONS, np.int8)
        mask[(self.t + self.possible_agents.index(agent)) % ACTIONS] = 0
        return mask

    def _observe(self, agents: list[str]) -> dict[str, Any]:
        values = {
            agent: np.array([self.t + 1000 * self.possible_agents.index(agent)], np.float32)
            for agent in agents
        }
        if self.masks != "observation":
            return values
        return {
            agent: {"observation": value, "action_mask": self.mask(agent)} for agent, value in values.items()
        }

    def _infos(self, agents: list[str]) -> dict[str, Any]:
        return {agent: {"action_mask": self.mask(agent)} if self.masks == "info" else {} for agent in agents}

    def close(self) -> None:
        pass


class TurnsEnv(AECEnv):
    """Agents move in turn; agent i sees `moves + 1000 * i`, and each move pays its number to all.

    Agent i leaves after `ends[i]` moves of everybody together; the others go on. A move must be the number of
    moves so far modulo 3, which the mask says.
    """

    metadata: dict[str, Any] = {"name": "turns", "is_parallelizable": False}  # noqa: RUF012
    render_mode = None

    def __init__(self, ends: tuple[int, ...] = (7, 4, 7)) -> None:
        super().__init__()
        self.possible_agents = [f"mover_{i}" for i in range(len(ends))]
        self.ends = ends

    def observation_space(self, agent: str) -> Any:
        box = Box(0.0, 2.0**24, (1,), np.float32)
        return Dict({"observation": box, "action_mask": Box(0, 1, (ACTIONS,), np.int8)})

    def action_space(self, agent: str) -> Any:
        return Discrete(ACTIONS)

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        self.agents = list(self.possible_agents)
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos: dict[str, Any] = {agent: {} for agent in self.agents}
        self.agent_selection, self.moves = self.agents[0], 0

    def observe(self, agent: str) -> Any:
        mask = np.zeros(ACTIONS, np.int8)
        mask[self.moves % ACTIONS] = agent == self.agent_selection
        value = self.moves + 1000 * self.possible_agents.index(agent)
        return {"observation": np.array([value], np.float32), "action_mask": mask}

    def step(self, action: Any) -> None:
        if self.terminations[self.agent_selection] or self.truncations[self.agent_selection]:
            self._was_dead_step(action)
            return
        assert action == self.moves % ACTIONS
        self.moves += 1
        self.rewards = dict.fromkeys(self.agents, float(self.moves))
        for agent in self.agents:
            self.terminations[agent] = self.ends[self.possible_agents.index(agent)] <= self.moves
        order = self.possible_agents
        at = order.index(self.agent_selection)
        following = [order[(at + k) % len(order)] for k in range(1, len(order) + 1)]
        alive = [agent for agent in following if agent in self.agents and not self.terminations[agent]]
        self.agent_selection = alive[0] if alive else self.agent_selection
        self._deads_step_first()

    def close(self) -> None:
        pass


def parallel_env(**kwargs: Any) -> ComingEnv:
    """Make a ComingEnv, as an environment's module does."""
    return ComingEnv(**kwargs)


def turns(**kwargs: Any) -> TurnsEnv:
    """Make a TurnsEnv."""
    return TurnsEnv(**kwargs)
