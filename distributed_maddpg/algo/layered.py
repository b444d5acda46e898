"""Policies and critics of a user's layers, for the update by autograd in `maddpg.py`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distributed_maddpg.algo.networks import CriticNetwork, FlatNetworks, PolicyNetwork
from distributed_maddpg.layouts import LayeredLayout, NetworkGroup, critic_columns
from distributed_maddpg.types import EnvSpec, FloatArray


class LayeredPolicyNetwork(PolicyNetwork):
    """The policies: observations to action logits."""

    def __init__(self, layout: LayeredLayout, initial: FloatArray, device: torch.device) -> None:
        """Copy the initial parameters `initial [M, P]`."""
        FlatNetworks.__init__(self, initial, device)  # without the layers of perceptrons
        self._leaf = self.flat.view_as(self.flat).requires_grad_()
        self.leaves = [self._leaf]
        inputs = [range(group.input_size) for group in layout.groups for _ in group.members]
        order = [network for group in layout.groups for network in group.members]
        columns = [list(own) for _, own in sorted(zip(order, inputs, strict=True))]
        self._stack = _Stack(layout, columns, len(initial) // layout.num_networks, device)

    def __call__(self, obs: Tensor) -> Tensor:
        """Return logits `[M, B, A]` for padded observations `[M, B, O]`."""
        return self._stack.forward(self._leaf, obs)


class LayeredCriticNetwork(CriticNetwork):
    """The critics: joint observation and action to one value per agent.

    A decentralised critic takes only the columns of its own agent.
    """

    def __init__(
        self,
        layout: LayeredLayout,
        initial: FloatArray,
        device: torch.device,
        spec: EnvSpec,
        groups: tuple[tuple[int, ...], ...],
        decentralised: tuple[bool, ...],
    ) -> None:
        """Copy `initial [S * V, P]`; see `CriticNetwork`."""
        FlatNetworks.__init__(self, initial, device)
        self._leaf = self.flat.view_as(self.flat).requires_grad_()
        self.leaves = [self._leaf]
        runs = len(initial) // len(groups)
        self.assign(spec, groups, runs, device)
        columns = [critic_columns(spec, *each) for each in zip(groups, decentralised, strict=True)]
        self._stack = _Stack(layout, columns, runs, device)
        critic_of = {agent: critic for critic, own in enumerate(groups) for agent in own}
        owned = [
            NetworkGroup(
                tuple(agent for agent in range(spec.num_agents) if critic_of[agent] in group.members),
                *(group.layers, group.input_size, group.output_size),
            )
            for group in layout.groups
        ]
        columns = [columns[critic_of[agent]] for agent in range(spec.num_agents)]
        self._stack_per_agent = _Stack(LayeredLayout(tuple(owned)), columns, runs, device)
        """The same for each agent's critic, which several agents may share."""

    def __call__(self, joint: Tensor) -> Tensor:
        """Return values `[M, B]` of joint observations and actions `[S, B, J]`."""
        return self.own_values(self._stack.forward(self._leaf, self.repeat(joint)).mT)

    def with_own_action(self, joint: Tensor, change: Tensor) -> Tensor:
        """Return values `[M, B]` where agent i's action in its critic's input is changed by `change[i]`.

        The critics' parameters get no gradient.

        Args:
            joint: [S, B, J] observations and the actions to start from.
            change: [M, A, B] new own action minus own action in `joint`; zero in padded rows.
        """
        inputs = joint.repeat_interleave(len(change) // len(joint), dim=0)  # [M, B, J]
        places = self.own_rows[:, None].expand(-1, inputs.shape[1], -1)  # [M, B, A]
        inputs = inputs.scatter_add(2, places, change.mT)
        out = self._stack_per_agent.forward(self.per_agent(self.flat), inputs)
        return out.gather(2, self.heads[:, None, None].expand(-1, out.shape[1], 1)).squeeze(2)


class _Stack:
    """Computes N networks of S runs: the groups of a layout one after the other, each as one stack."""

    def __init__(
        self, layout: LayeredLayout, columns: Sequence[list[int]], runs: int, device: torch.device
    ) -> None:
        """Prepare for networks that take these columns of their inputs."""
        firsts = len(columns) * torch.arange(runs, device=device)[:, None]
        self._width = layout.output_width
        self._groups = [
            (
                group,
                (firsts + torch.tensor(group.members, device=device)).flatten(),
                torch.tensor([columns[network] for network in group.members], device=device).repeat(runs, 1),
            )
            for group in layout.groups
        ]
        """(group, its rows [R], their columns [R, n])."""
        self._order = torch.cat([rows for _, rows, _ in self._groups]).argsort()

    def forward(self, flat: Tensor, x: Tensor) -> Tensor:
        """Return outputs `[S * N, B, K]`, padded with zeros, for inputs `[S * N, B, J]`."""
        if len(self._groups) == 1:  # then all networks are in their order
            [(group, _, columns)] = self._groups
            only: Tensor = group.forward(torch, flat, _columns_of(x, columns))
            return only
        outputs = []
        for group, rows, columns in self._groups:
            own = _columns_of(x.index_select(0, rows), columns)
            out = group.forward(torch, flat.index_select(0, rows), own)
            outputs.append(torch.nn.functional.pad(out, (0, self._width - group.output_size)))
        return torch.cat(outputs).index_select(0, self._order)


def _columns_of(x: Tensor, columns: Tensor) -> Tensor:
    """Return the columns `[R, n]`, in ascending order, of `x [R, B, J]`."""
    if columns.shape[1] == x.shape[2]:
        return x
    return x.gather(2, columns[:, None].expand(-1, x.shape[1], -1))
