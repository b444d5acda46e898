"""Policies and critics of one's own layers: a residual block with layer normalisation, and a new layer.

    distributed-maddpg train --preset deception --algorithm.networks examples/custom_network.py:layers

The function is called once for each size of a policy ("policy") and of a critic ("critic").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distributed_maddpg.layers import Activation, Layer, LayerNorm, Linear, Residual


class Gate(Layer):
    """Each column times sigmoid of a learned number, half of it at first."""

    def shapes(self, input_size: int) -> Sequence[tuple[int, ...]]:
        """Return the one parameter's shape; (1, n), so that it broadcasts over rows."""
        return [(1, input_size)]

    def initial(self, input_size: int, rng: np.random.Generator) -> Sequence[Any]:
        """Return zeros."""
        return [np.zeros((1, input_size), np.float32)]

    def forward(self, xp: Any, parameters: Sequence[Any], x: Any) -> Any:
        """Scale the columns; `xp` is numpy in workers and torch in the learner."""
        [gate] = parameters
        return x * (0.5 + 0.5 * xp.tanh(0.5 * gate))


def layers(role: str, input_size: int, output_size: int) -> Sequence[Layer]:
    """Return the layers of a network."""
    width = 64
    block = Residual(LayerNorm(), Linear(width), Activation("relu"), Linear(width), Gate())
    return [Linear(width), Activation("relu"), block, Linear(output_size)]
