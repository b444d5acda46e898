"""Convert between a PettingZoo agent's spaces and a vector environment's arrays."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from distributed_maddpg.envs.base import nan_error, range_error, shape_error
from distributed_maddpg.errors import BadInput, one_line
from distributed_maddpg.types import ActionType, FloatArray

_LOG = logging.getLogger(__name__)
_MAX_COMBINATIONS = 1024


@dataclass(frozen=True)
class ContinuousActionCodec:
    """Actions in [0, 1]^A_i for a Box of any shape and dtype, scaled to its bounds.

    A value without bounds is scaled to [-1, 1], one with a lower bound alone to [low, low + 2], and one with
    an upper bound alone to [high - 2, high]. The largest floats, too, are no bounds.
    """

    agent: str
    space: Any

    kind: ActionType = "continuous"

    @cached_property
    def limits(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """What the actions 0 and 1 stand for, each of the space's shape."""
        low, high = self.space.low.astype(np.float64), self.space.high.astype(np.float64)
        below, above = self._bounded
        from_low, from_high = np.where(below, low, -1.0), np.where(above, high, 1.0)
        with np.errstate(over="ignore"):
            return (
                np.where(above & ~below, high - 2.0, from_low),
                np.where(below & ~above, low + 2.0, from_high),
            )

    @property
    def bounded(self) -> bool:
        """Whether every value has both bounds."""
        below, above = self._bounded
        return bool(below.all() and above.all())

    @property
    def _bounded(self) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Where the space has a lower bound, and where an upper one."""
        below, above = self.space.bounded_below, self.space.bounded_above
        if self.space.dtype.kind != "f":
            return below, above
        largest = np.finfo(self.space.dtype).max
        return below & (self.space.low > -largest), above & (self.space.high < largest)

    @property
    def size(self) -> int:
        """A_i, the number of values in an action."""
        return int(np.prod(self.space.shape, dtype=np.int64))

    def zeros(self, *shape: int) -> FloatArray:
        """Return an array of zero actions, [*shape, A_i]."""
        return np.zeros((*shape, self.size), np.float32)

    def checked(self, actions: npt.NDArray[Any], num_envs: int) -> FloatArray:
        """Return all copies' actions clipped to [0, 1], [E, A_i]; ValueError for NaN or a wrong shape."""
        actions = np.asarray(actions)
        if actions.shape != (num_envs, self.size) or actions.dtype.kind not in "fiu":
            raise shape_error(self.agent, actions, f"{(num_envs, self.size)} float32")
        missing = np.isnan(actions).any(axis=1)
        if missing.any():
            raise nan_error(self.agent, int(missing.argmax()))
        clipped: FloatArray = np.clip(actions, 0.0, 1.0).astype(np.float32)
        return clipped

    def decode(self, action: FloatArray) -> npt.NDArray[Any]:
        """Return one action [A_i] in [0, 1] as the space's: scaled to its limits, reshaped and cast."""
        low, high = self.limits
        scaled = low + action.reshape(self.space.shape).astype(np.float64) * (high - low)
        if self.space.dtype.kind in "iu":
            scaled = np.rint(scaled)
        cast: npt.NDArray[Any] = scaled.astype(self.space.dtype)
        # Rounding may pass a bound. Beside these two calls np.clip is slow.
        within: npt.NDArray[Any] = np.maximum(np.minimum(cast, self.space.high), self.space.low)
        return within


@dataclass(frozen=True)
class DiscreteActionCodec:
    """Actions 0 to n - 1 for a Discrete space, whose own `start` may differ from 0."""

    agent: str
    space: Any

    kind: ActionType = "discrete"

    @property
    def size(self) -> int:
        """A_i, the number of actions."""
        return int(self.space.n)

    @property
    def choices(self) -> list[int]:
        """Number of values of each choice: there is one."""
        return [self.size]

    @property
    def starts(self) -> list[int]:
        """The first value of each choice."""
        return [int(self.space.start)]

    def zeros(self, *shape: int) -> npt.NDArray[np.int64]:
        """Return an array of zero actions of the given shape."""
        return np.zeros(shape, np.int64)

    def checked(self, actions: npt.NDArray[Any], num_envs: int) -> npt.NDArray[np.int64]:
        """Return all copies' actions, [E]; ValueError for an action out of range or a wrong shape."""
        return _checked_choices(self.agent, self.size, actions, num_envs)

    def decode(self, action: Any) -> int:
        """Return one action in the space's own numbering."""
        return int(action) + int(self.space.start)


