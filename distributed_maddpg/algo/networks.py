"""Policy and critic networks of all agents, stacked so that a layer is one batched product.

A stack can hold `S` independent runs (seeds), each run's networks after those of the run before: `M` = S * N
policies, S * V critics. With one run, M is N.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distributed_maddpg.types import EnvSpec, FloatArray, StackedLayout

Layers = Sequence[tuple[Tensor, Tensor]]
"""(weight [M, in, out], bias [M, 1, out]) of each layer."""


class FlatNetworks:
    """M networks whose parameters are the rows of one flat array.

    `flat [M, P]` holds the parameters and `grad [M, P]` their gradients. `leaves` are leaf tensors that view
    `flat`, in its order; `grad_parameters` views each weight and bias of `grad` as rows `[M, n]`. So an
    optimiser step, a gradient norm, a target update and a broadcast are each one operation on one array.
    """

    leaves: list[Tensor]
    grad_parameters: Sequence[Tensor]

    def __init__(self, initial: FloatArray, device: torch.device) -> None:
        """Copy the initial parameters `initial [M, P]`."""
        self.flat = torch.tensor(initial, dtype=torch.get_default_dtype(), device=device)
        self.grad = torch.zeros_like(self.flat)


class StackedNetworks(FlatNetworks):
    """M multilayer perceptrons.

    `layers` are the leaves. `detached_layers` and `grad_layers` view `flat` and `grad` for code without
    autograd.
    """

    def __init__(self, layout: StackedLayout, initial: FloatArray, device: torch.device) -> None:
        """Copy the initial parameters `initial [M, P]`."""
        super().__init__(initial, device)
        self.layout = layout
        self.layers = _layers(layout, self.flat)
        self.leaves = [leaf.requires_grad_() for leaves in self.layers for leaf in leaves]
        self.detached_layers = _layers(layout, self.flat)  # same memory, constant for autograd
        self.grad_layers = _layers(layout, self.grad)
        self.grad_parameters = [
            self.grad[:, part] for weight, bias, _, _ in layout.layers for part in (weight, bias)
        ]


class PolicyNetwork(StackedNetworks):
    """The policies: observations to action logits."""

    def __call__(self, obs: Tensor) -> Tensor:
        """Return logits `[M, B, A]` for padded observations `[M, B, O]`."""
        return _hidden_and_output(torch.baddbmm(self.layers[0][1], obs, self.layers[0][0]), self.layers[1:])


class CriticNetwork(StackedNetworks):
    """The critics: joint observation and action to one value per agent.

    There are V critics of a run: one per agent, or one per group of agents with an output for each. A
    decentralised critic (DDPG) is a centralised one whose first layer is masked to its own agent's columns.
    """

    def __init__(
        self,
        layout: StackedLayout,
        initial: FloatArray,
        device: torch.device,
        spec: EnvSpec,
        groups: tuple[tuple[int, ...], ...],
        decentralised: tuple[bool, ...],
    ) -> None:
        """Copy `initial [S * V, P]`.

        Args:
            layout: of the V critics.
            initial: parameters.
            device: of all tensors.
            spec: of the environment.
            groups: agents of each critic.
            decentralised: [V] whether a critic, of one agent, takes only that agent's inputs.
        """
        super().__init__(layout, initial, device)
        transitions, runs = spec.transitions, len(initial) // len(groups)
        mask = torch.ones(len(groups), transitions.critic_input.stop, 1)
        for critic, (group, alone) in enumerate(zip(groups, decentralised, strict=True)):
            if alone:
                [agent] = group
                mask[critic] = 0.0
                mask[critic, transitions.obs[agent]] = 1.0
                mask[critic, transitions.actions[agent]] = 1.0
        self.mask = mask.repeat(runs, 1, 1).to(device) if any(decentralised) else None
        """[S * V, J, 1] which inputs each critic uses; None if all critics use all."""
        self.assign(spec, groups, runs, device)

    def assign(
        self, spec: EnvSpec, groups: tuple[tuple[int, ...], ...], runs: int, device: torch.device
    ) -> None:
        """Note which critic, and which of its outputs, is whose."""
        self.is_shared = len(groups) < spec.num_agents
        """Whether agents share a critic."""
        places = sorted(
            (agent, critic, head) for critic, own in enumerate(groups) for head, agent in enumerate(own)
        )
        _, critics, heads = torch.tensor(places, device=device).T
        firsts = len(groups) * torch.arange(runs, device=device)[:, None]
        self.numbers = (firsts + critics).flatten()
        """[M] each agent's critic."""
        self.heads = heads.repeat(runs)
        """[M] which of its critic's outputs is each agent's."""
        sizes = torch.tensor([len(group) for group in groups], device=device)
        self.shares = (1.0 / sizes[critics]).repeat(runs).to(self.flat.dtype)
        """[M] weight of each agent's loss in that of its critic."""
        # Rows of the first weight for agent i's own action; padding repeats a row and is multiplied by zeros.
        width = max(spec.action_sizes)
        rows = [
            [columns.start + min(k, size - 1) for k in range(width)]
            for columns, size in zip(spec.transitions.actions, spec.action_sizes, strict=True)
        ]
        self.own_rows = torch.tensor(rows, device=device).repeat(runs, 1)
        """[M, A] columns of each agent's own action in the joint input."""

    def __call__(self, joint: Tensor) -> Tensor:
        """Return values `[M, B]` of joint observations and actions `[S, B, J]`."""
        weight, bias = self.first_layer(self.layers)
        out = _hidden_and_output(torch.baddbmm(bias, self.repeat(joint), weight), self.layers[1:])
        return self.own_values(out.mT)

    def with_own_action(self, joint: Tensor, change: Tensor) -> Tensor:
        """Return values `[M, B]` where agent i's action in its critic's input is changed by `change[i]`.

        The first layer is linear, so the change is added to its output and no input per agent is built. The
        critics' parameters get no gradient.

        Args:
            joint: [S, B, J] observations and the actions to start from.
            change: [M, A, B] new own action minus own action in `joint`; zero in padded rows.
        """
        weight, bias = self.first_layer(self.detached_layers)
        first = self.per_agent(torch.baddbmm(bias, self.repeat(joint), weight))
        first = torch.baddbmm(first, change.transpose(1, 2), self.own_action_rows(weight))
        return _hidden_and_output(first, self.layers_per_agent(self.detached_layers[1:])).squeeze(2)

    def own_values(self, out: Tensor) -> Tensor:
        """Return each agent's own values `[M, B]` of the critics' outputs `[S * V, K, B]`."""
        return out[self.numbers, self.heads] if self.is_shared else out.squeeze(1)

    def outputs(self, values: Tensor) -> Tensor:
        """Return outputs of the critics `[S * V, K, B]` with agents' values `[M, B]`, and zeros elsewhere."""
        if not self.is_shared:
            return values.unsqueeze(1)
        out = values.new_zeros(len(self.flat), self.layout.output_width, values.shape[1])
        out[self.numbers, self.heads] = values
        return out

    def per_agent(self, values: Tensor) -> Tensor:
        """Return the values `[M, ...]` of each agent's critic, given those of all critics `[S * V, ...]`."""
        return values.index_select(0, self.numbers) if self.is_shared else values

    def layers_per_agent(self, layers: Layers) -> Layers:
        """Return the layers of each agent's critic, whose last one has only the agent's own value."""
        if not self.is_shared:
            return layers
        *hidden, (weight, bias) = [(self.per_agent(weight), self.per_agent(bias)) for weight, bias in layers]
        own = self.heads[:, None, None]
        weight = weight.gather(2, own.expand(-1, weight.shape[1], 1))
        return [*hidden, (weight, bias.gather(2, own))]

    def first_layer(self, layers: Layers) -> tuple[Tensor, Tensor]:
        """Return the first of `layers` with the mask applied."""
        weight, bias = layers[0]
        return (weight if self.mask is None else weight * self.mask), bias

    def masked_layers(self) -> Layers:
        """Return `detached_layers` with the mask applied to the first."""
        return [self.first_layer(self.detached_layers), *self.detached_layers[1:]]

    def own_action_rows(self, weight: Tensor) -> Tensor:
        """Return the rows `[M, A, H]` of a first-layer weight `[S * V, J, H]` for each agent's own action."""
        return weight[self.numbers[:, None], self.own_rows]

    def repeat(self, joint: Tensor) -> Tensor:
        """Repeat each run's joint input `[S, B, J]` per critic: `[S * V, B, J]`; with one run, a view."""
        return repeat_runs(joint, len(self.flat) // len(joint))


def repeat_runs(rows: Tensor, count: int) -> Tensor:
    """Repeat each run's rows `[S, B, ...]` for `count` networks: `[S * count, B, ...]`."""
    return rows.unsqueeze(1).expand(-1, count, -1, -1).flatten(0, 1)


def _hidden_and_output(first: Tensor, rest: Layers) -> Tensor:
    """Apply the remaining layers to the first layer's pre-activation `[M, B, H]`."""
    x = first
    for weight, bias in rest:
        x = torch.baddbmm(bias, torch.relu(x), weight)
    return x


def _layers(layout: StackedLayout, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
    """View a flat array `[M, P]` as layers."""
    return [
        (flat[:, weight].view(-1, n_in, n_out), flat[:, bias].unsqueeze(1))
        for weight, bias, n_in, n_out in layout.layers
    ]
