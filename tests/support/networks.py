"""Networks of layers; by name `tests.support.networks:perceptron`."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from distributed_maddpg.layers import Activation, Layer, LayerNorm, Linear, Residual

HIDDEN = {"policy": (7, 5), "critic": (8,)}


def perceptron(role: str, input_size: int, output_size: int, initial: str = "torch") -> Sequence[Layer]:
    """Return the built-in network with the sizes of `tests.algo.samples.SMALL`."""
    hidden = [layer for size in HIDDEN[role] for layer in (Linear(size, initial), Activation("relu"))]
    return [*hidden, Linear(output_size, initial)]


glorot = functools.partial(perceptron, initial="glorot")


def residual(role: str, input_size: int, output_size: int) -> Sequence[Layer]:
    """Return a network with every kind of layer."""
    block = Residual(LayerNorm(), Linear(16), Activation("silu"), Linear(12))
    return [Linear(12), block, LayerNorm(), Activation("tanh"), Scale(), Linear(output_size)]


class Scale(Layer):
    """A layer of a user's own: each column times a number."""

    def shapes(self, input_size):
        return [(1, input_size)]

    def initial(self, input_size, rng):
        return [rng.uniform(0.5, 1.5, (1, input_size)).astype(np.float32)]

    def forward(self, xp, parameters, x):
        return x * parameters[0]


def wide(role: str, input_size: int, output_size: int) -> Sequence[Layer]:
    """Return the built-in network with the sizes of `tests.support.target`, which learn it with any seed."""
    depth = 1 if role == "policy" else 2
    return [*[layer for _ in range(depth) for layer in (Linear(32), Activation("relu"))], Linear(output_size)]
