"""What every vector environment offers, and nothing of how.

Shape letters as in `types.py`: `E` environment copies, `N` agents, `L` landmarks, `O_i` and `A_i`
observation and action width of agent i.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from distributed_maddpg.types import ActionType, EnvSpec, FloatArray

Observations = tuple[FloatArray, ...]
"""N arrays [E, O_i] float32."""
Actions = Sequence[npt.NDArray[Any]]
"""N arrays: [E, A_i] float32 in [0, 1] for a continuous agent, [E] integers for a discrete one."""
State = dict[str, npt.NDArray[Any]]
VectorActionType = Literal["continuous", "discrete", "mixed"]


class StepResult(NamedTuple):
    """What one step of all copies gave; copies that ended have already begun their next episode.

    An environment may use these arrays again: what step t gave stays as it is until step t + 2 begins. Copy
    what is kept for longer, and write into none of them.
    """

    obs: Observations
    """N arrays [E, O_i] float32: what to act on next, the first frame of a new episode where one ended."""
    rewards: FloatArray
    """[E, N] float32."""
    terminated: npt.NDArray[np.bool_]
    """[E, N]: the agent's episode truly ended; the only thing that may cut a bootstrap."""
    truncated: npt.NDArray[np.bool_]
    """[E]: the episode was cut, by a time limit for instance."""
    final_obs: Observations
    """N arrays [E, O_i] float32: what this step led to, the last frame of the old episode where one ended.

    Where nothing ended it equals `obs`; where no copy ended it may be the very same tuple. Read only.
    """


@runtime_checkable
class VectorEnv(Protocol):
    """E copies of one multi-agent environment stepped together, each with its own random stream."""

    num_envs: int
    """E."""
    spec: EnvSpec
    """What the other stages need to know."""

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
        """A_i of each agent: width of a continuous action, or the number of discrete ones."""
        return self.spec.action_sizes

    @property
    def action_types(self) -> tuple[ActionType, ...]:
        """Kind of action of each agent."""
        return self.spec.action_types

    @property
    def action_type(self) -> VectorActionType:
        """The kind of action all agents share, or "mixed"."""
        return self.action_types[0] if len(set(self.action_types)) == 1 else "mixed"

    def reset(self, seed: int | None = None) -> Observations:
        """Begin a new episode in every copy; a seed derives all streams anew, none continues them."""

    def step(self, actions: Actions) -> StepResult:
        """Step every copy once; copies that end are reset at once.

        Returns:
            Arrays that the step after the next one may overwrite, see `StepResult`.

        Raises:
            ValueError: for a wrong number of arrays, a wrong shape or kind, NaN, or a discrete action that
                does not exist; the environment is then unchanged.
        """

    def get_state(self) -> State:
        """Return copies of everything the future depends on, random streams included."""

    def set_state(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Continue exactly from what `get_state` returned."""

    def final_distances(self) -> FloatArray | None:
        """Return the distances of agents to landmarks in the last frame of the latest episodes.

        Returns:
            [E, N, L] float32, the goal landmark first and then the others in their order. Only the rows of
            copies whose episode ended at the latest step are new, other rows hold older values. None where
            the environment knows no landmarks. The next step may overwrite the array.
        """

    def close(self) -> None:
        """Release what the copies hold."""


def count_error(found: int, expected: int) -> ValueError:
    """Describe a wrong number of action arrays."""
    return ValueError(f"{found} arrays of actions given for {expected} agents")


def shape_error(agent: str, found: npt.NDArray[Any], expected: str) -> ValueError:
    """Describe an action array of a wrong shape or kind."""
    return ValueError(
        f"actions of {agent} have shape {found.shape} and type {found.dtype}, expected {expected}"
    )


def nan_error(agent: str, copy: int) -> ValueError:
    """Describe an action that is not a number."""
    return ValueError(f"action of {agent} in copy {copy} is NaN")


def range_error(agent: str, copy: int, action: int, size: int) -> ValueError:
    """Describe a discrete action that does not exist."""
    return ValueError(f"action of {agent} in copy {copy} is {action}, expected 0 to {size - 1}")
