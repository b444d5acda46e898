"""A turn-based PettingZoo environment (AEC) with the parallel API: in each step one agent acts."""

from __future__ import annotations

from typing import Any

from pettingzoo import AECEnv


class TurnBasedEnv:
    """An AEC environment in which all agents observe every move, and the one on turn acts.

    Rewards are those of each move, as in `turn_based_aec_to_parallel` of PettingZoo.

    Args:
        env: the AEC environment.
    """

    def __init__(self, env: AECEnv[Any, Any, Any]) -> None:
        self.env = env
        self.possible_agents = list(getattr(env, "possible_agents", ()))
        self.agents: list[str] = []
        self.agents_on_turn: list[str] = []
        """Who acts in the next step; after the last one, who would have."""
        self.metadata = getattr(env, "metadata", None)

    @property
    def unwrapped(self) -> Any:
        """The environment without its wrappers."""
        return self.env.unwrapped

    def observation_space(self, agent: str) -> Any:
        """Return the space of an agent's observations."""
        return self.env.observation_space(agent)

    def action_space(self, agent: str) -> Any:
        """Return the space of an agent's actions."""
        return self.env.action_space(agent)

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        """Start an episode; return observations and infos, each by agent."""
        self.env.reset(seed=seed, options=options)
        self.agents = list(self.env.agents)
        self.agents_on_turn = [self.env.agent_selection]
        return self._observations(), dict(self.env.infos)

    def step(self, actions: dict[str, Any]) -> Any:
        """Make the move of the agent on turn; return what a parallel environment does."""
        env = self.env
        env.step(actions[env.agent_selection])
        ends = dict(env.terminations), dict(env.truncations)
        observations, rewards = self._observations(), dict(env.rewards)
        self.agents_on_turn = [env.agent_selection]
        for _ in range(len(env.agents)):  # agents that ended make one step each, without an action
            if not env.agents or not any(end.get(env.agent_selection) for end in ends):
                break
            env.step(None)
        self.agents = list(env.agents)
        if self.agents:
            self.agents_on_turn = [env.agent_selection]
        observations |= self._observations()  # action masks depend on who is on turn
        return observations, rewards, *ends, dict(env.infos)

    def render(self) -> Any:
        """Return what the environment renders."""
        return self.env.render()

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _observations(self) -> dict[str, Any]:
        return {agent: self.env.observe(agent) for agent in self.env.agents}
