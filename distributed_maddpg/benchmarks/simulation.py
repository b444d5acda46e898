"""Where the design saturates: `benchmark scaling --simulate`, with workers that wait instead of collecting.

Each edge is measured by itself. What a worker asks of it follows from the settings (`demand`); both give the
number of workers that it carries. Jobs show how much of the offered rate arrives when all edges are loaded.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from distributed_maddpg.benchmarks.measurement import Measurement
from distributed_maddpg.benchmarks.options import BenchmarkOptions
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import env_spec
from distributed_maddpg.errors import BadInput, TrainingError
from distributed_maddpg.pacing import fragments_per_call
from distributed_maddpg.types import EnvSpec, policy_layout

if TYPE_CHECKING:
    from distributed_maddpg.runtime.simulation import Activity, Simulation

_RING_BYTES = 1 << 28
_SENDERS = 16
_MOST_WORKERS = 10_000
_ENDLESS = 10**15
_JOBS_S = 30.0
"""How long jobs are started for each number of agents and rate."""
_TIMEOUT_S = 120.0
_TICK_S = 0.01
"""In which the system counts CPU time."""
_JOB_S = 2.0
"""Length of a job in `--seconds`, or in fragments of a worker if they take longer."""
_FAR = 8
"""Jobs with this many times fewer workers than are carried are left out."""
_REACHED, _HOPELESS = 0.9, 0.5
"""Shares of the offered rate: with less, workers wait; after one with less, no more workers are tried."""


@dataclass(frozen=True)
class Demand:
    """What one worker asks of each edge in a second."""

    pushes: float
    pulls: float
    calls: float
    """Of the driver."""
    pushed_bytes: float
    pulled_bytes: float


def demand(
    config: MADDPGConfig, spec: EnvSpec, env_steps_per_s: float, versions_per_s: float, largest_push: int
) -> Demand:
    """Return what a worker that collects `env_steps_per_s` asks of each edge.

    Args:
        config: its settings.
        spec: of the environment.
        env_steps_per_s: of the worker, while nothing blocks it.
        versions_per_s: published by the learner.
        largest_push: bytes up to which it joins the fragments of a call; 0: it pushes each fragment.
    """
    fragment, row = config.rollout.fragment_env_steps, 4 * spec.transitions.width
    fragments_per_s = env_steps_per_s / fragment
    per_call = fragments_per_call(fragments_per_s)
    per_push = max(1, math.ceil(largest_push / (fragment * row)))
    calls = fragments_per_s / per_call
    pushes = calls * math.ceil(per_call / per_push)
    pulls = min(versions_per_s, pushes)
    return Demand(pushes, pulls, calls, env_steps_per_s * row, pulls * weights_bytes(config, spec))


def weights_bytes(config: MADDPGConfig, spec: EnvSpec) -> int:
    """Return the bytes of a version of the weights: the policies `[N, P]`."""
    layout = policy_layout(spec, config.algorithm.policy_hidden_sizes)
    return 4 * spec.num_agents * layout.num_parameters


def carried(capacity: Mapping[str, float], asked: Demand) -> dict[str, float]:
    """Return how many workers each process carries.

    Pushes and pulls share the replay buffer's process, which handles one call at a time.

    Args:
        capacity: "pushes", "pulls" and "calls" per second, each by itself.
        asked: by one worker.
    """
    share = asked.pushes / capacity["pushes"] + asked.pulls / capacity["pulls"]
    return {"ingest and weights": 1 / share, "driver": capacity["calls"] / asked.calls}


def measure(config: MADDPGConfig, options: BenchmarkOptions) -> Measurement:
    """Measure every edge, and jobs with increasing numbers of simulated workers.

    Raises:
        BadInput: before anything is started, if more is asked for than is allowed, or the environment does
            not take the number of agents.
    """
    # Imported here: only this benchmark and those of whole jobs need Ray.
    from distributed_maddpg.runtime.simulation import MOST_PROCESSES, simulation  # noqa: PLC0415

    workers = options.simulated_workers()
    if workers[-1] > _MOST_WORKERS:
        raise BadInput("--workers", options.workers, f"must be at most {_MOST_WORKERS} with --simulate")
    processes = options.host_processes or min(os.cpu_count() or 1, MOST_PROCESSES)
    if processes > MOST_PROCESSES:
        raise BadInput("--host-processes", processes, f"must be at most {MOST_PROCESSES}")
    sizes = [_Sizes.of(config, agents) for agents in options.simulated_agents()]
    points: list[dict[str, Any]] = []
    with simulation(config, processes, max(_SENDERS, *workers)) as sim:
        for own in sizes:
            points += _points(sim, own, options, points)
    return _summarise(points, processes, options)


@dataclass(frozen=True)
class _Sizes:
    """The settings of one number of agents."""

    config: MADDPGConfig
    spec: EnvSpec

    @classmethod
    def of(cls, config: MADDPGConfig, agents: int) -> _Sizes:
        """Return settings under which nothing but the workers limits a job's rate."""
        env = replace(config.env, kwargs={**config.env.kwargs, "N": agents - 1})
        spec = env_spec(env.id, env.backend, env.kwargs)
        if spec.num_agents != agents:  # N counts other agents there
            remedy = f"has {spec.num_agents} agents where {agents} are to be simulated; use simple_adversary"
            raise BadInput("--env.id", env.id, remedy)
        fragment, row = config.rollout.fragment_env_steps, 4 * spec.transitions.width
        capacity = max(16 * fragment, min(_RING_BYTES // row, config.replay.capacity))
        pacing = replace(
            config.pacing,
            total_env_steps=_ENDLESS,
            learning_starts=fragment,
            tolerance_updates=_ENDLESS,
            report_interval_env_steps=_ENDLESS,
            evaluation_interval_env_steps=0,
            checkpoint_interval_env_steps=0,
        )
        replay = replace(config.replay, capacity=capacity)
        ray = replace(config.ray, timeout_s=_TIMEOUT_S)
        return cls(replace(config, env=env, pacing=pacing, replay=replay, ray=ray), spec)


def _points(
    sim: Simulation, own: _Sizes, options: BenchmarkOptions, before: Sequence[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Measure one number of agents; the driver's edges do not depend on it, and are taken from `before`."""
    from distributed_maddpg.runtime.simulation import record  # noqa: PLC0415

    recording = record(own.config, options.seconds)
    sim.prepare(own.config, own.spec, recording, options.versions_per_s)
    edges = _edges(sim, own, options)
    yield edges
    slow = options.agent_steps_per_s / own.spec.num_agents
    driver = [point for point in before if point["table"] == "driver"]
    if not driver:
        driver = [_driver(sim, workers, slow, options.seconds) for workers in options.simulated_workers()]
        yield from driver
    for rate in (slow, recording.env_steps_per_s):
        limits = _limits(own, edges, driver, rate, options)
        yield limits
        least = min(limits["workers_single"], limits["carried"]) / _FAR
        yield from _jobs(sim, own, rate, options, least)


def _edges(sim: Simulation, own: _Sizes, options: BenchmarkOptions) -> dict[str, Any]:
    """Measure ingest, with and without joining, and the fetching of weights, in turns; each by itself."""
    from distributed_maddpg.runtime.simulation import Load  # noqa: PLC0415

    turns: dict[str, list[Activity]] = defaultdict(list)
    senders = min(_SENDERS, max(options.simulated_workers()))
    fragments = fragments_per_call(math.inf)
    for _ in range(options.repeats):
        for joins in (False, True):
            sim.place(Load(senders, math.inf, joins=joins))
            name = "joined" if joins else "single"
            turns[name].append(sim.repeat("collect", options.seconds, fragments, 0))
        turns["pulls"].append(sim.repeat("refresh_weights", options.seconds))

    def median(kind: str, name: str) -> float:
        return statistics.median(activity.per_s(name) for activity in turns[kind])

    def busy_ms(kind: str, name: str) -> float:
        return statistics.median(_busy_ms(activity, "replay buffer", name) for activity in turns[kind])

    return {
        "table": "edges",
        "agents": own.spec.num_agents,
        "row_bytes": 4 * own.spec.transitions.width,
        "fragment_bytes": 4 * own.spec.transitions.width * own.config.rollout.fragment_env_steps,
        "weights_bytes": weights_bytes(own.config, own.spec),
        "single_pushes_per_s": median("single", "pushes"),
        "single_rows_per_s": median("single", "rows_stored"),
        "pushes_per_s": median("joined", "pushes"),
        "rows_per_s": median("joined", "rows_stored"),
        "bytes_per_s": median("joined", "bytes"),
        "pulls_per_s": median("pulls", "pulls"),
        "single_push_busy_ms": busy_ms("single", "pushes"),
        "push_busy_ms": busy_ms("joined", "pushes"),
        "pull_busy_ms": busy_ms("pulls", "pulls"),
    }


def _busy_ms(activity: Activity, process: str, count: str) -> float:
    """Return the CPU milliseconds of a process's busiest thread for each time that something happened."""
    return 1e3 * max(_TICK_S, activity.busiest_s[process]) / max(1, activity.counts[count])


def _driver(sim: Simulation, workers: int, rate: float, seconds: float) -> dict[str, Any]:
    """Measure the driver's loop with workers that answer at once and push nothing.

    The checkpoint is of workers that collect at `rate`: their states are behind two calls.
    """
    calls_per_s, busy_ms = _loop(sim, workers, seconds)
    calls = 2 * workers
    return {
        "table": "driver",
        "workers": workers,
        "calls_per_s": calls_per_s,
        "call_busy_ms": busy_ms,
        "calls_in_flight": calls,
        "wait_ms": 1e3 * sim.wait_s(calls, seconds / 2),
        "checkpoint_s": _checkpoint_s(sim, workers, rate, seconds),
    }


def _loop(sim: Simulation, workers: int, seconds: float) -> tuple[float, float]:
    """Return calls/s and CPU milliseconds per call; zeros if a process did not answer in time."""
    from distributed_maddpg.runtime.simulation import Load  # noqa: PLC0415

    sim.place(Load(workers, math.inf, pushes=False))
    try:
        with sim.job() as runner:
            sim.watch(runner, seconds)
            loop = sim.watch(runner, seconds)
    except TrainingError:
        sim.restart()
        return 0.0, 0.0
    return loop.per_s("calls"), _busy_ms(loop, "driver", "calls")


def _checkpoint_s(sim: Simulation, workers: int, rate: float, seconds: float) -> float:
    """Return the seconds of a checkpoint; zero if a process did not answer in time."""
    from distributed_maddpg.runtime.simulation import Load  # noqa: PLC0415

    sim.place(Load(workers, rate, pushes=False))
    try:
        with sim.job() as runner:
            sim.watch(runner, seconds)
            return sim.checkpoint_s(runner)
    except TrainingError:
        sim.restart()
        return 0.0


def _limits(
    own: _Sizes,
    edges: Mapping[str, Any],
    driver: Sequence[Mapping[str, Any]],
    rate: float,
    options: BenchmarkOptions,
) -> dict[str, Any]:
    """Return how many workers each process carries at a rate, by the arithmetic of `demand`.

    The projection is for a replay buffer and a driver whose busiest threads have a core each.
    """
    from distributed_maddpg.runtime.actors import LARGEST_PUSH_BYTES  # noqa: PLC0415

    calls = max(point["calls_per_s"] for point in driver)
    capacity = {"pushes": edges["pushes_per_s"], "pulls": edges["pulls_per_s"], "calls": calls}
    alone = {
        "pushes": 1e3 / edges["push_busy_ms"],
        "pulls": 1e3 / edges["pull_busy_ms"],
        "calls": 1e3 / [point["call_busy_ms"] for point in driver if point["calls_per_s"]][-1],
    }
    settings = (own.config, own.spec, rate, options.versions_per_s)
    before = carried({**capacity, "pushes": edges["single_pushes_per_s"]}, demand(*settings, 0))
    asked = demand(*settings, LARGEST_PUSH_BYTES)
    now, projected = carried(capacity, asked), carried(alone, asked)
    first = min(now, key=now.__getitem__)
    return {
        "table": "limits",
        "agents": own.spec.num_agents,
        "worker_env_steps_per_s": rate,
        "pushes_per_s": asked.pushes,
        "pulls_per_s": asked.pulls,
        "calls_per_s": asked.calls,
        "pushed_bytes_per_s": asked.pushed_bytes,
        "pulled_bytes_per_s": asked.pulled_bytes,
        "workers_single": before["ingest and weights"],
        "workers_ingest": now["ingest and weights"],
        "workers_driver": now["driver"],
        "bottleneck": first,
        "carried": now[first],
        "projected_ingest": projected["ingest and weights"],
        "projected_driver": projected["driver"],
    }


def _jobs(
    sim: Simulation, own: _Sizes, rate: float, options: BenchmarkOptions, least: float
) -> Iterator[dict[str, Any]]:
    """Measure jobs with more and more workers, until far less arrives than they offer or time is up."""
    until = time.monotonic() + _JOBS_S
    fragment_s = own.config.rollout.fragment_env_steps / rate
    seconds = max(options.seconds, fragment_s)
    most = max(options.simulated_workers())
    for workers in options.simulated_workers():
        if time.monotonic() > until:
            return
        if workers < min(least, most):
            continue
        single, joined = (_job(sim, workers, rate, joins, seconds) for joins in (False, True))
        offered = workers * rate
        yield {
            "table": "jobs",
            "agents": own.spec.num_agents,
            "worker_env_steps_per_s": rate,
            "workers": workers,
            "offered_env_steps_per_s": offered,
            "single_env_steps_per_s": single["rows_stored"],
            "env_steps_per_s": joined["rows_stored"],
            "reached": joined["rows_stored"] / offered,
            "pushes_per_s": joined["pushes"],
            "pulls_per_s": joined["pulls"],
            "calls_per_s": joined["calls"],
            "replay_busy": joined["replay_busy"],
            "driver_busy": joined["driver_busy"],
        }
        if joined["rows_stored"] < _HOPELESS * offered:
            return


def _job(sim: Simulation, workers: int, rate: float, joins: bool, seconds: float) -> dict[str, float]:
    """Return the rates of one job; zeros if a process did not answer in time."""
    from distributed_maddpg.runtime.simulation import Load  # noqa: PLC0415

    names = ("rows_stored", "pushes", "pulls", "calls")
    sim.place(Load(workers, rate, joins=joins))
    try:
        with sim.job() as runner:
            sim.watch(runner, seconds)
            activity = sim.watch(runner, _JOB_S * seconds)
    except TrainingError:
        sim.restart()  # so that no call of this job goes on
        return dict.fromkeys((*names, "replay_busy", "driver_busy"), 0.0)
    return {
        **{name: activity.per_s(name) for name in names},
        "replay_busy": activity.busiest_s["replay buffer"] / activity.seconds,
        "driver_busy": activity.busiest_s["driver"] / activity.seconds,
    }


def saturation(points: Sequence[Mapping[str, Any]]) -> dict[tuple[int, float], str]:
    """Return from how many workers on less than nine tenths of what they offer arrive.

    Args:
        points: jobs, in ascending order of workers.

    Returns:
        By number of agents and rate of a worker: a number, or "none up to" the largest.
    """
    found: dict[tuple[int, float], str] = {}
    first: dict[tuple[int, float], int] = {}
    for point in points:
        series, workers = (point["agents"], point["worker_env_steps_per_s"]), point["workers"]
        if point["reached"] < _REACHED:
            found[series] = str(first.setdefault(series, workers))
        else:
            first.pop(series, None)
            found[series] = f"none up to {workers}"
    return found


def _summarise(points: list[dict[str, Any]], processes: int, options: BenchmarkOptions) -> Measurement:
    """Return the figures of the least number of agents."""
    edges = next(point for point in points if point["table"] == "edges")
    driver = [point for point in points if point["table"] == "driver"]
    measured = saturation([point for point in points if point["table"] == "jobs"])
    for point in points:
        if point["table"] == "limits":
            series = (point["agents"], point["worker_env_steps_per_s"])
            point["saturated_at"] = measured.get(series, "not measured")
    slow = next(point for point in points if point["table"] == "limits")
    return Measurement(
        settings={
            "agents": edges["agents"],
            "host_processes": processes,
            "versions_per_s": options.versions_per_s,
            "worker_env_steps_per_s": slow["worker_env_steps_per_s"],
            "bottleneck": slow["bottleneck"],
        },
        figures={
            "carried_workers": slow["carried"],
            "rows_per_s": edges["rows_per_s"],
            "bytes_per_s": edges["bytes_per_s"],
            "pushes_per_s": edges["pushes_per_s"],
            "pulls_per_s": edges["pulls_per_s"],
            "driver_calls_per_s": max(point["calls_per_s"] for point in driver),
            "wait_ms": driver[-1]["wait_ms"],
            "checkpoint_s": driver[-1]["checkpoint_s"],
        },
        references={"single_rows_per_s": edges["single_rows_per_s"]},
        ratios={"rows_per_s/single_rows_per_s": edges["rows_per_s"] / edges["single_rows_per_s"]},
        points=points,
    )
