"""Ray actors: each wraps one stage, and adds nothing but transport.

Transitions go from worker to replay buffer to learner. The weights' object reference goes from the learner to
the replay buffer, from which workers fetch it. The driver receives only reports. Several runs that differ
only in their seed share the actors: each holds one stage per run, and arrays have the runs as axis 0, `S`.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import ray
from threadpoolctl import threadpool_limits

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import EnvFactory
from distributed_maddpg.evaluation.episodes import evaluate_weights
from distributed_maddpg.evaluation.scorecard import Scorecard
from distributed_maddpg.pacing import in_chunks
from distributed_maddpg.replay.buffer import ReplayBuffer, make_replay_buffer
from distributed_maddpg.replay.ring import Draw, Ring, RingAddress, RingSnapshot
from distributed_maddpg.rollout import make_rollout_worker
from distributed_maddpg.runtime.calls import ProcessLost, wait_for_result
from distributed_maddpg.runtime.orphans import end_with_raylet
from distributed_maddpg.seeding import generator
from distributed_maddpg.types import (
    Arrays,
    EnvSpec,
    EpisodeReport,
    FloatArray,
    LearnerReport,
    RolloutReport,
    Weights,
)

if TYPE_CHECKING:
    from ray.actor import ActorProxy

PEER_TIMEOUT_SHARE = 0.5
"""Share of `ray.timeout_s` that an actor waits for another: it must fail before its own caller times out."""
_SENT_DIRECTLY_BYTES = 80_000
"""Ray sends up to 100 kB with a call, and puts more into its object store, which takes milliseconds."""
PUSH_WINDOW = 2
"""Unacknowledged pushes per worker: enough to hide a call's latency, few enough for back-pressure."""
LARGEST_PUSH_BYTES = 2 * 2**20
"""Fragments are joined up to this size. A push costs the replay buffer's process about a millisecond, of any
size up to here; larger ones would only fill Ray's object store."""
_SLOW_PUSH = 0.25
"""A push that takes longer than this share of a fragment's collection has the next fragments joined."""


@dataclass(frozen=True)
class ProcessLocation:
    """The node and process id of an actor."""

    node: str
    pid: int


class _Process:
    """Base class of the actors."""

    def __init__(self) -> None:
        end_with_raylet()

    @ray.method
    def location(self) -> ProcessLocation:
        """Return the node and the id of this process."""
        return ProcessLocation(str(ray.get_runtime_context().get_node_id()), os.getpid())


def _limit_to_one_core() -> None:
    """Use one thread and no GPU: Ray does not hide GPUs from actors that request none."""
    threadpool_limits(1)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


