"""Environment steps per second: a compiled scenario compared with MPE2's own parallel API."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from distributed_maddpg.benchmarks.measurement import Measurement, compare, rates
from distributed_maddpg.benchmarks.options import BenchmarkOptions
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import make_vector_env
from distributed_maddpg.envs.mpe.scenarios import make_scenario
from distributed_maddpg.errors import BadInput
from distributed_maddpg.types import MPE2_MODULES

_ACTION_SETS = 16


def measure(config: MADDPGConfig, options: BenchmarkOptions) -> Measurement:
    """Measure env steps per second of the environment with random actions, resets included."""
    if config.env.id not in MPE2_MODULES:
        raise BadInput("env.id", config.env.id, f"must be one of {', '.join(MPE2_MODULES)}")
    workloads = {"env_steps_per_s": _kernel(config, options.num_envs), "mpe2_env_steps_per_s": _mpe2(config)}
    return compare(
        rates(workloads, options.seconds, options.repeats),
        references=["mpe2_env_steps_per_s"],
        ratios=["env_steps_per_s/mpe2_env_steps_per_s"],
        settings={"env_id": config.env.id, "num_envs": options.num_envs, **config.env.kwargs},
    )


def _kernel(config: MADDPGConfig, num_envs: int) -> Callable[[], int]:
    env = make_vector_env(config.env.id, num_envs, config.seed, backend="vectorized", **config.env.kwargs)
    env.reset()
    rng = np.random.default_rng(config.seed)

    def action(size: int, kind: str) -> npt.NDArray[Any]:
        if kind == "discrete":
            return rng.integers(0, size, num_envs)
        return rng.random((num_envs, size), np.float32)

    agents = list(zip(env.action_sizes, env.action_types, strict=True))
    sets = [[action(*agent) for agent in agents] for _ in range(_ACTION_SETS)]

    def steps() -> int:
        for actions in sets:
            env.step(actions)
        return num_envs * len(sets)

    return steps


def _mpe2(config: MADDPGConfig) -> Callable[[], int]:
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # pygame prints to stdout
    module = importlib.import_module(MPE2_MODULES[config.env.id])
    env = module.parallel_env(**make_scenario(config.env.id, config.env.kwargs).options.mpe2_kwargs())
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
