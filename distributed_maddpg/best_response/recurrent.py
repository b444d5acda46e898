"""Adversaries with memory, trained by back-propagation through the dynamics of `simple_adversary`.

An adversary that acts on its last observation alone cannot add up what the good agents gave away in the
earlier steps; one that is trained by trial and error needs many more episodes than this one, whose gradient
passes through the rules of the environment and the frozen good agents.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn

from distributed_maddpg.acting.joint_policy import EnvActions
from distributed_maddpg.best_response.opponents import Progress, Score
from distributed_maddpg.best_response.world import AdversaryWorld, WorldState
from distributed_maddpg.envs.base import VectorEnv
from distributed_maddpg.envs.mpe.simple_adversary import AdversaryOptions, SimpleAdversary
from distributed_maddpg.evaluation.scores import SUCCESS_EPS
from distributed_maddpg.evaluation.scripted import MIN_FORCE, JointPolicyFn, force_actions, velocity_gain
from distributed_maddpg.types import FloatArray

Objective = Literal["return", "final distance"]
"""The return is the game's reward; the final distance is what success counts."""
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
_HIDDEN, _LEARNING_RATE, _LAST_LR, _MAX_GRAD_NORM = 64, 0.012, 0.05, 1.0
"""`_LAST_LR`: share of the learning rate at the end; it falls linearly."""
_DOUBT_WEIGHT = 0.3
"""Weight of the cross-entropy of the goal in the loss; it teaches the weights directly."""
_FORCE_GAIN = 0.3
"""The force falls when the point is nearer than this; a steeper fall trains worse."""
_SOFTNESS = 0.2
"""Temperature of the soft choice whose gradient a discrete action gets."""
_MIN_EPISODES, _MAX_EPISODES, _MAX_AGENTS, _MAX_STEPS = 16, 256, 1024, 25_600
"""Episodes of an update; good agents, and steps, in all of them together."""
_REPORTS = 10


class Memory(NamedTuple):
    """What the adversary takes from one step to the next."""

    hidden: Tensor
    """[E, H]"""
    apart: Tensor
    """[E, (N - 1) * K] distances of the other agents from the landmarks."""


class Choice(NamedTuple):
    """What the adversary does in a step of E episodes, and why."""

    force: Tensor
    """[E, 2] in [-1, 1]."""
    trust: Tensor
    """[E, K] logits of the observed landmarks, by which it weighs them."""
    memory: Memory


