"""Keeps who takes part in the episodes of a PettingZoo environment, and what they may do."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from distributed_maddpg.envs.masks import ACTION_MASK, find_mask
from distributed_maddpg.envs.spaces import as_array
from distributed_maddpg.errors import BadInput
from distributed_maddpg.types import Roster


class RosterLog:
    """Who takes part in the running episode of each copy, from what its steps return.

    Args:
        env_id: name of the environment in errors.
        agents: names.
        action_sizes: A_i of each agent.
        masked: which agents have action masks.
        num_envs: E.
    """

    def __init__(
        self,
        env_id: str,
        agents: tuple[str, ...],
        action_sizes: Sequence[int],
        masked: Sequence[bool],
        num_envs: int,
    ) -> None:
        self._id, self._agents, self._sizes = env_id, agents, tuple(action_sizes)
        self.masked = [agent for agent, own in enumerate(masked) if own]
        """Numbers of the agents with action masks."""
        shape = (num_envs, len(agents))
        own = np.arange(max(action_sizes)) < np.array(action_sizes)[:, None, None]  # [N, 1, A]
        self._all = np.repeat(own, num_envs, axis=1)
        self._listed, self.terminated, self.truncated = np.zeros((3, *shape), np.bool_)
        """[E, N] who is in the environment's list of agents; who ended the running episode, and how."""
        self.now = Roster(np.zeros(shape, np.bool_), np.zeros(shape, np.bool_), self._all.copy())
        """Who takes part in the next step."""
        self.final = self.now
        """Who would have acted on the last observations of the latest step."""

    def begin_step(self) -> None:
        """Keep the rosters of earlier steps as they are: the next ones are other arrays."""
        self.now = Roster(*(array.copy() for array in self.now))
        self.final = Roster(*(array.copy() for array in self.now))

    def reset(self, e: int, agents: Collection[str], on_turn: Collection[str] | None) -> None:
        """Start an episode of one copy with these agents, of which those on turn act, or all."""
        self._check_known(agents)
        if not agents:
            raise BadInput("env.id", self._id, "an episode started without agents")
        self.terminated[e] = self.truncated[e] = False
        self._listed[e] = [agent in agents for agent in self._agents]
        self._set(self.now, e, self._listed[e].tolist(), on_turn)

    def step(
        self,
        e: int,
        ends: Mapping[str, tuple[bool, bool]],
        agents: Collection[str],
        on_turn: Collection[str] | None,
    ) -> bool:
        """Add one step of a copy; return whether its episode is over.

        Args:
            e: number of the copy.
            ends: of each agent that was present, whether it terminated and whether it was truncated.
            agents: who is in the episode now, by the environment; those that ended may still be among them.
            on_turn: who of them acts; None: all.

        Raises:
            BadInput: if an agent left without an end, or is unknown.
        """
        self._check_known(agents)
        present, final = [], []
        for i, agent in enumerate(self._agents):
            terminated, truncated = ends.get(agent, (False, False))
            if agent in ends:
                self.terminated[e, i], self.truncated[e, i] = terminated, truncated and not terminated
                if not (terminated or truncated or agent in agents):
                    remedy = f"{agent} left its episode without a termination or truncation"
                    raise BadInput("env.id", self._id, remedy)
                present.append(not (terminated or truncated))
            else:  # it may join, perhaps again; some environments still list those that ended
                present.append(agent in agents and not self._listed[e, i])
                self.terminated[e, i] &= not present[i]
                self.truncated[e, i] &= not present[i]
            final.append(present[i] or (truncated and not terminated))
        self._listed[e] = [agent in agents for agent in self._agents]
        self._set(self.final, e, final, on_turn)
        self._set(self.now, e, present, on_turn)
        over = not any(present)
        if over and not self.truncated[e].any():
            self.terminated[e] = True  # those too that never came
        return over

    def is_observed(self, e: int, ends: Mapping[str, tuple[bool, bool]], over: bool) -> list[bool]:
        """Return of which agents a step's observations are kept.

        Those of an agent that terminated are not while the episode of the others goes on: from then on it is
        absent.
        """
        ended = [over and agent in ends for agent in self._agents]
        return [a or b for a, b in zip(self.final.present[e], ended, strict=True)]

    def set_first_allowed(self, e: int, observations: Mapping[str, Any], infos: Mapping[str, Any]) -> None:
        """Read the action masks of an episode's first step; an agent without one may do anything.

        Raises:
            BadInput: if an acting agent's mask has another size, or allows nothing.
        """
        for i in self.masked:
            allowed = self.now.allowed[i, e]
            allowed[:] = self._all[i, e]
            mask = find_mask(observations.get(self._agents[i]), infos.get(self._agents[i]))
            if self.now.acting[e, i] and mask is not None:
                allowed[: self._sizes[i]] = self._checked_mask(mask, i)

    def set_allowed(self, e: int, observations: Mapping[str, Any], infos: Mapping[str, Any]) -> None:
        """Read the action masks after a step, see `set_first_allowed`; a truncated agent may do anything."""
        self.set_first_allowed(e, observations, infos)
        self.final.allowed[:, e] = self.now.allowed[:, e]

    def _checked_mask(self, mask: Any, i: int) -> npt.NDArray[np.bool_]:
        allowed = as_array(mask).reshape(-1)
        if allowed.size != self._sizes[i] or allowed.dtype.kind not in "fiub":
            remedy = (
                f"the {ACTION_MASK} of {self._agents[i]} is {mask!r}; it must have {self._sizes[i]} flags"
            )
            raise BadInput("env.id", self._id, remedy)
        if not allowed.any():
            raise BadInput("env.id", self._id, f"the {ACTION_MASK} of {self._agents[i]} allows no action")
        return allowed.astype(np.bool_)

    def _set(self, roster: Roster, e: int, present: list[bool], on_turn: Collection[str] | None) -> None:
        roster.present[e] = present
        turn = [on_turn is None or agent in on_turn for agent in self._agents]
        roster.acting[e] = [a and b for a, b in zip(present, turn, strict=True)]

    def _check_known(self, agents: Collection[str]) -> None:
        for agent in agents:
            if agent not in self._agents:
                remedy = f"an episode has the agent {agent!r}, which is not in possible_agents"
                raise BadInput("env.id", self._id, remedy)
