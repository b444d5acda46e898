"""Reads and writes what MPE2's own worlds know beyond positions and velocities, and measures their episodes.

One class per scenario, by name in `WORLDS`; it does for MPE2's Python objects what the scenario's compiled
code does for arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from distributed_maddpg.envs import streams
from distributed_maddpg.seeding import pack_generator

Values = dict[str, Any]
"""What one copy has of the scenario's own arrays."""


def _apart(a: Any, b: Any) -> float:
    """Return the distance of two entities."""
    return float(np.sqrt(np.sum(np.square(a.state.p_pos - b.state.p_pos))))


def _touch(a: Any, b: Any) -> bool:
    return bool(_apart(a, b) < a.size + b.size)


def _index(entities: list[Any], wanted: Any) -> int:
    return next(i for i, entity in enumerate(entities) if entity is wanted)


class MPE2World:
    """A scenario without a state of its own and without measures."""

    def __init__(self, env: Any) -> None:
        """Look at one copy, `env.unwrapped`."""
        self.env, self.world = env, env.world

    def before_reset(self) -> None:
        """Keep what a reset will overwrite."""

    def read(self) -> Values:
        """Return the scenario's own state."""
        return {}

    def write(self, values: Values) -> None:
        """Set the scenario's own state."""

    def measure(self, sums: npt.NDArray[np.float64]) -> None:
        """Update the episode's measures [K] after a step."""


class _Simple(MPE2World):
    def measure(self, sums: npt.NDArray[np.float64]) -> None:
        sums[0] = _apart(self.world.agents[0], self.world.landmarks[0])


class _Adversary(MPE2World):
    def read(self) -> Values:
        return {"goal_landmark": _index(self.world.landmarks, self.world.agents[0].goal_a)}

    def write(self, values: Values) -> None:
        for i, mark in enumerate(self.world.landmarks):
            mark.color = np.array([0.15, 0.65 if i == values["goal_landmark"] else 0.15, 0.15])
        for agent in self.world.agents:
            agent.goal_a = self.world.landmarks[values["goal_landmark"]]


class _Push(_Adversary):
    def write(self, values: Values) -> None:
        goal = self.world.landmarks[values["goal_landmark"]]
        for agent in self.world.agents:
            agent.goal_a = goal
        self.world.agents[1].color = np.array([0.25, 0.25, 0.25])
        self.world.agents[1].color[goal.index + 1] += 0.5

    def measure(self, sums: npt.NDArray[np.float64]) -> None:
        adversary, agent = self.world.agents
        sums[:] = _apart(agent, agent.goal_a), _apart(adversary, agent.goal_a)


class _Reference(MPE2World):
    def read(self) -> Values:
        landmarks = self.world.landmarks
        return {"goal_landmarks": [_index(landmarks, agent.goal_b) for agent in self.world.agents]}

    def write(self, values: Values) -> None:
        for agent, goal in zip(self.world.agents, values["goal_landmarks"], strict=True):
            agent.goal_b = self.world.landmarks[goal]
            agent.goal_a.color = agent.goal_b.color

    def measure(self, sums: npt.NDArray[np.float64]) -> None:
        distances = np.array([_apart(agent.goal_a, agent.goal_b) for agent in self.world.agents])
        sums[:] = distances.mean(), (distances < 0.1).mean()


class _SpeakerListener(MPE2World):
    def read(self) -> Values:
        return {"goal_landmark": _index(self.world.landmarks, self.world.agents[0].goal_b)}

    def write(self, values: Values) -> None:
        speaker, listener = self.world.agents
        speaker.goal_b = self.world.landmarks[values["goal_landmark"]]
        listener.color = speaker.goal_b.color + 0.45

    def measure(self, sums: npt.NDArray[np.float64]) -> None:
        distance = _apart(self.world.agents[1], self.world.agents[0].goal_b)
        sums[:] = distance, distance < 0.1


class _Crypto(MPE2World):
    def read(self) -> Values:
        landmarks, alice = self.world.landmarks, self.world.agents[2]
        key = next(i for i, mark in enumerate(landmarks) if mark.color is alice.key)
        return {"goal_landmark": _index(landmarks, alice.goal_a), "key_landmark": key}

    def write(self, values: Values) -> None:
        goal = self.world.landmarks[values["goal_landmark"]]
        for agent in self.world.agents:
            agent.goal_a = goal
        self.world.agents[1].color = goal.color
        self.world.agents[2].key = self.world.landmarks[values["key_landmark"]].color

    def measure(self, sums: npt.NDArray[np.float64]) -> None:
        eve, bob, alice = self.world.agents
        for place, agent in enumerate((bob, eve)):
            errors = [np.sum(np.square(agent.state.c - mark.color)) for mark in self.world.landmarks]
            goal = _index(self.world.landmarks, alice.goal_a)
            sums[place] += errors[goal] < errors[1 - goal]


