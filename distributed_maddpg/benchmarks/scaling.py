"""Training with increasing numbers of rollout workers: rates, efficiency and bottlenecks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from distributed_maddpg.benchmarks import simulation
from distributed_maddpg.benchmarks.job import Job, run_job, slope, windows
from distributed_maddpg.benchmarks.measurement import Measurement, rates, spread
from distributed_maddpg.benchmarks.options import BenchmarkOptions
from distributed_maddpg.benchmarks.rollout import rollout_work
from distributed_maddpg.benchmarks.train import job_settings, where_time_goes
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import env_spec

_ENDLESS = 10**12
_NON_WORKER_PROCESSES = 2
"""Replay buffer and learner."""
_RATES = ("collect_env_steps_per_s", "env_steps_per_s")


def measure(config: MADDPGConfig, options: BenchmarkOptions) -> Measurement:
    """Run a short job for each number of workers and of environment copies, all on one Ray cluster.

    A job first collects without learning for about `options.seconds`, then collects and learns at the rates
    its pacing sets. Learning is measured `options.repeats` times for `options.seconds`, after a first time
    that is left out. Pacing and learner are the same in all jobs. Efficiency is relative to the least number
    of workers.

    With `options.simulate`, see `simulation.measure` instead.
    """
    if options.simulate:
        return simulation.measure(config, options)
    workers = options.worker_counts()
    points: list[dict[str, Any]] = []
    job = Job()
    num_envs = options.env_counts() or (config.rollout.num_envs,)
    largest = replace(config.rollout, num_envs=max(num_envs))  # checked before Ray is started
    with _cluster(replace(config, num_workers=max(workers), rollout=largest)):
        for envs in num_envs:
            group = []
            for count in workers:
                settings = _settings(config, count, envs, options.seconds)
                job = run_job(settings, learning_s=options.seconds * (options.repeats + 2))
                group.append(_point(settings, job, options))
            points += with_efficiency(group)
    return _summarise(points, job_settings(config, job))


def with_efficiency(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return jobs of one size with their rates under ideal scaling, and the share of these they reach.

    Args:
        points: jobs in ascending order of workers; ideal is the first's rate times the ratio of workers.
    """
    first = points[0]
    full = []
    for point in points:
        scale = point["workers"] / first["workers"]
        added = {}
        for name in _RATES:
            ideal = first[name] * scale
            added[f"ideal_{name}"] = ideal
            added[f"efficiency_{name}"] = point[name] / ideal if ideal else 0.0
        full.append({**point, **added})
    return full


def _settings(config: MADDPGConfig, workers: int, num_envs: int, seconds: float) -> MADDPGConfig:
    """Return settings of a job that collects for about `seconds` before its first update, and never ends."""
    config = replace(config, num_workers=workers, rollout=replace(config.rollout, num_envs=num_envs))
    least = max(config.learner.batch_size, workers * config.rollout.fragment_env_steps)
    expected = int(_single_worker_rate(config) * workers * seconds)
    starts = min(max(least, expected), config.replay.capacity)
    pacing = replace(
        config.pacing,
        total_env_steps=_ENDLESS,
        learning_starts=starts,
        report_interval_env_steps=starts,  # the first interval ends where learning starts
        evaluation_interval_env_steps=0,
        checkpoint_interval_env_steps=0,
    )
    return replace(config, pacing=pacing)


def _single_worker_rate(config: MADDPGConfig) -> float:
    """Return the env steps per second of one worker in this process."""
    spec = env_spec(config.env.id, config.env.backend, config.env.kwargs)
    return rates({"worker": rollout_work(config, spec)}, seconds=0.1, repeats=1)["worker"][0]


def _point(config: MADDPGConfig, job: Job, options: BenchmarkOptions) -> dict[str, Any]:
    starts, seconds = config.pacing.learning_starts, options.seconds
    first, full, learned = job.first(env_steps=1), job.first(env_steps=starts), job.first(updates=1)
    filling = [sample for sample in job.samples if sample.at_s <= full.at_s]
    overall = slope(learned, job.last)
    collecting_rates = windows(filling, "env_steps", first.at_s, seconds / options.repeats)
    env_steps = windows(job.samples, "env_steps", learned.at_s + seconds, seconds)
    updates = windows(job.samples, "updates", learned.at_s + seconds, seconds)
    spreads = {
        "collect_env_steps_per_s": spread(collecting_rates or [slope(first, full)[0]]),
        "env_steps_per_s": spread(env_steps or [overall[0]]),
        "updates_per_s": spread(updates or [overall[1]]),
    }
    collecting = where_time_goes(job.intervals[:1], config)
    return {
        "workers": config.num_workers,
        "num_envs": config.rollout.num_envs,
        "more_processes_than_cores": config.num_workers + _NON_WORKER_PROCESSES > (os.cpu_count() or 1),
        "collect_env_steps": starts,
        "collect_bottleneck": collecting["bottleneck"],
        "collect_shares": collecting["shares"],
        **{name: values["median"] for name, values in spreads.items()},
        "spread": spreads,
        **where_time_goes(job.intervals[1:] or job.intervals, config),
    }


def _summarise(points: list[dict[str, Any]], settings: dict[str, Any]) -> Measurement:
    """Return the figures of the job with the most workers, of several the one that collects fastest."""
    top = max(points, key=lambda point: (point["workers"], point["collect_env_steps_per_s"]))
    chosen = {name: top[name] for name in ("workers", "num_envs")}
    return Measurement(
        settings={**chosen, **settings},
        figures={name: top[name] for name in (*_RATES, "updates_per_s")},
        references={f"ideal_{name}": top[f"ideal_{name}"] for name in _RATES},
        ratios={f"{name}/ideal_{name}": top[f"efficiency_{name}"] for name in _RATES},
        spread=top["spread"],
        points=points,
    )


@contextmanager
def _cluster(config: MADDPGConfig) -> Iterator[None]:
    """Share one Ray cluster among the jobs; starting one takes longer than a job."""
    # Imported here: only this benchmark needs Ray before a job does.
    from distributed_maddpg.runtime.cluster import connect, disconnect  # noqa: PLC0415

    owns_connection = connect(config)
    try:
        yield
    finally:
        if owns_connection:
            disconnect()
