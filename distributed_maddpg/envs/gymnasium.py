"""A single-agent Gymnasium environment with PettingZoo's parallel API."""

from __future__ import annotations

from typing import Any

import numpy as np

AGENT = "agent_0"
"""Name of the one agent."""


class SingleAgentEnv:
    """A Gymnasium environment as a parallel environment of one agent.

    A reset or step that does not return what Gymnasium prescribes returns None here, which the adapter
    refuses: an array of two numbers must not be taken for observation and infos.

    Args:
        env: the Gymnasium environment.
    """

    def __init__(self, env: Any) -> None:
        self.env = env
        self.possible_agents = [AGENT]
        self.agents: list[str] = []
        self.metadata = env.metadata

    @property
    def unwrapped(self) -> Any:
        """The Gymnasium environment without its wrappers."""
        return self.env.unwrapped

    def observation_space(self, _agent: str) -> Any:
        """Return the space of observations."""
        return self.env.observation_space

    def action_space(self, _agent: str) -> Any:
        """Return the space of actions."""
        return self.env.action_space

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        """Start an episode; return observations and infos, each by agent."""
        result = self.env.reset(seed=seed, options=options)
        self.agents = [AGENT]
        return _by_agent(result, 2)

    def step(self, actions: dict[str, Any]) -> Any:
        """Step once; return observations, rewards, terminations, truncations and infos, each by agent."""
        result = _by_agent(self.env.step(actions[AGENT]), 5)
        if result and (np.any(result[2][AGENT]) or np.any(result[3][AGENT])):  # may be arrays
            self.agents = []
        return result

    def render(self) -> Any:
        """Return what the environment renders."""
        return self.env.render()

    def close(self) -> None:
        """Close the environment."""
        self.env.close()


def _by_agent(result: Any, length: int) -> tuple[dict[str, Any], ...] | None:
    if not isinstance(result, tuple) or len(result) != length:
        return None
    return tuple({AGENT: part} for part in result)
