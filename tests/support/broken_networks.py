"""Networks that must be refused; by name `tests.support.broken_networks:<name>`."""

import numpy as np

from distributed_maddpg.layers import Activation, Layer, Linear


class _Broken(Layer):
    def __init__(self, forward, shapes=(), initial=None):
        self._forward, self._shapes, self._initial = forward, shapes, initial

    def shapes(self, input_size):
        return self._shapes

    def initial(self, input_size, rng):
        return super().initial(input_size, rng) if self._initial is None else self._initial()

    def forward(self, xp, parameters, x):
        return self._forward(xp, x)


def _with(*arguments):
    return lambda role, inputs, outputs: [Linear(8), _Broken(*arguments), Linear(outputs)]


def raises(role, inputs, outputs):
    raise SystemExit("no networks today")


def no_layers(role, inputs, outputs):
    return [Linear(8), "relu", Linear(outputs)]


def wrong_size(role, inputs, outputs):
    return [Linear(8), Activation("relu")]


def not_iterable(role, inputs, outputs):
    return 3


not_finite = _with(lambda xp, x: x / (x - x))
only_numpy = _with(lambda xp, x: np.tanh(x) if xp is np else np.tanh(x.numpy()))
other_in_torch = _with(lambda xp, x: x if xp is np else 2 * x)
over_rows = _with(lambda xp, x: x - xp.mean(x, axis=-2, keepdims=True))
over_networks = _with(lambda xp, x: x * x.shape[0])
other_shapes = _with(lambda xp, x: x, [(1, 3)], lambda: [np.zeros((3, 1), np.float32)])
own_random = _with(lambda xp, x: x, [(1, 3)], lambda: [np.random.random((1, 3))])
fails_in_forward = _with(lambda xp, x: x.no_such_method())