class ReplayBufferActor(_Process):
    """Holds each run's replay buffer, and a reference to the newest weights."""

    def __init__(
        self, configs: Sequence[MADDPGConfig], spec: EnvSpec, previous: Sequence[RingAddress] = ()
    ) -> None:
        """Start without weights, with the memory of the replaced replay buffer if that can be adopted.

        Args:
            configs: one per run.
            spec: of the environment.
            previous: addresses of that replay buffer's rings, one per run.
        """
        super().__init__()
        _limit_to_one_core()
        rings = [Ring.attach_as_writer(address) for address in previous]
        self._adopted = len(rings) > 0 and None not in rings
        if not self._adopted:
            rings = [Ring.shared(each.replay.capacity, spec.transitions.width) for each in configs]
        self._buffers = [make_replay_buffer(*each) for each in zip(configs, repeat(spec), rings)]
        self._snapshots: dict[int, tuple[int, RingSnapshot]] = {}
        self._snapshots_begun = 0
        self._weights: list[Weights] | list[ray.ObjectRef[list[Weights]]] = []
        self._version = 0

    @ray.method
    def adopted(self) -> bool:
        """Return whether it adopted the transitions of the replay buffer that it replaces."""
        return self._adopted

    @ray.method
    def add(self, rows: FloatArray) -> int:
        """Store transitions `[S, n, width]`; return the newest weights' version."""
        for buffer, own in zip(self._buffers, rows, strict=True):
            buffer.add(own)
        return self._version

    @ray.method
    def ring_addresses(self) -> list[RingAddress | None]:
        """Return the addresses at which processes of this node can read the transitions."""
        return [buffer.ring.address for buffer in self._buffers]

    @ray.method
    def sample(self, num_batches: int, batch_size: int) -> FloatArray:
        """Return minibatches `[S, num_batches, batch_size, width]`."""
        return np.stack([buffer.sample(num_batches, batch_size) for buffer in self._buffers])

    @ray.method
    def publish(self, weights: list[Weights]) -> None:
        """Store newer weights, large ones as one object of Ray's for all workers.

        Its reference is in a list, so that Ray does not resolve it.
        """
        size = sum(own.policies.nbytes for own in weights)
        self._version = weights[0].version
        self._weights = weights if size <= _SENT_DIRECTLY_BYTES else [ray.put(weights)]

    @ray.method
    def newest_weights(self) -> list[Weights] | list[ray.ObjectRef[list[Weights]]]:
        """Return the newest weights of each run, or the reference of all; empty before the first ones."""
        return self._weights

    @ray.method
    def size(self) -> int:
        """Return the number of transitions that each run holds."""
        return self._buffers[0].size

    @ray.method
    def begin_snapshot(self, run: int) -> tuple[int, int, int]:
        """Take a snapshot of a run's ring; return its number, the rows ever added and the rows held."""
        self._snapshots_begun += 1
        snapshot = self._buffers[run].ring.snapshot()
        self._snapshots[run] = (self._snapshots_begun, snapshot)
        return self._snapshots_begun, snapshot.inserted, snapshot.num_rows

    @ray.method
    def read_snapshot(self, run: int, number: int, max_rows: int) -> FloatArray:
        """Return the next rows `[n, width]` of a snapshot, oldest first; none at its end.

        Once a newer snapshot of the run was taken, an older one returns none.
        """
        latest, snapshot = self._snapshots[run]
        return snapshot.read(max_rows) if number == latest else np.empty((0, 0), np.float32)

    @ray.method
    def read_from(self, run: int, position: int) -> tuple[FloatArray, int]:
        """Return the rows from number `position` on, see `Ring.read_from`."""
        return self._buffers[run].ring.read_from(position)

    @ray.method
    def clear(self, run: int, first: int) -> None:
        """Remove a run's transitions; the next one gets the number `first`."""
        self._buffers[run].ring.clear(first)

    @ray.method
    def refill(self, run: int, rows: FloatArray) -> None:
        """Store transitions `[n, width]` of one run."""
        self._buffers[run].add(rows)

    @ray.method
    def generator_state(self, run: int) -> npt.NDArray[np.uint64]:
        """Return the state of the generator that draws a run's minibatches here."""
        return self._buffers[run].generator_state()

    @ray.method
    def set_generator_state(self, run: int, state: npt.NDArray[np.uint64]) -> None:
        """Set the state of that generator."""
        self._buffers[run].set_generator_state(state)


