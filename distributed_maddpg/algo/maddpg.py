"""One MADDPG update of all agents at once, in the order of the paper's algorithm 1 (floor F2)."""

from __future__ import annotations

import torch
from torch import Tensor

from distributed_maddpg.algo.losses import (
    actor_loss,
    critic_loss,
    gumbel_noise,
    one_hot_like,
    straight_through,
    td_target,
)
from distributed_maddpg.algo.networks import CriticNetwork, PolicyNetwork, StackedNetworks
from distributed_maddpg.config import AlgorithmConfig
from distributed_maddpg.types import EnvSpec

METRICS = ("critic_loss", "actor_loss", "q_mean", "critic_grad_norm", "actor_grad_norm")
_IMPOSSIBLE = -1e9


class _AgentMask:
    """Which agents have a property, as a mask `[N, 1, 1]`; `any` and `all` never ask the device."""

    def __init__(self, agents: list[bool], device: torch.device) -> None:
        self.mask = torch.tensor(agents, device=device)[:, None, None]
        self.any, self.all = any(agents), all(agents)


class _Columns:
    """Where the parts of a packed batch `[B, width]` stand, and how agents of unequal widths are padded."""

    def __init__(self, spec: EnvSpec, device: torch.device) -> None:
        transitions = spec.transitions
        self.obs = slice(transitions.obs[0].start, transitions.obs[-1].stop)
        self.next_obs = slice(transitions.next_obs[0].start, transitions.next_obs[-1].stop)
        self._obs = _Padded(transitions.obs, device)
        self._next_obs = _Padded(transitions.next_obs, device)
        self._actions = _Padded(transitions.actions, device)
        self.valid = self._actions.valid  # [N, 1, A] float

    def padded_obs(self, batch: Tensor) -> Tensor:
        """Return observations `[N, B, O]`."""
        return self._obs.take(batch)

    def padded_next_obs(self, batch: Tensor) -> Tensor:
        """Return next observations `[N, B, O]`."""
        return self._next_obs.take(batch)

    def padded_actions(self, joint: Tensor) -> Tensor:
        """Return the actions `[N, B, A]` of joint observations and actions `[B, J]`."""
        return self._actions.take(joint)

    def flatten(self, actions: Tensor) -> Tensor:
        """Return actions `[N, B, A]` as the joint input's action part, `[B, A_1 + ... + A_N]`."""
        flat = actions.transpose(0, 1).flatten(1)  # [B, N * A]
        return flat if self._actions.full else flat.index_select(1, self._actions.kept)

    def without_padding(self, values: Tensor) -> Tensor:
        """Return values `[N, B, A]` with padded columns so low that they are never chosen."""
        return values if self._actions.full else values.masked_fill(self.valid == 0, _IMPOSSIBLE)


class _Padded:
    """Gathers columns of unequal width per agent into one padded tensor."""

    def __init__(self, columns: tuple[slice, ...], device: torch.device) -> None:
        sizes = [own.stop - own.start for own in columns]
        width = max(sizes)
        index = [
            own.start + min(k, size - 1)
            for own, size in zip(columns, sizes, strict=True)
            for k in range(width)
        ]
        inside = [k < size for size in sizes for k in range(width)]
        self._shape = (len(columns), width)
        self._index = torch.tensor(index, device=device)  # [N * width]
        self.full = all(inside)
        self.valid = torch.tensor(inside, device=device).view(len(columns), 1, width).float()
        self.kept = torch.tensor(inside, device=device).nonzero().squeeze(1)

    def take(self, rows: Tensor) -> Tensor:
        """Return `[N, B, width]` of rows `[B, ...]`; padded columns are zero."""
        taken = rows.index_select(1, self._index).view(-1, *self._shape).transpose(0, 1)
        return taken if self.full else taken * self.valid


