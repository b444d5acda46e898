"""The batched update against a plain one: a network, an optimiser and a loop per agent."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from distributed_maddpg.algo.handwritten import HandwrittenUpdate
from distributed_maddpg.algo.maddpg import MADDPGUpdate, _PaddedGather
from distributed_maddpg.config import AlgorithmConfig
from distributed_maddpg.types import METRICS, EnvSpec
from tests.algo.samples import (
    CASES,
    CONTINUOUS,
    DISCRETE,
    EVEN,
    MIXED,
    NAMES,
    ONE_TEAM,
    PRIVATE_MIXED,
    SMALL,
    WITH_CONSTANTS,
    candidate,
    make_batch,
    one_hot,
)

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread():
    """Use no thread pool: on networks this small it only costs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def double():
    """Compute in float64, so that a comparison can be strict where Adam divides by tiny gradients."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class PlainAgent:
    """One agent's networks as torch's own layers, started from its rows of a MADDPGUpdate."""

    def __init__(self, update, agent, config, spec):
        self.policy = perceptron(
            update.policy, agent, spec.observation_sizes[agent], spec.action_sizes[agent]
        )
        self.twin = config.per_agent(spec)[agent] == "matd3"
        stacks = [update.critic, update.critic2] if self.twin else [update.critic]
        shares = config.share_critics and agent > 0 and config.per_agent(spec)[agent] != "ddpg"
        self.number, self.head, self.heads = (1, agent - 1, 2) if shares else (agent, 0, 1)
        inputs = spec.transitions.critic_input.stop
        self.critics = [perceptron(stack, self.number, inputs, self.heads) for stack in stacks]
        self.critic = self.critics[0]
        self.target_policy, self.target_critics = copy.deepcopy(self.policy), copy.deepcopy(self.critics)
        self.target_critic = self.target_critics[0]
        self.policy_optimiser = torch.optim.Adam(self.policy.parameters(), config.actor_lr)
        self.critic_optimisers = [
            torch.optim.Adam(own.parameters(), config.critic_lr) for own in self.critics
        ]


def perceptron(stack, agent, width_in, width_out):
    modules, last = [], len(stack.layers) - 1
    for depth, (weight, bias) in enumerate(stack.layers):
        weight, bias = weight[agent].detach().clone(), bias[agent, 0].detach().clone()
        weight = weight[:width_in] if depth == 0 else weight
        weight, bias = (weight[:, :width_out], bias[:width_out]) if depth == last else (weight, bias)
        layer = nn.Linear(*weight.shape)
        layer.weight.data, layer.bias.data = weight.T.contiguous(), bias
        modules += [layer, nn.ReLU()]
    return nn.Sequential(*modules[:-1])


class PlainUpdate:
    """Algorithm 1 of the paper, agent after agent; its noise is drawn as the batched update draws its own."""

    def __init__(self, update, config, spec):
        self.config, self.spec = config, spec
        self.agents = [PlainAgent(update, i, config, spec) for i in range(3)]
        self.groups = [(i,) for i in range(3)]
        if config.share_policies:
            self.groups = [(0,), (1, 2)]  # red_0, and the two of team blue
            for part in ("policy", "target_policy", "policy_optimiser"):
                setattr(self.agents[2], part, getattr(self.agents[1], part))
        if self.agents[2].heads == 2:
            for part in ("critics", "critic", "target_critics", "target_critic", "critic_optimisers"):
                setattr(self.agents[2], part, getattr(self.agents[1], part))
        self.delay = config.policy_delay or (2 if "matd3" in config.per_agent(spec) else 1)
        self.updates, self.actor_metrics = 0, None
        self.generator = torch.Generator()
        self.generator.set_state(update.generators[0].get_state())

    def __call__(self, batch):
        layout, spec = self.spec.transitions, self.spec
        discrete = [kind == "discrete" for kind in spec.action_types]
        next_logits = [a.target_policy(batch[:, layout.next_obs[i]]) for i, a in enumerate(self.agents)]
        allowed = [self.flags(batch, columns) for columns in layout.next_allowed]
        next_actions = self.smoothed(self.sample(next_logits, discrete, allowed))
        next_actions = self.taken(self.randomised(next_actions, allowed), batch, layout.next_acting, allowed)
        next_joint = torch.cat([batch[:, columns] for columns in layout.next_obs] + next_actions, 1)
        groups = [(0,), (1, 2)] if self.agents[2].heads == 2 else [(0,), (1,), (2,)]
        metrics = [own for group in groups for own in self.critic_step(group, batch, next_joint.detach())]
        if self.updates % self.delay == 0:
            self.actor_metrics = self.delayed(batch)
        self.updates += 1
        return torch.tensor([own + late for own, late in zip(metrics, self.actor_metrics, strict=True)]).T[
            [0, 3, 1, 2, 4, 5][: 6 if self.config.information_weight else 5]
        ]

    def delayed(self, batch):
        """Step the policies and move the targets; return each agent's loss and gradient norm."""
        layout, config, spec = self.spec.transitions, self.config, self.spec
        discrete = [kind == "discrete" for kind in spec.action_types]
        logits = [a.policy(batch[:, layout.obs[i]]) for i, a in enumerate(self.agents)]
        allowed = [self.flags(batch, columns) for columns in layout.allowed]
        actions = self.sample(logits, [own and config.straight_through for own in discrete], allowed)
        others = [batch[:, columns] for columns in layout.actions]
        if config.other_actions == "current":
            others = self.randomised([action.detach() for action in actions], allowed)
            others = self.taken(others, batch, layout.acting, allowed)
        losses = [self.policy_loss(i, batch, logits[i], actions[i], others) for i in range(3)]
        told = [self.information(i, batch) for i in range(3)]
        norms = {}
        for group in self.groups:
            total = [losses[i] + config.information_weight * told[i] for i in group]
            agent, loss = self.agents[group[0]], sum(total) / len(group)
            norms |= dict.fromkeys(group, self.step(agent.policy, agent.policy_optimiser, loss))
            polyak(agent.policy, agent.target_policy, config.tau)
        for a in {id(agent.critic): agent for agent in self.agents}.values():
            for critic, target in zip(a.critics, a.target_critics, strict=True):
                polyak(critic, target, config.tau)
        return [[losses[i].item(), norms[i], told[i].item()] for i in range(3)]

    def critic_step(self, group, batch, next_joint):
        agents, metrics = [self.agents[i] for i in group], []
        targets = [self.target(i, batch, next_joint) for i in group]
        joint = self.seen(group[0], batch[:, self.spec.transitions.critic_input])
        for critic, optimiser in zip(agents[0].critics, agents[0].critic_optimisers, strict=True):
            values = [critic(joint)[:, agent.head] for agent in agents]
            present = [self.weights(batch, self.spec.transitions.present, i) for i in group]
            values = [q * weight for q, weight in zip(values, present, strict=True)]
            losses = [
                (weight * (q - target) ** 2).mean()
                for q, target, weight in zip(values, targets, present, strict=True)
            ]
            norm = self.step(critic, optimiser, sum(losses) / len(group))
            metrics.append(
                [[loss.item(), q.mean().item(), norm] for loss, q in zip(losses, values, strict=True)]
            )
        return metrics[0]

    def target(self, i, batch, next_joint):
        layout, agent = self.spec.transitions, self.agents[i]
        reward, discount = batch[:, layout.rewards.start + i], batch[:, layout.discounts.start + i]
        with torch.no_grad():
            values = [critic(self.seen(i, next_joint))[:, agent.head] for critic in agent.target_critics]
            return reward + discount * torch.stack(values).min(dim=0).values

    def policy_loss(self, i, batch, logits, action, others):
        agent = self.agents[i]
        actions = [*others[:i], action, *others[i + 1 :]]
        joints = [[*obs, *actions] for obs in self.observed(i, batch)]
        acting = self.weights(batch, self.spec.transitions.acting, i)
        q = [agent.critic(self.seen(i, torch.cat(joint, 1)))[:, agent.head] * acting for joint in joints]
        small = logits if self.config.regulariser == "logits" else action
        square = (acting[:, None] * small**2).mean()
        return self.config.regulariser_weight * square - torch.cat(q).mean()

    def flags(self, batch, columns):
        return batch[:, columns] > 0.5 if columns.stop > columns.start else torch.tensor(True)

    def weights(self, batch, columns, i):
        """Return 1 for the rows of an agent that count, 0 for the others."""
        return batch[:, columns.start + i] if self.spec.varying else torch.ones(len(batch))

    def taken(self, actions, batch, columns, allowed):
        return [
            torch.where(allowed[i], action, 0.0) * self.weights(batch, columns, i)[:, None]
            for i, action in enumerate(actions)
        ]

    def observed(self, i, batch):
        """Return the observations of all agents, for each candidate in place of the private part."""
        parts = self.config.private_parts(self.spec)
        observed = [batch[:, columns] for columns in self.spec.transitions.obs]
        if self.config.private_values == "observed" or parts[i] is None:
            return [observed]
        return [
            [self.replaced(obs, part, choice) for obs, part in zip(observed, parts, strict=True)]
            for choice in range(len(parts[i].choices))
        ]

    def replaced(self, obs, part, choice):
        if part is None:
            return obs
        changed = obs.clone()
        changed[:, slice(*part.columns)] = candidate(obs, part, choice)
        return changed

    def information(self, i, batch):
        """Return how far an action is from that for each other candidate in turn, row by row."""
        part = self.config.private_parts(self.spec)[i]
        if part is None or self.config.information_weight == 0:
            return torch.zeros(())
        distances = []
        for row in range(len(batch) // 4):
            obs = batch[row, self.spec.transitions.obs[i]]
            other = obs.clone()
            values = [candidate(obs, part, choice) for choice in range(len(part.choices))]
            apart = [float((value - obs[slice(*part.columns)]).norm()) for value in values]
            steps = 1 + row % (len(values) - 1)
            other[slice(*part.columns)] = values[(apart.index(min(apart)) + steps) % len(values)]
            allowed = self.flags(batch[row : row + 1], self.spec.transitions.allowed[i])
            logits = (
                torch.where(allowed, self.agents[i].policy(each[None]), -1e9)[0] for each in (obs, other)
            )
            own, else_ = (self.noiseless(i, each) for each in logits)
            acting = self.weights(batch, self.spec.transitions.acting, i)[row]
            distances.append(acting * ((own - else_) ** 2).sum())
        return torch.stack(distances).mean()

    def noiseless(self, i, logits):
        if self.config.heads(self.spec)[i] == "sigmoid":
            return torch.sigmoid(logits)
        return torch.softmax(logits / self.config.temperature, 0)

    def step(self, network, optimiser, loss):
        optimiser.zero_grad()
        loss.backward(retain_graph=True)
        limit = self.config.max_grad_norm or float("inf")
        norm = nn.utils.get_total_norm([own.grad for own in network.parameters()]).item()
        whole = self.config.grad_norm_of == "network"
        for clipped in [list(network.parameters())] if whole else network.parameters():
            nn.utils.clip_grad_norm_(clipped, limit)
        optimiser.step()
        return norm

    def seen(self, i, joint):
        if self.config.per_agent(self.spec)[i] != "ddpg":
            return joint
        kept = torch.zeros_like(joint)
        for columns in (self.spec.transitions.obs[i], self.spec.transitions.actions[i]):
            kept[:, columns] = joint[:, columns]
        return kept

    def sample(self, logits, hard, allowed):
        heads, width = self.config.heads(self.spec), max(self.spec.action_sizes)
        noise = torch.zeros(3, len(logits[0]), width)
        if "gumbel" in heads:
            noise = -torch.log(-torch.log(self.uniform(width, len(logits[0]))))
        actions = []
        for i, own in enumerate(logits):
            own = torch.where(allowed[i], own, -1e9)
            if heads[i] == "sigmoid":
                actions.append(torch.sigmoid(own))
                continue
            relaxed = torch.softmax((own + noise[i, :, : own.shape[1]]) / self.config.temperature, 1)
            actions.append(one_hot(relaxed) + relaxed - relaxed.detach() if hard[i] else relaxed)
        return actions

    def smoothed(self, actions):
        deviation, heads = self.config.target_noise, self.config.heads(self.spec)
        smoothed = [agent.twin and head == "sigmoid" for agent, head in zip(self.agents, heads, strict=True)]
        if not any(smoothed) or deviation == 0:
            return actions
        shape = (3, max(self.spec.action_sizes), len(actions[0]))
        noise = torch.empty(shape).normal_(generator=self.generator).transpose(1, 2)
        noise = (deviation * noise).clamp(-2.5 * deviation, 2.5 * deviation)
        return [
            (own + noise[i, :, : own.shape[1]]).clamp(0, 1) if smoothed[i] else own
            for i, own in enumerate(actions)
        ]

    def randomised(self, actions, allowed):
        probability, rows = self.config.random_action_rows, len(actions[0])
        if probability == 0:
            return actions
        chosen = self.uniform(1, rows) < probability
        uniform = self.uniform(max(self.spec.action_sizes), rows)
        result = []
        for i, (action, kind) in enumerate(zip(actions, self.spec.action_types, strict=True)):
            own = torch.where(allowed[i], uniform[i, :, : action.shape[1]], -1.0)
            result.append(torch.where(chosen[i], one_hot(own) if kind == "discrete" else own, action))
        return result

    def uniform(self, width, rows):
        return torch.rand(3, width, rows, generator=self.generator).transpose(1, 2)


def polyak(online, target, tau):
    with torch.no_grad():
        for new, old in zip(online.parameters(), target.parameters(), strict=True):
            old.copy_(tau * new + (1 - tau) * old)


@pytest.mark.parametrize("kind", [MADDPGUpdate, HandwrittenUpdate])
@pytest.mark.parametrize("case", CASES)
def test_the_batched_update_equals_one_network_and_optimiser_per_agent(case, kind, double):
    spec, changes = CASES[case]
    config = replace(SMALL, **changes)
    update = kind(config, spec, CPU, seeds=[1])
    plain = PlainUpdate(update, config, spec)
    for seed in range(3):
        batch = make_batch(spec, seed=seed)
        assert torch.allclose(update(batch[None]), plain(batch), rtol=1e-6, atol=1e-9)
    for agent, own in enumerate(plain.agents):
        for name in ("policy", "target_policy", "critic", "target_critic"):
            number = own.number if "critic" in name else agent
            rebuilt = perceptron(getattr(update, name), number, *ends(spec, agent, name, own.heads))
            for got, expected in zip(rebuilt.parameters(), getattr(own, name).parameters(), strict=True):
                assert torch.allclose(got, expected, rtol=0, atol=1e-8), (agent, name)


def ends(spec, agent, name, heads):
    if "critic" in name:
        return spec.transitions.critic_input.stop, heads
    return spec.observation_sizes[agent], spec.action_sizes[agent]


def weights(update):
    parts = (update.policy, update.critic, update.target_policy, update.target_critic)
    return torch.cat([part.flat.flatten() for part in parts])


def trained(spec=CONTINUOUS, seed=1, updates=3, **changes):
    update = HandwrittenUpdate(replace(SMALL, **changes), spec, CPU, [seed])
    for k in range(updates):
        update(make_batch(spec, seed=k)[None])
    return update


@pytest.mark.parametrize("case", ["sigmoid", "mixed_gumbel", "matd3"])
def test_bf16_changes_the_update_by_its_rounding_only(case):
    spec, changes = CASES[case]
    config = replace(SMALL, **changes)
    full = HandwrittenUpdate(config, spec, CPU, [1])
    low = HandwrittenUpdate(config, spec, CPU, [1], "bf16")
    batch = make_batch(spec)[None]
    metrics = [update(batch) for update in (full, low)]
    torch.testing.assert_close(*metrics, rtol=0.03, atol=0.01)
    assert not torch.equal(*metrics)
    assert low.critic.flat.dtype == low.critic.grad.dtype == torch.float32
    for networks in ("critic", "policy"):
        both = [getattr(update, networks).grad.flatten() for update in (full, low)]
        assert torch.cosine_similarity(*both, dim=0) > 0.999
        assert not torch.equal(*both)


@pytest.mark.parametrize("spec", [CONTINUOUS, DISCRETE])
def test_the_seed_decides_every_bit(spec):
    first, again, other = (weights(trained(spec, seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_padded_parameters_never_move_and_never_matter():
    clean, dirty = trained(updates=0), trained(updates=0)
    layers = {"policy": dirty.policy.layers, "target_policy": dirty.target_policy.layers}
    for first, last in ((of[0][0].detach(), of[-1]) for of in layers.values()):
        for agent in range(3):
            first[agent, CONTINUOUS.observation_sizes[agent] :] = 50.0
            last[0].detach()[agent, :, CONTINUOUS.action_sizes[agent] :] = 50.0
            last[1].detach()[agent, :, CONTINUOUS.action_sizes[agent] :] = 50.0
    padding = dirty.policy.flat == 50.0
    for _ in range(3):
        assert torch.equal(clean(make_batch(CONTINUOUS)[None]), dirty(make_batch(CONTINUOUS)[None]))
    assert (dirty.policy.flat[padding] == 50.0).all()
    assert padding.sum() == 7 * (1 + 2) + 6 * (1 + 2)
    assert torch.equal(clean.policy.flat[~padding], dirty.policy.flat[~padding])
    assert torch.equal(clean.critic.flat, dirty.critic.flat)


def test_gradients_are_clipped_agent_by_agent():
    spec, update = CONTINUOUS, trained(updates=0)
    batch = make_batch(spec)
    batch[:, spec.transitions.rewards.start] *= 100.0
    norms = update(batch[None])[METRICS.index("critic_grad_norm")]
    left = update.critic.grad.norm(dim=1)
    assert norms[0] > 10 * norms[1] > 10 * 0.05
    assert torch.allclose(left, torch.full((3,), 0.05), rtol=1e-3)


def test_each_weight_and_bias_is_clipped_by_itself_where_asked():
    update = trained(updates=0, grad_norm_of="parameter", max_grad_norm=1e-4)
    update(make_batch(CONTINUOUS)[None])
    for weight, bias in update.critic.grad_layers:
        for own in (weight.norm(dim=(1, 2)), bias.norm(dim=(1, 2))):
            assert torch.allclose(own, torch.full((3,), 1e-4), rtol=0.02)


@pytest.mark.parametrize("rule", ["torch", "glorot"])
def test_critics_that_see_one_agent_start_at_the_scale_of_its_own_columns(rule):
    spec = EnvSpec(NAMES, (30, 20, 40), (20, 30, 10), ("continuous",) * 3)
    config = AlgorithmConfig(name="ddpg", critic_hidden_sizes=(50,), initial_weights=rule)
    weight, bias = MADDPGUpdate(config, spec, CPU, [1]).critic.layers[0]
    for agent in range(3):
        inputs = spec.observation_sizes[agent] + spec.action_sizes[agent]
        bound = (6 / (inputs + 50)) ** 0.5 if rule == "glorot" else inputs**-0.5
        assert 0.99 * bound < weight[agent].abs().max().item() <= bound * (1 + 1e-6)
        assert bias[agent].any().item() == (rule == "torch")


def test_a_gradient_below_the_limit_is_left_alone():
    update = trained(updates=0, max_grad_norm=1e6)
    norms = update(make_batch(CONTINUOUS)[None])[METRICS.index("critic_grad_norm")]
    assert torch.allclose(update.critic.grad.norm(dim=1), norms)


def test_a_ddpg_agent_learns_the_same_whatever_the_others_see_and_do():
    spec, layout = CONTINUOUS, CONTINUOUS.transitions
    one, two = (trained(updates=0, team_overrides={"red": "ddpg"}) for _ in range(2))
    batch = make_batch(spec)
    other = batch.clone()
    for agent in (1, 2):
        for columns in (layout.obs[agent], layout.actions[agent], layout.next_obs[agent]):
            other[:, columns] = torch.rand(batch[:, columns].shape)
    one(batch[None]), two(other[None])
    assert torch.allclose(one.critic.flat[0], two.critic.flat[0], atol=1e-6)
    assert torch.allclose(one.policy.flat[0], two.policy.flat[0], atol=1e-6)
    assert not torch.allclose(one.critic.flat[1], two.critic.flat[1], atol=1e-4)


def test_a_discount_of_zero_cuts_the_bootstrap():
    spec, update = CONTINUOUS, trained(updates=0)
    batch = make_batch(spec)
    batch[:, spec.transitions.rewards] = 3.0
    batch[:, spec.transitions.discounts] = 0.0
    update.target_critic.flat.fill_(10.0)
    q = update.critic(batch[None, :, spec.transitions.critic_input]).detach()
    loss = update(batch[None])[METRICS.index("critic_loss")]
    assert torch.allclose(loss, ((q - 3.0) ** 2).mean(dim=1))


def test_targets_move_by_tau():
    update = trained(updates=0, tau=0.25)
    before = update.target_critic.flat.clone()
    update(make_batch(CONTINUOUS)[None])
    expected = 0.25 * update.critic.flat + 0.75 * before
    assert torch.allclose(update.target_critic.flat, expected, atol=1e-7)


def test_one_critic_update_lowers_the_loss_on_the_same_batch():
    update, batch = trained(updates=0, critic_lr=1e-3, max_grad_norm=0.0), make_batch(CONTINUOUS)
    first = update(batch[None])[0]
    for _ in range(20):
        last = update(batch[None])[0]
    assert (last < first).all()


@pytest.mark.parametrize(
    ("spec", "changes"),
    [
        (MIXED, {"policy_head": "gumbel", "random_action_rows": 0.4, "team_overrides": {"blue": "ddpg"}}),
        (PRIVATE_MIXED, {"information_weight": 2.0}),
        (WITH_CONSTANTS, {"information_weight": 2.0}),
        (ONE_TEAM, {"information_weight": 2.0, "private_values": "mean", "share_policies": True}),
        (EVEN, {"share_critics": True, "name": "matd3"}),
        (ONE_TEAM, {"share_critics": True, "private_values": "mean"}),
    ],
    ids=[
        "mixed",
        "private_mixed",
        "constants",
        "mean_over_candidates",
        "shared_critics",
        "shared_critics_mean",
    ],
)
def test_stacked_runs_learn_as_each_would_alone(spec, changes, double):
    seeds, batches = [1, 2], [make_batch(spec, seed=5), make_batch(spec, seed=6)]
    config = replace(SMALL, **changes)
    for kind in (MADDPGUpdate, HandwrittenUpdate):
        together = kind(config, spec, CPU, seeds)
        alone = [kind(config, spec, CPU, [seed]) for seed in seeds]
        for _ in range(3):
            metrics = together(torch.stack(batches))
            expected = [update(batch[None]) for update, batch in zip(alone, batches, strict=True)]
            assert torch.allclose(metrics, torch.cat(expected, dim=1), rtol=1e-6, atol=1e-9)
        assert torch.allclose(together.policy.flat, torch.cat([update.policy.flat for update in alone]))


@pytest.mark.parametrize("spec", [CONTINUOUS, EVEN])
@pytest.mark.parametrize("runs", [1, 2])
def test_columns_read_by_index_are_those_copied_agent_by_agent(spec, runs):
    batch, layout = torch.stack([make_batch(spec, seed=seed) for seed in range(runs)]), spec.transitions
    for columns, rows, dim in (
        (layout.obs, batch, 2),
        (layout.next_obs, batch, 2),
        (layout.actions, batch.transpose(1, 2), 1),
    ):
        padded = _PaddedGather(columns, CPU)
        copied = padded(rows, dim)
        padded._use_index_select = True
        assert torch.equal(padded(rows, dim), copied)


@pytest.mark.parametrize("case", ["sigmoid", "mixed_gumbel", "random_rows_current"])
def test_gathering_columns_by_index_gives_the_same_update(case, double):
    spec, changes = CASES[case]
    ours, plain = (HandwrittenUpdate(replace(SMALL, **changes), spec, CPU, [1, 2]) for _ in range(2))
    for padded in vars(ours._columns).values():
        if isinstance(padded, _PaddedGather):
            padded._use_index_select = True
    for seed in range(3):
        batch = make_batch(spec, seed=seed).expand(2, -1, -1)
        assert torch.allclose(ours(batch), plain(batch), rtol=1e-6, atol=1e-9)
    assert torch.allclose(weights(ours), weights(plain), rtol=0, atol=1e-7)


def test_a_decentralised_critic_starts_at_the_scale_of_its_own_inputs():
    wide = EnvSpec(NAMES, (40, 40, 40), (5, 5, 5), ("continuous",) * 3)
    config = replace(SMALL, name="ddpg", team_overrides={"blue": "maddpg"}, critic_hidden_sizes=(500,))
    weight, bias = HandwrittenUpdate(config, wide, CPU, [1]).critic.layers[0]
    for agent, inputs in enumerate((45, 135, 135)):
        for part in (weight, bias):  # uniform within 1 / sqrt(inputs)
            assert part[agent].abs().max().item() == pytest.approx(inputs**-0.5, rel=0.01)


def test_only_agents_of_a_homogeneous_team_share_a_policy():
    update = trained(EVEN, updates=30, share_policies=True, max_grad_norm=0.0)
    for networks in (update.policy, update.target_policy):
        assert torch.equal(networks.flat[1], networks.flat[2])
        assert not torch.equal(networks.flat[0], networks.flat[1])
    assert not torch.equal(update.critic.flat[1], update.critic.flat[2])


def test_a_frozen_agent_stays_and_acts_greedily_in_every_target():
    kept = torch.randn(3, trained(updates=0, spec=EVEN, policy_head="gumbel").policy.flat.shape[1])
    frozen = trained(EVEN, updates=0, policy_head="gumbel", share_policies=True)
    frozen.freeze((False, True, True), kept)
    first = frozen.policy.flat[0].clone()
    for k in range(5):
        frozen(make_batch(EVEN, seed=k)[None])
    for networks in (frozen.policy, frozen.target_policy):
        assert torch.equal(networks.flat[1:], kept[1:])  # each its own, although the settings share policies
    assert not torch.equal(frozen.policy.flat[0], first)
    logits = torch.randn(3, 2, 6)
    relaxed = frozen._relaxed(logits)
    assert torch.equal(relaxed[1:], torch.softmax(logits, dim=1)[1:])
    assert not torch.allclose(relaxed[0], torch.softmax(logits, dim=1)[0])


@pytest.mark.parametrize("kind", [MADDPGUpdate, HandwrittenUpdate])
def test_learning_rates_can_be_scaled_while_learning(kind):
    slow = replace(SMALL, actor_lr=0.002, critic_lr=0.004)
    fast = replace(SMALL, actor_lr=0.02, critic_lr=0.04)
    one, two = (kind(config, CONTINUOUS, CPU, seeds=[1]) for config in (slow, fast))
    two.scale_learning_rates(0.1)
    batch = make_batch(CONTINUOUS)[None]
    one(batch), two(batch)
    assert torch.allclose(weights(one), weights(two), rtol=0, atol=1e-7)
    two.scale_learning_rates(1.0)
    one(batch), two(batch)
    assert not torch.allclose(weights(one), weights(two), rtol=0, atol=1e-3)
