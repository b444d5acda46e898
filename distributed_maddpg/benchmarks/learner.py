"""Updates of all agents per second, beside the machine's matrix-product rate (floor F5; runs without Ray)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch

from distributed_maddpg.benchmarks.measure import rates
from distributed_maddpg.benchmarks.result import Measurement, compare
from distributed_maddpg.benchmarks.sgemm import gflops
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import env_spec
from distributed_maddpg.learner import Learner, make_learner
from distributed_maddpg.ring import Ring
from distributed_maddpg.types import EnvSpec, StackedLayout, critic_layout, policy_layout

_BATCHES_PER_CALL = 8
_MIRRORED_PER_CALL = 64
_SGEMM_SIZE = {"cpu": 1024, "cuda": 8192}  # a GPU is not filled by less


def benchmark_learner(config: MADDPGConfig, seconds: float, repeats: int) -> Measurement:
    """Measure updates, and the share of the device's sgemm rate they amount to.

    On a CPU the minibatches are in memory; a GPU draws its own from a full replay buffer of random rows.
    """
    spec = env_spec(config.env.id, config.env.backend, config.env.kwargs)
    learner = make_learner(config, spec)
    learn = _learn_mirrored(learner, config, spec) if learner.draws_itself else _learn(learner, config, spec)
    turns = rates({"updates": learn, "sgemm": _sgemm(learner.device)}, seconds=seconds, repeats=repeats)
    flops = update_flops(config, spec)
    return compare(
        {"updates_per_s": turns["updates"], "gflops": gflops(turns["updates"], flops)},
        {"sgemm_gflops": gflops(turns["sgemm"])},
        [("gflops", "sgemm_gflops")],
        {
            "device": str(learner.device),
            "device_reason": learner.device_reason,
            "num_threads": config.learner.num_threads,
            "batch_size": config.learner.batch_size,
            "flops_per_update": flops,
        },
    )


def _learn(learner: Learner, config: MADDPGConfig, spec: EnvSpec) -> Callable[[], int]:
    rng = np.random.default_rng(config.seed)
    shape = (_BATCHES_PER_CALL, config.learner.batch_size, spec.transitions.width)
    batches = rng.standard_normal(shape, dtype=np.float32)
    batches[:, :, spec.transitions.terminated] = 0.0

    def learn() -> int:
        learner.learn([batches])
        return _BATCHES_PER_CALL

    return learn


def _learn_mirrored(learner: Learner, config: MADDPGConfig, spec: EnvSpec) -> Callable[[], int]:
    rng = np.random.default_rng(config.seed)
    ring = Ring(config.replay.capacity, spec.transitions.width)
    rows = rng.standard_normal(ring.rows.shape, dtype=np.float32)
    rows[:, spec.transitions.terminated] = 0.0
    ring.add(rows)
    learner.mirror([ring])

    def learn() -> int:
        learner.learn_mirrored(_MIRRORED_PER_CALL)
        return _MIRRORED_PER_CALL

    return learn


def update_flops(config: MADDPGConfig, spec: EnvSpec) -> int:
    """Return the floating-point operations of one update's matrix products, the rest not counted.

    A forward pass costs F, the gradient of the weights F again, the gradient of the inputs F less the first
    layer's share. Critics: two forward passes and a full backward for the TD error, then a forward pass and
    the inputs' gradient for the actor loss, whose first layer is met through the own action only. Policies:
    a target and an online forward pass, and a backward.
    """
    batch = config.learner.batch_size
    critic, critic_first = _forward_flops(critic_layout(spec, config.algorithm.critic_hidden_sizes), batch)
    policy, policy_first = _forward_flops(policy_layout(spec, config.algorithm.policy_hidden_sizes), batch)
    width, hidden = max(spec.action_sizes), config.algorithm.critic_hidden_sizes[0]
    own = 2 * batch * spec.num_agents * width * hidden
    critic_update = 3 * critic + (critic - critic_first)
    through_critic = critic + own + (critic - critic_first) + own
    return critic_update + through_critic + 3 * policy + (policy - policy_first)


def _forward_flops(layout: StackedLayout, batch: int) -> tuple[int, int]:
    """Return (all layers, first layer)."""
    layers = [2 * batch * layout.num_networks * n_in * n_out for n_in, n_out in pairwise(layout.sizes)]
    return sum(layers), layers[0]


def _sgemm(device: torch.device) -> Callable[[], int]:
    size = _SGEMM_SIZE[device.type]
    left = torch.randn(size, size, device=device)
    out = torch.empty_like(left)

    def multiply() -> int:
        torch.matmul(left, left, out=out)
        _synchronise(device)
        return int(2 * size**3)

    return multiply


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
