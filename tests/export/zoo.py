"""Agents of unequal sizes and spaces, with random policies."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from gymnasium.spaces import Dict as DictSpace
from pettingzoo import ParallelEnv

from distributed_maddpg.checkpoint.folder import Checkpoint
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import env_spec
from distributed_maddpg.trainer import MADDPG
from distributed_maddpg.types import policy_layout

MASKED = DictSpace({"observation": Box(-1, 1, (2, 2)), "action_mask": Box(0, 1, (6,), np.int8)})
SPACES = {
    "continuous": {
        "cat_0": (Box(-9, 9, (3,)), Box(np.array([-2.0, 0.0, 5.0], "f4"), np.array([3.0, 1.0, 7.0], "f4"))),
        "dog_0": (Box(-9, 9, (11,)), Box(-np.inf, np.inf, (2, 2), np.float32)),
        "owl 0": (Box(-9, 9, (1,)), Box(-3, 3, (1,), np.int16)),
    },
    "discrete": {
        "cat_0": (Box(-9, 9, (7,)), Discrete(5, start=2)),
        "dog_0": (Box(-9, 9, (2,)), MultiDiscrete([2, 3], start=[0, 10])),
        "owl 0": (MASKED, Discrete(6)),
    },
    "mixed": {
        "cat_0": (Box(-9, 9, (6,)), Discrete(4)),
        "dog_0": (Box(-9, 9, (4,)), Box(0, 1, (2,))),
    },
}


class Zoo(ParallelEnv):
    """Animals that do nothing for one step."""

    metadata: ClassVar = {"name": "zoo"}

    def __init__(self, animals="continuous"):
        self.observation_spaces = {name: spaces[0] for name, spaces in SPACES[animals].items()}
        self.action_spaces = {name: spaces[1] for name, spaces in SPACES[animals].items()}
        self.possible_agents = list(SPACES[animals])

    def observation_space(self, agent):
        return self.observation_spaces[agent]

    def action_space(self, agent):
        return self.action_spaces[agent]

    def reset(self, seed=None, options=None):
        self.agents = self.possible_agents
        return {name: space.sample() for name, space in self.observation_spaces.items()}, {}


def zoo_run(animals="continuous", normalise=False, seed=0, **algorithm):
    """Return a run whose policies are random, and large enough that actions differ."""
    algorithm = {"policy_hidden_sizes": [32, 16], **algorithm}
    env = {"kwargs": {"animals": animals}, "normalise": normalise}
    config = MADDPGConfig.from_dict(
        {"seed": seed, "algorithm": algorithm, "env": {"id": "factory:Zoo", **env}}
    )
    spec = env_spec(Zoo, "auto", config.env.kwargs)
    rng = np.random.default_rng(seed)
    layout = policy_layout(spec, config.algorithm.policy_hidden_sizes)
    policies = layout.initial_parameters(rng) * np.float32(1.5)
    state = {"learner/policy": policies}
    if normalise:
        width = max(spec.observation_sizes)
        means, scales = (
            rng.normal(0, 3, (spec.num_agents, width)),
            rng.uniform(0.1, 9, (spec.num_agents, width)),
        )
        state["learner/normaliser"] = np.hstack([means, scales, np.ones((spec.num_agents, 1))]).astype("f4")
    checkpoint = Checkpoint(config, spec.agents, 0, 0, state, resume_problem="policies alone")
    return MADDPG.from_loaded_checkpoint(checkpoint, env=Zoo)
