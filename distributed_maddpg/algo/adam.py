"""Adam on one flat array (floor F2)."""

from __future__ import annotations

import torch
from torch import Tensor

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


class Adam:
    """Adam (Kingma and Ba 2015, arXiv:1412.6980, algorithm 1) with torch's defaults.

    torch's own spends more time on its bookkeeping than on one small array; and here the count of steps is a
    tensor, so that a GPU can replay a recorded step.
    """

    def __init__(self, values: Tensor, grad: Tensor, learning_rate: float) -> None:
        """Step `values` along `grad`, both changed only in place by anyone."""
        self._values, self._grad, self._learning_rate = values, grad, learning_rate
        self.exp_avg = torch.zeros_like(values)
        self.exp_avg_sq = torch.zeros_like(values)
        self.steps = torch.zeros((), dtype=torch.float64, device=values.device)
        """Steps taken."""

    @torch.no_grad()
    def step(self) -> None:
        """Take one step."""
        self.steps += 1
        self.exp_avg.lerp_(self._grad, 1 - _BETA1)
        self.exp_avg_sq.mul_(_BETA2).addcmul_(self._grad, self._grad, value=1 - _BETA2)
        unbias1, unbias2 = 1 - _BETA1**self.steps, 1 - _BETA2**self.steps
        direction = self.exp_avg / self.exp_avg_sq.sqrt().div_(unbias2.sqrt()).add_(_EPSILON)
        self._values.sub_(direction.mul_(self._learning_rate / unbias1))
