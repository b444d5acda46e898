"""Updates of all agents per second, compared with the machine's matrix-product rate."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch

from distributed_maddpg.algo.maddpg import INFORMATION_ROWS
from distributed_maddpg.benchmarks.measurement import Measurement, compare, gflops, rates
from distributed_maddpg.benchmarks.options import BenchmarkOptions
from distributed_maddpg.benchmarks.profile import profile_learner
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import env_spec
from distributed_maddpg.learner import Learner, make_learner
from distributed_maddpg.replay.buffer import ReplayBuffer
from distributed_maddpg.replay.ring import Ring
from distributed_maddpg.types import EnvSpec, StackedLayout, critic_layout, policy_layout

_UPDATES_PER_CALL = {"cpu": 8, "cuda": 64}
_RANDOM_ROWS = 16_384  # repeated until the ring is full
_SGEMM_SIZE = {"cpu": 1024, "cuda": 8192}  # a GPU is not filled by less


def measure(config: MADDPGConfig, options: BenchmarkOptions) -> Measurement:
    """Measure updates, drawing the minibatches included, and the share of the device's sgemm they amount to.

    The rows are random. Updates of several seeds are counted together, and compared with those of one seed.
    """
    spec, num_seeds = env_spec(config.env.id, config.env.backend, config.env.kwargs), options.num_seeds
    learner = make_learner(config, spec)
    single = settled(learner, learner_work(learner, config, spec))
    workloads, flops = {"updates_per_s": single}, update_flops(config, spec)
    if num_seeds > 1:
        seeds = range(config.seed, config.seed + num_seeds)
        others = make_learner(config, spec, seeds)
        many = settled(others, learner_work(others, config, spec))
        workloads = {"updates_of_one_seed_per_s": single, "updates_per_s": many}
    turns = rates({**workloads, "sgemm": sgemm(learner.device)}, options.seconds, options.repeats)
    turns |= {"gflops": gflops(turns["updates_per_s"], flops), "sgemm_gflops": gflops(turns.pop("sgemm"))}
    one_seed = [name for name in workloads if name != "updates_per_s"]
    return compare(
        turns,
        references=["sgemm_gflops", *one_seed],
        ratios=["gflops/sgemm_gflops", *(f"updates_per_s/{name}" for name in one_seed)],
        settings={
            "device": str(learner.device),
            "device_reason": learner.device_reason,
            "num_threads": learner.num_threads,
            "batch_size": config.learner.batch_size,
            "num_seeds": num_seeds,
            "flops_per_update": flops,
        },
        profile=profile_learner(learner, single) if learner.num_threads else None,
    )


def learner_work(learner: Learner, config: MADDPGConfig, spec: EnvSpec) -> Callable[[], int]:
    """Return work that draws minibatches from full rings of random rows, as training does, and learns."""
    rng = np.random.default_rng(config.seed)
    ring = Ring(config.replay.capacity, spec.transitions.width)
    rows = rng.standard_normal((min(ring.capacity, _RANDOM_ROWS), spec.transitions.width), dtype=np.float32)
    rows[:, spec.transitions.discounts] = config.algorithm.gamma
    while ring.size < ring.capacity:
        ring.add(rows)
    rings, updates = [ring] * learner.num_runs, _UPDATES_PER_CALL[learner.device.type]
    buffers = [ReplayBuffer(ring, rng) for ring in rings]
    if learner.samples_on_device:
        learner.mirror(rings)

    def learn() -> int:
        if learner.samples_on_device:
            learner.learn_mirrored(updates)
        else:
            learner.learn([buffer.draw(updates, config.learner.batch_size) for buffer in buffers])
        return updates * learner.num_runs

    return learn


def settled(learner: Learner, learn: Callable[[], int]) -> Callable[[], int]:
    """Return the work, after it was done until the learner has found its number of threads."""
    learn()
    while not learner.is_settled:
        learn()
    return learn


def update_flops(config: MADDPGConfig, spec: EnvSpec) -> int:
    """Return the floating-point operations of one update's matrix products, the rest not counted.

    A forward pass costs F, the gradient of the weights F too, the gradient of the inputs F less the first
    layer's share. Critics: two forward passes and a full backward pass for the TD error. For the actor loss
    each critic's first layer, each agent's other layers, the first layer's product with the agent's own
    action once more, and the gradient of the own action: in the first layer it takes only that action's
    columns. If the values are means over C candidates, the other layers take C inputs per row, and the first
    one the private columns once more for each. Policies: a target and an online forward pass, and a backward
    pass; the last two also of the rows of information regularisation.
    """
    batch, algorithm = config.learner.batch_size, config.algorithm
    sizes = algorithm.critic_hidden_sizes
    critics = critic_layout(spec, sizes, algorithm.critic_groups(spec))
    critic, critic_first = _forward_flops(critics, batch)
    whole, first = _forward_flops(critic_layout(spec, sizes), batch)
    policy, policy_first = _forward_flops(policy_layout(spec, algorithm.policy_hidden_sizes), batch)
    per_column = 2 * batch * spec.num_agents * algorithm.critic_hidden_sizes[0]
    own = max(spec.action_sizes) * per_column
    parts = [part for part in algorithm.common_candidates(spec) if part]
    inputs = len(parts[0].choices) if parts else 1
    private = inputs * sum(part.width for part in parts) * per_column
    critic_update = 3 * critic + (critic - critic_first)
    through_critic = critic_first + private + 2 * own + 2 * inputs * (whole - first)
    online_policy = 2 * policy + (policy - policy_first)
    if algorithm.measures_information(spec):
        online_policy += int(INFORMATION_ROWS * online_policy)
    return critic_update + through_critic + policy + online_policy


def _forward_flops(layout: StackedLayout, batch: int) -> tuple[int, int]:
    """Return (all layers, first layer)."""
    layers = [2 * batch * layout.num_networks * n_in * n_out for n_in, n_out in pairwise(layout.sizes)]
    return sum(layers), layers[0]


def sgemm(device: torch.device) -> Callable[[], int]:
    """Return work that multiplies two large matrices on one core, or the GPU, and returns its operations."""
    size = _SGEMM_SIZE[device.type]
    left = torch.randn(size, size, device=device)
    out = torch.empty_like(left)

    def multiply() -> int:
        torch.matmul(left, left, out=out)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return int(2 * size**3)

    return multiply
