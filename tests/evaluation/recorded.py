"""Settings and untrained policies to record episodes with."""

from __future__ import annotations

from typing import Any

import numpy as np

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import env_spec
from distributed_maddpg.evaluation.matchups import TeamSource
from distributed_maddpg.types import EnvSpec, policy_layout


def settings(env_id: str = "simple_adversary", **env: Any) -> tuple[MADDPGConfig, EnvSpec]:
    """Return the settings of an environment in three copies, and its spec."""
    config = MADDPGConfig.from_dict({"env": {"id": env_id, **env}, "rollout": {"num_envs": 3}})
    return config, env_spec(config.env.id, config.env.backend, config.env.kwargs)


def source(config: MADDPGConfig, spec: EnvSpec, seed: int) -> TeamSource:
    """Return random policies."""
    size = policy_layout(spec, config.algorithm.policy_hidden_sizes).num_parameters
    parameters = np.random.default_rng(seed).normal(0, 0.3, (len(spec.agents), size))
    return TeamSource(config, parameters.astype(np.float32))
