"""The replay buffer: transitions in, uniform minibatches out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.replay.ring import Ring
from distributed_maddpg.seeding import generator, pack_generator, restore_generator
from distributed_maddpg.types import EnvSpec, FloatArray


class ReplayBuffer:
    """Keeps the newest transitions of a ring and draws uniform minibatches, with replacement."""

    def __init__(self, ring: Ring, rng: np.random.Generator) -> None:
        """Use a ring, its own or another process's; draws come from `rng`."""
        self.ring = ring
        self._rng = rng

    @property
    def inserted(self) -> int:
        """Rows ever added."""
        return self.ring.inserted

    @property
    def size(self) -> int:
        """Rows held now."""
        return self.ring.size

    def add(self, rows: FloatArray) -> None:
        """Copy rows `[n, width]` into the ring, over the oldest where it is full.

        Raises:
            ValueError: if the rows have another width, or are more than the ring holds.
        """
        self.ring.add(rows)

    def sample(self, num_batches: int, batch_size: int) -> FloatArray:
        """Return `[num_batches, batch_size, width]` uniform rows, a copy.

        Raises:
            ValueError: if the ring is empty.
        """
        rows = self.ring.sample(self._rng, num_batches * batch_size)
        return rows.reshape(num_batches, batch_size, -1)

    def generator_state(self) -> npt.NDArray[np.uint64]:
        """Return the state `[6]` of the generator that draws."""
        return pack_generator(self._rng)

    def set_generator_state(self, state: npt.NDArray[np.uint64]) -> None:
        """Draw on from a state `[6]` that `generator_state` returned.

        Raises:
            ValueError: if no generator has that state.
        """
        restore_generator(self._rng, state)


def make_replay_buffer(config: MADDPGConfig, spec: EnvSpec, ring: Ring | None = None) -> ReplayBuffer:
    """Build the replay buffer of a run, in private memory where no ring is given."""
    ring = ring or Ring(config.replay.capacity, spec.transitions.width)
    return ReplayBuffer(ring, generator(config.seed, "replay"))
