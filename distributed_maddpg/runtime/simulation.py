"""Simulated rollout workers, many in one process, for `benchmark scaling --simulate`.

What they collect is recorded, and collecting is waiting. The replay buffer, the driver and everything that
workers push, acknowledge and fetch are real. The learner only publishes.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import ray

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import TrainingError
from distributed_maddpg.replay.ring import Ring, RingAddress
from distributed_maddpg.rollout import RolloutWorker, make_rollout_worker
from distributed_maddpg.runtime.actors import (
    LARGEST_PUSH_BYTES,
    PEER_TIMEOUT_SHARE,
    Clock,
    ProcessLocation,
    ReplayBufferActor,
    RolloutWorkerActor,
)
from distributed_maddpg.runtime.calls import wait_for_result
from distributed_maddpg.runtime.cluster import Processes, connect, disconnect
from distributed_maddpg.runtime.driver import RayRunner
from distributed_maddpg.runtime.orphans import end_with_raylet
from distributed_maddpg.seeding import generator, pack_generator
from distributed_maddpg.types import (
    Arrays,
    EnvSpec,
    EpisodeReport,
    FloatArray,
    LearnerReport,
    RolloutReport,
    Weights,
    initial_policies,
)

MOST_PROCESSES = 16
_CALLS_PER_WORKER = 3
"""Of a worker in its process at once: two that the driver queues, and one for its state."""
_BLOCKS = 4


@dataclass(frozen=True)
class Recording:
    """What a real worker collected once, and how fast."""

    blocks: list[FloatArray]
    """Fragments `[n, width]`."""
    episodes: EpisodeReport
    """Those of one fragment."""
    state: Arrays
    """The worker's, for checkpoints."""
    env_steps_per_s: float


@dataclass(frozen=True)
class Load:
    """What the simulated workers of one measurement do."""

    workers: int
    env_steps_per_s: float
    """Of each worker; infinite: collecting takes no time."""
    pushes: bool = True
    """Whether they push what they collect; without, only the driver is loaded."""
    joins: bool = True
    """Whether they join fragments where the replay buffer does not keep up, as rollout workers do."""


def record(config: MADDPGConfig, seconds: float) -> Recording:
    """Collect with a real worker in this process, for about `seconds` after a first fragment."""
    worker, steps = make_rollout_worker(config, 0), config.rollout.fragment_steps
    worker.collect(steps, 0)
    collected = [worker.collect(steps, 0)]
    fragments, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds or not fragments:
        collected = [*collected[1 - _BLOCKS :], worker.collect(steps, 0)]
        fragments += 1
    rate = fragments * config.rollout.fragment_env_steps / elapsed
    state = worker.get_state()
    worker.close()
    return Recording([rows for rows, _ in collected], collected[-1][1], state, rate)


class _RecordedRollout(RolloutWorker):
    """One that returns what was recorded, after as long as collecting takes."""

    def __init__(self, recording: Recording, env_steps_per_s: float, index: int) -> None:
        self._recording, self._rate, self._next = recording, env_steps_per_s, 0
        self._share = float(np.random.default_rng(index).random())  # of the first fragment: not all at once
        self.weights_version = -1

    def collect(self, num_steps: int, env_steps: int) -> tuple[FloatArray, EpisodeReport]:
        rows = self._recording.blocks[self._next % len(self._recording.blocks)]
        self._next += 1
        time.sleep(self._share * len(rows) / self._rate)
        self._share = 1.0
        return rows, self._recording.episodes

    def set_weights(self, weights: Weights) -> None:
        weights.policies.sum()  # a real worker reads them once, to check and to copy them
        self.weights_version = weights.version

    def get_state(self) -> Arrays:
        return self._recording.state

    def pop_dropped(self) -> tuple[str, ...]:
        return ()

    def pop_moments(self) -> None:
        return None


