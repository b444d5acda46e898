"""Environment steps per second of a whole rollout worker, beside its matrix products and sgemm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np

from distributed_maddpg.acting.policy import NumpyPolicy
from distributed_maddpg.benchmarks.measure import rates
from distributed_maddpg.benchmarks.profile import profile_worker
from distributed_maddpg.benchmarks.result import Measurement, compare
from distributed_maddpg.benchmarks.sgemm import gflops, numpy_sgemm
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import env_spec
from distributed_maddpg.rollout import make_rollout_worker
from distributed_maddpg.types import EnvSpec, FloatArray, StackedLayout, Weights

_FRAGMENT_STEPS = 4


def benchmark_rollout(config: MADDPGConfig, num_envs: int, seconds: float, repeats: int) -> Measurement:
    """Measure acting, exploring, stepping and packing together, and the policies' matrix products alone."""
    config = replace(config, rollout=replace(config.rollout, num_envs=num_envs))
    spec = env_spec(config.env.id, config.env.backend, config.env.kwargs)
    policy = NumpyPolicy(spec, config.algorithm.policy_hidden_sizes, num_envs)
    weights = random_weights(policy.layout, config.seed)
    work = rollout_work(config, weights)
    turns = rates(
        {
            "worker": work,
            "products": _products(policy, spec, num_envs, weights),
            "sgemm": numpy_sgemm(),
        },
        seconds=seconds,
        repeats=repeats,
    )
    flops = env_step_flops(policy.layout)
    return compare(
        {"env_steps_per_s": turns["worker"], "gflops": gflops(turns["worker"], flops)},
        {
            "policy_only_env_steps_per_s": turns["products"],
            "policy_only_gflops": gflops(turns["products"], flops),
            "sgemm_gflops": gflops(turns["sgemm"]),
        },
        [
            ("env_steps_per_s", "policy_only_env_steps_per_s"),
            ("gflops", "sgemm_gflops"),
        ],
        {"num_envs": num_envs, "flops_per_env_step": flops, "blas_threads": 1},
        profile_worker(work, num_envs),
    )


def env_step_flops(layout: StackedLayout) -> int:
    """Return the operations of the policies' matrix products for one env step, padding included."""
    return sum(2 * layout.num_networks * n_in * n_out for n_in, n_out in pairwise(layout.sizes))


def random_weights(layout: StackedLayout, seed: int) -> FloatArray:
    """Return policies' parameters `[N, P]` of no particular skill."""
    shape = (layout.num_networks, layout.num_parameters)
    return np.random.default_rng(seed).uniform(-0.1, 0.1, shape).astype(np.float32)


def rollout_work(config: MADDPGConfig, weights: FloatArray) -> Callable[[], int]:
    """Return work for `rates` of one rollout worker in this process, counted in env steps."""
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
