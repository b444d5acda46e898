"""Rates of a whole training job, start included."""

from __future__ import annotations

from typing import Any

from distributed_maddpg.benchmarks.job import Count, Interval, Job, run_job, slope, windows
from distributed_maddpg.benchmarks.measurement import Measurement, spread
from distributed_maddpg.benchmarks.options import BenchmarkOptions
from distributed_maddpg.bottleneck import SHARES, name_bottleneck, time_shares
from distributed_maddpg.config import MADDPGConfig


def measure(config: MADDPGConfig, options: BenchmarkOptions) -> Measurement:
    """Train with `config` to its end, without files or evaluations.

    The rates' spread is taken over windows of `options.seconds`, from the first update on.
    """
    job = run_job(config)
    env_steps, updates = slope(job.first(env_steps=1), job.last)
    figures = {
        "startup_s": job.first(env_steps=1).at_s,
        "total_s": job.total_s,
        "env_steps": float(job.last.env_steps),
        "updates": float(job.last.updates),
        "env_steps_per_s": env_steps,
        "updates_per_s": updates,
    }
    counts: tuple[Count, ...] = ("env_steps", "updates")
    spreads = {}
    for count in counts if job.last.updates else ():
        if rates := windows(job.samples, count, job.first(updates=1).at_s, options.seconds):
            spreads[f"learning_{count}_per_s"] = spread(rates)
    point = {
        "workers": config.num_workers,
        "num_envs": config.rollout.num_envs,
        "env_steps_per_s": env_steps,
        "updates_per_s": updates,
        **where_time_goes(job.intervals, config),
    }
    return Measurement(
        settings=job_settings(config, job),
        figures=figures | {name: values["median"] for name, values in spreads.items()},
        spread=spreads,
        points=[point],
    )


def where_time_goes(intervals: list[Interval], config: MADDPGConfig) -> dict[str, Any]:
    """Return the stages' shares of time over some intervals of a job, and its bottleneck."""
    seconds = sum(interval.seconds for interval in intervals)
    timers = {f"{name}_s": sum(interval.timers[f"{name}_s"] for interval in intervals) for name in SHARES}
    shares = time_shares(timers, seconds, in_turn=config.num_workers == 0)
    return {"bottleneck": name_bottleneck(shares), "shares": shares}


def job_settings(config: MADDPGConfig, job: Job) -> dict[str, Any]:
    """Return what a job's rates depend on."""
    return {
        "device": job.device,
        "num_threads": config.learner.num_threads,
        "batch_size": config.learner.batch_size,
        "policy_hidden_sizes": list(config.algorithm.policy_hidden_sizes),
        "critic_hidden_sizes": list(config.algorithm.critic_hidden_sizes),
        "env_steps_per_update": config.pacing.env_steps_per_update,
    }