class LearnerActor(_Process):
    """Holds the learner; fetches its minibatches and publishes its weights."""

    def __init__(self, configs: Sequence[MADDPGConfig], spec: EnvSpec, use_gpu: bool) -> None:
        """Build the learner on this process's device."""
        super().__init__()
        if not use_gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        # Imported here: this module is also loaded by rollout workers, which never load torch.
        from distributed_maddpg.learner import make_learner  # noqa: PLC0415

        config = configs[0]
        self._learner = make_learner(config, spec, [config.seed for config in configs])
        self._configs, self._spec = configs, spec
        self._shared: list[ReplayBuffer] = []
        self._generators = [generator(config.seed, "replay") for config in configs]
        self._batch_size, self._timeout_s = (
            config.learner.batch_size,
            PEER_TIMEOUT_SHARE * config.ray.timeout_s,
        )
        self._sync, self._last_updates = config.sync, 0
        self._prefetched: tuple[int, ray.ObjectRef[FloatArray]] | None = None
        self._published: ray.ObjectRef[None] | None = None
        self._replay: ActorProxy[ReplayBufferActor]
        self._idle_since = time.perf_counter()

    @ray.method
    def device(self) -> tuple[str, str]:
        """Return the name of the device, and why it was chosen."""
        return str(self._learner.device), self._learner.device_reason

    @ray.method
    def connect(self, replay: ActorProxy[ReplayBufferActor]) -> None:
        """Set the replay buffer to draw minibatches from and to publish to."""
        self._replay, self._prefetched, self._published = replay, None, None
        addresses = wait_for_result("replay buffer", replay.ring_addresses.remote(), self._timeout_s)
        rings = [Ring.attach(address) if address else None for address in addresses]
        reached = [ring for ring in rings if ring is not None]
        whole = len(reached) == len(rings)
        self._shared = list(map(ReplayBuffer, reached, self._generators)) if whole else []
        if self._learner.weights_version:
            self._send(self._learner.last_published())  # a replacement of the replay buffer has no weights
        self._idle_since = time.perf_counter()

    @ray.method
    def normalise_by(self, normalisers: list[FloatArray]) -> None:
        """Set what to normalise each run's rows by from the next call on."""
        self._learner.normalise_by(normalisers)

    @ray.method
    def learn(self, updates: int, publish: bool) -> LearnerReport:
        """Make updates on fresh minibatches, and publish the result if asked."""
        began, learning_s = time.perf_counter(), 0.0
        for piece in in_chunks(updates):
            learning_s += self._learn_piece(piece)
        published = time.perf_counter()
        if publish:
            self._publish()
            if self._sync:
                self._await_published()  # the driver has the workers fetch them next
        report = LearnerReport(
            updates=updates,
            weights_version=self._learner.weights_version,
            busy_s=learning_s + time.perf_counter() - published,
            blocked_replay_s=published - began - learning_s,
            blocked_pacing_s=began - self._idle_since,
        )
        self._idle_since = time.perf_counter()
        return report

    def _learn_piece(self, updates: int) -> float:
        """Make the given number of updates; return the seconds spent in them."""
        if self._shared and self._learner.samples_on_device:
            self._learner.mirror([buffer.ring for buffer in self._shared])
            sampled = time.perf_counter()
            self._learner.learn_mirrored(updates)
        else:
            minibatches = self._draw(updates)
            sampled = time.perf_counter()
            self._learner.learn(minibatches)
        return time.perf_counter() - sampled

    @ray.method
    def metrics(self) -> list[dict[str, npt.NDArray[np.float64]]]:
        """Return each run's means of the learner's metrics in the iteration so far."""
        return self._learner.metrics()

    @ray.method
    def next_iteration(self) -> None:
        """Reset the metrics."""
        self._learner.next_iteration()

    @ray.method
    def weights(self, run: int) -> Weights:
        """Return a run's current policies."""
        return self._learner.weights(run)

    @ray.method
    def get_state(self, run: int) -> Arrays:
        """Return the learner's complete state of a run."""
        return self._learner.get_state(run)

    @ray.method
    def set_state(self, state: Arrays, run: int) -> None:
        """Restore a run; after the last run, send the weights that were published last.

        Not before, because workers ignore weights whose version they have.
        """
        self._learner.set_state(state, run)
        if run == len(self._configs) - 1:
            self._send(self._learner.last_published())
            self._await_published()

    @ray.method
    def generator_state(self, run: int) -> npt.NDArray[np.uint64]:
        """Return the state of the generator that draws a run's minibatches, wherever they are drawn."""
        if self._shared:
            return self._shared[run].generator_state()
        return wait_for_result("replay buffer", self._replay.generator_state.remote(run), self._timeout_s)

    @ray.method
    def set_generator_state(self, run: int, state: npt.NDArray[np.uint64]) -> None:
        """Set the state of that generator."""
        if self._shared:
            self._shared[run].set_generator_state(state)
        else:
            wait_for_result(
                "replay buffer", self._replay.set_generator_state.remote(run, state), self._timeout_s
            )

    def _draw(self, updates: int) -> Sequence[Draw]:
        """Return each run's minibatches for this call.

        On the replay buffer's node they are drawn here, with the generator that the replay buffer would use,
        and read where they are. On other nodes the replay buffer sends them, and those of the next call are
        prefetched during this one. Calls of varying length mean that the learner waits for transitions.
        Nothing is prefetched then, because unused minibatches delay the replay buffer's `add`.
        """
        if self._shared:
            return [buffer.draw(updates, self._batch_size) for buffer in self._shared]
        ready, self._prefetched = self._prefetched, None
        if ready is None or ready[0] != updates:
            ready = (updates, self._replay.sample.remote(updates, self._batch_size))
        batches = wait_for_result("replay buffer", ready[1], self._timeout_s)
        if not self._sync and updates == self._last_updates:
            self._prefetched = (updates, self._replay.sample.remote(updates, self._batch_size))
        self._last_updates = updates
        return [Draw.of(rows.reshape(-1, rows.shape[2])) for rows in batches]

    def _publish(self) -> None:
        if not self._sync:
            with suppress(ProcessLost):  # `connect` sends the newest weights to the replacement
                self._await_published()
        self._send(self._learner.publish())

    def _send(self, weights: list[Weights]) -> None:
        self._published = self._replay.publish.remote(weights)

    def _await_published(self) -> None:
        """Wait until the weights that were sent last have arrived."""
        published, self._published = self._published, None
        if published is not None:
            wait_for_result("replay buffer", published, self._timeout_s)


