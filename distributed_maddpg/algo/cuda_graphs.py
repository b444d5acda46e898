"""Updates on rows that are already on the device, as CUDA graphs.

On a GPU an update is about 150 short kernels, and launching them takes the host longer than running them. So
several updates at a time are captured in a CUDA graph and replayed. On other devices the same steps run one
by one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from distributed_maddpg.algo.device_replay import DeviceReplay
from distributed_maddpg.algo.maddpg import MADDPGUpdate
from distributed_maddpg.algo.restore_point import RestorePoint

_UPDATES_PER_GRAPH = (16, 4)
"""Updates in the large graphs, which need fewer launches; graphs of one update make any count possible."""
_MOST_GRAPHS_OF_ONE_UPDATE = 16
"""Each graph keeps memory of its own."""
_WARM_UP_UPDATES = 3
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Updates:
    """Some updates, as a recorded graph or step by step."""

    count: int
    phase: int
    """Of the first update: how many were made, modulo the policy delay."""
    run: Callable[[], None]
    """Makes them, and counts them in `MADDPGUpdate.updates_made`."""


class CUDAGraphUpdates:
    """Draws minibatches, updates and adds to the metrics; on a GPU by replaying CUDA graphs.

    With a policy delay of D, the large graphs hold whole cycles of D updates, and there is a graph of one
    update for each place in the cycle.
    """

    def __init__(self, update: MADDPGUpdate, replay: DeviceReplay, metrics: Tensor, batch_size: int) -> None:
        """Use an update, the rows of its runs and its metrics `[K, M]`; modify all tensors only in place.

        `replay` must sample with `update.generators`, so that a run's saved state covers its samples.
        """
        self._update, self._replay, self._metrics = update, replay, metrics
        self._batch_size, self._delay = batch_size, update.policy_delay
        self._use_graphs = metrics.is_cuda and self._delay <= _MOST_GRAPHS_OF_ONE_UPDATE
        self._plan: list[_Updates] = []
        """Largest first; empty until the first call."""

    def learn(self, updates: int) -> None:
        """Make the given number of updates; on a GPU this returns before they are finished.

        Raises:
            ValueError: if a run has no rows.
        """
        if not all(self._replay.sizes):
            raise ValueError("cannot sample from an empty replay buffer")
        self._plan = self._plan or self._make_plan()
        while updates:
            phase = self._update.updates_made % self._delay
            due = next(each for each in self._plan if each.phase == phase and each.count <= updates)
            due.run()
            updates -= due.count

    def _step(self) -> None:
        self._metrics += self._update(self._replay.sample(self._batch_size))

    def _make_plan(self) -> list[_Updates]:
        """Return what makes any number of updates from any phase on, largest first."""
        single_steps = [_Updates(1, phase, self._step) for phase in range(self._delay)]
        if not self._use_graphs:
            if self._metrics.is_cuda:
                _LOG.warning("learning without CUDA graphs: algorithm.policy_delay = %d is long", self._delay)
            return single_steps
        with self._preserve_state():
            try:
                return self._record_graphs()
            except RuntimeError as error:
                _LOG.warning("learning without CUDA graphs, several times slower: %s", error)
                # An aborted capture leaves the generators in capture mode; replace them.
                device = self._metrics.device
                self._update.generators[:] = [torch.Generator(device) for _ in self._update.generators]
                return single_steps

    def _record_graphs(self) -> list[_Updates]:
        """Capture the graphs, after warm-up updates in which libraries allocate memory and choose kernels."""
        current = torch.cuda.current_stream()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(current)
        with torch.cuda.stream(side):  # left even if a capture fails
            self._update.updates_made = 0  # so that one of them includes the policies
            for _ in range(_WARM_UP_UPDATES):
                self._step()
            cycles = {max(1, size // self._delay) for size in _UPDATES_PER_GRAPH}
            graphs = [
                self._record_graph(self._delay * number, 0, side) for number in sorted(cycles, reverse=True)
            ]
            graphs += [self._record_graph(1, phase, side) for phase in range(self._delay)]
        current.wait_stream(side)
        return graphs

    def _record_graph(self, count: int, phase: int, stream: torch.cuda.Stream) -> _Updates:
        graph = torch.cuda.CUDAGraph()
        self._update.updates_made = phase  # decides which of the updates include the policies
        for generator in self._update.generators:
            # A replay uses and advances the generator's current state.
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            for _ in range(count):
                self._step()

        def replay() -> None:
            graph.replay()
            self._update.updates_made += count

        return _Updates(count, phase, replay)

    @contextmanager
    def _preserve_state(self) -> Iterator[None]:
        """Restore everything that an update changes at the end of the block."""
        before, made = RestorePoint(self._update, self._metrics), self._update.updates_made
        yield
        before.restore()
        self._update.updates_made = made
