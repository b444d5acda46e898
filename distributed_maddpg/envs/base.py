"""The interface of vector environments.

Shape letters as in `types.py`: `E` environment copies, `N` agents, `L` landmarks, `O_i` and `A_i` observation
and action size of agent i.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from distributed_maddpg.errors import did_you_mean
from distributed_maddpg.types import ActionType, EnvSpec, FloatArray, Roster, checked_array

Observations = tuple[FloatArray, ...]
"""N arrays [E, O_i] float32."""
Actions = Sequence[npt.NDArray[Any]]
"""N arrays: [E, A_i] float32 in [0, 1] for a continuous agent, [E] integers for a discrete one."""
State = dict[str, npt.NDArray[Any]]
VectorActionType = Literal["continuous", "discrete", "mixed"]


class StepResult(NamedTuple):
    """The result of one step of all copies; copies whose episode ended are already reset.

    An environment may reuse these arrays: the result of step t is valid until step t + 2 begins. Copy what
    you keep longer, and do not write into them.
    """

    obs: Observations
    """N arrays [E, O_i] float32: observations for the next action; after an end, the new episode's first."""
    rewards: FloatArray
    """[E, N] float32."""
    terminated: npt.NDArray[np.bool_]
    """[E, N]: the agent's episode reached a terminal state; only this sets the discount to 0."""
    truncated: npt.NDArray[np.bool_]
    """[E]: the episode was cut off, for example by a time limit."""
    final_obs: Observations
    """N arrays [E, O_i] float32: the observations this step led to; after an end, the old episode's last.

    Equal to `obs` for copies whose episode continues. If no episode ended, it may be the same tuple as `obs`.
    """


@runtime_checkable
class VectorEnv(Protocol):
    """E copies of one multi-agent environment, stepped together, each with its own random stream."""

    num_envs: int
    """E."""
    spec: EnvSpec
    """Names, sizes and action types of the agents."""

    @property
    def agents(self) -> tuple[str, ...]:
        """Names of the N agents."""
        return self.spec.agents

    @property
    def observation_sizes(self) -> tuple[int, ...]:
        """O_i of each agent."""
        return self.spec.observation_sizes

    @property
    def action_sizes(self) -> tuple[int, ...]:
        """A_i of each agent: size of a continuous action, or number of discrete actions."""
        return self.spec.action_sizes

    @property
    def action_types(self) -> tuple[ActionType, ...]:
        """Action type of each agent."""
        return self.spec.action_types

    @property
    def action_type(self) -> VectorActionType:
        """The action type that all agents share, or "mixed"."""
        return self.action_types[0] if len(set(self.action_types)) == 1 else "mixed"

    def reset(self, seed: int | None = None) -> Observations:
        """Start a new episode in every copy; with `seed`, re-seed all random streams first."""

    def step(self, actions: Actions) -> StepResult:
        """Step every copy once; copies whose episode ends are reset at once.

        Returns:
            Arrays that the step after the next one may overwrite, see `StepResult`.

        Raises:
            ValueError: for a wrong number of arrays, a wrong shape or type, NaN, or a discrete action out of
                range; the environment is unchanged.
        """

    def get_state(self) -> State:
        """Return a copy of the full state, including the random streams."""

    def set_state(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Continue exactly from what `get_state` returned."""

    def final_distances(self) -> FloatArray | None:
        """Return distances of agents to landmarks in the last frame of the latest finished episodes.

        Returns:
            [E, N, L] float32, the goal landmark first, then the others in order. Only rows of copies whose
            episode ended in the latest step are new; other rows are older. None if the environment provides
            no landmarks. The next step may overwrite the array.
        """

    def final_measures(self) -> npt.NDArray[np.float64]:
        """Return the measures of the latest finished episodes.

        Returns:
            [E, K] of `spec.measures`, sums over the steps where they are per step; rows as in
            `final_distances`. An environment without measures need not have this function.
        """
        return np.zeros((self.num_envs, 0))

    def roster(self) -> Roster | None:
        """Return who takes part in the next step; None if all agents always do, without action masks."""
        return None

    def final_roster(self) -> Roster | None:
        """Return who would have acted on `final_obs` of the latest step; None as for `roster`.

        An agent that terminated would not, one that was truncated would.
        """
        return None

    def close(self) -> None:
        """Release the resources of all copies."""


def count_error(found: int, expected: int) -> ValueError:
    """Return the error for a wrong number of action arrays."""
    return ValueError(f"got {found} action arrays for {expected} agents")


def shape_error(agent: str, found: npt.NDArray[Any], expected: str) -> ValueError:
    """Return the error for an action array of a wrong shape or type."""
    return ValueError(
        f"actions of {agent} have shape {found.shape} and type {found.dtype}, expected {expected}"
    )


def nan_error(agent: str, copy: int) -> ValueError:
    """Return the error for an action that is NaN."""
    return ValueError(f"action of {agent} in copy {copy} is NaN")


def range_error(agent: str, copy: int, action: int, size: int) -> ValueError:
    """Return the error for a discrete action out of range."""
    return ValueError(f"action of {agent} in copy {copy} is {action}, expected 0 to {size - 1}")


def check_keys(state: Mapping[str, npt.NDArray[Any]], expected: list[str]) -> None:
    """Raise ValueError unless a state has exactly the expected arrays."""
    for name in expected:
        if name not in state:
            raise ValueError(f"the state lacks {name}")
    for name in state:
        if name not in expected:
            raise ValueError(f"the state holds an unknown {name}, {did_you_mean(name, expected)}")


def checked_integers(
    state: Mapping[str, npt.NDArray[Any]], name: str, shape: tuple[int, ...], limit: int, least: int = 0
) -> npt.NDArray[np.int64]:
    """Return a copy of a saved int64 array; ValueError unless its values are in [least, limit)."""
    values = checked_array(dict(state), name, shape, np.int64)
    if ((values < least) | (values >= limit)).any():
        raise ValueError(f"{name} holds values outside {least} to {limit - 1}")
    return values
