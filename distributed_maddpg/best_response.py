"""How far a trained team can be exploited: a fresh opponent that learns against it alone (floor F5)."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from distributed_maddpg.config import MADDPGConfig, ReplayConfig
from distributed_maddpg.envs import env_spec
from distributed_maddpg.preflight import check_machine
from distributed_maddpg.serial import Frozen, SerialRoot
from distributed_maddpg.types import FloatArray


class Response(NamedTuple):
    """A team that learnt against the others of a run."""

    policies: FloatArray
    """[N, P] of all, the fresh team's among them."""
    updates: int
    """How long it learnt."""


def train_response(
    config: MADDPGConfig, parameters: FloatArray, team: str, updates: int, seed: int
) -> Response:
    """Train a fresh team against the others of a run, which stay as they are and play greedily.

    Whatever the run was trained with, the fresh team learns by MADDPG as the default preset has it, with
    networks shaped like the run's; so the responses to different runs compare.

    Args:
        config: of the run.
        parameters: [N, P] its policies.
        team: who is fresh: an agent's name without its number.
        updates: how long it learns, up to those that the last fragment of transitions is worth.
        seed: of its first weights, its noise and its start states.

    Raises:
        BadInput: if this machine cannot train it.
    """
    spec = env_spec(config.env.id, config.env.backend, config.env.kwargs)
    settings = response_settings(config, updates, seed)
    check_machine(settings, spec)
    root = SerialRoot([settings], spec, Frozen(tuple(own != team for own in spec.teams), parameters))
    try:
        while not root.pacer.finished:
            root.run(lambda: root.pacer.finished)
            root.next_iteration()
        return Response(np.array(root.weights(0).policies), root.pacer.updates)
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
    env_steps = recipe.pacing.learning_starts + int((updates - 1) * recipe.pacing.env_steps_per_update)
    pacing = dataclasses.replace(
        recipe.pacing,
        total_env_steps=env_steps,
        report_interval_env_steps=env_steps,
        evaluation_interval_env_steps=0,
        checkpoint_interval_env_steps=0,
    )
    capacity = min(recipe.replay.capacity, env_steps + recipe.rollout.fragment_env_steps)
    return dataclasses.replace(
        recipe,
        replay=ReplayConfig(capacity),
        seed=seed,
        num_workers=0,
        env=config.env,
        algorithm=algorithm,
        pacing=pacing,
    )
