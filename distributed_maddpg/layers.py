"""Layers of policies and critics, and the class to derive layers of one's own from.

A layer is written once against an array namespace `xp`: numpy where policies act, torch where they learn.
The two agree on what most layers need: `xp.matmul`, `xp.exp`, `xp.tanh`, `xp.sqrt`,
`xp.where(condition, x, 0.0)`, `xp.mean(x, axis=-1, keepdims=True)` and the operators. docs/extending.md has
an example.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from distributed_maddpg.types import FloatArray, InitialWeights

Array = Any
"""An array of numpy, or a tensor of torch."""
Shape = tuple[int, ...]
Role = Literal["policy", "critic"]
_EPSILON = 1e-5


class Layer:
    """A layer without state: its parameters are handed to it. Override what it needs.

    Networks are stacked, so `x` is `[..., B, n]` and a parameter of shape `s` is `[..., *s]` with the same
    axes in front. Give vectors the shape `(1, n)`, so that they broadcast over the B rows. No row may depend
    on another one.
    """

    def shapes(self, input_size: int) -> Sequence[Shape]:
        """Return the shapes of the parameters for inputs of this size; by default there are none."""
        return ()

    def initial(self, input_size: int, rng: np.random.Generator) -> Sequence[FloatArray]:
        """Return initial parameters, drawn from `rng` alone; by default zeros."""
        return [np.zeros(shape, np.float32) for shape in self.shapes(input_size)]

    def forward(self, xp: Any, parameters: Sequence[Array], x: Array) -> Array:
        """Return outputs `[..., B, m]` for inputs `[..., B, n]`."""
        raise NotImplementedError


NetworkFactory = Callable[[Role, int, int], Sequence[Layer]]
"""Returns the layers of a policy or critic, given its role, input size and output size."""


class Linear(Layer):
    """x W + b."""

    def __init__(self, size: int, initial: InitialWeights = "torch") -> None:
        """Set the output size, and the rule of `StackedLayout.initial_parameters` for initial parameters."""
        self.size, self.rule = size, initial

    def shapes(self, input_size: int) -> Sequence[Shape]:
        """Return those of weight and bias."""
        return (input_size, self.size), (1, self.size)

    def initial(self, input_size: int, rng: np.random.Generator) -> Sequence[FloatArray]:
        """Return a uniform weight; the bias is uniform by "torch", zero by "glorot"."""
        weight, bias = self.shapes(input_size)
        if self.rule == "glorot":
            bound = math.sqrt(6.0 / (input_size + self.size))
            return [rng.uniform(-bound, bound, weight).astype(np.float32), np.zeros(bias, np.float32)]
        bound = 1.0 / math.sqrt(input_size)
        return [rng.uniform(-bound, bound, shape).astype(np.float32) for shape in (weight, bias)]

    def forward(self, xp: Any, parameters: Sequence[Array], x: Array) -> Array:
        """Return x W + b."""
        weight, bias = parameters
        return xp.matmul(x, weight) + bias


class Activation(Layer):
    """An elementwise function, by name: relu, leaky_relu, elu, silu, gelu, tanh or sigmoid."""

    def __init__(self, name: str) -> None:
        """Choose the function.

        Raises:
            ValueError: if there is none of that name.
        """
        if name not in _ACTIVATIONS:
            raise ValueError(f"there is no activation {name!r}; known: {', '.join(_ACTIVATIONS)}")
        self._function = _ACTIVATIONS[name]

    def forward(self, xp: Any, parameters: Sequence[Array], x: Array) -> Array:
        """Apply the function."""
        return self._function(xp, x)


class LayerNorm(Layer):
    """Each row minus its mean, over its standard deviation, times a scale, plus a shift (Ba et al. 2016)."""

    def shapes(self, input_size: int) -> Sequence[Shape]:
        """Return those of scale and shift."""
        return (1, input_size), (1, input_size)

    def initial(self, input_size: int, rng: np.random.Generator) -> Sequence[FloatArray]:
        """Return a scale of one and a shift of zero."""
        return [np.ones((1, input_size), np.float32), np.zeros((1, input_size), np.float32)]

    def forward(self, xp: Any, parameters: Sequence[Array], x: Array) -> Array:
        """Normalise each row."""
        scale, shift = parameters
        centred = x - xp.mean(x, axis=-1, keepdims=True)
        variance = xp.mean(centred * centred, axis=-1, keepdims=True)
        return centred / xp.sqrt(variance + _EPSILON) * scale + shift


class Residual(Layer):
    """x plus what some layers make of it (He et al. 2015); they must keep its size."""

    def __init__(self, *layers: Layer) -> None:
        """Wrap layers."""
        self.layers = layers

    def shapes(self, input_size: int) -> Sequence[Shape]:
        """Return those of all layers."""
        sizes = layer_sizes(self.layers, input_size)
        return [
            shape for layer, size in zip(self.layers, sizes, strict=False) for shape in layer.shapes(size)
        ]

    def initial(self, input_size: int, rng: np.random.Generator) -> Sequence[FloatArray]:
        """Return those of all layers."""
        sizes = layer_sizes(self.layers, input_size)
        return [
            value
            for layer, size in zip(self.layers, sizes, strict=False)
            for value in layer.initial(size, rng)
        ]

    def forward(self, xp: Any, parameters: Sequence[Array], x: Array) -> Array:
        """Return x plus the layers' output."""
        change = apply(self.layers, xp, parameters, x)
        if change.shape != x.shape:
            raise ValueError(f"Residual: its layers turn a size of {x.shape[-1]} into {change.shape[-1]}")
        return x + change


def apply(layers: Sequence[Layer], xp: Any, parameters: Sequence[Array], x: Array) -> Array:
    """Return what layers one after the other make of `x [..., B, n]`, given all their parameters."""
    used = 0
    for layer in layers:
        count = len(layer.shapes(x.shape[-1]))
        x = layer.forward(xp, parameters[used : used + count], x)
        used += count
    return x


def layer_sizes(layers: Sequence[Layer], input_size: int) -> list[int]:
    """Return the input size of each layer and the output size of the last, by a forward pass of zeros."""
    sizes = [input_size]
    with np.errstate(all="ignore"):  # zeros may be no input for a layer
        for layer in layers:
            parameters = [np.zeros(shape, np.float32) for shape in layer.shapes(sizes[-1])]
            sizes.append(layer.forward(np, parameters, np.zeros((1, sizes[-1]), np.float32)).shape[-1])
    return sizes


def _relu(xp: Any, x: Array) -> Array:
    return xp.relu(x) if hasattr(xp, "relu") else xp.maximum(x, 0.0)


def _sigmoid(xp: Any, x: Array) -> Array:
    return 0.5 + 0.5 * xp.tanh(0.5 * x)  # exp(-x) would overflow


def _gelu(xp: Any, x: Array) -> Array:
    """Return the approximation of Hendrycks and Gimpel 2016 by a tanh."""
    return 0.5 * x * (1.0 + xp.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))


_ACTIVATIONS: dict[str, Callable[[Any, Array], Array]] = {
    "relu": _relu,
    "leaky_relu": lambda xp, x: xp.where(x > 0, x, 0.01 * x),
    "elu": lambda xp, x: xp.where(x > 0, x, xp.expm1(xp.where(x > 0, 0.0, x))),
    "silu": lambda xp, x: x * _sigmoid(xp, x),
    "gelu": _gelu,
    "tanh": lambda xp, x: xp.tanh(x),
    "sigmoid": _sigmoid,
}
