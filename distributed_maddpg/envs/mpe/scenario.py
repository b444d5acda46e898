"""What describes a scenario to Python: its keywords, who there is, its state and its measures.

`N` and the names of keywords are MPE2's.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from distributed_maddpg.envs import streams
from distributed_maddpg.envs.base import State, check_keys, checked_integers
from distributed_maddpg.envs.mpe.world import BODY, NUM_MOVES, PAIR, World
from distributed_maddpg.errors import BadInput, NotReproducible, did_you_mean
from distributed_maddpg.types import EnvSpec, Measure, PrivatePart, checked_array

_MAX_ENTITIES, _MAX_CYCLES = 10_000, 2**31


@dataclass(frozen=True)
class Options:
    """The keywords that every scenario of MPE2 takes, with MPE2's defaults."""

    LEAST: ClassVar[Mapping[str, int]] = {}
    """The least value of a number, 1 where none is named."""
    NOT_IN_MPE2: ClassVar[tuple[str, ...]] = ()
    """Keywords that only this package has."""

    max_cycles: int = 25
    """Steps until an episode is truncated."""
    continuous_actions: bool = False
    """Actions are vectors in [0, 1]^A_i instead of one of A_i discrete actions."""
    render_mode: str | None = None
    """MPE2 only; the compiled environment does not render."""
    dynamic_rescaling: bool = True
    """Affects rendering only."""
    benchmark_data: bool = False
    """Affects infos only, which a vector environment does not return."""

    def __post_init__(self) -> None:
        """Raise BadInput for values that MPE2 cannot use."""
        for field in dataclasses.fields(self):
            value, name = getattr(self, field.name), f"env.kwargs.{field.name}"
            if field.type == "bool" and not isinstance(value, bool):
                raise BadInput(name, value, "must be true or false")
            if field.type == "float" and (type(value) not in (int, float) or not 0 <= value <= 1):
                raise BadInput(name, value, "must be a number from 0 to 1")
            if field.type == "int" or (field.type == "int | None" and value is not None):
                most = _MAX_CYCLES if field.name == "max_cycles" else _MAX_ENTITIES
                _check_number(name, value, self.LEAST.get(field.name, 1), most)

    def mpe2_kwargs(self) -> dict[str, Any]:
        """Return the keywords as MPE2's `parallel_env` takes them."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in self.NOT_IN_MPE2}


def _check_number(name: str, value: Any, least: int, most: int) -> None:
    if type(value) is not int or value < least:
        raise BadInput(name, value, f"must be a whole number, at least {least}")
    if value > most:
        raise BadInput(name, value, f"must be at most {most}")


@dataclass(frozen=True)
class Body:
    """An agent or a landmark, with MPE2's defaults."""

    name: str
    size: float = 0.05
    """Radius."""
    collides: bool = True
    movable: bool = True
    """Ignored for a landmark, which never moves."""
    silent: bool = True
    sensitivity: float = 5.0
    """Force of an action (MPE2: accel)."""
    max_speed: float = np.inf
    mass: float = 1.0


@dataclass(frozen=True)
class Numbers:
    """An array [E, ...] of a state: float64, or whole numbers from `least` to below `limit`."""

    shape: tuple[int, ...]
    """Without E."""
    limit: int | None = None
    least: int = 0


