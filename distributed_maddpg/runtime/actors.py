"""Thin shells that carry one plain stage each into a Ray process (floor F4).

A shell adds transport and nothing else. Transitions go from worker to replay buffer to learner; the weights'
reference goes from the learner to the replay buffer, where workers find it; the driver sees only reports.
"""

from __future__ import annotations

import os
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import ray
from threadpoolctl import threadpool_limits

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.evaluation import Scorecard, evaluate_weights
from distributed_maddpg.replay import ReplayBuffer, make_replay_buffer
from distributed_maddpg.ring import Ring, RingAddress
from distributed_maddpg.rollout import make_rollout_worker
from distributed_maddpg.runtime.calls import ask
from distributed_maddpg.types import (
    EnvSpec,
    EpisodeReport,
    FloatArray,
    LearnerReport,
    RolloutReport,
    Weights,
)

if TYPE_CHECKING:
    from ray.actor import ActorProxy

_PATIENCE = 0.5
"""Share of `ray.timeout_s` after which a process complains of another, before the driver complains of it."""
_PUSH_WINDOW = 2
"""Unacknowledged pushes a worker may have: enough to hide the call, few enough to push back."""


def _alone_on_one_core() -> None:
    """Keep this process to one thread, and off the GPUs, which Ray does not hide from actors without any."""
    threadpool_limits(1)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


class ReplayBufferActor:
    """Carries the replay buffer, and a reference to the newest weights beside it."""

    def __init__(self, config: MADDPGConfig, spec: EnvSpec) -> None:
        """Start with no transitions and no weights."""
        _alone_on_one_core()
        ring = Ring.shared(config.replay.capacity, spec.transitions.width)
        self._buffer = make_replay_buffer(config, spec, ring)
        self._weights: list[ray.ObjectRef[Weights]] = []
        self._version = 0

    @ray.method
    def add(self, rows: FloatArray) -> int:
        """Store transitions; return the newest weights' version."""
        self._buffer.add(rows)
        return self._version

    @ray.method
    def ring_address(self) -> RingAddress | None:
        """Return where a process of this node finds the transitions themselves."""
        return self._buffer.ring.address

    @ray.method
    def sample(self, num_batches: int, batch_size: int) -> FloatArray:
        """Return minibatches `[num_batches, batch_size, width]`."""
        return self._buffer.sample(num_batches, batch_size)

    @ray.method
    def publish(self, weights: Weights) -> None:
        """Keep newer weights as one object; its reference stands in a list, so that Ray passes it unopened."""
        self._version, self._weights = weights.version, [ray.put(weights)]

    @ray.method
    def newest_weights(self) -> list[ray.ObjectRef[Weights]]:
        """Return the reference of the newest weights."""
        return self._weights

    @ray.method
    def size(self) -> int:
        """Return the transitions held."""
        return self._buffer.size


class LearnerActor:
    """Carries the learner; fetches its minibatches and publishes its weights."""

    def __init__(self, config: MADDPGConfig, spec: EnvSpec, use_gpu: bool) -> None:
        """Build the learner on this process's device."""
        if not use_gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        # Imported here: this module is also loaded by rollout workers, which never load torch.
        from distributed_maddpg.learner import make_learner  # noqa: PLC0415

        self._learner = make_learner(config, spec)
        self._config, self._spec = config, spec
        self._shared: ReplayBuffer | None = None
        self._batch_size, self._timeout_s = config.learner.batch_size, _PATIENCE * config.ray.timeout_s
        self._sync, self._last_updates = config.sync, 0
        self._prefetched: tuple[int, ray.ObjectRef[FloatArray]] | None = None
        self._published: ray.ObjectRef[None] | None = None
        self._replay: ActorProxy[ReplayBufferActor]
        self._idle_since = time.perf_counter()

    @ray.method
    def node_id(self) -> str:
        """Return the id of the node this process is on."""
        return str(ray.get_runtime_context().get_node_id())

    @ray.method
    def device(self) -> str:
        """Return the name of the device."""
        return str(self._learner.device)

    @ray.method
    def connect(self, replay: ActorProxy[ReplayBufferActor]) -> None:
        """Take the replay buffer to draw minibatches from and to publish to."""
        self._replay = replay
        address = ask("replay buffer", replay.ring_address.remote(), self._timeout_s)
        ring = Ring.attach(address) if address else None
        self._shared = make_replay_buffer(self._config, self._spec, ring) if ring else None
        self._idle_since = time.perf_counter()

    @ray.method
    def learn(self, updates: int, publish: bool) -> LearnerReport:
        """Make updates on fresh minibatches, and publish the result if asked."""
        started = time.perf_counter()
        batches = self._sample(updates)
        sampled = time.perf_counter()
        self._learner.learn([batches])
        if publish:
            self._publish()
            if self._sync:
                self._await_published()  # the workers are told to fetch them next
        report = LearnerReport(
            updates=updates,
            weights_version=self._learner.weights_version,
            busy_s=time.perf_counter() - sampled,
            blocked_replay_s=sampled - started,
            blocked_pacing_s=started - self._idle_since,
        )
        self._idle_since = time.perf_counter()
        return report

    @ray.method
    def take_metrics(self) -> dict[str, npt.NDArray[np.float64]]:
        """Return the means of the learner's metrics since the last call."""
        return self._learner.take_metrics()[0]

    @ray.method
    def weights(self) -> Weights:
        """Return the policies as they are now."""
        return self._learner.weights()

    @ray.method
    def get_state(self) -> dict[str, npt.NDArray[Any]]:
        """Return the learner's complete state."""
        return self._learner.get_state()

    @ray.method
    def set_state(self, state: dict[str, npt.NDArray[Any]]) -> int:
        """Continue from a state, and publish its weights; return their version."""
        self._learner.set_state(state)
        self._publish()
        self._await_published()
        return self._learner.weights_version

    def _sample(self, updates: int) -> FloatArray:
        """Return the minibatches for this call.

        They are drawn here where the transitions are within reach, with the generator that the replay buffer
        would use; otherwise it is asked, and asked for the next call's while this one is computed. Calls of
        changing length mean that the learner waits for transitions anyhow: nothing is asked ahead
        then, because minibatches that are thrown away would only keep the replay buffer from storing.
        """
        if self._shared:
            return self._shared.sample(updates, self._batch_size)
        ready, self._prefetched = self._prefetched, None
        if ready is None or ready[0] != updates:
            ready = (updates, self._replay.sample.remote(updates, self._batch_size))
        batches = ask("replay buffer", ready[1], self._timeout_s)
        if not self._sync and updates == self._last_updates:
            self._prefetched = (updates, self._replay.sample.remote(updates, self._batch_size))
        self._last_updates = updates
        return batches

    def _publish(self) -> None:
        """Send the weights off."""
        self._await_published()
        self._published = self._replay.publish.remote(self._learner.publish()[0])

    def _await_published(self) -> None:
        """Wait until the weights that were sent off last have arrived."""
        if self._published is not None:
            ask("replay buffer", self._published, self._timeout_s)
            self._published = None


