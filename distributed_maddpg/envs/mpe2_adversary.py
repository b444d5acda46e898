"""MPE2's own `simple_adversary` with the kernel's interface: the same numbers, but slow.

It uses the kernel's state format and random streams, so each can continue from the other's state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from distributed_maddpg.envs import streams
from distributed_maddpg.envs.adversary_options import (
    OPTIONS_NOT_IN_MPE2,
    AdversaryOptions,
    checked_state,
    landmark_distances,
)
from distributed_maddpg.envs.base import Observations, State
from distributed_maddpg.envs.pettingzoo import PettingZooVectorEnv
from distributed_maddpg.seeding import pack_generator
from distributed_maddpg.types import FloatArray


class MPE2AdversaryEnv(PettingZooVectorEnv):
    """E copies of MPE2's environment; world state and generators are read and written directly.

    Args:
        factory: `parallel_env` of MPE2.
        num_envs: E.
        seed: copy i draws from `streams.stream(seed, i)`, as in the kernel.
        kwargs: keywords of `parallel_env`, and the two of `OPTIONS_NOT_IN_MPE2`.
    """

    def __init__(self, factory: Callable[..., Any], num_envs: int, seed: int, **kwargs: Any) -> None:
        self.options = AdversaryOptions.from_kwargs(kwargs)
        squared, velocity_first = (kwargs.pop(name, False) for name in OPTIONS_NOT_IN_MPE2)
        super().__init__(lambda: factory(**kwargs), num_envs, seed, "simple_adversary")
        self.spec = replace(self.spec, private_parts=self.options.spec.private_parts)
        for env in self.envs:
            if squared:
                env.unwrapped.scenario.adversary_reward = _minus_squared_distance
            if velocity_first:
                _integrate_velocity_first(env.unwrapped.world)
        self._distances = np.zeros((num_envs, self.options.N + 1, self.options.N), np.float32)
        self._seed_streams(seed)

    def get_state(self) -> State:
        """Return a copy of the full state, in the kernel's format."""
        if not self._started:
            raise RuntimeError("call reset() before get_state()")
        raw = [env.unwrapped for env in self.envs]
        return {
            "agent_positions": np.array([[agent.state.p_pos for agent in env.world.agents] for env in raw]),
            "agent_velocities": np.array([[agent.state.p_vel for agent in env.world.agents] for env in raw]),
            "landmark_positions": np.array(
                [[mark.state.p_pos for mark in env.world.landmarks] for env in raw]
            ),
            "goal_landmark": np.array([_goal_index(env.world) for env in raw], np.int64),
            "cycle": np.array([env.steps for env in raw], np.int64),
            "generator_state": np.stack([pack_generator(env.np_random) for env in raw]),
        }

    def set_state(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Continue exactly from a state of this environment or of the kernel."""
        checked = checked_state(state, self.num_envs, self.options)
        for e, env in enumerate(self.envs):
            env.reset()  # resets PettingZoo's own bookkeeping
            raw = env.unwrapped
            for i, agent in enumerate(raw.world.agents):
                agent.state.p_pos = checked["agent_positions"][e, i].copy()
                agent.state.p_vel = checked["agent_velocities"][e, i].copy()
            for i, landmark in enumerate(raw.world.landmarks):
                landmark.state.p_pos = checked["landmark_positions"][e, i].copy()
            _set_goal_index(raw.world, int(checked["goal_landmark"][e]))
            raw.steps = int(checked["cycle"][e])
            raw.np_random = streams.unpack(checked["generator_state"][e])
        self._started = True

    def final_distances(self) -> FloatArray:
        """Return [E, N+1, L] distances in the last frame of each copy's latest episode, goal first."""
        return self._distances

    def _seed_streams(self, seed: int) -> None:
        for copy, env in enumerate(self.envs):
            env.unwrapped.np_random = streams.stream(seed, copy)

    def _reset_copy(self, e: int) -> dict[str, Any]:
        return self._check_all_agents_present(self.envs[e].reset(), e)

    def _record_actions(self, e: int, actions: list[Any]) -> None:
        """Do nothing: `get_state` reads the state from the world."""

    def _reset_ended_copies(self, ended: list[int], final_obs: Observations) -> Observations:
        if ended:
            self._distances[ended] = landmark_distances(self.get_state())[ended]
        return super()._reset_ended_copies(ended, final_obs)


def _minus_squared_distance(agent: Any, _world: Any) -> float:
    """Return the adversary's reward of OpenAI's MPE; replaces the scenario's method."""
    apart = agent.state.p_pos - agent.goal_a.state.p_pos
    return -float(np.sum(np.square(apart)))


def _integrate_velocity_first(world: Any) -> None:
    """Make a world integrate positions with the new velocity, as OpenAI's MPE does."""
    original = world.integrate_state

    def integrate_state(forces: Any) -> None:
        before = [agent.state.p_pos.copy() for agent in world.agents]
        original(forces)
        for agent, position in zip(world.agents, before, strict=True):
            agent.state.p_pos = position + agent.state.p_vel * world.dt

    world.integrate_state = integrate_state


def _goal_index(world: Any) -> int:
    return next(i for i, mark in enumerate(world.landmarks) if mark is world.agents[0].goal_a)


def _set_goal_index(world: Any, goal: int) -> None:
    for i, mark in enumerate(world.landmarks):
        mark.color = np.array([0.15, 0.65 if i == goal else 0.15, 0.15])  # MPE2's colours
    for agent in world.agents:
        agent.goal_a = world.landmarks[goal]
