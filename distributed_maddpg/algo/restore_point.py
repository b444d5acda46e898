"""A copy of the learning state, to restore after an error."""

from __future__ import annotations

import torch
from torch import Tensor

from distributed_maddpg.algo.maddpg import MADDPGUpdate


class RestorePoint:
    """A copy of everything that an update changes and of its metrics; the memory is allocated once."""

    def __init__(self, update: MADDPGUpdate, metrics: Tensor) -> None:
        """Save the state and metrics `[K, M]` of an update; all tensors must only be modified in place."""
        self._update, self._metrics = update, metrics
        self._tensors = [*update.state().values(), metrics]
        self._saved = [torch.empty_like(tensor) for tensor in self._tensors]
        self.save()

    def save(self) -> None:
        """Save the current state."""
        for saved, tensor in zip(self._saved, self._tensors, strict=True):
            saved.copy_(tensor)
        self._generators = [generator.get_state() for generator in self._update.generators]

    def restore(self) -> None:
        """Restore the saved state."""
        for saved, tensor in zip(self._saved, self._tensors, strict=True):
            tensor.copy_(saved)
        for generator, state in zip(self._update.generators, self._generators, strict=True):
            generator.set_state(state)

    def total(self) -> Tensor:
        """Return the sum of all current values, `[]`: it is finite only if all of them are."""
        return torch.stack([tensor.sum() for tensor in self._tensors]).sum()

    def find_not_finite(self) -> tuple[str, list[int]] | None:
        """Return the name of the first metric or state that is not finite, and of which of the M agents."""
        metrics = dict(zip(self._update.metrics, self._metrics[:, :, None], strict=True))
        for name, rows in (metrics | self._update.per_network_state()).items():
            bad = ~rows.isfinite().all(dim=1)
            if bad.any():
                bad = bad if len(bad) == self._metrics.shape[1] else self._update.critic.per_agent(bad)
                return name, bad.nonzero().flatten().tolist()
        return None
