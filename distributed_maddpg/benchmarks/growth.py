"""Updates per second with more agents, larger minibatches and wider networks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from distributed_maddpg.benchmarks.learner import learner_work, settled, sgemm, update_flops
from distributed_maddpg.benchmarks.measurement import Measurement, gflops, rates, spread
from distributed_maddpg.benchmarks.options import BenchmarkOptions
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import env_spec
from distributed_maddpg.errors import BadInput
from distributed_maddpg.learner import make_learner, multiplies_bf16

_REPLAY_BYTES = 1 << 27


def measure(config: MADDPGConfig, options: BenchmarkOptions) -> Measurement:
    """Measure updates and their share of sgemm, changing one size at a time.

    Numbers of agents are measured with a critic per agent, then with one per team, if that is less. Where the
    CPU has instructions for bfloat16, `learner.precision = "bf16"` is measured beside it.

    The figures are those of the point with the smallest share.

    Raises:
        BadInput: for a GPU, or without any size.
    """
    if options.device != "cpu":
        raise BadInput("--device", options.device, "growth is measured on the CPU; use cpu")
    points = [_point(each, options) for each in _sweep(config, options)]
    if not points:
        raise BadInput(
            "--agents", options.agents, "name at least one size in --agents, --batch-sizes, --widths"
        )
    lowest = min(points, key=lambda point: point["sgemm_share"])
    names = ("agents", "critics", "batch_size", "width")
    return Measurement(
        settings={"device": "cpu", **{name: lowest[name] for name in names}},
        figures={"gflops": lowest["gflops"], "updates_per_s": lowest["updates_per_s"]},
        references={"sgemm_gflops": lowest["gflops"] / lowest["sgemm_share"]},
        ratios={"gflops/sgemm_gflops": lowest["sgemm_share"]},
        points=points,
    )


def _sweep(config: MADDPGConfig, options: BenchmarkOptions) -> Iterator[MADDPGConfig]:
    for shared in (False, True):
        algorithm = replace(config.algorithm, share_critics=shared)
        for agents in options.counts("agents"):
            env = replace(config.env, kwargs={**config.env.kwargs, "N": agents - 1})
            if not shared or agents > 2:  # of two, one is the adversary
                yield replace(config, env=env, algorithm=algorithm)
    for batch_size in options.counts("batch_sizes"):
        yield replace(config, learner=replace(config.learner, batch_size=batch_size))
    for width in options.counts("widths"):
        sizes = (width, width)
        algorithm = replace(config.algorithm, policy_hidden_sizes=sizes, critic_hidden_sizes=sizes)
        yield replace(config, algorithm=algorithm)


def _point(config: MADDPGConfig, options: BenchmarkOptions) -> dict[str, Any]:
    spec = env_spec(config.env.id, config.env.backend, config.env.kwargs)
    rows = max(config.learner.batch_size, _REPLAY_BYTES // (4 * spec.transitions.width))
    replay = replace(config.replay, capacity=min(rows, config.replay.capacity))
    pacing = replace(config.pacing, learning_starts=replay.capacity)
    config = replace(config, replay=replay, pacing=pacing)
    learner = make_learner(config, spec)
    learn = settled(learner, learner_work(learner, config, spec))
    work = {"updates": learn, "sgemm": sgemm(learner.device)}
    if multiplies_bf16():
        low = replace(config, learner=replace(config.learner, precision="bf16"))
        work["bf16"] = learner_work(make_learner(low, spec), low, spec)
        work["bf16"]()
    turns = rates(work, options.seconds, options.repeats)
    own, reference = gflops(turns["updates"], update_flops(config, spec)), gflops(turns["sgemm"])
    shares = [ours / other for ours, other in zip(own, reference, strict=True)]
    gains = [low / full for low, full in zip(turns.get("bf16", ()), turns["updates"], strict=False)]
    return {
        "agents": spec.num_agents,
        "critics": len(config.algorithm.critic_groups(spec)),
        "batch_size": config.learner.batch_size,
        "width": config.algorithm.critic_hidden_sizes[0],
        "updates_per_s": spread(turns["updates"])["median"],
        "gflops": spread(own)["median"],
        "sgemm_share": spread(shares)["median"],
        "threads": learner.num_threads,
        **({"bf16_ratio": spread(gains)["median"]} if gains else {}),
    }
