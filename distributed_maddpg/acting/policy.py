"""The policies' forward pass in numpy, for processes that act and never learn."""

from __future__ import annotations

import numpy as np
from threadpoolctl import ThreadpoolController

from distributed_maddpg.acting.kernels import add_bias_and_relu
from distributed_maddpg.types import EnvSpec, FloatArray, StackedLayout, policy_layout


class NumpyPolicy:
    """N stacked policies acting on E copies at once; the twin of `algo.networks.StackedNetworks`.

    torch takes 2 s and 120 MB to import, and is no faster at these sizes; a worker needs neither.
    """

    def __init__(self, spec: EnvSpec, hidden_sizes: tuple[int, ...], num_envs: int) -> None:
        """Allocate the activations of `num_envs` copies, once."""
        self.layout: StackedLayout = policy_layout(spec, hidden_sizes)
        self._activations = [
            np.zeros((spec.num_agents, num_envs, size), np.float32) for size in self.layout.sizes
        ]
        self._layers: list[tuple[FloatArray, FloatArray]] = []
        self._blas = ThreadpoolController()

    def set_parameters(self, flat: FloatArray) -> None:
        """Take over parameters `[N, P]`.

        Raises:
            ValueError: if the shape is not that of the layout.
        """
        expected = (self.layout.num_networks, self.layout.num_parameters)
        if flat.shape != expected:
            raise ValueError(f"policy parameters have shape {flat.shape}, expected {expected}")
        self._layers = [
            (
                np.ascontiguousarray(flat[:, weight]).reshape(-1, n_in, n_out),  # [N, in, out]
                flat[:, None, bias].copy(),  # [N, 1, out]
            )
            for weight, bias, n_in, n_out in self.layout.layers
        ]

    def logits(self, obs: tuple[FloatArray, ...]) -> FloatArray:
        """Return logits `[N, E, A]` for observations `[E, O_i]` per agent; overwritten by the next call.

        Where agents differ in action width, the columns beyond an agent's own hold numbers without meaning.
        """
        first = self._activations[0]
        for agent, values in enumerate(obs):
            first[agent, :, : values.shape[1]] = values  # the padding stays zero
        # Products this small lose to BLAS threads that wait for each other: 4 times on a busy machine.
        with self._blas.limit(limits=1, user_api="blas"):
            self._forward()
        return self._activations[-1]

    def _forward(self) -> None:
        last = len(self._layers) - 1
        for depth, (weight, bias) in enumerate(self._layers):
            out = self._activations[depth + 1]
            np.matmul(self._activations[depth], weight, out=out)
            if depth < last:
                add_bias_and_relu(out, bias)
            else:
                out += bias