class _Counted:
    """A method of the replay buffer, whose calls and bytes are counted."""

    def __init__(self, method: Any, name: str, counts: Counter[str]) -> None:
        self._method, self._name, self._counts = method, name, counts

    def remote(self, *arguments: FloatArray) -> ray.ObjectRef[Any]:
        self._counts[self._name] += 1
        self._counts["rows"] += sum(rows.shape[1] for rows in arguments)
        self._counts["bytes"] += sum(rows.nbytes for rows in arguments)
        call: ray.ObjectRef[Any] = self._method.remote(*arguments)
        return call


class _CountedReplay:
    """The replay buffer as a worker calls it."""

    def __init__(self, replay: Any, counts: Counter[str]) -> None:
        self.add = _Counted(replay.add, "pushes", counts)
        self.newest_weights = _Counted(replay.newest_weights, "pulls", counts)


class _SimulatedWorker(RolloutWorkerActor):
    """A rollout worker that is no process: all but collecting is the real one's code."""

    def __init__(self, config: MADDPGConfig, index: int, recording: Recording, load: Load) -> None:
        self._configs, self._env_factory, self._index = [config], None, index
        self._runs: list[RolloutWorker] = [_RecordedRollout(recording, load.env_steps_per_s, index)]
        self.pushes, self.calls, self.counts = load.pushes, threading.Lock(), Counter[str]()
        self._fragment_steps = config.rollout.fragment_steps
        self._timeout_s = PEER_TIMEOUT_SHARE * config.ray.timeout_s
        self._joins, self._largest_push_bytes = False, LARGEST_PUSH_BYTES if load.joins else 0
        self._idle_since = time.perf_counter()

    def collect_only(self, fragments: int, env_steps: int) -> list[RolloutReport]:
        """Collect without pushing."""
        clock = Clock(self._idle_since)
        episodes: list[list[EpisodeReport]] = [[]]
        rows = [self._collect(env_steps, episodes) for _ in range(fragments)]
        clock.lap("busy_s")
        self._idle_since = time.perf_counter()
        return self._reports(sum(own.shape[1] for own in rows), episodes, self._weights_version, clock)


class WorkerHostActor:
    """Many simulated workers, each of which handles one call at a time."""

    def __init__(self) -> None:
        """Start without workers."""
        end_with_raylet()
        self._workers: dict[int, _SimulatedWorker] = {}

    @ray.method
    def pid(self) -> int:
        """Return the id of this process."""
        return os.getpid()

    @ray.method
    def become(self, config: MADDPGConfig, recording: Recording, load: Load, own: Sequence[int]) -> None:
        """Hold the workers of these indices, and no others."""
        self._workers = {index: _SimulatedWorker(config, index, recording, load) for index in own}

    @ray.method
    def call(self, index: int, method: str, *arguments: Any) -> Any:
        """Return what a worker's method returns."""
        worker = self._workers[index]
        if method == "connect":
            arguments = (_CountedReplay(arguments[0], worker.counts),)
        if method == "collect" and not worker.pushes:
            method = "collect_only"
        with worker.calls:
            return getattr(worker, method)(*arguments)

    @ray.method
    def repeat(self, index: int, seconds: float, method: str, *arguments: Any) -> int:
        """Call a worker's method again and again for `seconds`; return how often."""
        until, times = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            getattr(self._workers[index], method)(*arguments)
            times += 1
        return times

    @ray.method
    def counts(self) -> Counter[str]:
        """Return how many pushes, rows, bytes and pulls its workers have sent."""
        return sum((worker.counts for worker in self._workers.values()), Counter[str]())


