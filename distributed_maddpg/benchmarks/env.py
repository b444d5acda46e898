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
from distributed_maddpg.config import EnvConfig, MADDPGConfig
from distributed_maddpg.envs import make_vector_env
from distributed_maddpg.envs.mpe.scenarios import make_scenario
from distributed_maddpg.errors import BadInput
from distributed_maddpg.types import MPE2_MODULES

_ACTION_SETS = 16
_RATIO = "env_steps_per_s/mpe2_env_steps_per_s"
LEAST = "times_mpe2_of_the_slowest_scenario"


def measure(config: MADDPGConfig, options: BenchmarkOptions) -> Measurement:
    """Measure env steps per second of the environment with random actions, resets included.

    Without `options.env_id` every scenario of MPE2 is a point too, with its default keywords.

    Raises:
        BadInput: if the environment is not compiled.
    """
    if config.env.id not in MPE2_MODULES:
        raise BadInput("env.id", config.env.id, f"must be one of {', '.join(MPE2_MODULES)}")
    own = _compared(config.env, options)
    own.settings.update({"num_envs": options.num_envs, **config.env.kwargs})
    if not options.env_id:
        for name in MPE2_MODULES:
            own.points.append({"scenario": name, **_point(_compared(EnvConfig(name), options))})
        own.figures[LEAST] = min(point["times_mpe2"] for point in own.points)
    return own


def _compared(env: EnvConfig, options: BenchmarkOptions) -> Measurement:
    workloads = {"env_steps_per_s": _kernel(env, options), "mpe2_env_steps_per_s": _mpe2(env, options.seed)}
    return compare(
        rates(workloads, options.seconds, options.repeats),
        references=["mpe2_env_steps_per_s"],
        ratios=[_RATIO],
        settings={"env_id": env.id},
    )


def _point(measured: Measurement) -> dict[str, float]:
    return {**measured.figures, **measured.references, "times_mpe2": measured.ratios[_RATIO]}


def _kernel(env_config: EnvConfig, options: BenchmarkOptions) -> Callable[[], int]:
    num_envs = options.num_envs
    env = make_vector_env(env_config.id, num_envs, options.seed, backend="vectorized", **env_config.kwargs)
    env.reset()
    rng = np.random.default_rng(options.seed)

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


def _mpe2(env_config: EnvConfig, seed: int) -> Callable[[], int]:
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # pygame prints to stdout
    module = importlib.import_module(MPE2_MODULES[env_config.id])
    env = module.parallel_env(**make_scenario(env_config.id, env_config.kwargs).options.mpe2_kwargs())
    env.reset(seed=seed)
    spaces = {agent: env.action_space(agent) for agent in env.possible_agents}
    sets = [{agent: space.sample() for agent, space in spaces.items()} for _ in range(_ACTION_SETS)]

    def steps() -> int:
        for actions in sets:
            env.step(actions)
            if not env.agents:
                env.reset()
        return len(sets)

    return steps