class Scenario(ABC):
    """One scenario of MPE2 with its keywords; the compiled code is in the module of `StateArrays`."""

    name: ClassVar[str]
    """`env.id`: MPE2's name without the version, see `types.MPE2_MODULES`."""
    options_type: ClassVar[type[Options]]
    state_type: ClassVar[type[Any]]
    """Named tuple of the state's arrays, with the names of `get_state`."""
    measures: ClassVar[tuple[Measure, ...]] = ()
    """What the columns of `measures` [E, K] in the state are, sums so far or values of the last step."""
    has_distances: ClassVar[bool] = False
    """Whether `final_distances` of the environment is of use."""
    num_letters: ClassVar[int] = 0
    """C: length of an utterance, 0 if nobody speaks (MPE2: dim_c, of those who speak)."""

    def __init__(self, options: Any) -> None:
        """Describe the scenario with these options, an `options_type`."""
        self.options = options

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any]) -> Scenario:
        """Return the scenario for keywords; BadInput for one that is unknown or has a bad value."""
        known = [field.name for field in dataclasses.fields(cls.options_type)]
        for name, value in kwargs.items():
            if name not in known:
                remedy = f"{cls.name} has no such keyword, {did_you_mean(name, known)}"
                raise BadInput(f"env.kwargs.{name}", value, remedy)
        return cls(cls.options_type(**kwargs))

    @property
    @abstractmethod
    def agents(self) -> list[Body]:
        """The agents, in order."""

    @property
    @abstractmethod
    def landmarks(self) -> list[Body]:
        """The landmarks, in order."""

    @property
    @abstractmethod
    def observation_sizes(self) -> tuple[int, ...]:
        """O_i of each agent."""

    @property
    def private_parts(self) -> tuple[PrivatePart | None, ...]:
        """What opponents should not learn, of each agent's observation; empty if nobody has such a part."""
        return ()

    def rules(self, num_envs: int) -> Any:
        """Return what only this scenario's compiled code needs, a named tuple: constants, room to work in."""
        return None

    @property
    def own_state(self) -> dict[str, Numbers]:
        """The arrays of the state that only this scenario has."""
        return {}

    @property
    def spec(self) -> EnvSpec:
        """Names and sizes of the agents."""
        agents = self.agents
        return EnvSpec(
            tuple(body.name for body in agents),
            self.observation_sizes,
            tuple(map(self._action_size, agents)),
            ("continuous" if self.options.continuous_actions else "discrete",) * len(agents),
            self.private_parts,
            self.measures,
        )

    def _action_size(self, body: Body) -> int:
        moves = NUM_MOVES if body.movable else 0
        letters = 0 if body.silent else self.num_letters
        if self.options.continuous_actions:
            return moves + letters
        return max(moves, 1) * max(letters, 1)

    @property
    def world(self) -> World:
        """Constants for the compiled code."""
        agents, bodies, spec = self.agents, [*self.agents, *self.landmarks], self.spec
        pairs = [
            (a, b, bodies[a].size + bodies[b].size)
            for a in range(len(agents))
            for b in range(a + 1, len(bodies))
            if bodies[a].collides and bodies[b].collides
        ]
        records = np.zeros(len(bodies), BODY)
        for field in ("size", "movable", "silent", "sensitivity", "max_speed", "mass"):
            records[field] = [getattr(body, field) for body in bodies]
        records["observation_size"][: len(agents)] = spec.observation_sizes
        records["action_size"][: len(agents)] = spec.action_sizes
        return World(
            self.options.max_cycles,
            self.options.continuous_actions,
            getattr(self.options, "velocity_first", False),
            records,
            np.array(pairs, PAIR),
        )

    @property
    def _state_arrays(self) -> dict[str, Numbers]:
        """The arrays of the state but the generators."""
        num_agents, common = len(self.agents), {"cycle": Numbers((), self.options.max_cycles)}
        arrays = {
            "agent_positions": Numbers((num_agents, 2)),
            "agent_velocities": Numbers((num_agents, 2)),
            "landmark_positions": Numbers((len(self.landmarks), 2)),
            **self.own_state,
            **common,
        }
        if self.num_letters:
            arrays["utterances"] = Numbers((num_agents, self.num_letters))
        if self.measures:
            arrays["measures"] = Numbers((len(self.measures),))
        return arrays

    def empty_state(self, num_envs: int, seed: int) -> Any:
        """Return `state_type` before the first reset: zeros, and the initial states of all generators."""
        arrays: State = {
            name: np.zeros((num_envs, *numbers.shape), np.float64 if numbers.limit is None else np.int64)
            for name, numbers in self._state_arrays.items()
        }
        for name in self._generators:
            arrays[name] = streams.initial_generator_states(seed, num_envs)
        return self.state_type(**arrays)

    @property
    def _generators(self) -> list[str]:
        return [name for name in self.state_type._fields if name.endswith("generator_state")]

    def checked_state(self, state: Mapping[str, npt.NDArray[Any]], num_envs: int) -> State:
        """Validate a saved state and return copies of its arrays.

        Args:
            state: what `get_state` returned.
            num_envs: E of the environment that continues from it.

        Returns:
            The same keys and types.

        Raises:
            ValueError: names the array that is missing, unknown, of a wrong shape or type, or out of range.
            NotReproducible: for a state of `PettingZooVectorEnv`, which a checkpoint from before the scenario
                was compiled holds; call `reset` to continue.
        """
        if "episode_seed" in state:
            raise NotReproducible(f"{self.name} was not compiled yet when its state was saved")
        arrays, generators = self._state_arrays, self._generators
        check_keys(state, [*arrays, *generators])
        checked = {name: _checked(dict(state), name, numbers, num_envs) for name, numbers in arrays.items()}
        for name in generators:
            checked[name] = streams.checked_generator_states(state, num_envs, name)
        return checked


def _checked(state: State, name: str, numbers: Numbers, num_envs: int) -> npt.NDArray[Any]:
    shape = (num_envs, *numbers.shape)
    if numbers.limit is not None:
        return checked_integers(state, name, shape, numbers.limit, numbers.least)
    array = checked_array(state, name, shape, np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds values that are not finite")
    return array
