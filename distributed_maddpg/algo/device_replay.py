"""A copy of the replay buffer's rows on the learner's device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distributed_maddpg.normalisation import RowTransform, observed
from distributed_maddpg.types import TransitionLayout

_PINNED_ROWS = 1 << 16
"""Rows copied at a time; limits the pinned host memory when all rows are copied."""


class DeviceReplay:
    """The newest rows of each of S runs, on the device; minibatches are drawn there.

    Sampling reads the number of stored rows from the device, never from the host, so that a CUDA graph stays
    valid while rows are added.
    """

    def __init__(self, capacity: int, width: int, generators: Sequence[torch.Generator]) -> None:
        """Allocate one run per generator, on its device; each run samples with its own generator."""
        device = generators[0].device
        self.rows = torch.zeros(len(generators), capacity, width, device=device)
        """[S, capacity, width]; row number n of a run is stored at index n modulo capacity."""
        self.generators = generators
        self.inserted = [0] * len(generators)
        """Per run: rows ever added to its ring when rows were last copied."""
        self.sizes = [0] * len(generators)
        """Number of rows stored per run."""
        self._oldest = torch.zeros(len(generators), 1, dtype=torch.int64, device=device)
        self._size = torch.zeros_like(self._oldest)
        self._layout: TransitionLayout | None = None
        self._transform: Tensor
        """[3, S, 1, width]: shift, scale and limit of each run's rows, at a place that graphs may keep."""

    def add(self, run: int, rows: Tensor, inserted: int) -> None:
        """Add the new rows of a run's ring.

        Args:
            run: index of the run.
            rows: [n, width] on the host, in order, at most `capacity`.
            inserted: number of the row after the last one, counted as in the ring. If rows are missing
                between the stored ones and these, the stored ones are dropped.
        """
        capacity, first = self.rows.shape[1], inserted - len(rows)
        kept = self.sizes[run] if first == self.inserted[run] else 0
        for offset in range(0, len(rows), _PINNED_ROWS):
            self._write(run, rows[offset : offset + _PINNED_ROWS], (first + offset) % capacity)
        self.inserted[run], self.sizes[run] = inserted, min(kept + len(rows), capacity)
        self._oldest[run].fill_((inserted - self.sizes[run]) % capacity)
        self._size[run].fill_(self.sizes[run])

    def normalise_by(self, run: int, transform: RowTransform) -> None:
        """Normalise a run's rows when they are drawn; call it before the first `sample`."""
        if self._layout is None:
            self._layout = transform.layout
            self._transform = torch.zeros(3, len(self.rows), 1, self.rows.shape[2], device=self.rows.device)
        arrays = transform.shift, transform.scale, transform.limit
        for stored, array in zip(self._transform, arrays, strict=True):
            stored[run, 0].copy_(torch.from_numpy(array))

    def clear(self, run: int) -> None:
        """Drop a run's rows."""
        self.inserted[run] = self.sizes[run] = 0

    def sample(self, batch_size: int) -> Tensor:
        """Return uniform rows `[S, B, width]`, drawn with replacement.

        The caller must check `sizes`: an empty run cannot be detected on the device.
        """
        drawn = torch.empty(len(self.rows), batch_size, dtype=torch.int64, device=self.rows.device)
        for run, generator in zip(drawn, self.generators, strict=True):
            run.random_(generator=generator)
        # 63 random bits: the modulo bias is below 10^-12.
        index = drawn.remainder_(self._size).add_(self._oldest).remainder_(self.rows.shape[1])
        rows = self.rows.gather(1, index[:, :, None].expand(-1, -1, self.rows.shape[2]))
        return rows if self._layout is None else self._normalised(rows, self._layout)

    def _normalised(self, rows: Tensor, layout: TransitionLayout) -> Tensor:
        """Return rows `[S, B, width]` after normalising them in place, as `RowTransform.apply` does."""
        there = observed(rows, layout)
        shift, scale, limit = self._transform
        rows.sub_(shift).mul_(scale).clamp_(-limit, limit)
        for columns, own in there:
            rows[..., columns] *= own
        return rows

    def _write(self, run: int, rows: Tensor, start: int) -> None:
        """Copy rows `[n, width]` to index `start` and on, with wrap-around, asynchronously."""
        pinned = rows.pin_memory() if self.rows.is_cuda else rows
        before_wrap = min(len(rows), self.rows.shape[1] - start)
        stored = self.rows[run]
        stored[start : start + before_wrap].copy_(pinned[:before_wrap], non_blocking=True)
        stored[: len(rows) - before_wrap].copy_(pinned[before_wrap:], non_blocking=True)
