"""Environment steps per second: the compiled kernel beside MPE2's own parallel API."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from distributed_maddpg.benchmarks.measure import rates
from distributed_maddpg.benchmarks.result import Measurement, compare
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import make_vector_env
from distributed_maddpg.envs.adversary_rules import OPTIONS_NOT_IN_MPE2

_ACTION_SETS = 16


def benchmark_env(config: MADDPGConfig, num_envs: int, seconds: float, repeats: int) -> Measurement:
    """Measure `simple_adversary` with random actions, resets included: env steps a second."""
    turns = rates(
        {"kernel": _kernel(config, num_envs), "mpe2": _mpe2(config)}, seconds=seconds, repeats=repeats
    )
    return compare(
        {"env_steps_per_s": turns["kernel"]},
        {"mpe2_env_steps_per_s": turns["mpe2"]},
        [("env_steps_per_s", "mpe2_env_steps_per_s")],
        {"num_envs": num_envs, **config.env.kwargs},
    )


def _kernel(config: MADDPGConfig, num_envs: int) -> Callable[[], int]:
    env = make_vector_env(
        "simple_adversary", num_envs, config.seed, backend="vectorized", **config.env.kwargs
    )
    env.reset()
    rng = np.random.default_rng(config.seed)
    sets = []
    for _ in range(_ACTION_SETS):
        actions: list[npt.NDArray[Any]] = []
        for size, kind in zip(env.action_sizes, env.action_types, strict=True):
            discrete = kind == "discrete"
            actions.append(
                rng.integers(0, size, num_envs) if discrete else rng.random((num_envs, size), np.float32)
            )
        sets.append(actions)

    def steps() -> int:
        for actions in sets:
            env.step(actions)
        return num_envs * len(sets)

    return steps


def _mpe2(config: MADDPGConfig) -> Callable[[], int]:
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # pygame greets on stdout
    module = importlib.import_module("mpe2.simple_adversary_v3")
    env = module.parallel_env(**{k: v for k, v in config.env.kwargs.items() if k not in OPTIONS_NOT_IN_MPE2})
    env.reset(seed=config.seed)
    spaces = {agent: env.action_space(agent) for agent in env.possible_agents}
    sets = [{agent: space.sample() for agent, space in spaces.items()} for _ in range(_ACTION_SETS)]

    def steps() -> int:
        for actions in sets:
            env.step(actions)
            if not env.agents:
                env.reset()
        return len(sets)

    return steps