class PublishingActor:
    """Stands for the learner: answers its calls, makes no updates, and publishes weights of the real size."""

    def __init__(self, config: MADDPGConfig, spec: EnvSpec, versions_per_s: float) -> None:
        """Publish at most `versions_per_s` versions in a second: one in each call of `learn`."""
        end_with_raylet()
        self._interval_s, self._timeout_s = 1 / versions_per_s, config.ray.timeout_s
        sizes, kind = config.algorithm.policy_hidden_sizes, config.algorithm.initial_weights
        self._policies = initial_policies(spec, sizes, config.seed, rule=kind)
        self._generator = pack_generator(generator(config.seed, "replay"))
        self._version = self._updates = 0
        self._replay: Any

    @ray.method
    def pid(self) -> int:
        """Return the id of this process."""
        return os.getpid()

    @ray.method
    def connect(self, replay: Any) -> None:
        """Set the replay buffer to publish to."""
        self._replay = replay

    @ray.method
    def learn(self, updates: int, publish: bool) -> LearnerReport:
        """Take as long as a call of the learner, and publish if asked."""
        time.sleep(self._interval_s)
        self._updates += updates
        if publish:
            self._version += 1
            wait_for_result("replay buffer", self._replay.publish.remote([self._newest()]), self._timeout_s)
        return LearnerReport(updates, self._version, busy_s=0.0)

    @ray.method
    def weights(self, run: int) -> Weights:
        """Return the policies."""
        return self._newest()

    @ray.method
    def get_state(self, run: int) -> Arrays:
        """Return what the driver reads of a learner's state."""
        counts = {"updates": np.array(self._updates), "weights_version": np.array(self._version)}
        return {**counts, "policy": self._policies}

    @ray.method
    def generator_state(self, run: int) -> npt.NDArray[np.uint64]:
        """Return the state of a new generator of minibatches."""
        return self._generator

    def _newest(self) -> Weights:
        return Weights(self._version, self._updates, self._policies)


class _BusyActor:
    """Answers no call while it is busy."""

    @ray.method
    def be_busy(self, seconds: float) -> None:
        time.sleep(seconds)


class _WorkerHandle:
    """Calls one simulated worker as the handle of a rollout worker does: `handle.collect.remote(...)`."""

    def __init__(self, host: Any, index: int) -> None:
        self._host, self._index, self.calls = host, index, 0

    def __getattr__(self, method: str) -> _WorkerMethod:
        return _WorkerMethod(self, self._host, self._index, method)


@dataclass(frozen=True)
class _WorkerMethod:
    handle: _WorkerHandle
    host: Any
    index: int
    name: str

    def remote(self, *arguments: Any) -> ray.ObjectRef[Any]:
        self.handle.calls += 1
        call: ray.ObjectRef[Any] = self.host.call.remote(self.index, self.name, *arguments)
        return call


class _SimulatedProcesses(Processes):
    """Handles of actors that the simulation starts and ends; none of them is replaced."""

    def __init__(self, workers: Sequence[_WorkerHandle], learner: Any, replay: Any) -> None:
        self.workers: list[Any] = list(workers)
        self.learner, self.replay = learner, replay
        self._started, self._evaluator = {}, None

    def end(self, actor: Any) -> None:
        pass

    def start_learner(self) -> ray.ObjectRef[ProcessLocation]:
        raise TrainingError("simulation: the learner was lost")

    def start_replay(self, node: str = "", previous: Sequence[RingAddress] = ()) -> None:
        raise TrainingError("simulation: the replay buffer was lost")

    def start_worker(self, index: int, incarnation: int) -> None:
        raise TrainingError(f"simulation: worker {index} was lost")

    def kill(self) -> None:
        pass


class _SimulatedRunner(RayRunner):
    """The driver of simulated processes."""

    def __init__(self, config: MADDPGConfig, spec: EnvSpec, processes: Processes) -> None:
        self._simulated = processes
        super().__init__([config], spec)

    def _start_processes(self, *_: object) -> Processes:
        return self._simulated


