"""`simple_adversary` in torch, differentiable: for an adversary that is trained through the dynamics.

`tests/best_response/test_world.py` compares it with the compiled environment.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from distributed_maddpg.algo.networks import PolicyNetwork
from distributed_maddpg.config import AlgorithmConfig
from distributed_maddpg.envs.mpe.simple_adversary import AdversaryOptions, SimpleAdversary
from distributed_maddpg.types import FloatArray, StackedLayout


class WorldState(NamedTuple):
    """The state of E episodes."""

    positions: Tensor
    """[E, N, 2] of the agents, the adversary first."""
    velocities: Tensor
    """[E, N, 2]"""
    landmarks: Tensor
    """[E, L, 2]"""
    goal: Tensor
    """[E, 2] position of the goal landmark."""


class AdversaryWorld:
    """The rules of `simple_adversary`, with the adversary's reward."""

    def __init__(self, options: AdversaryOptions) -> None:
        """Play by the environment's options."""
        self.options = options

    def reset(self, episodes: int, generator: torch.Generator) -> WorldState:
        """Return the start of new episodes, distributed as the environment's."""
        count = self.options.N
        points = 2.0 * torch.rand(episodes, 2 * count + 1, 2, generator=generator) - 1.0
        positions, landmarks = points[:, : count + 1], points[:, count + 1 :]
        goal = torch.randint(count, (episodes, 1, 1), generator=generator).expand(-1, -1, 2)
        return WorldState(
            positions, torch.zeros_like(positions), landmarks, landmarks.gather(1, goal).squeeze(1)
        )

    def step(self, state: WorldState, forces: Tensor) -> WorldState:
        """Return the state after a step with forces `[E, N, 2]` in [-1, 1]."""
        velocities = 0.75 * state.velocities + 0.5 * forces
        moving = velocities if self.options.velocity_first else state.velocities
        return state._replace(positions=state.positions + 0.1 * moving, velocities=velocities)

    def observation(self, state: WorldState, agent: int) -> Tensor:
        """Return the observation `[E, O_i]` of one agent."""
        own = state.positions[:, agent, None]
        others = torch.cat((state.positions[:, :agent], state.positions[:, agent + 1 :]), dim=1)
        parts = [
            _nearest(state.landmarks - own, self.options.num_landmark_neighbors),
            _nearest(others - own, self.options.num_agent_neighbors),
        ]
        if agent:
            parts.insert(0, state.goal - own[:, 0])
        return torch.cat(parts, dim=1)

    def goal_distance(self, state: WorldState) -> Tensor:
        """Return the distance `[E]` of the adversary from the goal."""
        distance: Tensor = torch.linalg.vector_norm(state.positions[:, 0] - state.goal, dim=1)
        return distance

    def adversary_reward(self, state: WorldState) -> Tensor:
        """Return the reward `[E]` that the adversary gets for a step that led to `state`."""
        distance = self.goal_distance(state)
        return -distance.square() if self.options.squared_adversary_reward else -distance


def _nearest(offsets: Tensor, count: int | None) -> Tensor:
    """Return the `count` shortest of offsets `[E, K, 2]`, shortest first, then zeros; None: all in order."""
    if count is not None:
        order = torch.linalg.vector_norm(offsets, dim=2).argsort(dim=1, stable=True)[:, :count]
        offsets = offsets.gather(1, order[:, :, None].expand(-1, -1, 2))
        offsets = torch.nn.functional.pad(offsets, (0, 0, 0, count - offsets.shape[1]))
    return offsets.flatten(1)


class GreedyAgents:
    """The good agents of a run, frozen."""

    def __init__(self, world: AdversaryWorld, algorithm: AlgorithmConfig, parameters: FloatArray) -> None:
        """Use the good agents' rows of policies `[N, P]`."""
        spec = SimpleAdversary(world.options).spec
        sizes, width = algorithm.policy_hidden_sizes, spec.action_sizes[0]
        layout = StackedLayout(spec.observation_sizes[1:], sizes, width)
        self._world = world
        self._policies = PolicyNetwork(layout, parameters[1:], torch.device("cpu"))
        for weight, bias in self._policies.layers:
            weight.requires_grad_(False), bias.requires_grad_(False)
        self._head, self._temperature = algorithm.heads(spec)[1], algorithm.temperature
        self._discrete = spec.action_types[1] == "discrete"

    def __call__(self, state: WorldState) -> Tensor:
        """Return the forces `[E, N - 1, 2]` of their greedy actions."""
        agents = range(1, state.positions.shape[1])
        logits = self._policies(torch.stack([self._world.observation(state, agent) for agent in agents]))
        if self._discrete:
            actions = nn.functional.one_hot(logits.argmax(dim=2), logits.shape[2]).to(logits.dtype)
        elif self._head == "gumbel":
            actions = torch.softmax(logits / self._temperature, dim=2)
        else:
            actions = torch.sigmoid(logits)
        return (actions[:, :, 2::2] - actions[:, :, 1::2]).transpose(0, 1)