@dataclass(frozen=True)
class CombinedActionCodec:
    """Actions 0 to n - 1 for all combinations of a MultiDiscrete, MultiBinary, or Dict or Tuple of these.

    The last choice differs between actions 0 and 1.
    """

    agent: str
    space: Any

    kind: ActionType = "discrete"

    @cached_property
    def choices(self) -> list[int]:
        """Number of values of each choice."""
        return list(_choices(self.space))

    @property
    def starts(self) -> list[int]:
        """The first value of each choice."""
        return list(_starts(self.space))

    @cached_property
    def size(self) -> int:
        """A_i, the number of combinations."""
        return math.prod(self.choices)

    def zeros(self, *shape: int) -> npt.NDArray[np.int64]:
        """Return an array of zero actions of the given shape."""
        return np.zeros(shape, np.int64)

    def checked(self, actions: npt.NDArray[Any], num_envs: int) -> npt.NDArray[np.int64]:
        """Return all copies' actions, [E]; ValueError for an action out of range or a wrong shape."""
        return _checked_choices(self.agent, self.size, actions, num_envs)

    def decode(self, action: Any) -> Any:
        """Return one action as the space's: each choice in its own numbering, form and dtype."""
        return _combined(self.space, iter(np.unravel_index(int(action), self.choices)))


ActionCodec = ContinuousActionCodec | DiscreteActionCodec | CombinedActionCodec


def _checked_choices(
    agent: str, size: int, actions: npt.NDArray[Any], num_envs: int
) -> npt.NDArray[np.int64]:
    actions = np.asarray(actions)
    if actions.shape != (num_envs,) or actions.dtype.kind not in "iu":
        raise shape_error(agent, actions, f"{(num_envs,)} integers")
    outside = (actions < 0) | (actions >= size)
    if outside.any():
        copy = int(outside.argmax())
        raise range_error(agent, copy, int(actions[copy]), size)
    return actions.astype(np.int64)


def _choices(space: Any) -> Iterator[int]:
    """Return the number of values of each choice in a space, in the space's order.

    Raises:
        TypeError: for a space that holds something else.
    """
    if isinstance(space, Discrete):
        yield int(space.n)
    elif isinstance(space, MultiDiscrete):
        yield from (int(n) for n in space.nvec.reshape(-1))
    elif isinstance(space, MultiBinary):
        yield from [2] * math.prod(space.shape)
    elif isinstance(space, Dict | Tuple):
        for _, part in _items(space):
            yield from _choices(part)
    else:
        raise TypeError(space)


def _starts(space: Any) -> Iterator[int]:
    """Return the first value of each choice in a space, in the order of `_choices`."""
    if isinstance(space, Dict | Tuple):
        for _, part in _items(space):
            yield from _starts(part)
    elif isinstance(space, MultiBinary):
        yield from [0] * math.prod(space.shape)
    else:
        yield from np.array(space.start).reshape(-1).tolist()


def _combined(space: Any, chosen: Iterator[Any]) -> Any:
    """Return an element of a space from the next of the chosen values, each counted from 0."""
    if isinstance(space, Discrete):
        return space.dtype.type(next(chosen) + space.start)
    if isinstance(space, MultiDiscrete):
        values = np.array([next(chosen) for _ in range(space.nvec.size)]).reshape(space.shape)
        return (values + space.start).astype(space.dtype)
    if isinstance(space, MultiBinary):
        values = np.array([next(chosen) for _ in range(math.prod(space.shape))])
        return values.reshape(space.shape).astype(space.dtype)
    parts = {key: _combined(part, chosen) for key, part in _items(space)}
    return parts if isinstance(space, Dict) else tuple(parts.values())


