"""A replay buffer and a process that pushes to it, for `benchmark replay`."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import ray

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import TrainingError
from distributed_maddpg.replay.buffer import ReplayBuffer, make_replay_buffer
from distributed_maddpg.replay.ring import Ring
from distributed_maddpg.runtime.actors import PUSH_WINDOW, ReplayBufferActor
from distributed_maddpg.runtime.calls import wait_for_result
from distributed_maddpg.runtime.cluster import connect, disconnect
from distributed_maddpg.types import EnvSpec

if TYPE_CHECKING:
    from ray.actor import ActorProxy


class PusherActor:
    """Pushes random transitions as a rollout worker does, as fast as they are acknowledged."""

    def __init__(
        self, replay: ActorProxy[ReplayBufferActor], num_rows: int, width: int, timeout_s: float
    ) -> None:
        """Draw the `num_rows` transitions of all pushes; `timeout_s` is the timeout of each push."""
        self._replay, self._timeout_s = replay, timeout_s
        self._rows = np.random.default_rng(0).standard_normal((1, num_rows, width), dtype=np.float32)

    @ray.method
    def push(self, seconds: float, least: int) -> int:
        """Push for `seconds`, and at least `least` rows; return the number of rows pushed and stored."""
        until, pushed = time.monotonic() + seconds, 0
        waiting: deque[ray.ObjectRef[int]] = deque()
        while pushed < least or time.monotonic() < until:
            waiting.append(self._replay.add.remote(self._rows))
            pushed += self._rows.shape[1]
            if len(waiting) == PUSH_WINDOW:
                wait_for_result("replay buffer", waiting.popleft(), self._timeout_s)
        for call in waiting:
            wait_for_result("replay buffer", call, self._timeout_s)
        return pushed


class LoadedReplay:
    """The transitions of a replay buffer in another process, and the actor that adds more."""

    def __init__(self, shared: ReplayBuffer, pusher: ActorProxy[PusherActor], config: MADDPGConfig) -> None:
        """Use `shared` for sampling and `pusher` for adding transitions."""
        self.shared = shared
        self._pusher, self._timeout_s = pusher, config.ray.timeout_s

    @contextmanager
    def pushing(self, seconds: float) -> Iterator[None]:
        """Push for `seconds` during the block; afterwards wait until all rows are stored."""
        call = self._pusher.push.remote(seconds, 1)
        yield
        wait_for_result("pusher", call, seconds + self._timeout_s)

    def fill(self) -> None:
        """Push until the ring is full."""
        wait_for_result("pusher", self._pusher.push.remote(0.0, self.shared.ring.capacity), self._timeout_s)


@contextmanager
def loaded_replay(config: MADDPGConfig, spec: EnvSpec, rows_per_push: int) -> Iterator[LoadedReplay]:
    """Start a full replay buffer and a pusher on a local cluster, and end both.

    Raises:
        TrainingError: if they do not start, or this process cannot reach the transitions.
    """
    owns_connection = connect(config)
    try:
        replay = ray.remote(ReplayBufferActor).options(num_cpus=0).remote([config], spec)
        pusher = ray.remote(PusherActor).options(num_cpus=0)
        width = spec.transitions.width
        [address] = wait_for_result("replay buffer", replay.ring_addresses.remote(), config.ray.timeout_s)
        ring = Ring.attach(address) if address else None
        if ring is None:
            raise TrainingError("replay buffer: its memory cannot be shared on this system")
        pushing = pusher.remote(replay, rows_per_push, width, config.ray.timeout_s)
        loaded = LoadedReplay(make_replay_buffer(config, spec, ring), pushing, config)
        loaded.fill()
        yield loaded
    finally:
        if owns_connection:
            disconnect()
