"""The replay buffer: transitions in, uniform minibatches out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.replay.ring import Draw, Ring
from distributed_maddpg.seeding import generator, pack_generator, restore_generator
from distributed_maddpg.types import EnvSpec, FloatArray


class ReplayBuffer:
    """Stores the newest transitions in a ring and samples uniform minibatches with replacement."""

    def __init__(self, ring: Ring, rng: np.random.Generator) -> None:
        """Use a ring, which another process may own; samples are drawn with `rng`."""
        self.ring = ring
        self._rng = rng

    @property
    def inserted(self) -> int:
        """Total number of rows ever added."""
        return self.ring.inserted

    @property
    def size(self) -> int:
        """Number of rows stored."""
        return self.ring.size

    def add(self, rows: FloatArray) -> None:
        """Add rows `[n, width]`, overwriting the oldest if the ring is full.

        Raises:
            ValueError: if the rows have another width, or exceed the capacity.
        """
        self.ring.add(rows)

    def sample(self, num_batches: int, batch_size: int) -> FloatArray:
        """Return a copy of uniform rows, `[num_batches, batch_size, width]`.

        Raises:
            ValueError: if the ring is empty.
        """
        rows = self.ring.sample(self._rng, num_batches * batch_size)
        return rows.reshape(num_batches, batch_size, -1)

    def draw(self, num_batches: int, batch_size: int) -> Draw:
        """Draw the rows that `sample` would return, without reading them.

        Raises:
            ValueError: if the ring is empty.
        """
        return self.ring.draw(self._rng, num_batches * batch_size)

    def generator_state(self) -> npt.NDArray[np.uint64]:
        """Return the sampling generator's state `[6]`."""
        return pack_generator(self._rng)

    def set_generator_state(self, state: npt.NDArray[np.uint64]) -> None:
        """Set the sampling generator to a state `[6]` from `generator_state`.

        Raises:
            ValueError: if no generator has that state.
        """
        restore_generator(self._rng, state)


def make_replay_buffer(config: MADDPGConfig, spec: EnvSpec, ring: Ring | None = None) -> ReplayBuffer:
    """Build the replay buffer of a run; without `ring`, in private memory."""
    ring = ring or Ring(config.replay.capacity, spec.transitions.width)
    return ReplayBuffer(ring, generator(config.seed, "replay"))
