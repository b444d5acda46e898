"""`simple_speaker_listener_v4`: a speaker that cannot move tells a listener which landmark to go to."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from distributed_maddpg.envs.mpe.columns import write_landmarks, write_row, write_vector
from distributed_maddpg.envs.mpe.generator import UintArray, next_index
from distributed_maddpg.envs.mpe.placing import place_agents, place_landmarks
from distributed_maddpg.envs.mpe.scenario import Body, Numbers, Options, Scenario
from distributed_maddpg.envs.mpe.world import DoubleArray, IntArray, World, squared_distance
from distributed_maddpg.types import FloatArray, Measure

_LANDMARKS, _LETTERS, _SPEAKER, _LISTENER, _REACHED = 3, 3, 0, 1, 0.1


class SpeakerListenerState(NamedTuple):
    """The full state of E copies."""

    agent_positions: DoubleArray
    agent_velocities: DoubleArray
    landmark_positions: DoubleArray
    goal_landmark: IntArray
    """[E] where the listener shall go."""
    cycle: IntArray
    utterances: DoubleArray
    measures: DoubleArray
    generator_state: UintArray


class SpeakerListenerRules(NamedTuple):
    """Constants of a run."""

    colors: DoubleArray
    """[3, 3] of the landmarks."""


class SimpleSpeakerListener(Scenario):
    """A speaker, a listener, three landmarks."""

    name = "simple_speaker_listener"
    options_type = Options
    state_type = SpeakerListenerState
    measures = (
        Measure("final_distance", "distance of the listener to its landmark at the end"),
        Measure("reached", "share of episodes with the listener within 0.1 of its landmark at the end"),
    )
    num_letters = _LETTERS

    @property
    def agents(self) -> list[Body]:
        """The speaker first."""
        return [
            Body("speaker_0", 0.075, collides=False, movable=False, silent=False),
            Body("listener_0", 0.075, collides=False),
        ]

    @property
    def landmarks(self) -> list[Body]:
        """Three of different colours."""
        return [Body(f"landmark {i}", 0.04, collides=False) for i in range(_LANDMARKS)]

    @property
    def observation_sizes(self) -> tuple[int, ...]:
        """The speaker observes a colour; the listener its velocity, landmarks and what was said."""
        return (3, 2 + 2 * _LANDMARKS + _LETTERS)

    def rules(self, num_envs: int) -> SpeakerListenerRules:
        """See `SpeakerListenerRules`."""
        return SpeakerListenerRules(np.full((3, 3), 0.15) + 0.5 * np.eye(3))

    @property
    def own_state(self) -> dict[str, Numbers]:
        """The goal."""
        return {"goal_landmark": Numbers((), _LANDMARKS)}


def reset(state: SpeakerListenerState, world: World, rules: SpeakerListenerRules, e: int) -> None:
    """Draw goal, agents, landmarks; nothing was said yet."""
    state.goal_landmark[e] = next_index(state.generator_state[e], _LANDMARKS)
    place_agents(state, e)
    place_landmarks(state, e, 0, _LANDMARKS, 1.0)
    state.utterances[e] = 0.0


def judge(
    state: SpeakerListenerState, world: World, rules: SpeakerListenerRules, e: int, rewards: FloatArray
) -> bool:
    """Reward both for the listener's nearness to its landmark."""
    goal = state.goal_landmark[e]
    squared = squared_distance(state.agent_positions, _LISTENER, state.landmark_positions, goal, e)
    rewards[e, _SPEAKER] = rewards[e, _LISTENER] = -squared
    state.measures[e, 0] = np.sqrt(squared)
    state.measures[e, 1] = np.sqrt(squared) < _REACHED
    return False


def observe(
    state: SpeakerListenerState, world: World, rules: SpeakerListenerRules, i: int, frames: FloatArray
) -> None:
    """Observe the colour of the goal (speaker), or own velocity, landmarks and what was said (listener)."""
    if i == _SPEAKER:
        write_row(frames, 0, rules.colors, state.goal_landmark)
    else:
        at = write_vector(frames, 0, state.agent_velocities, i)
        at = write_landmarks(frames, at, state, i, 0)
        write_vector(frames, at, state.utterances, _SPEAKER)
