"""Updates on rows that are already on the device, as CUDA graphs.

On a GPU an update is about 150 short kernels, and launching them takes the host longer than running them. So
several updates at a time are captured in a CUDA graph and replayed. On other devices the same steps run one
by one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from distributed_maddpg.algo.device_replay import DeviceReplay
from distributed_maddpg.algo.maddpg import MADDPGUpdate
from distributed_maddpg.algo.restore_point import RestorePoint

_UPDATES_PER_GRAPH = (16, 4, 1)
"""Updates in each graph: larger graphs need fewer launches; graphs of one update make any count possible."""
_WARM_UP_UPDATES = 3
_LOG = logging.getLogger(__name__)


class CUDAGraphUpdates:
    """Draws minibatches, updates and adds to the metrics; on a GPU by replaying CUDA graphs."""

    def __init__(self, update: MADDPGUpdate, replay: DeviceReplay, metrics: Tensor, batch_size: int) -> None:
        """Use an update, the rows of its runs and its metrics `[K, M]`; modify all tensors only in place.

        `replay` must sample with `update.generators`, so that a run's saved state covers its samples.
        """
        self._update, self._replay, self._metrics = update, replay, metrics
        # With a policy delay the host decides which updates include the policies; a graph cannot.
        self._batch_size, self._use_graphs = batch_size, metrics.is_cuda and update.policy_delay == 1
        self._plan: list[tuple[int, Callable[[], None]]] = []
        """(number of updates, function that makes them), largest first; empty until the first call."""

    def learn(self, updates: int) -> None:
        """Make the given number of updates; on a GPU this returns before they are finished.

        Raises:
            ValueError: if a run has no rows.
        """
        if not all(self._replay.sizes):
            raise ValueError("cannot sample from an empty replay buffer")
        self._plan = self._plan or self._make_plan()
        for count, run in self._plan:
            times, updates = divmod(updates, count)
            for _ in range(times):
                run()

    def _step(self) -> None:
        self._metrics += self._update(self._replay.sample(self._batch_size))

    def _make_plan(self) -> list[tuple[int, Callable[[], None]]]:
        """Return (number of updates, function that makes them), largest first, a single update last."""
        if not self._use_graphs:
            return [(1, self._step)]
        with self._preserve_state():
            try:
                return [(count, graph.replay) for count, graph in self._record_graphs()]
            except RuntimeError as error:
                _LOG.warning("learning without CUDA graphs, several times slower: %s", error)
                # An aborted capture leaves the generators in capture mode; replace them.
                device = self._metrics.device
                self._update.generators[:] = [torch.Generator(device) for _ in self._update.generators]
                return [(1, self._step)]

    def _record_graphs(self) -> list[tuple[int, torch.cuda.CUDAGraph]]:
        """Capture the graphs, after warm-up updates in which libraries allocate memory and choose kernels."""
        current = torch.cuda.current_stream()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(current)
        with torch.cuda.stream(side):  # left even if a capture fails
            for _ in range(_WARM_UP_UPDATES):
                self._step()
            graphs = [(count, self._record_graph(count, side)) for count in _UPDATES_PER_GRAPH]
        current.wait_stream(side)
        return graphs

    def _record_graph(self, count: int, stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        for generator in self._update.generators:
            # A replay uses and advances the generator's current state.
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            for _ in range(count):
                self._step()
        return graph

    @contextmanager
    def _preserve_state(self) -> Iterator[None]:
        """Restore everything that an update changes at the end of the block."""
        before = RestorePoint(self._update, self._metrics)
        yield
        before.restore()
