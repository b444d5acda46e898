"""Action masks, which PettingZoo's environments give beside an observation or in an agent's info."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Dict

from distributed_maddpg.envs.spaces import ObservationCodec, as_array, observation_codec
from distributed_maddpg.errors import BadInput
from distributed_maddpg.types import ActionType, FloatArray

ACTION_MASK = "action_mask"
"""Key of a mask in an observation or an info."""


def has_mask(space: Any) -> bool:
    """Return whether the observations of a space hold an action mask."""
    return isinstance(space, Dict) and ACTION_MASK in space.spaces


def find_mask(observation: Any, info: Any) -> Any:
    """Return the action mask in an observation, or else in an info; None if there is none."""
    for part in (observation, info):
        if isinstance(part, Mapping) and ACTION_MASK in part:
            return part[ACTION_MASK]
    return None


def flags_of(mask: Any, choices: Sequence[int]) -> npt.NDArray[np.bool_] | None:
    """Return a mask as flags `[A_i]`; None if it is none.

    Args:
        mask: flags of all actions, or for several choices a tuple with the flags of each, as Gymnasium's
            `MultiDiscrete.sample` takes it.
        choices: number of values of each choice.
    """
    if isinstance(mask, tuple) and len(mask) == len(choices) > 1:
        parts = [flags_of(own, (count,)) for own, count in zip(mask, choices, strict=True)]
        known = [part for part in parts if part is not None]
        return reduce(np.logical_and.outer, known).reshape(-1) if len(known) == len(parts) else None
    flags = as_array(mask).reshape(-1)
    if flags.size != math.prod(choices) or flags.dtype.kind not in "fiub" or not np.isfinite(flags).all():
        return None
    return flags.astype(np.bool_)


@dataclass(frozen=True)
class MaskedObservationCodec:
    """Observations of one agent in a Dict with an action mask: its other parts, or the one other part."""

    env_id: str
    agent: str
    space: Any

    @cached_property
    def _others(self) -> dict[str, Any]:
        return {key: part for key, part in self.space.spaces.items() if key != ACTION_MASK}

    @cached_property
    def _codec(self) -> ObservationCodec:
        others = self._others
        if not others:
            raise BadInput("env.id", self.env_id, f"{self.agent} observes nothing but its {ACTION_MASK}")
        space = next(iter(others.values())) if len(others) == 1 else Dict(others)
        return observation_codec(self.env_id, self.agent, space)

    @property
    def size(self) -> int:
        """O_i."""
        return self._codec.size

    def encode(self, observation: Any, row: FloatArray) -> None:
        """Write one observation into a row, [O_i]; BadInput unless it has the space's parts."""
        parts = observation
        if isinstance(observation, Mapping):
            parts = {key: value for key, value in observation.items() if key != ACTION_MASK}
            if len(self._others) == 1 and parts.keys() == self._others.keys():
                parts = next(iter(parts.values()))
        self._codec.encode(parts, row)


def unmasked_observation_codec(
    env_id: str, agent: str, space: Any, kind: ActionType
) -> ObservationCodec | MaskedObservationCodec:
    """Return the codec of what an agent observes beside its action mask, see `observation_codec`.

    For continuous actions a mask is an observation as any other.
    """
    if kind == "continuous" or not has_mask(space):
        return observation_codec(env_id, agent, space)
    codec = MaskedObservationCodec(env_id, agent, space)
    _ = codec.size  # refuses what has none
    return codec