class RecurrentPolicy(nn.Module):
    """From the history of the adversary's observations to a force.

    A gated recurrent unit (Cho et al. 2014, arXiv:1406.1078) sees the observation, the distances of the other
    agents from the landmarks and the time. It weighs the landmarks; the adversary heads for their weighted
    mean and stops there. It finds more, sooner, than a network that must learn to steer as well.
    """

    def __init__(self, options: AdversaryOptions, seed: int) -> None:
        """Draw initial weights from `seed`."""
        super().__init__()
        self._options = options
        obs_size = SimpleAdversary(options).spec.observation_sizes[0]
        self._num_landmarks = num_landmarks = options.num_landmark_neighbors or options.N
        num_others = obs_size // 2 - num_landmarks
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encode = nn.Linear(obs_size + 2 * num_landmarks * num_others + 1, _HIDDEN)
            self.memory = nn.GRUCell(_HIDDEN, _HIDDEN)
            self.trust = nn.Linear(_HIDDEN, num_landmarks)

    def forward(self, obs: Tensor, velocity: Tensor, time: float, memory: Memory | None) -> Choice:
        """Choose forces.

        Args:
            obs: [E, O] observations of the adversary.
            velocity: [E, 2] its velocity.
            time: share of the episode that has passed.
            memory: of the step before, or None in the first step.
        """
        landmarks, others = self._points(obs)
        apart = torch.linalg.vector_norm(others[:, :, None] - landmarks[:, None], dim=3).flatten(1)
        approach = torch.zeros_like(apart) if memory is None else 10.0 * (apart - memory.apart)
        inputs = torch.cat((obs, apart, approach, obs.new_full((len(obs), 1), time)), dim=1)
        hidden = self.memory(torch.relu(self.encode(inputs)), None if memory is None else memory.hidden)
        trust = self.trust(hidden)
        point = (torch.softmax(trust, dim=1)[:, :, None] * landmarks).sum(dim=1)
        gain = velocity_gain(self._options.velocity_first)
        force = torch.tanh((point - gain * velocity) / _FORCE_GAIN)
        if not self._options.continuous_actions:
            force = _discrete(force)
        return Choice(force, trust, Memory(hidden, apart))

    def nearest_to(self, point: Tensor, obs: Tensor) -> Tensor:
        """Return which observed landmark `[E]` is nearest to a point `[E, 2]` seen from the adversary."""
        landmarks, _ = self._points(obs)
        return (landmarks - point[:, None]).square().sum(dim=2).argmin(dim=1)

    def _points(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the landmarks `[E, K, 2]` and other agents `[E, N - 1, 2]` in observations `[E, O]`."""
        points = obs.view(len(obs), -1, 2)
        return points[:, : self._num_landmarks], points[:, self._num_landmarks :]


def _discrete(force: Tensor) -> Tensor:
    """Return the force `[E, 2]` of the discrete action nearest to one, with the gradient of a soft choice."""
    x, y = force.T
    scores = torch.stack((torch.full_like(x, MIN_FORCE), -x, x, -y, y), dim=1)
    soft = torch.softmax(scores / _SOFTNESS, dim=1)
    hard = nn.functional.one_hot(scores.argmax(dim=1), 5).to(soft.dtype)
    action = hard - soft.detach() + soft
    return action[:, 2::2] - action[:, 1::2]


def train(
    policy: RecurrentPolicy,
    world: AdversaryWorld,
    good_agents: Callable[[WorldState], Tensor],
    objective: Objective,
    updates: int,
    seed: int,
) -> Iterator[Progress]:
    """Train a policy against fixed good agents; yield its progress ten times in all.

    Args:
        policy: of the adversary, which is changed.
        world: the environment.
        good_agents: returns their forces `[E, N - 1, 2]`.
        objective: what the policy improves: its mean in each update's new episodes.
        updates: gradient steps.
        seed: of the start states.
    """
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(policy.parameters(), lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, _LAST_LR, updates)
    recent: list[tuple[float, float, float]] = []
    reports = {math.ceil(updates * part / _REPORTS) for part in range(1, _REPORTS + 1)}
    for update in range(1, updates + 1):
        episode_return, distances, doubt = _play(world, good_agents, policy, generator)
        final = distances.mean()
        loss = final if objective == "final distance" else -episode_return / world.options.max_cycles
        loss = loss + _DOUBT_WEIGHT * doubt
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(policy.parameters(), _MAX_GRAD_NORM)
        optimiser.step()
        schedule.step()
        success = 100.0 * (distances < SUCCESS_EPS).float().mean()
        recent.append((episode_return.item(), final.item(), success.item()))
        if update in reports:
            yield Progress(update, Score(*np.mean(recent, axis=0).tolist()))
            recent.clear()


def _play(
    world: AdversaryWorld,
    good_agents: Callable[[WorldState], Tensor],
    policy: RecurrentPolicy,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Play new episodes; return the adversary's mean return, its final distances `[E]` and its mean doubt.

    Doubt is the cross-entropy of the goal and the landmarks' weights, mean over steps.
    """
    most = min(_MAX_EPISODES, _MAX_AGENTS // world.options.N, _MAX_STEPS // world.options.max_cycles)
    episodes = max(_MIN_EPISODES, most)
    state = world.reset(episodes, generator)
    memory: Memory | None = None
    total, doubt = torch.zeros(()), torch.zeros(())
    for step in range(world.options.max_cycles):
        obs = world.observation(state, 0)
        goal = policy.nearest_to(state.goal - state.positions[:, 0], obs)
        choice = policy(obs, state.velocities[:, 0], step / world.options.max_cycles, memory)
        memory = choice.memory
        state = world.step(state, torch.cat((choice.force[:, None], good_agents(state)), dim=1))
        total = total + world.adversary_reward(state).mean()
        doubt = doubt + nn.functional.cross_entropy(choice.trust, goal)
    return total, world.goal_distance(state), doubt / world.options.max_cycles


def recurrent_adversary(env: VectorEnv, policy: RecurrentPolicy, max_cycles: int) -> JointPolicyFn:
    """Return the joint policy in which the adversary acts with `policy`; the other agents do nothing.

    It takes from the environment's state only the step, at which it forgets what it has seen, and its own
    velocity.
    """
    memory: Memory | None = None

    def act(obs: tuple[FloatArray, ...]) -> EnvActions:
        nonlocal memory
        state = env.get_state()
        step = int(state["cycle"][0])  # all copies begin and end together
        velocity = torch.from_numpy(state["agent_velocities"][:, 0]).float()
        with torch.no_grad():
            seen = torch.from_numpy(obs[0])
            choice = policy(seen, velocity, step / max_cycles, None if step == 0 else memory)
        memory = choice.memory
        forces = np.zeros((env.num_envs, len(obs), 2))
        forces[:, 0] = choice.force.numpy()
        return force_actions(env.spec, forces)

    return act
