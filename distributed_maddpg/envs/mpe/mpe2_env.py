"""MPE2's own environments with the interface of the compiled ones: the same numbers, but slow.

They use the compiled environments' state format and random streams, so each can continue from the other's
state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from distributed_maddpg.envs import streams
from distributed_maddpg.envs.base import Observations, State
from distributed_maddpg.envs.mpe.mpe2_worlds import WORLDS, MPE2World
from distributed_maddpg.envs.mpe.scenario import Scenario
from distributed_maddpg.envs.mpe.simple_adversary import landmark_distances
from distributed_maddpg.envs.pettingzoo import PettingZooVectorEnv
from distributed_maddpg.seeding import pack_generator
from distributed_maddpg.types import FloatArray


class MPE2VectorEnv(PettingZooVectorEnv):
    """E copies of MPE2's environment; world state and generators are read and written directly.

    Args:
        factory: `parallel_env` of MPE2.
        scenario: which, with its keywords.
        num_envs: E.
        seed: copy i draws from `streams.stream(seed, i)`, as in the compiled environment.
    """

    def __init__(self, factory: Callable[..., Any], scenario: Scenario, num_envs: int, seed: int) -> None:
        self.scenario, self.options = scenario, scenario.options
        kwargs = scenario.options.mpe2_kwargs()
        super().__init__(lambda: factory(**kwargs), num_envs, seed, scenario.name)
        self.spec = replace(scenario.spec, measures=scenario.measures)
        for env in self.envs:
            _apply_own_options(env.unwrapped, scenario.options)
        self._worlds: list[MPE2World] = [WORLDS[scenario.name](env.unwrapped) for env in self.envs]
        num_distances = len(scenario.landmarks) if scenario.has_distances else 0
        self._distances = np.zeros((num_envs, len(self.agents), num_distances), np.float32)
        self._running_measures, self._measures = np.zeros((2, num_envs, len(scenario.measures)))
        self._seed_streams(seed)

    def get_state(self) -> State:
        """Return a copy of the full state, in the compiled environment's format."""
        if not self._started:
            raise RuntimeError("call reset() before get_state()")
        values = [self._read_copy(e) for e in range(self.num_envs)]
        template = self.scenario.empty_state(self.num_envs, 0)._asdict()
        return {
            name: np.array([value[name] for value in values], array.dtype) for name, array in template.items()
        }

    def _read_copy(self, e: int) -> dict[str, Any]:
        raw = self.envs[e].unwrapped
        agents, landmarks = raw.world.agents, raw.world.landmarks
        return {
            "agent_positions": [agent.state.p_pos for agent in agents],
            "agent_velocities": [agent.state.p_vel for agent in agents],
            "landmark_positions": np.reshape([mark.state.p_pos for mark in landmarks], (-1, 2)),
            "cycle": raw.steps,
            "utterances": [agent.state.c for agent in agents],
            "measures": self._running_measures[e],
            "generator_state": pack_generator(raw.np_random),
            **self._worlds[e].read(),
        }

    def set_state(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Continue exactly from a state of this environment or of the compiled one."""
        checked = self.scenario.checked_state(state, self.num_envs)
        for e, env in enumerate(self.envs):
            self._begin_episode(env.reset(), e)  # resets PettingZoo's own bookkeeping
            self._write_copy(e, {name: array[e] for name, array in checked.items()})
        self._started = True

    def _write_copy(self, e: int, values: dict[str, Any]) -> None:
        raw = self.envs[e].unwrapped
        for i, agent in enumerate(raw.world.agents):
            agent.state.p_pos = values["agent_positions"][i].copy()
            agent.state.p_vel = values["agent_velocities"][i].copy()
            if "utterances" in values:
                agent.state.c = values["utterances"][i].copy()
        for i, landmark in enumerate(raw.world.landmarks):
            landmark.state.p_pos = values["landmark_positions"][i].copy()
        raw.steps = int(values["cycle"])
        raw.np_random = streams.unpack(values["generator_state"])
        self._running_measures[e] = values.get("measures", 0.0)
        self._worlds[e].write(values)

    def final_distances(self) -> FloatArray | None:
        """Return [E, A, L] distances in the last frame of each copy's latest episode, goal first."""
        return self._distances if self.scenario.has_distances else None

    def final_measures(self) -> npt.NDArray[np.float64]:
        """Return the measures [E, K] of each copy's latest episode."""
        return self._measures

    def _masked(self, factory: Callable[..., Any]) -> tuple[bool, ...]:
        """Return (): nobody has action masks. To look for them would make and close one more copy.

        MPE2's `close` ends pygame for the whole process, after which no other copy can draw letters.
        """
        return ()

    def _seed_streams(self, seed: int) -> None:
        for copy, env in enumerate(self.envs):
            env.unwrapped.np_random = streams.stream(seed, copy)

    def _reset_copy(self, e: int) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        self._worlds[e].before_reset()
        self._running_measures[e] = 0.0
        return self._begin_episode(self.envs[e].reset(), e)

    def _record_actions(self, e: int, actions: list[Any]) -> None:
        """Do nothing: `get_state` reads the state from the world."""

    def _step_copy(self, e: int, actions: list[Any]) -> Any:
        result = super()._step_copy(e, actions)
        self._worlds[e].measure(self._running_measures[e])
        return result

    def _reset_ended_copies(self, ended: list[int], final_obs: Observations) -> Observations:
        if ended and self.scenario.has_distances:
            self._distances[ended] = landmark_distances(self.get_state())[ended]
        self._measures[ended] = self._running_measures[ended]
        return super()._reset_ended_copies(ended, final_obs)


def _apply_own_options(raw: Any, options: Any) -> None:
    """Give one of MPE2's environments the options that it does not have as keywords."""
    if "squared_adversary_reward" in options.NOT_IN_MPE2 and options.squared_adversary_reward:
        raw.scenario.adversary_reward = _minus_squared_distance
    if "velocity_first" in options.NOT_IN_MPE2 and options.velocity_first:
        _integrate_velocity_first(raw.world)


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
