"""Options, sizes and saved state of `simple_adversary`, shared by the kernel and the MPE2 adapter.

`N` is MPE2's: the number of good agents, which is also the number of landmarks. The environment has N + 1
agents, the adversary first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from distributed_maddpg.envs import streams
from distributed_maddpg.envs.base import State, check_keys, checked_integers
from distributed_maddpg.errors import BadInput, did_you_mean
from distributed_maddpg.types import EnvSpec, FloatArray, PrivatePart, checked_array

NUM_ACTIONS = 5
OPTIONS_NOT_IN_MPE2 = ("squared_adversary_reward", "velocity_first")
"""Options that only this package has."""
_MAX_ENTITIES, _MAX_CYCLES = 10_000, 2**31


@dataclass(frozen=True)
class AdversaryOptions:
    """Keywords of `mpe2.simple_adversary_v3.parallel_env` and its defaults, plus two of this package."""

    N: int = 2
    """Number of good agents, and of landmarks."""
    max_cycles: int = 25
    """Steps until an episode is truncated."""
    continuous_actions: bool = False
    """Actions are vectors in [0, 1]^5 instead of one of five discrete actions."""
    render_mode: str | None = None
    """MPE2 only; the kernel does not render."""
    dynamic_rescaling: bool = True
    """Affects rendering only."""
    benchmark_data: bool = False
    """Affects infos only, which a vector environment does not return."""
    num_agent_neighbors: int | None = None
    """Number of other agents that each agent observes, nearest first; None = all."""
    num_landmark_neighbors: int | None = None
    """Number of landmarks that each agent observes, nearest first; None = all."""
    squared_adversary_reward: bool = False
    """Not in MPE2: the adversary's reward is minus the squared distance, as in the paper's MPE."""
    velocity_first: bool = False
    """Not in MPE2: positions use the new velocity, as in the paper's MPE, not the old one."""

    def __post_init__(self) -> None:
        """Raise BadInput for values that MPE2 cannot use."""
        for name in ("N", "max_cycles", "num_agent_neighbors", "num_landmark_neighbors"):
            value = getattr(self, name)
            optional = value is None and name.startswith("num_")
            most = _MAX_CYCLES if name == "max_cycles" else _MAX_ENTITIES
            if not optional and (type(value) is not int or value < 1):
                raise BadInput(f"env.kwargs.{name}", value, "must be a whole number, at least 1")
            if not optional and value > most:
                raise BadInput(f"env.kwargs.{name}", value, f"must be at most {most}")
        flags = [field.name for field in dataclasses.fields(self) if field.type == "bool"]
        for name in flags:
            if not isinstance(getattr(self, name), bool):
                raise BadInput(f"env.kwargs.{name}", getattr(self, name), "must be true or false")

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any]) -> AdversaryOptions:
        """Build the options from keywords; BadInput for an unknown one, with the closest match."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name, value in kwargs.items():
            if name not in known:
                remedy = f"simple_adversary has no such keyword, {did_you_mean(name, known)}"
                raise BadInput(f"env.kwargs.{name}", value, remedy)
        return cls(**kwargs)

    @property
    def spec(self) -> EnvSpec:
        """Names and sizes of the N + 1 agents."""
        landmarks = self.N if self.num_landmark_neighbors is None else self.num_landmark_neighbors
        others = self.N if self.num_agent_neighbors is None else self.num_agent_neighbors
        width = 2 * (landmarks + others)
        # A good agent observes the goal, then the landmarks; with fewer than two it could be no other.
        candidates = tuple((2 + 2 * k, 4 + 2 * k) for k in range(min(landmarks, self.N)))
        # The nearest landmark of one agent is not that of another.
        aligned = self.num_landmark_neighbors is None
        goal = PrivatePart((0, 2), candidates, aligned) if len(candidates) > 1 else None
        return EnvSpec(
            agents=("adversary_0", *(f"agent_{i}" for i in range(self.N))),
            observation_sizes=(width,) + (width + 2,) * self.N,
            action_sizes=(NUM_ACTIONS,) * (self.N + 1),
            action_types=("continuous" if self.continuous_actions else "discrete",) * (self.N + 1),
            private_parts=(None,) + (goal,) * self.N if goal else (),
        )


def landmark_distances(state: Mapping[str, npt.NDArray[Any]]) -> FloatArray:
    """Return distances [E, N+1, N] of agents to landmarks in a state, goal landmark first."""
    marks = state["landmark_positions"]
    order = np.argsort(np.arange(marks.shape[1]) != state["goal_landmark"][:, None], axis=1, kind="stable")
    marks = np.take_along_axis(marks, order[:, :, None], axis=1)
    apart = state["agent_positions"][:, :, None] - marks[:, None]  # [E, N+1, N, 2]
    distances: FloatArray = np.sqrt(np.square(apart).sum(axis=3)).astype(np.float32)
    return distances


def checked_state(state: Mapping[str, npt.NDArray[Any]], num_envs: int, options: AdversaryOptions) -> State:
    """Validate a saved state and return copies of its arrays.

    Args:
        state: agent_positions, agent_velocities [E, N+1, 2] and landmark_positions [E, N, 2] float64,
            goal_landmark, cycle [E] int64, generator_state [E, 6] uint64.
        num_envs: E.
        options: of the environment that continues from the state.

    Returns:
        The same keys and types.

    Raises:
        ValueError: names the array that is missing, unknown, of a wrong shape or type, or out of range.
    """
    shapes = {
        "agent_positions": (num_envs, options.N + 1, 2),
        "agent_velocities": (num_envs, options.N + 1, 2),
        "landmark_positions": (num_envs, options.N, 2),
    }
    limits = {"goal_landmark": options.N, "cycle": options.max_cycles}
    check_keys(state, [*shapes, *limits, "generator_state"])
    checked = {name: checked_array(dict(state), name, shape, np.float64) for name, shape in shapes.items()}
    for name, array in checked.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds values that are not finite")
    for name, limit in limits.items():
        checked[name] = checked_integers(state, name, num_envs, limit)
    checked["generator_state"] = streams.checked_generator_states(state, num_envs)
    return checked
