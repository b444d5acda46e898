"""How far a trained team can be exploited: a fresh opponent that learns against it alone (floor F5)."""

from __future__ import annotations

import dataclasses

import numpy as np

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import env_spec
from distributed_maddpg.serial import Frozen, SerialRoot
from distributed_maddpg.types import FloatArray


def train_response(
    config: MADDPGConfig, parameters: FloatArray, team: str, updates: int, seed: int
) -> FloatArray:
    """Train a fresh team against the others of a run, which stay as they are and play greedily.

    Whatever the run was trained with, the fresh team learns by MADDPG as the default preset has it, with
    networks shaped like the run's; so the responses to different runs compare.

    Args:
        config: of the run.
        parameters: [N, P] its policies.
        team: who is fresh: an agent's name without its number.
        updates: how long it learns.
        seed: of its first weights, its noise and its start states.

    Returns:
        [N, P] the policies with those of the fresh team.
    """
    spec = env_spec(config.env.id, config.env.backend, config.env.kwargs)
    settings = response_settings(config, updates, seed)
    root = SerialRoot([settings], spec, Frozen(tuple(own != team for own in spec.teams), parameters))
    try:
        while not root.pacer.finished:
            root.run(lambda: root.pacer.finished)
            root.results()
            root.next_iteration()
        return np.array(root.weights(0).policies)
    finally:
        root.close()


def response_settings(config: MADDPGConfig, updates: int, seed: int) -> MADDPGConfig:
    """Return the settings by which a response to a run is trained."""
    recipe = MADDPGConfig.preset("default")
    own = config.algorithm
    algorithm = dataclasses.replace(
        recipe.algorithm,
        policy_hidden_sizes=own.policy_hidden_sizes,
        policy_head=own.policy_head,
        temperature=own.temperature,
    )
    env_steps = int(updates * recipe.pacing.env_steps_per_update)
    pacing = dataclasses.replace(
        recipe.pacing,
        total_env_steps=env_steps,
        report_interval_env_steps=env_steps,
        evaluation_interval_env_steps=0,
        checkpoint_interval_env_steps=0,
    )
    return dataclasses.replace(
        recipe, seed=seed, num_workers=0, env=config.env, algorithm=algorithm, pacing=pacing
    )