def action_codec(env_id: str, agent: str, space: Any) -> ActionCodec:
    """Return the codec of an agent's action space.

    Raises:
        BadInput: names the agent and the space if no policy of this package can act in it.
    """
    if isinstance(space, Discrete):
        return DiscreteActionCodec(agent, space)
    if not isinstance(space, Box):
        return _combined_codec(env_id, agent, space)
    codec = ContinuousActionCodec(agent, space)
    if codec.size == 0:
        raise BadInput("env.id", env_id, f"{agent} acts in {space}, which has size 0")
    return codec


def warn_of_unbounded(env_id: str, codecs: Sequence[ActionCodec]) -> None:
    """Log once for each environment to what the actions of agents without bounds are limited."""
    agents: dict[str, list[str]] = {}
    for codec in codecs:
        if isinstance(codec, ContinuousActionCodec) and not codec.bounded:
            agents.setdefault(_shown(codec.limits), []).append(codec.agent)
    if agents:
        _warn_once(env_id, "; ".join(f"{', '.join(names)} in {shown}" for shown, names in agents.items()))


@cache
def _warn_once(env_id: str, limits: str) -> None:
    line = one_line(f"{env_id} has actions without bounds, so they stay within limits: {limits}")
    _LOG.warning("%s", line)


def _shown(limits: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]) -> str:
    """Return limits as text, one interval if all values have the same."""
    pairs = dict.fromkeys(zip(*(limit.reshape(-1).tolist() for limit in limits), strict=True))
    return ", ".join(f"[{low:g}, {high:g}]" for low, high in pairs)


def _combined_codec(env_id: str, agent: str, space: Any) -> CombinedActionCodec:
    try:
        counts = list(_choices(space))
    except TypeError as error:
        remedy = (
            "only Box, and Discrete, MultiDiscrete, MultiBinary, or Dict or Tuple of these, are supported"
        )
        if isinstance(space, Dict | Tuple) and isinstance(error.args[0], Box):
            remedy = "a Box inside a Dict or Tuple is not supported"
        raise BadInput("env.id", env_id, f"{agent} acts in {space}; {remedy}") from None
    if not counts:
        raise BadInput("env.id", env_id, f"{agent} acts in {space}, which has size 0")
    size = math.prod(counts)
    if size > _MAX_COMBINATIONS:
        many = str(size) if size < 10**9 else "over 10^9"
        remedy = f"which has {many} combinations; at most {_MAX_COMBINATIONS} can be acted in as one Discrete"
        raise BadInput("env.id", env_id, f"{agent} acts in {space}, {remedy}")
    return CombinedActionCodec(agent, space)


def as_array(value: Any) -> npt.NDArray[Any]:
    """Return anything an environment gave as an array; one of objects if its lists differ in length."""
    try:
        return np.asarray(value)
    except ValueError:
        return np.array([None, None])


@dataclass(frozen=True)
class BoxObservationCodec:
    """Observations of one agent in a Box or MultiBinary of any shape and dtype, flattened to O_i values."""

    env_id: str
    agent: str
    space: Any

    @property
    def size(self) -> int:
        """O_i."""
        return int(np.prod(self.space.shape, dtype=np.int64))

    def encode(self, observation: Any, row: FloatArray) -> None:
        """Write one observation into a row, [O_i]; BadInput if it has another size or is no number."""
        values = as_array(observation)
        if values.size != row.size or values.dtype.kind not in "fiub":
            raise _observation_error(self, observation)
        row[:] = values.reshape(-1)


