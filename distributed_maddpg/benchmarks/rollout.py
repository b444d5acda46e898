"""Environment steps per second of a whole rollout worker, compared with its matrix products and sgemm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
from threadpoolctl import ThreadpoolController

from distributed_maddpg.acting.policy import NumpyPolicy
from distributed_maddpg.benchmarks.measurement import Measurement, compare, gflops, rates
from distributed_maddpg.benchmarks.options import BenchmarkOptions
from distributed_maddpg.benchmarks.profile import profile_worker
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import env_spec
from distributed_maddpg.rollout import make_rollout_worker
from distributed_maddpg.types import EnvSpec, FloatArray, StackedLayout, Weights, policy_layout

_FRAGMENT_STEPS = 4
_SGEMM_SIZE = 1024


def measure(config: MADDPGConfig, options: BenchmarkOptions) -> Measurement:
    """Measure acting, exploring, stepping and packing together, and the policies' matrix products alone."""
    num_envs = options.num_envs
    config = replace(config, rollout=replace(config.rollout, num_envs=num_envs))
    spec = env_spec(config.env.id, config.env.backend, config.env.kwargs)
    work = rollout_work(config, spec)
    workloads = {"worker": work, "products": _products(config, spec), "sgemm": _sgemm()}
    turns = rates(workloads, options.seconds, options.repeats)
    flops = env_step_flops(policy_layout(spec, config.algorithm.policy_hidden_sizes))
    return compare(
        {
            "env_steps_per_s": turns["worker"],
            "gflops": gflops(turns["worker"], flops),
            "policy_only_env_steps_per_s": turns["products"],
            "policy_only_gflops": gflops(turns["products"], flops),
            "sgemm_gflops": gflops(turns["sgemm"]),
        },
        references=["policy_only_env_steps_per_s", "policy_only_gflops", "sgemm_gflops"],
        ratios=["env_steps_per_s/policy_only_env_steps_per_s", "gflops/sgemm_gflops"],
        settings={"num_envs": num_envs, "flops_per_env_step": flops, "blas_threads": 1},
        profile=profile_worker(work, num_envs),
    )


def env_step_flops(layout: StackedLayout) -> int:
    """Return the operations of the policies' matrix products for one env step, padding included."""
    return sum(2 * layout.num_networks * n_in * n_out for n_in, n_out in pairwise(layout.sizes))


def rollout_work(config: MADDPGConfig, spec: EnvSpec) -> Callable[[], int]:
    """Return work for `rates` of one rollout worker in this process, counted in env steps."""
    worker = make_rollout_worker(config, 0)
    worker.set_weights(Weights(1, 0, _random_weights(config, spec)))
    return lambda: len(worker.collect(_FRAGMENT_STEPS, 0)[0])


def _random_weights(config: MADDPGConfig, spec: EnvSpec) -> FloatArray:
    layout = policy_layout(spec, config.algorithm.policy_hidden_sizes)
    shape = (layout.num_networks, layout.num_parameters)
    return np.random.default_rng(config.seed).uniform(-0.1, 0.1, shape).astype(np.float32)


def _products(config: MADDPGConfig, spec: EnvSpec) -> Callable[[], int]:
    num_envs = config.rollout.num_envs
    policy = NumpyPolicy(spec, config.algorithm.policy_hidden_sizes, num_envs)
    policy.set_parameters(_random_weights(config, spec))
    obs = tuple(np.ones((num_envs, size), np.float32) for size in spec.observation_sizes)

    def forward() -> int:
        policy.logits(obs)
        return num_envs

    return forward


def _sgemm() -> Callable[[], int]:
    """Return work that multiplies two large matrices on one BLAS thread: what a core can do at most."""
    left = np.random.default_rng(0).standard_normal((_SGEMM_SIZE, _SGEMM_SIZE), dtype=np.float32)
    out = np.empty_like(left)
    blas = ThreadpoolController()

    def multiply() -> int:
        with blas.limit(limits=1, user_api="blas"):
            np.matmul(left, left, out=out)
        return int(2 * _SGEMM_SIZE**3)

    return multiply
