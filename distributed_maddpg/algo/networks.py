"""Policy and critic networks of all agents, stacked so that one layer is one batched product (floor F2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from distributed_maddpg.types import EnvSpec, StackedLayout, critic_layout, policy_layout

Layers = Sequence[tuple[Tensor, Tensor]]
"""(weight [N, in, out], bias [N, 1, out]) of each layer."""


class StackedNetworks:
    """N multilayer perceptrons whose parameters are rows of one flat array.

    `flat [N, P]` holds the parameters, `grad [N, P]` has room for their gradients, and `layers` are leaf
    tensors that view `flat`, in its order. An optimiser step, a gradient norm, a target update and a
    broadcast are each one operation on one array. Initial weights are torch's default for `nn.Linear`:
    uniform within +-1/sqrt(inputs), with each agent's true input width.
    """

    def __init__(self, layout: StackedLayout, device: torch.device, generator: torch.Generator) -> None:
        """Draw initial parameters from `generator` (a CPU generator, so that devices start equal)."""
        self.layout = layout
        self.flat = _initial(layout, generator).to(device)
        self.grad = torch.zeros_like(self.flat)
        self.layers = _layers(layout, self.flat)
        for leaves in self.layers:
            for leaf in leaves:
                leaf.requires_grad_()
        self.frozen = _layers(layout, self.flat)  # the same memory, seen by autograd as constants


class PolicyNetwork(StackedNetworks):
    """The N policies: observations to action logits."""

    def __init__(
        self, spec: EnvSpec, hidden_sizes: tuple[int, ...], device: torch.device, generator: torch.Generator
    ) -> None:
        """Build the stack for an environment."""
        super().__init__(policy_layout(spec, hidden_sizes), device, generator)

    def __call__(self, obs: Tensor) -> Tensor:
        """Return logits `[N, B, A]` for padded observations `[N, B, O]`."""
        return _hidden_and_output(torch.baddbmm(self.layers[0][1], obs, self.layers[0][0]), self.layers[1:])


class CriticNetwork(StackedNetworks):
    """The N critics: one joint observation and action, N values.

    A decentralised critic (DDPG) is a centralised one whose first layer is masked to its own agent's columns.
    """

    def __init__(
        self,
        spec: EnvSpec,
        hidden_sizes: tuple[int, ...],
        decentralised: tuple[bool, ...],
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        """Build the stack; `decentralised[i]` says whether critic i sees only agent i."""
        super().__init__(critic_layout(spec, hidden_sizes), device, generator)
        transitions = spec.transitions
        mask = torch.ones(spec.num_agents, transitions.joint.stop, 1)
        for agent, alone in enumerate(decentralised):
            if alone:
                mask[agent] = 0.0
                mask[agent, transitions.obs[agent]] = 1.0
                mask[agent, transitions.actions[agent]] = 1.0
        self._mask = mask.to(device) if any(decentralised) else None
        # Rows of the first weight that meet agent i's own action; padding repeats a row, and meets zeros.
        width = max(spec.action_sizes)
        rows = [
            [columns.start + min(k, size - 1) for k in range(width)]
            for columns, size in zip(transitions.actions, spec.action_sizes, strict=True)
        ]
        self._own_rows = torch.tensor(rows, device=device)  # [N, A]
        self._agents = torch.arange(spec.num_agents, device=device)[:, None]  # [N, 1]

    def __call__(self, joint: Tensor) -> Tensor:
        """Return values `[N, B]` of joint observations and actions `[B, J]`."""
        weight, bias = self._first(self.layers)
        return _hidden_and_output(torch.matmul(joint, weight) + bias, self.layers[1:]).squeeze(2)

    def with_own_action(self, joint: Tensor, change: Tensor) -> Tensor:
        """Return values `[N, B]` where critic i sees agent i's action changed by `change[i]`.

        The first layer is linear, so its product with the joint input is shared by all agents and only the
        change is added: no `[N, B, J]` input is built. The critics' own parameters get no gradient.

        Args:
            joint: [B, J] observations and the actions to start from.
            change: [N, B, A] own action wanted minus own action in `joint`; zero in padded columns.
        """
        weight, bias = self._first(self.frozen)
        own = weight[self._agents, self._own_rows]  # [N, A, H]
        first = torch.baddbmm(torch.matmul(joint, weight) + bias, change, own)
        return _hidden_and_output(first, self.frozen[1:]).squeeze(2)

    def _first(self, layers: Layers) -> tuple[Tensor, Tensor]:
        weight, bias = layers[0]
        return (weight if self._mask is None else weight * self._mask), bias


def _hidden_and_output(first: Tensor, rest: Layers) -> Tensor:
    """Apply the remaining layers to the first layer's pre-activation `[N, B, H]`."""
    x = first
    for weight, bias in rest:
        x = torch.baddbmm(bias, torch.relu(x), weight)
    return x


def _layers(layout: StackedLayout, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
    """View a flat array `[N, P]` as layers."""
    return [
        (flat[:, weight].view(-1, n_in, n_out), flat[:, bias].unsqueeze(1))
        for weight, bias, n_in, n_out in layout.layers
    ]


def _initial(layout: StackedLayout, generator: torch.Generator) -> Tensor:
    flat = torch.zeros(layout.num_networks, layout.num_parameters)
    for depth, (weights, biases) in enumerate(_layers(layout, flat)):
        for agent, width_in in enumerate(layout.widths_in):
            inputs = width_in if depth == 0 else weights.shape[1]
            bound = 1.0 / math.sqrt(inputs)
            weights[agent, :inputs].uniform_(-bound, bound, generator=generator)
            biases[agent].uniform_(-bound, bound, generator=generator)
    return flat
