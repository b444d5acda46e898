"""Forward pass of the policies in numpy, for processes that act but do not learn."""

from __future__ import annotations

import numpy as np
from threadpoolctl import ThreadpoolController

from distributed_maddpg.acting.kernels import add_bias_and_relu
from distributed_maddpg.config import AlgorithmConfig
from distributed_maddpg.layouts import LayeredLayout, policies
from distributed_maddpg.normalisation import LIMIT
from distributed_maddpg.types import EnvSpec, FloatArray, StackedLayout, policy_layout


class NumpyPolicy:
    """N stacked policies acting on E copies at once; same networks as `algo.networks.PolicyNetwork`.

    Rollout workers do not import torch: it takes 2 s and 120 MB, and is not faster at these sizes.
    """

    def __init__(self, spec: EnvSpec, hidden_sizes: tuple[int, ...], num_envs: int) -> None:
        """Allocate the activations for `num_envs` copies."""
        self.layout: StackedLayout = policy_layout(spec, hidden_sizes)
        self._activations = [
            np.zeros((spec.num_agents, num_envs, size), np.float32) for size in self.layout.sizes
        ]
        self._layers: list[tuple[FloatArray, FloatArray]] = []
        self._means_and_scales: tuple[FloatArray, FloatArray] | None = None
        self._blas = ThreadpoolController()

    def set_parameters(self, flat: FloatArray) -> None:
        """Copy parameters `[N, P]`, or `[N, P + 2 O]` of policies that normalise their observations.

        Raises:
            ValueError: if the shape does not match the layout.
        """
        expected = (self.layout.num_networks, self.layout.num_parameters)
        flat, self._means_and_scales = _parts(flat, expected, self.layout.sizes[0])
        self._layers = [
            (
                np.ascontiguousarray(flat[:, weight]).reshape(-1, n_in, n_out),  # [N, in, out]
                flat[:, None, bias].copy(),  # [N, 1, out]
            )
            for weight, bias, n_in, n_out in self.layout.layers
        ]

    def logits(self, obs: tuple[FloatArray, ...]) -> FloatArray:
        """Return logits `[N, E, A]` for observations `[E, O_i]` per agent; the next call overwrites them.

        If agents differ in action size, the values of padded columns are undefined.
        """
        first = self._activations[0]
        for agent, values in enumerate(obs):
            first[agent, :, : values.shape[1]] = values  # padding stays zero
        if self._means_and_scales is not None:
            _normalise(first, *self._means_and_scales)
        # BLAS threads wait for each other, which makes small products up to 4 times slower on a busy machine.
        with self._blas.limit(limits=1, user_api="blas"):
            for depth, (weight, bias) in enumerate(self._layers):
                out = self._activations[depth + 1]
                np.matmul(self._activations[depth], weight, out=out)
                if depth < len(self._layers) - 1:
                    add_bias_and_relu(out, bias)
                else:
                    out += bias
        return self._activations[-1]


class LayeredPolicy:
    """N policies of a user's layers acting on E copies at once, see `NumpyPolicy`."""

    def __init__(self, spec: EnvSpec, layout: LayeredLayout, num_envs: int) -> None:
        """Allocate the logits of `num_envs` copies."""
        self.layout = layout
        self._widest = max(spec.observation_sizes)
        self._logits = np.zeros((spec.num_agents, num_envs, layout.output_width), np.float32)
        self._flat: list[FloatArray] = []
        self._means_and_scales: tuple[FloatArray, FloatArray] | None = None
        self._blas = ThreadpoolController()

    def set_parameters(self, flat: FloatArray) -> None:
        """Copy parameters `[N, P]`, or `[N, P + 2 O]` of policies that normalise their observations.

        Raises:
            ValueError: if the shape does not match the layout.
        """
        own, self._means_and_scales = _parts(
            flat, (self.layout.num_networks, self.layout.num_parameters), self._widest
        )
        self._flat = [own[list(group.members)] for group in self.layout.groups]

    def logits(self, obs: tuple[FloatArray, ...]) -> FloatArray:
        """Return logits `[N, E, A]` for observations `[E, O_i]` per agent; the next call overwrites them."""
        with self._blas.limit(limits=1, user_api="blas"):
            for group, flat in zip(self.layout.groups, self._flat, strict=True):
                x = np.stack([obs[agent] for agent in group.members])  # [G, E, n]
                if self._means_and_scales is not None:
                    parts = (
                        part[list(group.members), :, : group.input_size] for part in self._means_and_scales
                    )
                    _normalise(x, *parts)
                out = group.forward(np, flat, x)
                self._logits[list(group.members), :, : group.output_size] = out
        return self._logits


Policies = NumpyPolicy | LayeredPolicy


def make_policy(algorithm: AlgorithmConfig, spec: EnvSpec, num_envs: int) -> Policies:
    """Return the forward pass of the policies that the settings ask for."""
    if not algorithm.networks:
        return NumpyPolicy(spec, algorithm.policy_hidden_sizes, num_envs)
    layout = policies(algorithm, spec)
    assert isinstance(layout, LayeredLayout)
    return LayeredPolicy(spec, layout, num_envs)


def _parts(
    flat: FloatArray, expected: tuple[int, int], width: int
) -> tuple[FloatArray, tuple[FloatArray, FloatArray] | None]:
    """Return parameters `[N, P]`, and means and scales `[N, 1, O]` if they follow them.

    Raises:
        ValueError: if the shape is another.
    """
    parameters = expected[1]
    normalises = flat.shape == (expected[0], parameters + 2 * width)
    if flat.shape != expected and not normalises:
        raise ValueError(f"policy parameters have shape {flat.shape}, expected {expected}")
    means_and_scales = flat[:, None, parameters:].copy()  # [N, 1, 2 O], or [N, 1, 0]
    parts = means_and_scales[:, :, :width], means_and_scales[:, :, width:]
    return flat[:, :parameters], parts if normalises else None


def _normalise(obs: FloatArray, means: FloatArray, scales: FloatArray) -> None:
    """Normalise observations `[N, E, O]` in place, with the operations of `RowTransform` in their order."""
    with np.errstate(over="ignore"):  # and is clipped
        obs -= means
        obs *= scales
    np.clip(obs, -LIMIT, LIMIT, out=obs)