@dataclass(frozen=True)
class ChoiceObservationCodec:
    """Observations of one agent in a Discrete or MultiDiscrete, each choice one-hot."""

    env_id: str
    agent: str
    space: Any

    @cached_property
    def counts(self) -> npt.NDArray[np.int64]:
        """Values of each choice."""
        counts = self.space.n if isinstance(self.space, Discrete) else self.space.nvec
        return np.array(counts, np.int64).reshape(-1)

    @cached_property
    def _start(self) -> npt.NDArray[np.int64]:
        return np.array(self.space.start, np.int64).reshape(-1)

    @cached_property
    def _columns(self) -> npt.NDArray[np.int64]:
        """First column of each choice."""
        return np.cumsum(self.counts) - self.counts

    @cached_property
    def size(self) -> int:
        """O_i."""
        return int(self.counts.sum())

    def encode(self, observation: Any, row: FloatArray) -> None:
        """Write one observation into a row, [O_i]; BadInput unless it names one value of each choice."""
        values = as_array(observation)
        if values.size != self.counts.size or values.dtype.kind not in "fiub":
            raise _observation_error(self, observation)
        chosen = values.reshape(-1) - self._start
        if not ((chosen >= 0) & (chosen < self.counts) & (chosen == np.floor(chosen))).all():
            raise _observation_error(self, observation)
        row[:] = 0.0
        row[self._columns + chosen.astype(np.int64)] = 1.0


@dataclass(frozen=True)
class NestedObservationCodec:
    """Observations of one agent in a Dict or Tuple: those of its parts, in the order of the space."""

    env_id: str
    agent: str
    space: Any

    @cached_property
    def _parts(self) -> list[tuple[Any, ObservationCodec]]:
        """Key and codec of each part."""
        items = _items(self.space)
        return [(key, observation_codec(self.env_id, f"{self.agent}[{key!r}]", part)) for key, part in items]

    @cached_property
    def size(self) -> int:
        """O_i."""
        return sum(codec.size for _, codec in self._parts)

    def encode(self, observation: Any, row: FloatArray) -> None:
        """Write one observation into a row, [O_i]; BadInput unless it has exactly the space's parts."""
        by_key = isinstance(self.space, Dict)
        whole = isinstance(observation, Mapping if by_key else Sequence | np.ndarray)
        if not whole or len(observation) != len(self._parts):
            raise _observation_error(self, observation)
        start = 0
        for key, codec in self._parts:
            if by_key and key not in observation:
                raise _observation_error(self, observation)
            codec.encode(observation[key], row[start : start + codec.size])
            start += codec.size


ObservationCodec = BoxObservationCodec | ChoiceObservationCodec | NestedObservationCodec


def _observation_error(codec: ObservationCodec, observation: Any) -> BadInput:
    seen = f"{codec.agent} observed {observation!r}"
    return BadInput("env.id", codec.env_id, f"{seen}, which is not in its observation space {codec.space}")


def _items(space: Any) -> list[tuple[Any, Any]]:
    """Return key and space of each part of a Dict or Tuple, in its order."""
    return list(space.spaces.items() if isinstance(space, Dict) else enumerate(space.spaces))


def observation_codec(env_id: str, agent: str, space: Any) -> ObservationCodec:
    """Return the codec of an agent's observation space, flattened in the order of `gymnasium.spaces.flatten`.

    Raises:
        BadInput: names the agent and the space if it has no fixed size.
    """
    kinds: list[tuple[Any, type[ObservationCodec]]] = [
        (Box | MultiBinary, BoxObservationCodec),
        (Discrete | MultiDiscrete, ChoiceObservationCodec),
        (Dict | Tuple, NestedObservationCodec),
    ]
    for spaces, kind in kinds:
        if isinstance(space, spaces):
            codec = kind(env_id, agent, space)
            if codec.size == 0:
                raise BadInput("env.id", env_id, f"{agent} observes {space}, which has size 0")
            return codec
    remedy = (
        f"{agent} observes {space}; only Box, Discrete, MultiDiscrete, MultiBinary, and Dict or Tuple of "
        "these are supported"
    )
    raise BadInput("env.id", env_id, remedy)
