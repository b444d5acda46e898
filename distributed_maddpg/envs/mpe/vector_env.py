"""A scenario of MPE2 as a vector environment: one compiled call steps all E copies.

Equal to MPE2 1.1.1, see docs/environments.md: positions, velocities, observations, rewards (float64
internally, rounded to float32 once) and all random draws. `tests/envs/mpe` compares it to MPE2.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distributed_maddpg.envs import streams
from distributed_maddpg.envs.base import (
    Actions,
    Observations,
    State,
    StepResult,
    VectorEnv,
    count_error,
    nan_error,
    range_error,
    shape_error,
)
from distributed_maddpg.envs.mpe.kernel import StepOutput, reset_all, step_all
from distributed_maddpg.envs.mpe.scenario import Scenario
from distributed_maddpg.envs.mpe.world import JointActions
from distributed_maddpg.errors import BadInput
from distributed_maddpg.types import FloatArray


class _StepBuffers(NamedTuple):
    """The arrays that one step writes, and the results that view them."""

    output: StepOutput
    result: StepResult
    """For a step in which no episode ended: final_obs is obs."""
    result_with_ends: StepResult


class MPEVectorEnv(VectorEnv):
    """E copies of a scenario.

    Args:
        scenario: which, with its keywords.
        num_envs: E.
        seed: copy i draws from `streams.stream(seed, i)`, whatever E is.
    """

    def __init__(self, scenario: Scenario, num_envs: int, seed: int) -> None:
        if scenario.options.render_mode is not None:
            remedy = "the compiled environment cannot render; leave it out, or use backend = 'pettingzoo'"
            raise BadInput("env.kwargs.render_mode", scenario.options.render_mode, remedy)
        self.scenario, self.options = scenario, scenario.options
        self.num_envs = num_envs
        self.spec = scenario.spec
        self._world, self._rules = scenario.world, scenario.rules(num_envs)
        self._state = scenario.empty_state(num_envs, seed)
        num_agents, width = self.spec.num_agents, max(self.spec.action_sizes)
        num_continuous = num_agents if self._world.continuous else 0
        self._actions = JointActions(
            np.zeros((num_continuous, num_envs, width), np.float32),
            np.zeros((num_agents - num_continuous, num_envs), np.int64),
            np.zeros((num_envs, num_agents, 2)),
            np.zeros((num_agents, num_envs), np.bool_),
            np.zeros(num_envs, np.int64),
        )
        self._action_kinds = "fiu" if num_continuous else "iu"
        self._action_rows = [
            self._actions.continuous[i, :, :size] if num_continuous else self._actions.discrete[i]
            for i, size in enumerate(self.spec.action_sizes)
        ]
        """Each agent's part of the kernel's arrays, [E, A_i] or [E]."""
        num_distances = len(scenario.landmarks) if scenario.has_distances else 0
        self._distances = np.zeros((num_envs, num_agents, num_distances), np.float32)
        self._measures = np.zeros((num_envs, len(scenario.measures)))
        ends = np.cumsum((0, *self.spec.observation_sizes)) * num_envs
        self._obs_slices = tuple(slice(a, b) for a, b in itertools.pairwise(ends.tolist()))
        self._buffers, self._next_buffers = self._make_buffers(), self._make_buffers()
        self._started = False

    def reset(self, seed: int | None = None) -> Observations:
        """Start a new episode in every copy; with `seed`, re-seed all random streams first."""
        if seed is not None:
            self.set_generators(streams.initial_generator_states(seed, self.num_envs))
        output = self._make_buffers().output
        reset_all(self._state, self._world, self._rules, output)
        self._started = True
        return self._split_by_agent(output.obs)

    def set_generators(self, packed: npt.NDArray[np.uint64]) -> None:
        """Let the next episodes draw from generators in these states, [E, 6]; see `streams`."""
        self._state.generator_state[:] = packed

    def step(self, actions: Actions) -> StepResult:
        """Step every copy once; copies whose episode ends are reset at once.

        Args:
            actions: per agent [E, A_i] floats (clipped to [0, 1]) or [E] integers from 0 to A_i - 1.

        Returns:
            See `StepResult`. Two sets of arrays alternate, so that a step allocates nothing: the step after
            the next one overwrites this result.

        Raises:
            ValueError: for an invalid action; the state is unchanged.
        """
        if not self._started:
            raise RuntimeError("call reset() or set_state() before step()")
        self._load_actions(actions)
        buffers = self._buffers
        num_ended = step_all(self._state, self._world, self._rules, self._actions, buffers.output)
        if num_ended < 0:
            raise self._invalid_action_error()
        self._buffers, self._next_buffers = self._next_buffers, buffers
        return buffers.result_with_ends if num_ended else buffers.result

    def get_state(self) -> State:
        """Return a copy of the full state, see the scenario's `State`."""
        if not self._started:
            raise RuntimeError("call reset() before get_state()")
        return {name: array.copy() for name, array in self._state._asdict().items()}

    def set_state(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Continue exactly from a state of this environment or of `MPE2VectorEnv`."""
        self._state = self.scenario.state_type(**self.scenario.checked_state(state, self.num_envs))
        self._started = True

    def final_distances(self) -> FloatArray | None:
        """Return [E, A, L] distances in the last frame of each copy's latest episode, goal first."""
        return self._distances if self.scenario.has_distances else None

    def final_measures(self) -> npt.NDArray[np.float64]:
        """Return the measures [E, K] of each copy's latest episode."""
        return self._measures

    def close(self) -> None:
        """Do nothing: there are no resources to release."""

    def _make_buffers(self) -> _StepBuffers:
        """Allocate the arrays of one step and the results that view them."""
        shape = (self.num_envs, len(self.agents))
        output = StepOutput(
            np.empty(self._obs_slices[-1].stop, np.float32),
            np.empty(self._obs_slices[-1].stop, np.float32),
            np.empty(shape, np.float32),
            np.empty(shape, np.bool_),
            np.empty(self.num_envs, np.bool_),
            self._distances,
            self._measures,
        )
        obs = self._split_by_agent(output.obs)
        result = StepResult(obs, output.rewards, output.terminated, output.truncated, obs)
        return _StepBuffers(
            output,
            result,
            result._replace(final_obs=self._split_by_agent(output.final_obs)),
        )

    def _split_by_agent(self, flat: FloatArray) -> Observations:
        """Return views of the kernel's flat observations: A arrays [E, O_i]."""
        return tuple(flat[block].reshape(self.num_envs, -1) for block in self._obs_slices)

    def _load_actions(self, actions: Actions) -> None:
        """Copy the actions into the kernel's arrays."""
        if len(actions) != len(self._action_rows):
            raise count_error(len(actions), len(self._action_rows))
        for i, row in enumerate(self._action_rows):
            array = np.asarray(actions[i])
            if array.shape != row.shape or array.dtype.kind not in self._action_kinds:
                expected = f"{row.shape} {'float32' if self._world.continuous else 'integers'}"
                raise shape_error(self.spec.agents[i], array, expected)
            row[...] = array

    def _invalid_action_error(self) -> ValueError:
        """Return the error that names the first invalid action."""
        agents = self.spec.agents
        if self._world.continuous:
            i, copy, _ = np.argwhere(np.isnan(self._actions.continuous))[0].tolist()
            return nan_error(agents[i], copy)
        actions, sizes = self._actions.discrete, np.array(self.spec.action_sizes)
        i, copy = np.argwhere((actions < 0) | (actions >= sizes[:, None]))[0].tolist()
        return range_error(agents[i], copy, int(actions[i, copy]), self.spec.action_sizes[i])
