"""One MADDPG update of all agents at once, in the order of the paper's algorithm 1.

This is the readable reference, differentiated by autograd; `handwritten.py` computes the same faster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from distributed_maddpg import layouts
from distributed_maddpg.algo.adam import Adam
from distributed_maddpg.algo.information import CommonCandidates, Counterfactuals
from distributed_maddpg.algo.layered import LayeredCriticNetwork, LayeredPolicyNetwork
from distributed_maddpg.algo.losses import (
    actor_loss,
    critic_loss,
    gumbel_noise,
    information_loss,
    one_hot_like,
    smoothing_noise,
    straight_through,
    td_target,
)
from distributed_maddpg.algo.networks import CriticNetwork, FlatNetworks, PolicyNetwork
from distributed_maddpg.config import AlgorithmConfig
from distributed_maddpg.layouts import LayeredLayout, Layout, initial_policies
from distributed_maddpg.types import (
    METRICS,
    EnvSpec,
    FloatArray,
    InitialWeights,
    StackedLayout,
)

INFORMATION_ROWS = 0.25
"""Share of a minibatch that information regularisation uses."""
_MASKED_LOGIT = -1e9


class _AgentMask:
    """Which agents have a property, as a mask `[M, 1, 1]`; `any` and `all` need no device synchronisation."""

    def __init__(self, agents: list[bool], runs: int, device: torch.device) -> None:
        self.agents = agents
        self.mask = torch.tensor(agents, device=device).repeat(runs)[:, None, None]
        self.any, self.all = any(agents), all(agents)


class _PaddedGather:
    """Each agent's own columns of packed rows, padded with zeros to the widest agent's."""

    def __init__(self, columns: tuple[slice, ...], device: torch.device) -> None:
        self._columns = columns
        sizes = [own.stop - own.start for own in columns]
        width = max(sizes)
        index = [
            own.start + min(k, size - 1)
            for own, size in zip(columns, sizes, strict=True)
            for k in range(width)
        ]
        self._index = torch.tensor(index, device=device)
        kept = torch.tensor([float(k < size) for size in sizes for k in range(width)], device=device)
        self._kept = None if min(sizes) == width else kept
        # On a GPU one kernel per agent costs more than an indexed read.
        self._use_index_select = device.type == "cuda"

    def __call__(self, rows: Tensor, dim: int = 2) -> Tensor:
        """Return `[M, ..., ...]` for rows `[S, ..., ...]` whose columns are along `dim`, 1 or 2."""
        if not self._use_index_select:
            return _padded(rows, self._columns, dim)
        gathered = rows.index_select(dim, self._index)
        if self._kept is not None:
            gathered *= self._kept if dim == 2 else self._kept[:, None]
        shape = gathered.shape
        parts = gathered.view(*shape[:dim], len(self._columns), -1, *shape[dim + 1 :])
        return parts.movedim(dim, 1).flatten(0, 1)


class _BatchColumns:
    """Access to the parts of packed batches `[S, B, width]`; smaller agents are padded with zeros."""

    def __init__(self, spec: EnvSpec, runs: int, device: torch.device) -> None:
        layout, sizes = spec.transitions, spec.action_sizes
        self.critic_input = layout.critic_input
        self.obs = slice(layout.obs[0].start, layout.obs[-1].stop)
        self.next_obs = slice(layout.next_obs[0].start, layout.next_obs[-1].stop)
        self._layout = layout
        self.padded_obs = _PaddedGather(layout.obs, device)
        self.padded_next_obs = _PaddedGather(layout.next_obs, device)
        self._padded_actions = _PaddedGather(layout.actions, device)
        inside = torch.tensor([[k < size for k in range(max(sizes))] for size in sizes], device=device)
        self._full = min(sizes) == max(sizes)
        self._kept = inside.flatten().nonzero().squeeze(1)
        self.valid = inside.repeat(runs, 1)[:, :, None].to(torch.get_default_dtype())
        """[M, A, 1] 1.0 for an agent's own actions, 0.0 for padding."""

    def padded_actions(self, joint: Tensor) -> Tensor:
        """Return the actions `[M, A, B]` of joint observations and actions `[S, B, J]`."""
        return self._padded_actions(joint.transpose(1, 2), 1)

    def rewards(self, batch: Tensor) -> Tensor:
        """Return `[M, B]`."""
        return _per_agent(batch, self._layout.rewards)

    def discounts(self, batch: Tensor) -> Tensor:
        """Return `[M, B]`."""
        return _per_agent(batch, self._layout.discounts)

    def if_present(self, batch: Tensor, values: Tensor) -> Tensor:
        """Return values `[M, B]` with zeros in the rows in which an agent is absent."""
        return values * _per_agent(batch, self._layout.present) if self._layout.varying else values

    def if_acting(self, batch: Tensor, values: Tensor) -> Tensor:
        """Return values `[M, ..., C * B]` with zeros in the rows in which an agent does not act."""
        if not self._layout.varying:
            return values
        acting = _per_agent(batch, self._layout.acting)
        acting = acting.repeat(1, values.shape[-1] // acting.shape[1])
        return values * (acting if values.ndim == 2 else acting[:, None])

    def allowed(self, batch: Tensor, after: bool = False) -> Tensor | None:
        """Return which actions `[M, A, B]` are allowed now, or after the step; None without action masks."""
        if not any(self._layout.masked):
            return None
        agents, width = len(self._layout.masked), self.valid.shape[1]
        allowed = torch.ones(len(batch), agents, width, batch.shape[1], dtype=torch.bool, device=batch.device)
        for agent, own in enumerate(self._layout.next_allowed if after else self._layout.allowed):
            allowed[:, agent, : own.stop - own.start] = batch[..., own].mT > 0.5
        return allowed.flatten(0, 1)

    def taken_next(self, batch: Tensor, actions: Tensor, allowed: Tensor | None) -> Tensor:
        """Return next actions `[M, A, B]` without those that are not allowed, or of agents not acting."""
        if allowed is not None:
            actions = actions * allowed
        if self._layout.varying:
            actions = actions * _per_agent(batch, self._layout.next_acting)[:, None]
        return actions

    def with_actions(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Return the critics' input `[S, B, J]` from observations `[S, B, ...]` and actions `[M, A, B]`."""
        flat = actions.reshape(len(obs), -1, actions.shape[2])  # [S, N * A, B]
        flat = flat if self._full else flat.index_select(1, self._kept)
        return torch.cat((obs, flat.transpose(1, 2)), dim=2)

    def with_zero_padding(self, values: Tensor) -> Tensor:
        """Return values `[M, A, B]` with zeros in the padding."""
        return values if self._full else values * self.valid

    def with_masked_padding(self, values: Tensor) -> Tensor:
        """Return values `[M, A, B]` with -1e9 in the padding, so that argmax and softmax ignore it."""
        return values if self._full else values.masked_fill(self.valid == 0, _MASKED_LOGIT)


def _per_agent(batch: Tensor, columns: slice) -> Tensor:
    """Return the N columns of batches `[S, B, width]` as `[M, B]`."""
    return batch[..., columns].transpose(1, 2).flatten(0, 1)


def only_allowed(logits: Tensor, allowed: Tensor | None) -> Tensor:
    """Return logits `[M, A, B]` with -1e9 for actions that are not allowed."""
    return logits if allowed is None else logits.masked_fill(~allowed, _MASKED_LOGIT)


def _padded(rows: Tensor, columns: tuple[slice, ...], dim: int) -> Tensor:
    """Return each agent's columns along `dim` of `[S, ..., ...]`, padded with zeros: `[M, ..., ...]`."""
    sizes = [own.stop - own.start for own in columns]
    shape = [len(rows), len(columns), *rows.shape[1:]]
    shape[dim + 1] = max(sizes)
    padded = rows.new_zeros(shape)
    for agent, (own, size) in enumerate(zip(columns, sizes, strict=True)):
        padded[:, agent].narrow(dim, 0, size).copy_(rows.narrow(dim, own.start, size))
    return padded.flatten(0, 1)


def _initial_critics(
    layout: StackedLayout,
    spec: EnvSpec,
    groups: Sequence[tuple[int, ...]],
    decentralised: Sequence[bool],
    rule: InitialWeights,
    seed: tuple[int, int],
) -> FloatArray:
    """Return initial critics `[V, P]`; decentralised ones are scaled for their smaller number of inputs."""
    critics = layout.initial_parameters(np.random.default_rng(seed), rule)
    weight, bias, joint, hidden = layout.layers[0]
    extra = 0 if rule == "torch" else hidden  # "glorot" counts the outputs, too
    for critic, ((agent, *_), alone) in enumerate(zip(groups, decentralised, strict=True)):
        if alone:
            own = spec.observation_sizes[agent] + spec.action_sizes[agent]
            critics[critic, weight.start : bias.stop] *= np.sqrt(np.float32((joint + extra) / (own + extra)))
    return critics


def _policy_network(layout: Layout, initial: FloatArray, device: torch.device) -> PolicyNetwork:
    if isinstance(layout, LayeredLayout):
        return LayeredPolicyNetwork(layout, initial, device)
    return PolicyNetwork(layout, initial, device)


class MADDPGUpdate:
    """Networks, target networks, optimisers, and the update of all of them.

    The N agents of all S runs are updated by the same batched products. Their losses are summed; gradients
    stay separate because networks share no parameters. A critic of several agents learns from the mean of
    their losses.
    """

    def __init__(
        self, config: AlgorithmConfig, spec: EnvSpec, device: torch.device, seeds: Sequence[int]
    ) -> None:
        """Initialise one run per seed; initial parameters depend on the seed only, not on the device."""
        self._config, names = config, config.per_agent(spec)
        initial = np.concatenate([initial_policies(config, spec, seed) for seed in seeds])
        self.policy, self.target_policy = (
            _policy_network(layouts.policies(config, spec), initial, device) for _ in range(2)
        )
        self.policy_optimiser = Adam(self.policy.flat, self.policy.grad, config.actor_lr)
        self._twin_critics = _AgentMask([name == "matd3" for name in names], len(seeds), device)
        self._critics = [
            self._make_critic(spec, device, [(seed, stream) for seed in seeds])
            for stream in ((1, 2) if self._twin_critics.any else (1,))
        ]
        """(online, target, optimiser) of the critics and, if an agent is "matd3", of the second critics."""
        self.critic, self.target_critic, self.critic_optimiser = self._critics[0]
        self._networks: dict[str, FlatNetworks] = {
            "policy": self.policy,
            "critic": self.critic,
            "target_policy": self.target_policy,
            "target_critic": self.target_critic,
        }
        self.optimisers = {
            "policy_optimiser": self.policy_optimiser,
            "critic_optimiser": self.critic_optimiser,
        }
        if self._twin_critics.any:
            self.critic2, self.target_critic2, self.optimisers["critic2_optimiser"] = self._critics[1]
            self._networks |= {"critic2": self.critic2, "target_critic2": self.target_critic2}
        self.policy_delay = config.updates_per_policy_update(spec)
        """Critic updates per update of policies and target networks."""
        self.updates_made = 0
        """Number of updates; decides when policies are updated. The learner sets it before each call."""
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self._columns = _BatchColumns(spec, len(seeds), device)
        self._prepare_private_parts(spec, len(seeds), device)
        self.metrics = (*METRICS, "information") if self._counterfactuals else METRICS
        """Names of the metrics that an update returns."""
        count = len(self.metrics) - 3  # without those of the critics
        self._policy_metrics = torch.zeros(count, len(seeds) * spec.num_agents, device=device)
        """Loss and gradient norm of the latest policy update, and its information if that is measured."""
        self._gumbel_heads = _AgentMask([head == "gumbel" for head in config.heads(spec)], len(seeds), device)
        discrete = [kind == "discrete" for kind in spec.action_types]
        self._discrete_agents = _AgentMask(discrete, len(seeds), device)
        sigmoid = [head == "sigmoid" for head in config.heads(spec)]
        smoothed = [twin and own for twin, own in zip(self._twin_critics.agents, sigmoid, strict=True)]
        self._smoothed_agents = _AgentMask(
            smoothed if config.target_noise else [False] * len(names), len(seeds), device
        )
        self._shared_rows = [
            torch.tensor(group, device=device)
            + spec.num_agents * torch.arange(len(seeds), device=device)[:, None]
            for group in (spec.homogeneous_groups if config.share_policies else ())
        ]
        """Rows [S, agents] of policies that share their parameters."""
        self._frozen_mask: Tensor | None = None

    def _prepare_private_parts(self, spec: EnvSpec, runs: int, device: torch.device) -> None:
        config, parts = self._config, self._config.private_parts(spec)
        self._counterfactuals = Counterfactuals(parts if config.information_weight else (), runs, device)
        self._with_private_part = _AgentMask([part is not None for part in parts], runs, device)
        common = config.common_candidates(spec)
        self._candidates = CommonCandidates(spec, common, device) if any(common) else None

    def _make_critic(
        self, spec: EnvSpec, device: torch.device, seeds: Sequence[tuple[int, int]]
    ) -> tuple[CriticNetwork, CriticNetwork, Adam]:
        """Return critics of one run per seed, their target networks and their optimiser."""
        config, groups = self._config, self._config.critic_groups(spec)
        layout, names = layouts.critics(config, spec), config.per_agent(spec)
        alone = tuple(names[group[0]] == "ddpg" for group in groups)
        online: CriticNetwork
        target: CriticNetwork
        if isinstance(layout, LayeredLayout):
            drawn = [layout.initial_parameters(np.random.default_rng(seed)) for seed in seeds]
            arguments = np.concatenate(drawn), device, spec, groups, alone
            online, target = (LayeredCriticNetwork(layout, *arguments) for _ in range(2))
        else:
            rule = config.initial_weights
            drawn = [_initial_critics(layout, spec, groups, alone, rule, seed) for seed in seeds]
            arguments = np.concatenate(drawn), device, spec, groups, alone
            online, target = (CriticNetwork(layout, *arguments) for _ in range(2))
        return online, target, Adam(online.flat, online.grad, config.critic_lr)

    def scale_learning_rates(self, share: float) -> None:
        """Set the learning rates to this share of the configured ones."""
        for name, optimiser in self.optimisers.items():
            rate = self._config.actor_lr if name == "policy_optimiser" else self._config.critic_lr
            optimiser.set_learning_rate(share * rate)

    def freeze(self, agents: Sequence[bool], policies: Tensor) -> None:
        """Stop updating some agents' policies; they act greedily in the targets and losses.

        Args:
            agents: which of the N.
            policies: [N, P]; the rows of frozen agents are copied.
        """
        frozen = torch.tensor(agents, device=self.policy.flat.device).repeat(len(self.generators))
        self._frozen_mask = frozen[:, None, None]
        self._shared_rows = [rows for rows in self._shared_rows if not agents[int(rows[0, 0])]]
        for networks in (self.policy, self.target_policy):
            rows = policies.repeat(len(self.generators), 1)
            networks.flat.copy_(torch.where(frozen[:, None], rows, networks.flat))

    def __call__(self, batch: Tensor) -> Tensor:
        """Update every agent once on packed transitions `[S, B, width]`; return `metrics` as `[K, M]`."""
        due = self.updates_made % self.policy_delay == 0
        self.updates_made += 1
        loss, q_mean, critic_norm = self._update_critics(batch)
        if due:
            for row, value in zip(self._policy_metrics, self._update_policies(batch), strict=True):
                row.copy_(value)
            with torch.no_grad():
                for name, online in self._networks.items():
                    if target := self._networks.get(f"target_{name}"):
                        target.flat.lerp_(online.flat, self._config.tau)
        actor, *others = self._policy_metrics
        return torch.stack((loss, actor, q_mean, critic_norm, *others))

    def per_network_state(self) -> dict[str, Tensor]:
        """Return the state with one row per network: parameters, targets, Adam's moments.

        Rows are the M policies or the S * V critics.
        """
        rows: dict[str, Tensor] = {name: networks.flat for name, networks in self._networks.items()}
        for name, optimiser in self.optimisers.items():
            rows |= {f"{name}.exp_avg": optimiser.exp_avg, f"{name}.exp_avg_sq": optimiser.exp_avg_sq}
        if self.policy_delay > 1:
            rows["policy_metrics"] = self._policy_metrics.T
        return rows

    def state(self) -> dict[str, Tensor]:
        """Return every tensor that an update changes and the next update depends on."""
        steps = {f"{name}.step": optimiser.steps for name, optimiser in self.optimisers.items()}
        return self.per_network_state() | steps

    def _update_critics(self, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Step the critics; return (losses, mean values, gradient norms), each `[M]`."""
        columns = self._columns
        with torch.no_grad():
            logits = self.target_policy(columns.padded_next_obs(batch)).transpose(1, 2)
            next_joint = self._next_joint(batch, logits)
            next_q = self._min_q([target(next_joint) for _, target, _ in self._critics])
        target = td_target(columns.rewards(batch), columns.discounts(batch), next_q)
        target, found = columns.if_present(batch, target), []
        for critic, _, optimiser in self._critics:
            q = columns.if_present(batch, critic(batch[..., columns.critic_input]))
            loss = critic_loss(q, target)
            norm = self._backward_and_apply(critic, optimiser, loss * critic.shares)
            found.append((loss.detach(), q.detach().mean(dim=1), critic.per_agent(norm)))
        return found[0]

    def _min_q(self, values: Sequence[Tensor]) -> Tensor:
        """Return the first critics' values `[M, B]`, or the lower of both for agents with two."""
        if not self._twin_critics.any:
            return values[0]
        return torch.where(self._twin_critics.mask[:, :, 0], torch.minimum(*values), values[0])

    def _update_policies(self, batch: Tensor) -> tuple[Tensor, ...]:
        """Step the policies; return losses, gradient norms and, if measured, information, each `[M]`."""
        columns, config = self._columns, self._config
        logits = self.policy(columns.padded_obs(batch)).transpose(1, 2)  # [M, A, B]
        relaxed = self._relaxed(only_allowed(logits, columns.allowed(batch)))
        actions = self._straight_through(relaxed, config.straight_through)
        joint = self._joint_with_other_actions(batch, actions.detach())
        change = columns.with_zero_padding(actions - columns.padded_actions(joint))
        q = columns.if_acting(batch, self._values(joint, change))
        regularised = columns.if_acting(batch, logits if config.regulariser == "logits" else actions)
        loss = actor_loss(q, regularised, columns.valid, config.regulariser_weight)
        if not self._counterfactuals:
            return loss.detach(), self._backward_and_apply(self.policy, self.policy_optimiser, loss)
        information = self._information(batch, logits)
        total = loss + config.information_weight * information
        norm = self._backward_and_apply(self.policy, self.policy_optimiser, total)
        return loss.detach(), norm, information.detach()

    def _values(self, joint: Tensor, change: Tensor) -> Tensor:
        """Return values `[M, B]` of own actions, see `with_own_action`, by `private_values`."""
        observed = self.critic.with_own_action(joint, change)
        if self._candidates is None:
            return observed
        values = [self.critic.with_own_action(other, change) for other in self._candidates.joints(joint)]
        return torch.where(self._with_private_part.mask[:, :, 0], torch.stack(values).mean(dim=0), observed)

    def _information(self, batch: Tensor, logits: Tensor) -> Tensor:
        """Return the information loss `[M]` in the first rows, whose logits are `[M, A, B]`."""
        rows = self._information_rows(batch.shape[1])
        batch, allowed = batch[:, :rows], self._columns.allowed(batch[:, :rows])
        counterfactual = self.policy(self._counterfactuals(self._columns.padded_obs(batch))).transpose(1, 2)
        pair = (only_allowed(each, allowed) for each in (logits[:, :, :rows], counterfactual))
        return information_loss(self._told(batch, *map(self._noiseless, pair)))

    def _told(self, batch: Tensor, actions: Tensor, counterfactual: Tensor) -> Tensor:
        """Return the difference of actions `[M, A, R]`; zero in padding and where nothing is private."""
        told = self._columns.with_zero_padding(actions - counterfactual)
        told = self._columns.if_acting(batch, told)
        return told if self._with_private_part.all else told * self._with_private_part.mask

    def _information_rows(self, batch_size: int) -> int:
        """Return how many of a minibatch's rows information regularisation uses; 0 if it is off."""
        return max(1, int(INFORMATION_ROWS * batch_size)) if self._counterfactuals else 0

    def _next_joint(self, batch: Tensor, logits: Tensor) -> Tensor:
        """Return the target critics' input `[S, B, J]`: next observations, actions for logits `[M, A, B]`."""
        columns, allowed = self._columns, self._columns.allowed(batch, after=True)
        relaxed = self._relaxed(only_allowed(logits, allowed))
        actions = self._with_random_actions(self._smooth(self._straight_through(relaxed, True)), allowed)
        return columns.with_actions(batch[..., columns.next_obs], columns.taken_next(batch, actions, allowed))

    def _joint_with_other_actions(self, batch: Tensor, actions: Tensor) -> Tensor:
        """Return the critics' input `[S, B, J]` before each critic's own action is replaced."""
        if self._config.other_actions == "replay":
            return batch[..., self._columns.critic_input]
        actions = self._with_random_actions(actions, self._columns.allowed(batch))
        actions = self._columns.if_acting(batch, actions)
        return self._columns.with_actions(batch[..., self._columns.obs], actions)

    def _relaxed(self, logits: Tensor) -> Tensor:
        """Return actions `[M, A, B]` for logits, by head: sigmoid, or Gumbel-softmax with new noise."""
        if not self._gumbel_heads.any:
            return torch.sigmoid(logits)
        noise = gumbel_noise(self._random(Tensor.uniform_, logits))
        noisy = logits + (noise if self._frozen_mask is None else noise.masked_fill_(self._frozen_mask, 0.0))
        relaxed = self._softmax(noisy)
        return (
            relaxed
            if self._gumbel_heads.all
            else torch.where(self._gumbel_heads.mask, relaxed, torch.sigmoid(logits))
        )

    def _noiseless(self, logits: Tensor) -> Tensor:
        """Return actions `[M, A, B]` for logits without noise, by head: sigmoid or softmax."""
        if not self._gumbel_heads.any:
            return torch.sigmoid(logits)
        if self._gumbel_heads.all:
            return self._softmax(logits)
        return torch.where(self._gumbel_heads.mask, self._softmax(logits), torch.sigmoid(logits))

    def _softmax(self, logits: Tensor) -> Tensor:
        """Return the softmax of `logits [M, A, B]` over each agent's own actions, at the temperature."""
        if self._config.temperature != 1.0:
            logits = logits / self._config.temperature
        return torch.softmax(self._columns.with_masked_padding(logits), dim=1)

    def _straight_through(self, relaxed: Tensor, hard: bool) -> Tensor:
        """Return actions `[M, A, B]`; if `hard`, those of discrete agents as one-hot vectors."""
        if not (hard and self._discrete_agents.any):
            return relaxed
        return torch.where(self._discrete_agents.mask, straight_through(relaxed), relaxed)

    def _smooth(self, actions: Tensor) -> Tensor:
        """Add smoothing noise to the target actions `[M, A, B]` of matd3 agents; clip to [0, 1]."""
        if not self._smoothed_agents.any:
            return actions
        noise = smoothing_noise(self._random(Tensor.normal_, actions), self._config.target_noise)
        return torch.where(self._smoothed_agents.mask, (actions + noise).clamp_(0.0, 1.0), actions)

    def _with_random_actions(self, actions: Tensor, allowed: Tensor | None) -> Tensor:
        """Replace actions `[M, A, B]` in random batch rows (last axis) by uniform ones (the notebook)."""
        probability = self._config.random_action_rows
        if probability == 0.0:
            return actions
        chosen = self._random(Tensor.uniform_, actions[:, :1]) < probability
        uniform = only_allowed(self._random(Tensor.uniform_, actions), allowed)
        if self._discrete_agents.any:
            uniform = torch.where(
                self._discrete_agents.mask, one_hot_like(self._columns.with_masked_padding(uniform)), uniform
            )
        return torch.where(chosen, uniform, actions)

    def _random(self, fill: Callable[..., Tensor], like: Tensor) -> Tensor:
        """Return random numbers in the shape of `like` `[M, ...]`, each run's from its own generator."""
        drawn = torch.empty(like.shape, device=like.device)  # contiguous: the order of draws is fixed
        for run, generator in zip(drawn.chunk(len(self.generators)), self.generators, strict=True):
            fill(run, generator=generator)
        return drawn

    def _backward_and_apply(self, networks: FlatNetworks, optimiser: Adam, loss: Tensor) -> Tensor:
        """Apply the gradient of `loss [M]`; return each network's gradient norm before clipping."""
        grads = torch.autograd.grad(loss.sum(), networks.leaves)
        torch.cat([grad.flatten(1) for grad in grads], dim=1, out=networks.grad)  # [M, P]
        return self._apply_gradient(networks, optimiser)

    def _apply_gradient(self, networks: FlatNetworks, optimiser: Adam) -> Tensor:
        """Clip `networks.grad` and step the optimiser; return each network's norm before clipping."""
        shared = self._shared_rows if networks is self.policy else ()
        for rows in shared:
            networks.grad[rows] = networks.grad[rows].mean(dim=1, keepdim=True).expand(-1, rows.shape[1], -1)
        if self._frozen_mask is not None and networks is self.policy:
            # Adam does not move parameters whose gradient was always zero.
            networks.grad.masked_fill_(self._frozen_mask[:, :, 0], 0.0)
        norm: Tensor = torch.linalg.vector_norm(networks.grad, dim=1)
        if self._config.max_grad_norm > 0:
            self._clip(networks, norm)
        optimiser.step()
        for rows in shared:  # SIMD and scalar code may round the last bit differently
            networks.flat[rows] = networks.flat[rows[:, :1]].expand(-1, rows.shape[1], -1)
        return norm

    def _clip(self, networks: FlatNetworks, norm: Tensor) -> None:
        """Clip the gradient norm of each network (norms `[M]` given), or of each parameter."""
        limit = self._config.max_grad_norm
        if self._config.grad_norm_of == "network":
            networks.grad.mul_((limit / (norm + 1e-6)).clamp(max=1.0)[:, None])
            return
        for grad in networks.grad_parameters:
            own = torch.linalg.vector_norm(grad, dim=1)
            grad.mul_((limit / (own + 1e-6)).clamp(max=1.0)[:, None])
