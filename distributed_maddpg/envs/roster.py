"""Keeps who takes part in the episodes of a PettingZoo environment, and what they may do."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from distributed_maddpg.envs.masks import ACTION_MASK, find_mask, flags_of
from distributed_maddpg.envs.spaces import ActionCodec, ContinuousActionCodec
from distributed_maddpg.errors import BadInput
from distributed_maddpg.types import Roster


class RosterLog:
    """Who takes part in the running episode of each copy, from what its steps return.

    Args:
        env_id: name of the environment in errors.
        codecs: of the agents' actions.
        masked: whether discrete agents have action masks.
        num_envs: E.
    """

    def __init__(self, env_id: str, codecs: Sequence[ActionCodec], masked: bool, num_envs: int) -> None:
        self._id, self._agents = env_id, [codec.agent for codec in codecs]
        self._choices = {
            i: codec.choices for i, codec in enumerate(codecs) if not isinstance(codec, ContinuousActionCodec)
        }
        """Number of values of each choice of each discrete agent."""
        self._masked, shape = masked, (num_envs, len(codecs))
        sizes = np.array([codec.size for codec in codecs])
        own = np.arange(sizes.max()) < sizes[:, None, None]  # [N, 1, A]
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
            ends: whether an agent terminated, and whether it was truncated: of all that were present, and of
                others where the environment says so.
            agents: who is in the episode now, by the environment; those that ended may still be among them.
            on_turn: who of them acts; None: all.

        Raises:
            BadInput: if an agent left without an end, or is unknown.
        """
        self._check_known(agents)
        was, present, final = self.now.present[e].copy(), [], []
        for i, agent in enumerate(self._agents):
            terminated, truncated = ends.get(agent, (False, False))
            listed, ended = agent in agents, terminated or truncated
            if was[i]:
                self.terminated[e, i], self.truncated[e, i] = terminated, truncated and not terminated
                if not (ended or listed):
                    remedy = f"{agent} left its episode without a termination or truncation"
                    raise BadInput("env.id", self._id, remedy)
                present.append(not ended)
            else:  # it may come, perhaps again; some environments still list those that ended
                present.append(listed and not ended and (agent in ends or not self._listed[e, i]))
                self.terminated[e, i] &= not present[i]
                self.truncated[e, i] &= not present[i]
            final.append(present[i] or bool(was[i] and truncated and not terminated))
        self._listed[e] = [agent in agents for agent in self._agents]
        self._set(self.final, e, final, on_turn)
        self._set(self.now, e, present, on_turn)
        over = not any(present)
        if over and not self.truncated[e].any():
            self.terminated[e] = True  # those too that never came
        return over

    def is_observed(self, e: int, before: npt.NDArray[np.bool_], seen: Mapping[str, Any]) -> list[bool]:
        """Return of which agents a step's observations are kept.

        Those of an agent that terminated are not while the episode of the others goes on: from then on it is
        absent. At the end they are, if the environment gave them.

        Args:
            e: number of the copy.
            before: [N] who was present before the step.
            seen: the observations.
        """
        over = not self.now.present[e].any()
        ended = [over and own and agent in seen for agent, own in zip(self._agents, before, strict=True)]
        return [a or b for a, b in zip(self.final.present[e].tolist(), ended, strict=True)]

    def set_first_allowed(self, e: int, observations: Mapping[str, Any], infos: Mapping[str, Any]) -> None:
        """Read the action masks of an episode's first step; an agent without one may do anything.

        Raises:
            BadInput: if an acting agent's mask has another size, or allows nothing.
        """
        self._read_masks(self.now, e, observations, infos)

    def set_allowed(self, e: int, observations: Mapping[str, Any], infos: Mapping[str, Any]) -> None:
        """Read the action masks after a step, see `set_first_allowed`."""
        self._read_masks(self.final, e, observations, infos)
        self.now.allowed[:, e] = np.where(
            self.now.acting[e, :, None], self.final.allowed[:, e], self._all[:, e]
        )

    def _read_masks(
        self, roster: Roster, e: int, observations: Mapping[str, Any], infos: Mapping[str, Any]
    ) -> None:
        roster.allowed[:, e] = self._all[:, e]
        for i, choices in self._choices.items():
            mask = find_mask(observations.get(self._agents[i]), infos.get(self._agents[i]))
            if mask is None or not roster.acting[e, i]:
                continue
            if not self._masked:
                remedy = f"{self._agents[i]} has an {ACTION_MASK}, but nobody had one at the episode's start"
                raise BadInput("env.id", self._id, remedy)
            allowed = self._checked_mask(mask, i, choices)
            if allowed.any():  # where nothing is allowed, the episode is over
                roster.allowed[i, e, : allowed.size] = allowed
            elif self.now.acting[e, i]:
                raise BadInput("env.id", self._id, f"the {ACTION_MASK} of {self._agents[i]} allows no action")

    def _checked_mask(self, mask: Any, i: int, choices: Sequence[int]) -> npt.NDArray[np.bool_]:
        allowed = flags_of(mask, choices)
        if allowed is None:
            form = f"{math.prod(choices)} flags, one for each action"
            if len(choices) > 1:
                form += ", or the flags of each choice in a tuple"
            remedy = f"the {ACTION_MASK} of {self._agents[i]} is {mask!r}; it must have {form}"
            raise BadInput("env.id", self._id, remedy)
        return allowed

    def _set(self, roster: Roster, e: int, present: list[bool], on_turn: Collection[str] | None) -> None:
        roster.present[e] = present
        turn = [on_turn is None or agent in on_turn for agent in self._agents]
        roster.acting[e] = [a and b for a, b in zip(present, turn, strict=True)]

    def _check_known(self, agents: Collection[str]) -> None:
        for agent in agents:
            if agent not in self._agents:
                remedy = f"an episode has the agent {agent!r}, which is not in possible_agents"
                raise BadInput("env.id", self._id, remedy)
