"""Updates on rows that are on the device already, repeated without the host.

On a GPU one update is some 150 short kernels, and the host needs longer to launch them than they run. So they
are recorded once, several updates in one CUDA graph, and replayed. Elsewhere the same steps run one by one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from distributed_maddpg.algo.device_replay import DeviceReplay
from distributed_maddpg.algo.handwritten import HandwrittenUpdate
from distributed_maddpg.algo.restore_point import RestorePoint

_UPDATES_PER_GRAPH = (16, 4, 1)
"""Updates in each recorded graph; larger ones launch less, the last one makes every count possible."""
_WARM_UP_UPDATES = 3
_LOG = logging.getLogger(__name__)


class CUDAGraphUpdates:
    """Draws a minibatch, updates and adds to the metrics, as often as asked; on a GPU from CUDA graphs."""

    def __init__(
        self, update: HandwrittenUpdate, replay: DeviceReplay, metrics: Tensor, batch_size: int
    ) -> None:
        """Use an update, its runs' rows, and its metrics `[5, M]`, all changed only in place by anyone.

        `replay` must share `update.generators`: a run's state then covers its draws.
        """
        self._update, self._replay, self._metrics = update, replay, metrics
        # Which update of the policies is due is asked of the host, and would be recorded for ever.
        self._batch_size, self._use_graphs = batch_size, metrics.is_cuda and update.policy_delay == 1
        self._plan: list[tuple[int, Callable[[], None]]] = []

    def learn(self, updates: int) -> None:
        """Make so many updates; on a GPU this returns while they are still computed.

        Raises:
            ValueError: if a run has no rows yet.
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
        """Return what makes how many updates, the most first, the last one alone."""
        if not self._use_graphs:
            return [(1, self._step)]
        with self._preserve_state():
            try:
                return [(count, graph.replay) for count, graph in self._record_graphs()]
            except RuntimeError as error:
                _LOG.warning("learning without CUDA graphs, several times slower: %s", error)
                # A recording that broke off leaves generators behind that believe it goes on.
                device = self._metrics.device
                self._update.generators[:] = [torch.Generator(device) for _ in self._update.generators]
                return [(1, self._step)]

    def _record_graphs(self) -> list[tuple[int, torch.cuda.CUDAGraph]]:
        """Record the graphs; the warm-up before takes memory and has libraries choose their kernels."""
        here = torch.cuda.current_stream()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(here)
        with torch.cuda.stream(side):  # left again even if a recording breaks off
            for _ in range(_WARM_UP_UPDATES):
                self._step()
            graphs = [(count, self._record_graph(count, side)) for count in _UPDATES_PER_GRAPH]
        here.wait_stream(side)
        return graphs

    def _record_graph(self, count: int, stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        for generator in self._update.generators:
            # A replay draws from the generator's state of then, and moves it on.
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            for _ in range(count):
                self._step()
        return graph

    @contextmanager
    def _preserve_state(self) -> Iterator[None]:
        """Put everything that learning depends on back to what it was."""
        before = RestorePoint(self._update, self._metrics)
        yield
        before.restore()
