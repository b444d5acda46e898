"""Random starts in compiled code, in MPE2's order of draws."""

from __future__ import annotations

from typing import Any

from distributed_maddpg.compilation import compiled_part
from distributed_maddpg.envs.mpe.generator import next_uniform


@compiled_part
def place_agents(state: Any, e: int) -> None:
    """Draw the positions of copy e's agents within [-1, 1]^2; they stand still."""
    generator = state.generator_state[e]
    for i in range(state.agent_positions.shape[1]):
        for k in range(2):
            state.agent_positions[e, i, k] = next_uniform(generator, -1.0, 1.0)
            state.agent_velocities[e, i, k] = 0.0


@compiled_part
def place_landmarks(state: Any, e: int, first: int, stop: int, bound: float) -> None:
    """Draw the positions of copy e's landmarks from `first` to `stop` within [-bound, bound]^2."""
    generator = state.generator_state[e]
    for j in range(first, stop):
        for k in range(2):
            state.landmark_positions[e, j, k] = next_uniform(generator, -bound, bound)
