"""Opponents that learn by MADDPG, which works in any environment.

They are weak: in `simple_adversary` they find much less than `recurrent.py` does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from distributed_maddpg.best_response.opponents import Progress, measure
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import env_spec
from distributed_maddpg.preflight import check_machine
from distributed_maddpg.seeding import integer_seed
from distributed_maddpg.serial import Frozen, SerialRunner
from distributed_maddpg.types import FloatArray

_CURVE_POINTS, _CURVE_EPISODES = 10, 100


class Response(NamedTuple):
    """A team that learned against the others of a run."""

    policies: FloatArray
    """[N, P] of all agents, the new team included."""
    curve: tuple[Progress, ...]


def train_responses(
    config: MADDPGConfig, parameters: FloatArray, team: str, updates: int, seeds: Sequence[int]
) -> list[Response]:
    """Train new teams, one per seed, against the others of a run, which do not learn and play greedily.

    Whatever algorithm trained the run, the new teams learn by MADDPG with the default preset's settings and
    networks shaped like the run's, so that the responses to different runs can be compared.

    Args:
        config: of the run.
        parameters: [N, P] its policies.
        team: the new team: an agent's name without its number.
        updates: how many it learns for, rounded up to those of a whole fragment of transitions.
        seeds: of initial weights, noise and start states.

    Raises:
        BadInput: if this machine cannot train them.
    """
    spec = env_spec(config.env.id, config.env.backend, config.env.kwargs, config.env.measures)
    settings = [response_settings(config, updates, seed) for seed in seeds]
    check_machine(settings[0], spec, len(seeds))
    learns = [own == team for own in spec.teams]
    frozen = Frozen(tuple(not own for own in learns), parameters)
    runner = SerialRunner(settings, spec, frozen)
    try:
        while not runner.pacer.finished:
            runner.run(lambda: runner.pacer.finished)
            runner.next_iteration()
        responses = []
        for run, own in enumerate(settings):
            curve = {each.updates: measure(each.card, learns) for each in runner.pop_evaluations(run)}
            last = runner.evaluate(
                _CURVE_EPISODES, integer_seed(own.seed, "evaluation", _CURVE_POINTS + 1), run
            )
            curve[runner.pacer.updates] = measure(last, learns)
            progress = tuple(Progress(updates, score) for updates, score in curve.items())
            responses.append(Response(np.array(runner.weights(run).policies), progress))
        return responses
    finally:
        runner.close()


def response_settings(config: MADDPGConfig, updates: int, seed: int) -> MADDPGConfig:
    """Return the settings by which a response to a run is trained."""
    recipe, own = MADDPGConfig.preset("default"), config.algorithm
    steps_per_update = recipe.pacing.env_steps_per_update
    learning_starts = min(recipe.pacing.learning_starts, round(updates * steps_per_update))
    env_steps = learning_starts + int((updates - 1) * steps_per_update)
    changes = {
        "seed": seed,
        "num_workers": 0,
        "replay": {
            "capacity": min(recipe.replay.capacity, env_steps + recipe.rollout.fragment_env_steps),
        },
        "algorithm": {
            "policy_hidden_sizes": own.policy_hidden_sizes,
            "policy_head": own.policy_head,
            "temperature": own.temperature,
            "information_weight": 0.0,
            "private_values": "observed",
        },
        "evaluation": {"episodes": _CURVE_EPISODES},
        "pacing": {
            "learning_starts": learning_starts,
            "total_env_steps": env_steps,
            "report_interval_env_steps": env_steps,
            "evaluation_interval_env_steps": max(1, env_steps // _CURVE_POINTS),
            "checkpoint_interval_env_steps": 0,
        },
    }
    return dataclasses.replace(MADDPGConfig.from_dict(changes, recipe), env=config.env)