class RolloutWorkerActor(_Process):
    """Holds a rollout worker of each run; pushes their transitions and pulls newer weights."""

    def __init__(
        self,
        configs: Sequence[MADDPGConfig],
        index: int,
        incarnation: int = 0,
        env_factory: EnvFactory | None = None,
    ) -> None:
        """Build worker `index`, which needs no other process to start.

        Args:
            configs: one per run.
            index: of the worker.
            incarnation: 0 for the first worker of this index, another number for each replacement; see
                `make_rollout_worker`.
            env_factory: makes the environment, where it was given as a callable.
        """
        super().__init__()
        _limit_to_one_core()
        config = configs[0]
        self._configs, self._env_factory = configs, env_factory
        self._runs = [
            make_rollout_worker(own, index, incarnation, env_factory=env_factory) for own in configs
        ]
        self._index = index
        self._replay: ActorProxy[ReplayBufferActor]
        self._fragment_steps = config.rollout.fragment_steps
        self._timeout_s = PEER_TIMEOUT_SHARE * config.ray.timeout_s
        self._held: FloatArray
        self._joins, self._largest_push_bytes = False, LARGEST_PUSH_BYTES
        self._idle_since = time.perf_counter()

    @ray.method
    def connect(self, replay: ActorProxy[ReplayBufferActor]) -> None:
        """Set the replay buffer to push to."""
        self._replay = replay
        self._idle_since = time.perf_counter()

    @ray.method
    def collect(self, fragments: int, env_steps: int) -> list[RolloutReport]:
        """Collect fragments in each run and push them; return when all of them are stored.

        Each is pushed at once while pushes take a fraction of the time of its collection. A replay buffer
        that does not keep up gets them joined.
        """
        clock = Clock(self._idle_since)
        oldest_version, collected = self._weights_version, 0
        episodes: list[list[EpisodeReport]] = [[] for _ in self._runs]
        complete: list[FloatArray] = []
        pushes: deque[ray.ObjectRef[int]] = deque()
        for _ in range(fragments):
            complete.append(self._collect(env_steps + collected, episodes))
            collected += complete[-1].shape[1]
            clock.lap("busy_s")
            if pushes and not self._joins:
                self._joins = not ray.wait([pushes[0]], timeout=0)[0]
            if not self._joins or sum(rows.nbytes for rows in complete) >= self._largest_push_bytes:
                self._push(complete, pushes, clock)
        pushed = time.perf_counter()
        if complete:
            self._push(complete, pushes, clock)
        while pushes:
            self._acknowledge(pushes.popleft(), clock)
        self._idle_since = time.perf_counter()
        self._joins = self._idle_since - pushed > _SLOW_PUSH * clock.seconds["busy_s"] / fragments
        return self._reports(collected, episodes, oldest_version, clock)

    @ray.method
    def collect_and_hold(self, env_steps: int) -> list[RolloutReport]:
        """Collect one fragment and hold it until `push`, so that the driver can order the pushes."""
        clock = Clock(self._idle_since)
        episodes: list[list[EpisodeReport]] = [[] for _ in self._runs]
        self._held = self._collect(env_steps, episodes)
        clock.lap("busy_s")
        self._idle_since = time.perf_counter()
        return self._reports(self._held.shape[1], episodes, self._weights_version, clock)

    @ray.method
    def push(self) -> None:
        """Store the held fragment."""
        wait_for_result("replay buffer", self._replay.add.remote(self._held), self._timeout_s)

    @ray.method
    def refresh_weights(self) -> None:
        """Fetch the newest weights, if any were published."""
        self._pull_weights()

    @ray.method
    def get_state(self, run: int) -> Arrays:
        """Return the state of a run's environments, running episodes and noise."""
        return self._runs[run].get_state()

    @ray.method
    def restart_episodes(self, run: int, incarnation: int) -> None:
        """Start new episodes of a run, with the random streams of `incarnation`."""
        self._runs[run].close()
        self._runs[run] = make_rollout_worker(
            self._configs[run], self._index, incarnation, env_factory=self._env_factory
        )

    @ray.method
    def set_state(self, state: Arrays, run: int) -> str:
        """Restore a run; return a line for the log if new episodes were started, otherwise ""."""
        return self._runs[run].set_state(state)

    @property
    def _weights_version(self) -> int:
        return self._runs[0].weights_version

    def _collect(self, env_steps: int, episodes: list[list[EpisodeReport]]) -> FloatArray:
        """Collect a fragment of each run; return rows `[S, n, width]`, and add to each run's `episodes`."""
        collected = [run.collect(self._fragment_steps, env_steps) for run in self._runs]
        for own, (_, report) in zip(episodes, collected, strict=True):
            own.append(report)
        return collected[0][0][None] if len(collected) == 1 else np.stack([rows for rows, _ in collected])

    def _reports(
        self, env_steps: int, episodes: list[list[EpisodeReport]], version: int, clock: Clock
    ) -> list[RolloutReport]:
        """Return a report per run, each with an equal share of the time."""
        seconds = {timer: value / len(self._runs) for timer, value in clock.seconds.items()}
        joined = [EpisodeReport.concatenate(own, own[0].returns.shape[1]) for own in episodes]
        return [
            RolloutReport(
                self._index,
                env_steps,
                own,
                version,
                **seconds,
                dropped=run.pop_dropped(),
                moments=run.pop_moments(),
            )
            for run, own in zip(self._runs, joined, strict=True)
        ]

    def _pull_weights(self) -> None:
        # Apart from `refresh_weights`: to the type checker, methods marked for Ray cannot be called directly.
        call = self._replay.newest_weights.remote()
        newest: list[Any] = wait_for_result("replay buffer", call, self._timeout_s)
        if newest and isinstance(newest[0], ray.ObjectRef):
            newest = wait_for_result("replay buffer", newest[0], self._timeout_s)
        for weights, run in zip(newest, self._runs, strict=bool(newest)):
            run.set_weights(weights)

    def _push(self, complete: list[FloatArray], pushes: deque[ray.ObjectRef[int]], clock: Clock) -> None:
        """Push all complete fragments; wait until fewer than `PUSH_WINDOW` pushes are unacknowledged."""
        pushes.append(self._replay.add.remote(_joined(complete)))
        complete.clear()
        while len(pushes) >= PUSH_WINDOW:
            self._acknowledge(pushes.popleft(), clock)

    def _acknowledge(self, push: ray.ObjectRef[int], clock: Clock) -> None:
        """Wait for a push, and fetch newer weights if it reports any."""
        version = wait_for_result("replay buffer", push, self._timeout_s)
        clock.lap("blocked_push_s")
        if version > self._weights_version:
            self._pull_weights()
            clock.lap("blocked_weights_s")