class _Spread(MPE2World):
    def measure(self, sums: npt.NDArray[np.float64]) -> None:
        agents = self.world.agents
        nearest = [min(_apart(agent, mark) for agent in agents) for mark in self.world.landmarks]
        sums[0] = sum(distance < 0.1 for distance in nearest)
        sums[1] = sum(nearest) / len(nearest)
        sums[2] += sum(_touch(a, b) for i, a in enumerate(agents) for b in agents[:i])


class _Tag(MPE2World):
    def measure(self, sums: npt.NDArray[np.float64]) -> None:
        predators = [agent for agent in self.world.agents if agent.adversary]
        prey = [agent for agent in self.world.agents if not agent.adversary]
        sums[0] += sum(_touch(a, b) for a in predators for b in prey)
        sums[1] += sum((abs(agent.state.p_pos) > 1).any() for agent in prey) / max(1, len(prey))


class _WorldComm(MPE2World):
    def measure(self, sums: npt.NDArray[np.float64]) -> None:
        predators = [agent for agent in self.world.agents if agent.adversary]
        prey = [agent for agent in self.world.agents if not agent.adversary]
        sums[0] += sum(_touch(a, b) for a in predators for b in prey)
        sums[1] += sum(_touch(a, food) for a in prey for food in self.world.food)
        sums[2] += sum(any(_touch(a, f) for f in self.world.forests) for a in prey) / len(prey)


class _Formation(MPE2World):
    def measure(self, sums: npt.NDArray[np.float64]) -> None:
        apart = self.env.scenario._delta_dists
        sums[:] = np.mean(np.clip(apart, 0, 2)), (apart < 0.05).mean()


class _Line(_Formation):
    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self._direction = np.zeros(2)
        self._generator: npt.NDArray[np.uint64] | None = None

    def before_reset(self) -> None:
        self._generator = pack_generator(self.env.np_random)

    def read(self) -> Values:
        if self._generator is not None:
            self._direction, self._generator = self._drawn_direction(streams.unpack(self._generator)), None
        return {"line_direction": self._direction}

    def _drawn_direction(self, generator: np.random.Generator) -> npt.NDArray[np.float64]:
        """Draw again what the reset drew: MPE2 keeps the places, not the direction."""
        generator.uniform(size=2 * len(self.world.agents) + 2)
        theta, first = generator.uniform(0, 2 * np.pi), self.world.landmarks[0].state.p_pos
        while True:
            direction = np.array([np.cos(theta), np.sin(theta)])
            if (abs(first + 1.25 * direction) < 1).all():
                return direction
            theta += np.radians(5)

    def write(self, values: Values) -> None:
        self._direction, self._generator = values["line_direction"].copy(), None
        num_agents = len(self.world.agents)
        spacing = 1.25 / (num_agents - 1) if num_agents > 1 else 0.0
        first = self.world.landmarks[0].state.p_pos
        self.env.scenario._expected_positions = [
            first + i * spacing * self._direction for i in range(num_agents)
        ]


class _Treasure(MPE2World):
    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self._collectors = [agent for agent in self.world.agents if agent.collector]

    def read(self) -> Values:
        landmarks = self.world.landmarks
        return {
            "holding": [-1 if agent.holding is None else agent.holding for agent in self._collectors],
            "treasure_types": [mark.type for mark in landmarks],
            "treasure_alive": [mark.alive for mark in landmarks],
            "respawn_generator_state": pack_generator(self.world.np_random),
        }

    def write(self, values: Values) -> None:
        for agent, held in zip(self._collectors, values["holding"].tolist(), strict=True):
            agent.holding = None if held < 0 else held
            agent.color = np.full(3, 0.85) if held < 0 else 0.85 * self.world.treasure_colors[held]
        for i, mark in enumerate(self.world.landmarks):
            mark.type, mark.alive = int(values["treasure_types"][i]), bool(values["treasure_alive"][i])
            mark.color = self.world.treasure_colors[mark.type].copy()
        self.world.np_random = streams.unpack(values["respawn_generator_state"])

    def measure(self, sums: npt.NDArray[np.float64]) -> None:
        scenario, collectors = self.env.scenario, self._collectors
        sums[0] += scenario._cached_global_collecting / 5
        sums[1] += scenario._cached_global_deposit / 5
        sums[2] += sum(_touch(a, b) for i, a in enumerate(collectors) for b in collectors[:i])


WORLDS: Mapping[str, type[MPE2World]] = {
    "simple": _Simple,
    "simple_adversary": _Adversary,
    "simple_crypto": _Crypto,
    "simple_formation": _Formation,
    "simple_line": _Line,
    "simple_push": _Push,
    "simple_reference": _Reference,
    "simple_speaker_listener": _SpeakerListener,
    "simple_spread": _Spread,
    "simple_tag": _Tag,
    "simple_world_comm": _WorldComm,
    "collect_treasure": _Treasure,
}
