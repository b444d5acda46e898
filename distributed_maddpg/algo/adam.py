"""Adam on one flat array."""

from __future__ import annotations

import torch
from torch import Tensor

BETA1, BETA2, _EPSILON = 0.9, 0.999, 1e-8


class Adam:
    """Adam (Kingma and Ba 2015, arXiv:1412.6980, algorithm 1) with torch's defaults and torch's fused kernel.

    `torch.optim.Adam(fused=True)` makes the same call after 0.1 ms of bookkeeping, seven times as long as the
    step itself on arrays of this size.
    """

    def __init__(self, values: Tensor, grad: Tensor, learning_rate: float) -> None:
        """Optimise `values` with the gradient in `grad`; both tensors must only be modified in place."""
        self._values, self._grad = values, grad
        # A tensor on a GPU, so that a replayed CUDA graph reads the current value.
        self._learning_rate: float | Tensor = learning_rate
        if values.is_cuda:
            self._learning_rate = torch.tensor(learning_rate, dtype=torch.float32, device=values.device)
        self.exp_avg = torch.zeros_like(values)
        self.exp_avg_sq = torch.zeros_like(values)
        self.steps = torch.zeros((), dtype=torch.float32, device=values.device)
        """Number of steps; on the device, so that a CUDA graph can replay a step."""

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set the learning rate of the following steps."""
        if isinstance(self._learning_rate, Tensor):
            self._learning_rate.fill_(learning_rate)
        else:
            self._learning_rate = learning_rate

    @torch.no_grad()
    def step(self) -> None:
        """Take one step."""
        self.steps += 1
        torch._fused_adam_(
            [self._values],
            [self._grad],
            [self.exp_avg],
            [self.exp_avg_sq],
            [],
            [self.steps],
            lr=self._learning_rate,
            beta1=BETA1,
            beta2=BETA2,
            weight_decay=0.0,
            eps=_EPSILON,
            amsgrad=False,
            maximize=False,
        )