class RolloutWorkerActor:
    """Carries one rollout worker; pushes its transitions and pulls newer weights."""

    def __init__(self, config: MADDPGConfig, index: int) -> None:
        """Build worker `index`; it needs no other process for that, so that all start side by side."""
        _alone_on_one_core()
        self._worker = make_rollout_worker(config, index)
        self._index = index
        self._replay: ActorProxy[ReplayBufferActor]
        self._fragment_steps = config.rollout.fragment_steps
        self._timeout_s = _PATIENCE * config.ray.timeout_s
        self._held: FloatArray
        self._idle_since = time.perf_counter()

    @ray.method
    def connect(self, replay: ActorProxy[ReplayBufferActor]) -> None:
        """Take the replay buffer to push to."""
        self._replay = replay
        self._idle_since = time.perf_counter()

    @ray.method
    def collect(self, fragments: int, env_steps: int) -> RolloutReport:
        """Collect so many fragments and push each; returns when all of them are stored."""
        clock = _Clock(self._idle_since)
        oldest_version, collected, episodes = self._worker.weights_version, 0, []
        pushes: deque[ray.ObjectRef[int]] = deque()
        for _ in range(fragments):
            rows, report = self._worker.collect(self._fragment_steps, env_steps + collected)
            collected += len(rows)
            episodes.append(report)
            clock.lap("busy_s")
            pushes.append(self._replay.add.remote(rows))
            if len(pushes) == _PUSH_WINDOW:
                self._acknowledge(pushes.popleft(), clock)
        while pushes:
            self._acknowledge(pushes.popleft(), clock)
        self._idle_since = time.perf_counter()
        joined = EpisodeReport.concatenate(episodes, episodes[0].returns.shape[1])
        return RolloutReport(self._index, collected, joined, oldest_version, **clock.seconds)

    @ray.method
    def collect_and_hold(self, env_steps: int) -> RolloutReport:
        """Collect one fragment and keep it until `push`, so that the driver can order the pushes."""
        clock = _Clock(self._idle_since)
        self._held, episodes = self._worker.collect(self._fragment_steps, env_steps)
        clock.lap("busy_s")
        self._idle_since = time.perf_counter()
        return RolloutReport(
            self._index, len(self._held), episodes, self._worker.weights_version, **clock.seconds
        )

    @ray.method
    def push(self) -> None:
        """Store the held fragment."""
        ask("replay buffer", self._replay.add.remote(self._held), self._timeout_s)

    @ray.method
    def refresh_weights(self) -> None:
        """Take over the newest weights."""
        self._pull_weights()

    def _pull_weights(self) -> None:
        # A method marked for Ray is, to the type checker, not callable from inside.
        reference = ask("replay buffer", self._replay.newest_weights.remote(), self._timeout_s)[0]
        self._worker.set_weights(ask("learner", reference, self._timeout_s))

    def _acknowledge(self, push: ray.ObjectRef[int], clock: _Clock) -> None:
        """Wait for a push, and follow its word of newer weights."""
        version = ask("replay buffer", push, self._timeout_s)
        clock.lap("blocked_push_s")
        if version > self._worker.weights_version:
            self._pull_weights()
            clock.lap("blocked_weights_s")


class EvaluationActor:
    """Plays greedy episodes off the training path."""

    def __init__(self, config: MADDPGConfig) -> None:
        """Remember the environment and the policies' form."""
        _alone_on_one_core()
        self._config = config

    @ray.method
    def evaluate(self, weights: Weights, num_episodes: int, seed: int) -> tuple[int, Scorecard]:
        """Return (updates the weights have seen, scorecard)."""
        return weights.updates, evaluate_weights(self._config, weights.policies, num_episodes, seed)


class _Clock:
    """Shares out a call's time among named stages, starting with the wait for the call."""

    def __init__(self, idle_since: float) -> None:
        self._last = time.perf_counter()
        self.seconds = {"blocked_pacing_s": self._last - idle_since, "busy_s": 0.0}

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now
