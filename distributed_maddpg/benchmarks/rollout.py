"""Environment steps per second of a whole rollout worker, beside its matrix products alone (floor F5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from distributed_maddpg.acting.policy import NumpyPolicy
from distributed_maddpg.benchmarks.measure import rates, spread
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import env_spec
from distributed_maddpg.rollout import make_rollout_worker
from distributed_maddpg.types import EnvSpec, FloatArray, Weights

_FRAGMENT_STEPS = 4


def benchmark_rollout(config: MADDPGConfig, num_envs: int, seconds: float, repeats: int) -> dict[str, Any]:
    """Return the rate of acting, exploring, stepping and packing, and the policies' matrix products' rate."""
    config = replace(config, rollout=replace(config.rollout, num_envs=num_envs))
    spec = env_spec(config.env.id, config.env.backend, config.env.kwargs)
    policy = NumpyPolicy(spec, config.algorithm.policy_hidden_sizes, num_envs)
    layout = policy.layout
    rng = np.random.default_rng(config.seed)
    weights = rng.uniform(-0.1, 0.1, (layout.num_networks, layout.num_parameters)).astype(np.float32)
    measured = rates(
        {"worker": _worker(config, weights), "products": _products(policy, spec, num_envs, weights)},
        seconds=seconds,
        repeats=repeats,
    )
    worker, products = spread(measured["worker"]), spread(measured["products"])
    return {
        "num_envs": num_envs,
        "env_steps_per_s": worker["median"],
        "policy_only_env_steps_per_s": products["median"],
        "fraction_of_policy_only": worker["median"] / products["median"],
        "spread": {"env_steps_per_s": worker, "policy_only_env_steps_per_s": products},
    }


def _worker(config: MADDPGConfig, weights: FloatArray) -> Callable[[], int]:
    worker = make_rollout_worker(config, 0)
    worker.set_weights(Weights(1, 0, weights))
    return lambda: len(worker.collect(_FRAGMENT_STEPS, 0)[0])


def _products(policy: NumpyPolicy, spec: EnvSpec, num_envs: int, weights: FloatArray) -> Callable[[], int]:
    policy.set_parameters(weights)
    obs = tuple(np.ones((num_envs, size), np.float32) for size in spec.observation_sizes)

    def forward() -> int:
        policy.logits(obs)
        return num_envs

    return forward
