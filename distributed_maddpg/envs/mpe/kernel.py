"""One compiled call that steps all copies of a scenario.

What differs between scenarios are the functions below that stand for others (`chosen_by_state`): compiled
code calls the ones of the module that defines the state's type.

`state` is the scenario's named tuple of arrays, with the names of `get_state`: at least agent_positions and
agent_velocities [E, A, 2], landmark_positions [E, L, 2], cycle [E] and generator_state [E, 6]. `rules` is a
named tuple that only this scenario's functions read, or None.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from distributed_maddpg.compilation import chosen_by_state, compiled, compiled_part, if_state_has
from distributed_maddpg.envs.mpe import world as physics
from distributed_maddpg.envs.mpe.world import BoolArray, DoubleArray, JointActions, World
from distributed_maddpg.types import FloatArray


class StepOutput(NamedTuple):
    """The arrays that a step writes. Observations are one flat array: one block [E, O_i] per agent."""

    obs: FloatArray
    """[E * sum of O_i]"""
    final_obs: FloatArray
    """Same layout: the observations before ended episodes are reset."""
    rewards: FloatArray
    """[E, A]"""
    terminated: BoolArray
    """[E, A]"""
    truncated: BoolArray
    """[E]"""
    distances: FloatArray
    """[E, A, L], see `VectorEnv.final_distances`; of size 0 in most scenarios."""
    measures: DoubleArray
    """[E, K], of each copy's latest finished episode; of size 0 if the scenario has none."""


@chosen_by_state
def reset(state: Any, world: World, rules: Any, e: int) -> None:
    """Draw the start of an episode of copy e, in the order of MPE2's `reset_world`."""
    raise NotImplementedError


@chosen_by_state
def prepare(state: Any, world: World, rules: Any) -> None:
    """Compute what `judge` needs, in all copies at once."""


@chosen_by_state
def judge(state: Any, world: World, rules: Any, e: int, rewards: FloatArray) -> bool:
    """Write the rewards of copy e into its row of [E, A]; return whether the episode reached its goal.

    Also updates `state.measures` [E, K], where the scenario has any; they are zero when an episode begins.
    """
    raise NotImplementedError


@chosen_by_state
def observe(state: Any, world: World, rules: Any, i: int, frames: FloatArray) -> None:
    """Write the observations of agent i in all copies, [E, O_i]."""
    raise NotImplementedError


@chosen_by_state
def note_end(state: Any, world: World, rules: Any, e: int, distances: FloatArray) -> None:
    """Write the distances of copy e, whose episode ended and was not yet reset."""


@if_state_has("utterances")
def _speak(state: Any, world: World, actions: JointActions) -> None:
    physics.speak(state.utterances, world, actions)


@if_state_has("measures")
def _end_measures(state: Any, e: int, measures: DoubleArray) -> None:
    """Copy the measures of copy e, and set them to zero."""
    for k in range(measures.shape[1]):
        measures[e, k] = state.measures[e, k]
        state.measures[e, k] = 0.0


@compiled_part
def _start_episode(state: Any, world: World, rules: Any, e: int, measures: DoubleArray) -> None:
    """End the episode of copy e, if any, and start the next."""
    _end_measures(state, e, measures)
    reset(state, world, rules, e)
    state.cycle[e] = 0


@compiled_part
def _observe_all(state: Any, world: World, rules: Any, obs: FloatArray) -> None:
    num_envs, start = len(state.cycle), 0
    for i in range(state.agent_positions.shape[1]):
        width = world.bodies[i].observation_size
        frames = obs[start : start + num_envs * width].reshape(num_envs, width)
        observe(state, world, rules, i, frames)
        start += num_envs * width


@compiled_part
def _end_step(state: Any, world: World, rules: Any, output: StepOutput) -> int:
    """Write rewards and ends of all copies; return in how many the episode ended."""
    prepare(state, world, rules)
    num_ended = 0
    for e in range(len(state.cycle)):
        terminated = judge(state, world, rules, e, output.rewards)
        state.cycle[e] += 1
        output.truncated[e] = state.cycle[e] >= world.max_cycles
        terminated = terminated and not output.truncated[e]  # MPE2 only truncates an episode of full length
        for i in range(output.terminated.shape[1]):
            output.terminated[e, i] = terminated
        num_ended += terminated or output.truncated[e]
    return num_ended


@compiled
def reset_all(state: Any, world: World, rules: Any, output: StepOutput) -> None:
    """Start a new episode in every copy and write its first observations into `output.obs`."""
    for e in range(len(state.cycle)):
        _start_episode(state, world, rules, e, output.measures)
    _observe_all(state, world, rules, output.obs)


@compiled
def step_all(state: Any, world: World, rules: Any, actions: JointActions, output: StepOutput) -> int:
    """Step all copies, reset those whose episode ends, and write the output.

    Args:
        state: updated in place.
        world: constants of the run.
        rules: those of the scenario.
        actions: continuous actions (any floats except NaN, clipped here), or discrete actions.
        output: obs, rewards, terminated and truncated are always written in full. final_obs is written in
            full if an episode ended, otherwise not at all. distances and measures are written for copies
            whose episode ended.

    Returns:
        Number of copies whose episode ended, or -1 for an invalid action, which leaves the state unchanged.
    """
    if not physics.are_valid(world, actions):
        return -1
    physics.move(state, world, actions)
    _speak(state, world, actions)
    num_ended = _end_step(state, world, rules, output)
    if num_ended:
        _observe_all(state, world, rules, output.final_obs)
        for e in range(len(state.cycle)):
            if output.truncated[e] or output.terminated[e, 0]:
                note_end(state, world, rules, e, output.distances)
                _start_episode(state, world, rules, e, output.measures)
    _observe_all(state, world, rules, output.obs)
    return num_ended