def _joined(fragments: list[FloatArray]) -> FloatArray:
    return fragments[0] if len(fragments) == 1 else np.concatenate(fragments, axis=1)


class EvaluationActor(_Process):
    """Plays greedy episodes while training continues."""

    def __init__(self, config: MADDPGConfig, env_factory: EnvFactory | None = None) -> None:
        """Store the settings; each evaluation makes its own environment."""
        super().__init__()
        _limit_to_one_core()
        self._config, self._env_factory = config, env_factory

    @ray.method
    def evaluate(self, weights: Weights, num_episodes: int, seed: int) -> tuple[int, Scorecard, FloatArray]:
        """Return (updates that the weights include, scorecard, the policies)."""
        card = evaluate_weights(self._config, weights.policies, num_episodes, seed, self._env_factory)
        return weights.updates, card, weights.policies


class Clock:
    """Splits a call's time into named timers, starting with the wait for the call."""

    def __init__(self, idle_since: float) -> None:
        """Start, with a process that was idle since `idle_since` (`time.perf_counter`)."""
        self._last = time.perf_counter()
        self.seconds = {"blocked_pacing_s": self._last - idle_since, "busy_s": 0.0}

    def lap(self, timer: str) -> None:
        """Add the time since the last lap to a timer."""
        now = time.perf_counter()
        self.seconds[timer] = self.seconds.get(timer, 0.0) + now - self._last
        self._last = now
