"""An environment of one's own: two agents on a line shall meet.

distributed-maddpg train --env.id examples/meeting.py --pacing.total-env-steps 100000
"""

import numpy as np
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv


class Meeting(ParallelEnv):
    """Each agent observes both places, moves left, right or not, and is punished for the distance."""

    metadata = {"name": "meeting"}
    possible_agents = ["walker_0", "walker_1"]
    measures = {"distance": "between the walkers at the end"}  # of infos, for the tables and the report

    def __init__(self, max_steps=20):
        self.max_steps = max_steps

    def observation_space(self, agent):
        return Box(-3.0, 3.0, (2,))

    def action_space(self, agent):
        return Discrete(3)

    def reset(self, seed=None, options=None):
        self.agents, self.steps = self.possible_agents[:], 0
        self.places = np.random.default_rng(seed).uniform(-1.0, 1.0, 2)
        return self.observations(), {agent: {} for agent in self.agents}

    def step(self, actions):
        moves = np.array([actions[agent] - 1 for agent in self.possible_agents])
        self.places = np.clip(self.places + 0.1 * moves, -3.0, 3.0)
        self.steps += 1
        agents, is_over = self.agents, self.steps == self.max_steps
        if is_over:
            self.agents = []
        distance = abs(self.places[0] - self.places[1])
        rewards = dict.fromkeys(agents, -distance)
        no, yes = dict.fromkeys(agents, False), dict.fromkeys(agents, is_over)
        return self.observations(), rewards, no, yes, {agent: {"distance": distance} for agent in agents}

    def observations(self):
        own_first = self.places, self.places[::-1]
        return {a: np.float32(places) for a, places in zip(self.possible_agents, own_first, strict=True)}


parallel_env = Meeting
