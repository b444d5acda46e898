"""The update of `maddpg.py` with hand-written gradients.

Large intermediates are allocated once, each layer is one batched product into that memory, and nothing is
recorded for a backward pass. A test compares the result with autograd's.

With the precision "bf16" inputs, weights and hidden layers are rounded to bfloat16 for all products but the
output layer's, so that values of critics are not rounded. Sums are float32, and so are the weights that Adam
changes, their gradients, targets and losses.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distributed_maddpg.algo.adam import Adam
from distributed_maddpg.algo.information import CommonCandidates
from distributed_maddpg.algo.losses import actor_loss, critic_loss, information_loss, td_target
from distributed_maddpg.algo.maddpg import MADDPGUpdate, only_allowed
from distributed_maddpg.algo.networks import CriticNetwork, Layers, StackedNetworks, repeat_runs
from distributed_maddpg.config import AlgorithmConfig, Precision
from distributed_maddpg.types import EnvSpec


class _MLPWorkspace:
    """Memory for one forward and backward pass of M stacked perceptrons on `[M, B, ...]`.

    Outputs and their gradients are stored as `[M, K, B]`: with the narrow axis last (the K actions, or the
    one value of a critic) products take five times as long. Hidden layers have the type of the products.
    """

    def __init__(
        self, networks: StackedNetworks, dtype: torch.dtype, batch_size: int, count: int = 0, width: int = 0
    ) -> None:
        """Allocate the memory; `count` and the output's `width` default to those of the networks."""
        like, layout = networks.flat, networks.layout
        count = count or len(networks.flat)
        shapes = [(count, batch_size, size) for size in layout.hidden_sizes]
        self._hidden = [torch.empty(shape, dtype=dtype, device=like.device) for shape in shapes]
        self._hidden_grad = [torch.empty_like(hidden) for hidden in self._hidden]
        self._out = like.new_empty(count, width or layout.output_width, batch_size)

    def forward(self, layers: Layers, x: Tensor) -> Tensor:
        """Return outputs `[M, K, B]` for inputs `[M, B, in]`; the next pass overwrites them."""
        self.forward_first_layer(layers, x)
        return self.forward_rest(layers)

    def forward_first_layer(self, layers: Layers, x: Tensor) -> Tensor:
        """Return the first layer's pre-activation `[M, B, H]`; it may be modified before `forward_rest`."""
        first = self._hidden[0]
        weight, bias = (leaf.to(first.dtype) for leaf in layers[0])
        return torch.baddbmm(bias, x.to(first.dtype), weight, out=first)

    def set_first_layer(self, first: Tensor, changes: Tensor, weight: Tensor) -> None:
        """Set the first layer's pre-activation `[M, C * B, H]` for C changes of each input.

        Args:
            first: [M, B, H] pre-activation for the unchanged inputs.
            changes: [M, C * B, W] of some of their columns.
            weight: [M, W, H] the first layer's weights of those columns.
        """
        repeated = first.repeat(1, changes.shape[1] // first.shape[1], 1)
        torch.baddbmm(repeated, changes.to(first.dtype), weight.to(first.dtype), out=self._hidden[0])

    def copy_first_layer(self, first: Tensor) -> None:
        """Set the first layer's pre-activation `[M, B, H]`."""
        self._hidden[0].copy_(first)

    def forward_rest(self, layers: Layers) -> Tensor:
        """Continue from the first layer's pre-activation to the outputs `[M, K, B]`."""
        x = self._hidden[0].relu_()
        for layer, hidden in zip(layers[1:-1], self._hidden[1:], strict=True):
            weight, bias = (leaf.to(x.dtype) for leaf in layer)
            x = torch.baddbmm(bias, x, weight, out=hidden).relu_()
        weight, bias = layers[-1]
        return torch.baddbmm(bias.mT, weight.mT, x.mT.to(bias.dtype), out=self._out)

    def backward(self, layers: Layers, grad_out: Tensor, grads: Layers | None = None) -> Tensor:
        """Backpropagate `grad_out`; return the gradient of the first layer's pre-activation `[M, B, H]`.

        Args:
            layers: those of the forward pass.
            grad_out: [M, K, B] gradient of the outputs.
            grads: receives the gradients of all layers except the first; None to skip them.
        """
        grad = grad_out.mT  # [M, B, K]
        for depth in range(len(layers) - 1, 0, -1):
            hidden, out = self._hidden[depth - 1], self._hidden_grad[depth - 1]
            if grads is not None:
                _layer_gradient(hidden, grad, grads[depth])
            weight, grad = layers[depth][0].mT.to(out.dtype), grad.to(out.dtype)
            # For an outer product an elementwise product is faster.
            torch.mul(grad, weight, out=out) if len(weight[0]) == 1 else torch.bmm(grad, weight, out=out)
            grad = torch.ops.aten.threshold_backward.grad_input(out, hidden, 0, grad_input=out)
        return grad


def _layer_gradient(x: Tensor, grad: Tensor, out: tuple[Tensor, Tensor]) -> None:
    """Write the gradient of a layer's weight `[M, in, out]` and bias `[M, 1, out]`.

    Args:
        x: [M, B, in] the layer's input.
        grad: [M, B, out] gradient of its output; the product is in its type.
        out: receives (weight gradient, bias gradient).
    """
    weight, bias = out
    x = x.to(grad.dtype)
    if not grad.is_contiguous():  # narrow outputs are stored transposed
        weight.copy_(torch.bmm(grad.mT, x).mT)
    elif grad.dtype == weight.dtype:
        torch.bmm(x.mT, grad, out=weight)
    else:
        weight.copy_(torch.bmm(x.mT, grad))
    torch.sum(grad, dim=1, keepdim=True, dtype=bias.dtype, out=bias)


class _UpdateWorkspace:
    """Memory and constants of an update with one batch size."""

    def __init__(
        self,
        networks: tuple[StackedNetworks, CriticNetwork],
        dtype: torch.dtype,
        batch_size: int,
        information_rows: int,
        num_candidates: int,
        regularised_scale: Tensor,
    ) -> None:
        """Allocate for (policies, critics) with products of a type.

        The actor loss takes each critic's value of `num_candidates` inputs per row.
        """
        self.target_policies, self.critics = (_MLPWorkspace(of, dtype, batch_size) for of in networks)
        self.policies = self.target_policies
        if information_rows:  # the policies also act on that many changed observations
            self.policies = _MLPWorkspace(networks[0], dtype, batch_size + information_rows)
        self.values, inputs = self.critics, num_candidates * batch_size
        if num_candidates > 1 or networks[1].is_shared:
            self.values = _MLPWorkspace(networks[1], dtype, inputs, len(regularised_scale), 1)
        self.regularised_scale = regularised_scale
        """[M, A, 1] gradient of the regulariser per unit of the regularised values."""
        own = torch.full_like(regularised_scale[:, :1], -1.0 / inputs)
        self.grad_q = own.expand(-1, -1, inputs).contiguous()
        """[M, 1, C * B] gradient of the actor loss with respect to the values."""


class HandwrittenUpdate(MADDPGUpdate):
    """`MADDPGUpdate` with the same result up to rounding: what CUDA graphs record, see `fused/update.py`."""

    def __init__(
        self,
        config: AlgorithmConfig,
        spec: EnvSpec,
        device: torch.device,
        seeds: Sequence[int],
        precision: Precision = "float32",
    ) -> None:
        """Initialise one run per seed; initial parameters depend on the seed only, not on the device."""
        super().__init__(config, spec, device, seeds)
        self._dtype = torch.bfloat16 if precision == "bf16" else self.policy.flat.dtype
        self._num_candidates = 1 if self._candidates is None else self._candidates.count
        self._batch_size = -1
        self._workspaces: dict[int, _UpdateWorkspace] = {}

    @torch.inference_mode()
    def __call__(self, batch: Tensor) -> Tensor:
        """Update every agent once on packed transitions `[S, B, width]`; return `metrics` as `[K, M]`."""
        if batch.shape[1] != self._batch_size:
            self._select_workspace(batch.shape[1])
        return super().__call__(batch)

    def _select_workspace(self, batch_size: int) -> None:
        """Select the memory for a batch size; it is never freed, because a CUDA graph may write there."""
        self._batch_size = batch_size
        if batch_size not in self._workspaces:
            valid, weight = self._columns.valid, self._config.regulariser_weight
            self._workspaces[batch_size] = _UpdateWorkspace(
                (self.policy, self.critic),
                self._dtype,
                batch_size,
                self._information_rows(batch_size),
                self._num_candidates,
                valid * (2.0 * weight / batch_size) / valid.sum(dim=1, keepdim=True),
            )
        self._workspace = self._workspaces[batch_size]

    def _update_critics(self, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        columns, critics = self._columns, self._workspace.critics
        logits = self._workspace.target_policies.forward(
            self.target_policy.detached_layers, columns.padded_next_obs(batch)
        )
        next_joint = self.target_critic.repeat(self._next_joint(batch, logits))
        values = []
        for _, target_critic, _ in self._critics:
            q = target_critic.own_values(critics.forward(target_critic.masked_layers(), next_joint))
            values.append(q.clone() if self._twin_critics.any else q)  # the next pass overwrites q
        target = td_target(columns.rewards(batch), columns.discounts(batch), self._min_q(values))
        target = columns.if_present(batch, target)
        first, *_ = [
            self._update_one_critic(critic, optimiser, batch, target)
            for critic, _, optimiser in self._critics
        ]
        return first

    def _update_one_critic(
        self, critic: CriticNetwork, optimiser: Adam, batch: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Step critics on batches `[S, B, width]` towards agents' targets `[M, B]`; see `_update_critics`."""
        critics, columns = self._workspace.critics, self._columns
        layers, joint = critic.masked_layers(), critic.repeat(batch[..., columns.critic_input])
        q = columns.if_present(batch, critic.own_values(critics.forward(layers, joint)))
        loss, q_mean = critic_loss(q, target), q.mean(dim=1)
        grad_q = (q - target).mul_(2.0 / self._batch_size)
        if critic.is_shared:
            grad_q *= critic.shares[:, None]
        grad = critics.backward(layers, critic.outputs(grad_q), critic.grad_layers)
        _layer_gradient(joint, grad, critic.grad_layers[0])
        if critic.mask is not None:
            critic.grad_layers[0][0].mul_(critic.mask)
        return loss, q_mean, critic.per_agent(self._apply_gradient(critic, optimiser))

    def _update_policies(self, batch: Tensor) -> tuple[Tensor, ...]:
        columns, config, memory = self._columns, self._config, self._workspace
        rows = self._information_rows(self._batch_size)
        obs = columns.padded_obs(batch)
        if rows:
            obs = torch.cat((obs, self._counterfactuals(obs[:, :rows])), dim=1)
        all_logits = memory.policies.forward(self.policy.detached_layers, obs)  # [M, A, B + R]
        logits = all_logits[:, :, : self._batch_size]
        relaxed = self._relaxed(only_allowed(logits, columns.allowed(batch)))
        actions = self._straight_through(relaxed, config.straight_through)
        joint = self._joint_with_other_actions(batch, actions)
        change = columns.with_zero_padding(actions - columns.padded_actions(joint))

        layers = self.critic.masked_layers()
        own = self.critic.own_action_rows(layers[0][0]).to(self._dtype)  # [M, A, H]
        first = self.critic.per_agent(
            memory.critics.forward_first_layer(layers, self.critic.repeat(joint))
        ).baddbmm_(change.mT.to(own.dtype), own)
        if self._candidates is not None:
            memory.values.set_first_layer(first, *self._candidate_changes(self._candidates, joint, layers))
        elif self.critic.is_shared:
            memory.values.copy_first_layer(first)
        layers = [layers[0], *self.critic.layers_per_agent(layers[1:])]
        q = columns.if_acting(batch, memory.values.forward_rest(layers).squeeze(1))  # [M, C * B]
        regularised = columns.if_acting(batch, logits if config.regulariser == "logits" else actions)
        loss = actor_loss(q, regularised, columns.valid, config.regulariser_weight)

        grad_first = memory.values.backward(layers, columns.if_acting(batch, memory.grad_q))
        if self._candidates is not None:
            grad_first = torch.stack(grad_first.chunk(self._candidates.count, dim=1)).sum(dim=0)
        grad_actions = columns.with_zero_padding(torch.bmm(own, grad_first.mT).to(actions.dtype))
        grad_regularised = regularised * memory.regularised_scale
        if config.regulariser == "actions":
            grad_actions += grad_regularised
        grad_logits = self._relaxed_gradient(relaxed, grad_actions)
        if config.regulariser == "logits":
            grad_logits += grad_regularised
        information: tuple[Tensor, ...] = ()
        if rows:
            told_rows = batch[:, :rows]
            measured, grad_logits = self._with_information(
                told_rows, all_logits, grad_logits, columns.allowed(told_rows)
            )
            information = (measured,)
        grad = memory.policies.backward(self.policy.detached_layers, grad_logits, self.policy.grad_layers)
        _layer_gradient(obs, grad, self.policy.grad_layers[0])
        return loss, self._apply_gradient(self.policy, self.policy_optimiser), *information

    def _candidate_changes(
        self, candidates: CommonCandidates, joint: Tensor, layers: Layers
    ) -> tuple[Tensor, Tensor]:
        """Return (changes `[M, C * B, W]`, weights `[M, W, H]`) for `set_first_layer`.

        The weights are zero for critics of agents without a private part: their values stay as observed.
        """
        weight = self.critic.per_agent(layers[0][0].index_select(1, candidates.columns))
        changes = repeat_runs(candidates.changes(joint), len(weight) // len(joint))
        return changes, weight * self._with_private_part.mask

    def _with_information(
        self, batch: Tensor, logits: Tensor, grad_logits: Tensor, allowed: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the information loss `[M]`, and the gradient of all logits with its own added.

        Args:
            batch: [S, R, width] the rows that information regularisation uses.
            logits: [M, A, B + R]; the last R rows are for changed observations of the first R.
            grad_logits: [M, A, B] gradient of the actor loss.
            allowed: [M, A, R] action masks.
        """
        rows = batch.shape[1]
        pair = [only_allowed(own, allowed) for own in (logits[:, :, :rows], logits[:, :, -rows:])]
        actions = self._noiseless(torch.cat(pair, dim=2))
        told = self._told(batch, actions[:, :, :rows], actions[:, :, rows:])
        grad = told * (2.0 * self._config.information_weight / rows)
        grads = self._relaxed_gradient(actions, torch.cat((grad, -grad), dim=2))
        grad_logits[:, :, :rows] += grads[:, :, :rows]
        return information_loss(told), torch.cat((grad_logits, grads[:, :, rows:]), dim=2)

    def _relaxed_gradient(self, relaxed: Tensor, grad: Tensor) -> Tensor:
        """Return the gradient `[M, A, B]` of the logits, given that of the actions `relaxed`."""
        weighted = grad * relaxed
        if not self._gumbel_heads.any:
            return weighted.mul_(1.0 - relaxed)
        softmax = torch.addcmul(weighted, relaxed, weighted.sum(dim=1, keepdim=True), value=-1.0)
        if self._config.temperature != 1.0:
            softmax /= self._config.temperature
        if self._gumbel_heads.all:
            return softmax
        return torch.where(self._gumbel_heads.mask, softmax, weighted * (1.0 - relaxed))
