"""`simple_crypto_v3`: Alice tells Bob a colour in a code that Eve cannot read; nobody moves."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from distributed_maddpg.compilation import compiled_inline
from distributed_maddpg.envs.mpe.columns import write_row, write_vector
from distributed_maddpg.envs.mpe.generator import UintArray, next_index
from distributed_maddpg.envs.mpe.placing import place_agents, place_landmarks
from distributed_maddpg.envs.mpe.scenario import Body, Numbers, Options, Scenario
from distributed_maddpg.envs.mpe.world import DoubleArray, IntArray, World
from distributed_maddpg.types import FloatArray, Measure, PrivatePart

_LANDMARKS, _LETTERS, _EVE, _BOB, _ALICE = 2, 4, 0, 1, 2


class CryptoState(NamedTuple):
    """The full state of E copies."""

    agent_positions: DoubleArray
    agent_velocities: DoubleArray
    landmark_positions: DoubleArray
    goal_landmark: IntArray
    """[E] the landmark whose colour Alice tells."""
    key_landmark: IntArray
    """[E] the landmark whose colour is the key of Alice and Bob."""
    cycle: IntArray
    utterances: DoubleArray
    measures: DoubleArray
    generator_state: UintArray


class CryptoRules(NamedTuple):
    """Constants of a run."""

    colors: DoubleArray
    """[2, 4] of the landmarks."""


class SimpleCrypto(Scenario):
    """Eve, Bob and Alice, two colours."""

    name = "simple_crypto"
    options_type = Options
    state_type = CryptoState
    measures = (
        Measure("bob_accuracy", "share of steps in which Bob says the colour", per_step=True),
        Measure("eve_accuracy", "share of steps in which Eve says the colour", per_step=True),
    )
    num_letters = _LETTERS

    @property
    def agents(self) -> list[Body]:
        """Eve is the adversary."""
        names = ("eve_0", "bob_0", "alice_0")
        return [Body(name, collides=False, movable=False, silent=False) for name in names]

    @property
    def landmarks(self) -> list[Body]:
        """Two colours; where they are does not matter."""
        return [Body(f"landmark {i}", collides=False) for i in range(_LANDMARKS)]

    @property
    def observation_sizes(self) -> tuple[int, ...]:
        """Eve hears Alice; Bob knows the key too; Alice knows colour and key."""
        return (_LETTERS, 2 * _LETTERS, 2 * _LETTERS)

    @property
    def private_parts(self) -> tuple[PrivatePart | None, ...]:
        """The colour that Alice tells: one or the other."""
        colors = tuple(map(tuple, self.rules(1).colors.tolist()))
        return (None, None, PrivatePart((0, _LETTERS), constants=colors))

    def rules(self, num_envs: int) -> CryptoRules:
        """See `CryptoRules`."""
        return CryptoRules(np.eye(_LANDMARKS, _LETTERS))

    @property
    def own_state(self) -> dict[str, Numbers]:
        """Colour and key."""
        return {"goal_landmark": Numbers((), _LANDMARKS), "key_landmark": Numbers((), _LANDMARKS)}


def reset(state: CryptoState, world: World, rules: CryptoRules, e: int) -> None:
    """Draw colour, key, agents, landmarks; nothing was said yet."""
    state.goal_landmark[e] = next_index(state.generator_state[e], _LANDMARKS)
    state.key_landmark[e] = next_index(state.generator_state[e], _LANDMARKS)
    place_agents(state, e)
    place_landmarks(state, e, 0, _LANDMARKS, 1.0)
    state.utterances[e] = 0.0


@compiled_inline
def _error(state: CryptoState, rules: CryptoRules, e: int, i: int, color: int) -> float:
    """Return the squared difference between what agent i said and a colour."""
    squared = 0.0
    for k in range(_LETTERS):
        difference = state.utterances[e, i, k] - rules.colors[color, k]
        squared += difference * difference
    return squared


@compiled_inline
def _said_nothing(state: CryptoState, e: int, i: int) -> bool:
    for k in range(_LETTERS):
        if state.utterances[e, i, k] != 0.0:
            return False
    return True


def judge(state: CryptoState, world: World, rules: CryptoRules, e: int, rewards: FloatArray) -> bool:
    """Reward Alice and Bob if Bob says the colour and Eve does not; Eve if she does."""
    goal = state.goal_landmark[e]
    bob, eve = _error(state, rules, e, _BOB, goal), _error(state, rules, e, _EVE, goal)
    state.measures[e, 0] += bob < _error(state, rules, e, _BOB, 1 - goal)
    state.measures[e, 1] += eve < _error(state, rules, e, _EVE, 1 - goal)
    if _said_nothing(state, e, _BOB):
        bob = 0.0
    if _said_nothing(state, e, _EVE):
        eve = 0.0
    rewards[e, _EVE] = 0.0 - eve
    rewards[e, _BOB] = rewards[e, _ALICE] = eve + (0.0 - bob)
    return False


def observe(state: CryptoState, world: World, rules: CryptoRules, i: int, frames: FloatArray) -> None:
    """Observe colour and key (Alice), key and what Alice said (Bob), what Alice said (Eve)."""
    at = 0
    if i == _ALICE:
        at = write_row(frames, at, rules.colors, state.goal_landmark)
    if i != _EVE:
        at = write_row(frames, at, rules.colors, state.key_landmark)
    if i != _ALICE:
        write_vector(frames, at, state.utterances, _ALICE)
