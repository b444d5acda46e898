"""`simple_adversary` as a vector environment: one compiled call steps all E copies.

Bit-identical to MPE2 1.1.1: positions, velocities, observations, rewards (float64 internally, rounded to
float32 once) and all random draws of a reset. `tests/envs` compares it to MPE2.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distributed_maddpg.envs import streams
from distributed_maddpg.envs.adversary_kernel import (
    EnvParams,
    EnvState,
    JointActions,
    StepOutput,
    reset_all,
    step_all,
)
from distributed_maddpg.envs.adversary_options import NUM_ACTIONS, AdversaryOptions, checked_state
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
from distributed_maddpg.errors import BadInput
from distributed_maddpg.types import FloatArray


class _StepBuffers(NamedTuple):
    """The arrays that one step writes, and the results that view them."""

    output: StepOutput
    result: StepResult
    """For a step in which no episode ended: final_obs is obs."""
    result_with_ends: StepResult


class SimpleAdversary(VectorEnv):
    """E copies of `mpe2.simple_adversary_v3`: one adversary against `N` good agents.

    Args:
        num_envs: E.
        seed: copy i draws from `streams.stream(seed, i)`, whatever E is.
        kwargs: keywords of MPE2's `parallel_env`, and the two of `OPTIONS_NOT_IN_MPE2`.
    """

    def __init__(self, num_envs: int, seed: int, **kwargs: Any) -> None:
        self.options = AdversaryOptions.from_kwargs(kwargs)
        if self.options.render_mode is not None:
            remedy = "the compiled environment cannot render; leave it out, or use backend = 'pettingzoo'"
            raise BadInput("env.kwargs.render_mode", self.options.render_mode, remedy)
        self.num_envs = num_envs
        self.spec = self.options.spec
        self._params = EnvParams(
            self.options.max_cycles,
            self.options.continuous_actions,
            self.options.num_agent_neighbors or 0,
            self.options.num_landmark_neighbors or 0,
            self.spec.observation_sizes[0],
            self.options.squared_adversary_reward,
            self.options.velocity_first,
        )
        landmarks = self.options.N
        self._state = EnvState(
            np.zeros((num_envs, landmarks + 1, 2)),
            np.zeros((num_envs, landmarks + 1, 2)),
            np.zeros((num_envs, landmarks, 2)),
            np.zeros(num_envs, np.int64),
            np.zeros(num_envs, np.int64),
            streams.initial_generator_states(seed, num_envs),
        )
        rows = landmarks + 1 if self._params.continuous else 0
        self._actions = JointActions(
            np.zeros((rows, num_envs, NUM_ACTIONS), np.float32),
            np.zeros((landmarks + 1 - rows, num_envs), np.int64),
        )
        self._distances = np.zeros((num_envs, landmarks + 1, landmarks), np.float32)
        ends = np.cumsum((0, *self.spec.observation_sizes)) * num_envs
        self._obs_slices = tuple(slice(a, b) for a, b in itertools.pairwise(ends.tolist()))
        self._buffers, self._next_buffers = self._make_buffers(), self._make_buffers()
        self._started = False

    def reset(self, seed: int | None = None) -> Observations:
        """Start a new episode in every copy; with `seed`, re-seed all random streams first."""
        if seed is not None:
            self._state.generator_state[:] = streams.initial_generator_states(seed, self.num_envs)
        obs = np.empty(self._obs_slices[-1].stop, np.float32)
        reset_all(self._state, self._params, obs)
        self._started = True
        return self._split_by_agent(obs)

    def step(self, actions: Actions) -> StepResult:
        """Step every copy once; copies at `max_cycles` are truncated and reset at once.

        Args:
            actions: N + 1 arrays, [E, 5] floats (clipped to [0, 1]) or [E] integers in 0..4.

        Returns:
            See `StepResult`; no agent ever terminates. Two sets of arrays alternate, so that a step allocates
            nothing: the step after the next one overwrites this result.

        Raises:
            ValueError: for an invalid action; the state is unchanged.
        """
        if not self._started:
            raise RuntimeError("call reset() or set_state() before step()")
        self._load_actions(actions)
        buffers = self._buffers
        num_ended = step_all(self._state, self._params, self._actions, buffers.output)
        if num_ended < 0:
            raise self._invalid_action_error()
        self._buffers, self._next_buffers = self._next_buffers, buffers
        return buffers.result_with_ends if num_ended else buffers.result

    def get_state(self) -> State:
        """Return a copy of the full state, see `adversary_options.checked_state`."""
        if not self._started:
            raise RuntimeError("call reset() before get_state()")
        return {name: array.copy() for name, array in self._state._asdict().items()}

    def set_state(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Continue exactly from a state of this environment or of `MPE2AdversaryEnv`."""
        self._state = EnvState(**checked_state(state, self.num_envs, self.options))
        self._started = True

    def final_distances(self) -> FloatArray:
        """Return [E, N+1, L] distances in the last frame of each copy's latest episode, goal first."""
        return self._distances

    def close(self) -> None:
        """Do nothing: there are no resources to release."""

    def _make_buffers(self) -> _StepBuffers:
        """Allocate the arrays of one step and the results that view them."""
        shape = (self.num_envs, len(self.agents))
        output = StepOutput(
            np.empty(self._obs_slices[-1].stop, np.float32),
            np.empty(self._obs_slices[-1].stop, np.float32),
            np.empty(shape, np.float32),
            np.empty(self.num_envs, np.bool_),
            self._distances,
        )
        terminated = np.zeros(shape, np.bool_)
        terminated.flags.writeable = False  # shared by all results
        obs = self._split_by_agent(output.obs)
        result = StepResult(obs, output.rewards, terminated, output.truncated, obs)
        return _StepBuffers(
            output,
            result,
            result._replace(final_obs=self._split_by_agent(output.final_obs)),
        )

    def _split_by_agent(self, flat: FloatArray) -> Observations:
        """Return views of the kernel's flat observations: N + 1 arrays [E, O_i]."""
        return tuple(flat[block].reshape(self.num_envs, -1) for block in self._obs_slices)

    def _load_actions(self, actions: Actions) -> None:
        """Copy the actions into the kernel's array, [N+1, E, 5] or [N+1, E]."""
        agents = self.spec.agents
        if len(actions) != len(agents):
            raise count_error(len(actions), len(agents))
        buffer: npt.NDArray[Any] = (
            self._actions.continuous if self._params.continuous else self._actions.discrete
        )
        shape, kinds = buffer.shape[1:], "fiu" if self._params.continuous else "iu"
        for i, given in enumerate(actions):
            array = np.asarray(given)
            if array.shape != shape or array.dtype.kind not in kinds:
                expected = f"{shape} {'float32' if self._params.continuous else 'integers'}"
                raise shape_error(agents[i], array, expected)
            buffer[i] = array

    def _invalid_action_error(self) -> ValueError:
        """Return the error that names the first invalid action."""
        agents = self.spec.agents
        if self._params.continuous:
            i, copy, _ = np.argwhere(np.isnan(self._actions.continuous))[0].tolist()
            return nan_error(agents[i], copy)
        actions = self._actions.discrete
        i, copy = np.argwhere((actions < 0) | (actions >= NUM_ACTIONS))[0].tolist()
        return range_error(agents[i], copy, int(actions[i, copy]), NUM_ACTIONS)