@dataclass(frozen=True)
class Activity:
    """What happened in an interval: seconds of CPU time, and how often what."""

    seconds: float
    counts: Mapping[str, int]
    """pushes, rows and bytes pushed, pulls, rows_stored, calls, env_steps."""
    cpu_s: Mapping[str, float]
    """Of each process."""
    busiest_s: Mapping[str, float]
    """Of the thread of each process that had most: it cannot exceed one core."""

    def per_s(self, name: str) -> float:
        """Return how often something happened in a second."""
        return self.counts.get(name, 0) / self.seconds


@dataclass(frozen=True)
class _Sample:
    at_s: float
    counts: Counter[str]
    threads: Mapping[str, Mapping[int, float]]


def _between(first: _Sample, last: _Sample) -> Activity:
    counts = {name: number - first.counts[name] for name, number in last.counts.items()}
    grown = {
        process: [seconds - first.threads[process].get(thread, 0.0) for thread, seconds in threads.items()]
        for process, threads in last.threads.items()
    }
    return Activity(
        last.at_s - first.at_s,
        counts,
        {process: sum(own) for process, own in grown.items()},
        {process: max(own) for process, own in grown.items()},
    )


class Simulation:
    """Simulated workers on a Ray cluster, a replay buffer and a publisher of weights."""

    def __init__(self, processes: int, most_workers: int, timeout_s: float) -> None:
        """Start `processes` that hold the workers."""
        calls = _CALLS_PER_WORKER * math.ceil(most_workers / processes) + 2
        host = ray.remote(WorkerHostActor).options(
            num_cpus=0, max_concurrency=calls, enable_task_events=False
        )
        self._hosts: list[Any] = [host.remote() for _ in range(processes)]
        self._timeout_s = timeout_s
        self.pids = {"driver": os.getpid()}
        """Of every process, by name."""
        self.handles: list[Any] = []
        """Of the workers, as the driver's of rollout workers."""
        for number, own in enumerate(self._hosts):
            self.pids[f"workers {number}"] = self._get(own.pid.remote())
        self._replay: Any = None
        self._learner: Any = None
        self._runner: RayRunner | None = None

    def prepare(
        self, config: MADDPGConfig, spec: EnvSpec, recording: Recording, versions_per_s: float
    ) -> None:
        """Start an empty replay buffer and a publisher for this environment; end the previous ones."""
        self._config, self._spec, self._recording = config, spec, ray.put(recording)
        self._versions_per_s = versions_per_s
        self.restart()

    def restart(self) -> None:
        """Replace the replay buffer and the publisher; calls to the previous ones fail."""
        self.end()
        config, spec, actor = self._config, self._spec, {"num_cpus": 0, "enable_task_events": False}
        self._replay = ray.remote(ReplayBufferActor).options(**actor).remote([config], spec)
        publisher = ray.remote(PublishingActor).options(**actor)
        self._learner = publisher.remote(config, spec, self._versions_per_s)
        [address] = self._get(self._replay.ring_addresses.remote())
        ring = Ring.attach(address) if address else None
        if ring is None:
            raise TrainingError("replay buffer: its memory cannot be shared on this system")
        self._ring = ring
        self.pids["replay buffer"] = self._get(self._replay.location.remote()).pid
        self.pids["learner"] = self._get(self._learner.pid.remote())

    def close(self) -> None:
        """End all processes."""
        self.end()
        for host in self._hosts:
            ray.kill(host)

    def end(self) -> None:
        """End the replay buffer and the publisher."""
        for actor in filter(None, (self._replay, self._learner)):
            ray.kill(actor)
        self._replay = self._learner = None

    def place(self, load: Load) -> None:
        """Replace all workers."""
        config = replace(self._config, num_workers=load.workers)
        shares = [range(own, load.workers, len(self._hosts)) for own in range(len(self._hosts))]
        calls = [
            host.become.remote(config, self._recording, load, share)
            for host, share in zip(self._hosts, shares, strict=True)
        ]
        for call in calls:
            self._get(call)
        hosts = len(self._hosts)
        self.handles = [_WorkerHandle(self._hosts[i % hosts], i) for i in range(load.workers)]

    def connect(self) -> None:
        """Connect the workers to the replay buffer, as the driver of a job does."""
        for handle in self.handles:
            self._get(handle.connect.remote(self._replay))

    def repeat(self, method: str, seconds: float, *arguments: Any) -> Activity:
        """Have every worker call one of its own methods again and again; the driver only waits."""
        self.connect()
        self._get(self._learner.connect.remote(self._replay))
        self._get(self._learner.learn.remote(0, True))
        first = self._sample()
        calls = [
            handle._host.repeat.remote(handle._index, seconds, method, *arguments) for handle in self.handles
        ]
        for call in calls:
            wait_for_result("simulated worker", call, seconds + self._timeout_s)
        return _between(first, self._sample())

    @contextmanager
    def job(self) -> Iterator[RayRunner]:
        """Run the real driver with the workers."""
        processes = _SimulatedProcesses(self.handles, self._learner, self._replay)
        config = replace(self._config, num_workers=len(self.handles))
        runner = _SimulatedRunner(config, self._spec, processes)
        self._runner = runner
        try:
            yield runner
            runner.drain()  # else calls of this job would go on in the next one
        finally:
            self._runner = None
            runner.close()

    def watch(self, runner: RayRunner, seconds: float) -> Activity:
        """Let a job continue for `seconds`."""
        first, until = self._sample(), time.monotonic() + seconds
        while time.monotonic() < until:
            runner.run(lambda: time.monotonic() >= until)
        return _between(first, self._sample())

    def checkpoint_s(self, runner: RayRunner) -> float:
        """Return how long a checkpoint without transitions takes until all states have arrived."""
        began = time.perf_counter()
        runner.capture(0, with_replay=False)
        return time.perf_counter() - began

    def wait_s(self, calls: int, seconds: float) -> float:
        """Return how long the driver's two `ray.wait` take with one finished call and `calls` others."""
        busy: Any = ray.remote(_BusyActor).options(num_cpus=0, enable_task_events=False).remote()
        try:
            running = [busy.be_busy.remote(seconds + self._timeout_s) for _ in range(calls)]
            waits, began, finished = 0, time.perf_counter(), ray.put(None)
            while (elapsed := time.perf_counter() - began) < seconds or not waits:
                _, rest = ray.wait([*running, finished], num_returns=1, timeout=self._timeout_s)
                ray.wait(rest, num_returns=len(rest), timeout=0)
                waits += 1
            return elapsed / waits
        finally:
            ray.kill(busy)

    def counts(self) -> Counter[str]:
        """Return what these workers have sent, what the driver has counted, and the rows ever stored."""
        counts = sum((self._get(host.counts.remote()) for host in self._hosts), Counter[str]())
        counts["rows_stored"] = self._ring.inserted
        counts["calls"] = sum(handle.calls for handle in self.handles)
        counts["env_steps"] = self._runner.pacer.env_steps if self._runner else 0
        return counts

    def _sample(self) -> _Sample:
        counts = self.counts()
        threads = {name: _thread_seconds(pid) for name, pid in self.pids.items()}
        return _Sample(time.perf_counter(), counts, threads)

    def _get(self, call: ray.ObjectRef[Any]) -> Any:
        return wait_for_result("simulation", call, self._timeout_s)


def _thread_seconds(pid: int) -> dict[int, float]:
    return {own.id: own.user_time + own.system_time for own in psutil.Process(pid).threads()}


@contextmanager
def simulation(config: MADDPGConfig, processes: int, most_workers: int) -> Iterator[Simulation]:
    """Start a local cluster, and processes for up to `most_workers`; end all of them."""
    owns_connection = connect(replace(config, num_workers=1))
    # A job that saturates may be given up, and then nobody waits for its calls.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    own = None
    try:
        own = Simulation(processes, most_workers, config.ray.timeout_s)
        yield own
    finally:
        if own is not None:
            own.close()
        if owns_connection:
            disconnect()