class MADDPGUpdate:
    """Networks, targets, optimisers and the update that moves them.

    All N agents advance in the same batched products; their losses are summed, which keeps their gradients
    apart because no two agents share a parameter.
    """

    def __init__(self, config: AlgorithmConfig, spec: EnvSpec, device: torch.device, seed: int) -> None:
        """Initialise from `seed`; the same seed gives the same parameters on every device."""
        initial = torch.Generator().manual_seed(seed)
        decentralised = tuple(name == "ddpg" for name in config.per_agent(spec))
        self.policy = PolicyNetwork(spec, config.policy_hidden_sizes, device, initial)
        self.critic = CriticNetwork(spec, config.critic_hidden_sizes, decentralised, device, initial)
        self.target_policy = PolicyNetwork(spec, config.policy_hidden_sizes, device, initial)
        self.target_critic = CriticNetwork(spec, config.critic_hidden_sizes, decentralised, device, initial)
        self.target_policy.flat.copy_(self.policy.flat)
        self.target_critic.flat.copy_(self.critic.flat)
        self.policy_optimiser = _adam(self.policy, config.actor_lr)
        self.critic_optimiser = _adam(self.critic, config.critic_lr)
        self.generator = torch.Generator(device).manual_seed(seed + 1)  # not the stream of the first weights
        self._config, self._spec = config, spec
        self._columns = _Columns(spec, device)
        self._gumbel = _AgentMask([head == "gumbel" for head in config.heads(spec)], device)
        self._discrete = _AgentMask([kind == "discrete" for kind in spec.action_types], device)

    def __call__(self, batch: Tensor) -> Tensor:
        """Update every agent once on packed transitions `[B, width]`; return `METRICS` as `[5, N]`."""
        critic_metrics = self._update_critics(batch)
        actor_metrics = self._update_policies(batch)
        with torch.no_grad():
            for online, target in ((self.policy, self.target_policy), (self.critic, self.target_critic)):
                target.flat.lerp_(online.flat, self._config.tau)
        loss, q_mean, critic_norm = critic_metrics
        actor, actor_norm = actor_metrics
        return torch.stack((loss, actor, q_mean, critic_norm, actor_norm))

    def _update_critics(self, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        columns = self._columns
        with torch.no_grad():
            logits = self.target_policy(columns.padded_next_obs(batch))
            next_actions = self._randomised(self._sample(logits, hard=self._discrete.any))
            next_joint = torch.cat(
                (batch[:, columns.next_obs], columns.flatten(next_actions)), dim=1
            )  # [B, J]
            next_q = self.target_critic(next_joint)
        transitions = self._spec.transitions
        target = td_target(
            batch[:, transitions.rewards].T, batch[:, transitions.terminated].T, next_q, self._config.gamma
        )
        q = self.critic(batch[:, transitions.joint])
        loss = critic_loss(q, target)
        norm = self._step(self.critic, self.critic_optimiser, loss)
        return loss.detach(), q.detach().mean(dim=1), norm

    def _update_policies(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        columns, config = self._columns, self._config
        logits = self.policy(columns.padded_obs(batch))  # [N, B, A]
        actions = self._sample(logits, hard=self._discrete.any and config.straight_through)
        joint = batch[:, self._spec.transitions.joint]
        if config.other_actions == "current":
            others = self._randomised(actions.detach())
            joint = torch.cat((batch[:, columns.obs], columns.flatten(others)), dim=1)  # [B, J]
        change = (actions - columns.padded_actions(joint)) * columns.valid
        q = self.critic.with_own_action(joint, change)
        regularised = logits if config.regulariser == "logits" else actions
        loss = actor_loss(q, regularised, columns.valid, config.regulariser_weight)
        return loss.detach(), self._step(self.policy, self.policy_optimiser, loss)

    def _sample(self, logits: Tensor, hard: bool) -> Tensor:
        """Return actions `[N, B, A]`: sigmoid, or Gumbel-softmax; one-hot for discrete agents if `hard`."""
        if not self._gumbel.any:
            return torch.sigmoid(logits)
        noisy = (logits + gumbel_noise(logits, self.generator)) / self._config.temperature
        relaxed = torch.softmax(self._columns.without_padding(noisy), dim=2)
        if hard:
            relaxed = torch.where(self._discrete.mask, straight_through(relaxed), relaxed)
        return relaxed if self._gumbel.all else torch.where(self._gumbel.mask, relaxed, torch.sigmoid(logits))

    def _randomised(self, actions: Tensor) -> Tensor:
        """Replace rows of actions `[N, B, A]` by uniform random ones, as the notebook's critics saw them."""
        probability = self._config.random_action_rows
        if probability == 0.0:
            return actions
        rows = (
            torch.rand(*actions.shape[:2], 1, generator=self.generator, device=actions.device) < probability
        )
        uniform = torch.rand(actions.shape, generator=self.generator, device=actions.device)
        if self._discrete.any:
            uniform = torch.where(
                self._discrete.mask, one_hot_like(self._columns.without_padding(uniform)), uniform
            )
        return torch.where(rows, uniform, actions)

    def _step(self, networks: StackedNetworks, optimiser: torch.optim.Adam, loss: Tensor) -> Tensor:
        """Apply the gradient of `loss [N]`; return each network's gradient norm `[N]` before clipping."""
        leaves = [leaf for layer in networks.layers for leaf in layer]
        grads = torch.autograd.grad(loss.sum(), leaves)
        torch.cat([grad.flatten(1) for grad in grads], dim=1, out=networks.grad)  # [N, P]
        norm: Tensor = torch.linalg.vector_norm(networks.grad, dim=1)
        if self._config.max_grad_norm > 0:
            networks.grad.mul_((self._config.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)[:, None])
        optimiser.step()
        return norm


def _adam(networks: StackedNetworks, learning_rate: float) -> torch.optim.Adam:
    """Return Adam over the flat parameters of all agents; elementwise, so as good as one per agent."""
    flat = torch.nn.Parameter(networks.flat)  # shares memory
    flat.grad = networks.grad
    return torch.optim.Adam([flat], lr=learning_rate, fused=True)
