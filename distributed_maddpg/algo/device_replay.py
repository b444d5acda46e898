"""The replay buffer's rows once more, where the learner computes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_PINNED_ROWS = 1 << 16
"""Rows copied at a time, so that a first copy of everything pins little of the host's memory."""


class DeviceReplay:
    """The inserted rows of each of S runs, on the device; minibatches are drawn there.

    Sampling reads how much is stored from the device, never from the host: a recorded graph can repeat it
    while rows are added in between.
    """

    def __init__(self, capacity: int, width: int, generators: Sequence[torch.Generator]) -> None:
        """Take the memory on the generators' device, one run for each; each run draws from its own."""
        device = generators[0].device
        self.rows = torch.zeros(len(generators), capacity, width, device=device)
        """[S, capacity, width]; row number n of a run stands at n modulo capacity."""
        self.generators = generators
        self.inserted = [0] * len(generators)
        """How many rows each run's ring had been given when it was last copied from."""
        self.sizes = [0] * len(generators)
        """Rows stored of each run."""
        self._oldest = torch.zeros(len(generators), 1, dtype=torch.int64, device=device)
        self._size = torch.zeros_like(self._oldest)

    def add(self, run: int, rows: Tensor, inserted: int) -> None:
        """Store what is new in a run's ring.

        Args:
            run: place of the run.
            rows: [n, width] on the host, at most `capacity`, in their order.
            inserted: number of the row after the last, counted from the ring's first. Where rows are missing
                between what is stored and these, only these are kept.
        """
        capacity, first = self.rows.shape[1], inserted - len(rows)
        kept = self.sizes[run] if first == self.inserted[run] else 0
        for offset in range(0, len(rows), _PINNED_ROWS):
            self._write(run, rows[offset : offset + _PINNED_ROWS], (first + offset) % capacity)
        self.inserted[run], self.sizes[run] = inserted, min(kept + len(rows), capacity)
        self._oldest[run].fill_((inserted - self.sizes[run]) % capacity)
        self._size[run].fill_(self.sizes[run])

    def clear(self, run: int) -> None:
        """Forget a run's rows."""
        self.inserted[run] = self.sizes[run] = 0

    def sample(self, batch_size: int) -> Tensor:
        """Return uniform rows `[S, B, width]`, drawn with replacement.

        Only the host knows whether there are any: ask `sizes` first.
        """
        drawn = torch.empty(len(self.rows), batch_size, dtype=torch.int64, device=self.rows.device)
        for run, generator in zip(drawn, self.generators, strict=True):
            run.random_(generator=generator)
        # 63 random bits: the remainder favours no row by more than one in 10^12.
        index = drawn.remainder_(self._size).add_(self._oldest).remainder_(self.rows.shape[1])
        return self.rows.gather(1, index[:, :, None].expand(-1, -1, self.rows.shape[2]))

    def _write(self, run: int, rows: Tensor, start: int) -> None:
        """Copy rows `[n, width]` to place `start` and on, round the end; the host does not wait."""
        pinned = rows.pin_memory() if self.rows.is_cuda else rows
        before_wrap = min(len(rows), self.rows.shape[1] - start)
        stored = self.rows[run]
        stored[start : start + before_wrap].copy_(pinned[:before_wrap], non_blocking=True)
        stored[: len(rows) - before_wrap].copy_(pinned[before_wrap:], non_blocking=True)
