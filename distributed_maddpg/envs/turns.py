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
        self._skip_ended({}, {}, {})
        return self._observations(), dict(self.env.infos)

    def step(self, actions: dict[str, Any]) -> Any:
        """Make the move of the agent on turn; return what a parallel environment does.

        Raises:
            RuntimeError: if the environment gives the turn to an agent that cannot act.
        """
        env = self.env
        if env.agent_selection not in actions:
            raise RuntimeError(f"agent_selection is {env.agent_selection!r}, which has left or not come yet")
        env.step(actions[env.agent_selection])
        observations = self._observations()
        parts = dict(env.rewards), dict(env.terminations), dict(env.truncations)
        self._skip_ended(*parts)
        observations |= self._observations()  # action masks depend on who is on turn
        return observations, *parts, dict(env.infos)

    def _skip_ended(
        self, rewards: dict[str, float], terminations: dict[str, bool], truncations: dict[str, bool]
    ) -> None:
        """Make the one step, without an action, of each agent that has ended; add what comes of it."""
        env = self.env
        self.agents_on_turn = [env.agent_selection]
        for _ in self.possible_agents:
            if not env.agents or not self._has_ended(env.agent_selection):
                break
            env.step(None)
            for agent, reward in env.rewards.items():
                rewards[agent] = rewards.get(agent, 0.0) + reward
            terminations |= env.terminations
            truncations |= env.truncations
        self.agents = list(env.agents)
        if self.agents:
            self.agents_on_turn = [env.agent_selection]
            if self._has_ended(env.agent_selection):
                raise RuntimeError(f"agent_selection stays at {env.agent_selection!r}, which has ended")

    def _has_ended(self, agent: str) -> bool:
        return bool(self.env.terminations.get(agent) or self.env.truncations.get(agent))

    def render(self) -> Any:
        """Return what the environment renders."""
        return self.env.render()

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _observations(self) -> dict[str, Any]:
        return {agent: self.env.observe(agent) for agent in self.env.agents}
