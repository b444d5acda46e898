"""Environment steps per second: the compiled kernel compared with MPE2's own parallel API."""

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
from distributed_maddpg.envs.adversary_options import OPTIONS_NOT_IN_MPE2

_ACTION_SETS = 16


def measure(config: MADDPGConfig, options: BenchmarkOptions) -> Measurement:
    """Measure env steps per second of `simple_adversary` with random actions, resets included."""
    workloads = {"env_steps_per_s": _kernel(config, options.num_envs), "mpe2_env_steps_per_s": _mpe2(config)}
    return compare(
        rates(workloads, options.seconds, options.repeats),
        references=["mpe2_env_steps_per_s"],
        ratios=["env_steps_per_s/mpe2_env_steps_per_s"],
        settings={"num_envs": options.num_envs, **config.env.kwargs},
    )


def _kernel(config: MADDPGConfig, num_envs: int) -> Callable[[], int]:
    kwargs = config.env.kwargs
    env = make_vector_env("simple_adversary", num_envs, config.seed, backend="vectorized", **kwargs)
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
