"""Supervises a run's actors: tracks their calls, replaces those that die or hang, connects replacements.

In lock-step nothing is replaced: the run fails; resume it from its checkpoint.
"""

from __future__ import annotations

import functools
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import Diverged, StageError, TrainingError
from distributed_maddpg.replay.ring import Ring, RingAddress
from distributed_maddpg.runtime.calls import PeerLost, ProcessLost, timeout_error, wait_for_result
from distributed_maddpg.runtime.cluster import Processes
from distributed_maddpg.runtime.health import MAX_FAILURES, FaultLog, Health
from distributed_maddpg.runtime.nodes import ending_nodes, head_answers, lasting_nodes, own_node
from distributed_maddpg.runtime.placement import in_placement_group
from distributed_maddpg.types import Arrays, EnvSpec, FaultEvent, FloatArray, StoredTransitions

LEARNER, REPLAY, EVALUATOR = "learner", "replay buffer", "evaluator"
_HEARTBEAT_S = 1.0
"""Seconds between two calls that check whether the replay buffer answers."""
_PAUSE_S = 0.2
"""How long no work is started after a process could not reach another one."""
_REFILL_ROWS = 1 << 15
_NODES_LOOK_S = 1.0
"""Seconds between two looks at whether the head answers and which nodes have announced their end."""
_HEAD_PATIENCE_S = 20.0
"""How long the head may not answer. After 60 s Ray ends every process, so that nothing could be saved."""


@dataclass(frozen=True)
class _Call:
    """A call in flight: to which process, its timeout, and what to do with the result."""

    process: str
    sent_at: float
    timeout_s: float
    on_result: Callable[[Any], None]
    on_abandoned: Callable[[], None]
    is_work: bool


@dataclass(frozen=True)
class RecoveryCallbacks:
    """What the supervisor calls and asks of the driver."""

    on_learner_restored: Callable[[int], None]
    """Takes the updates that the learner has made according to the snapshot it was restored from."""
    on_replay_emptied: Callable[[], None]
    """Called when the transitions are lost."""
    env_steps: Callable[[], int]
    """Returns the run's environment steps so far."""
    normalisers: Callable[[], list[FloatArray]]
    """Returns what each run normalises by; none without `env.normalise`."""
    on_event: Callable[[FaultEvent], None] = lambda _: None
    """Takes each loss and each recovery when it happens."""


class Supervisor:
    """The actors of a run, their health, and the calls in flight."""

    def __init__(
        self,
        configs: Sequence[MADDPGConfig],
        spec: EnvSpec,
        processes: Processes,
        callbacks: RecoveryCallbacks,
    ) -> None:
        """Connect actors that were just started."""
        config = configs[0]
        self._timeout_s, self._min_workers = config.ray.timeout_s, config.ray.min_workers
        self._snapshot_interval_s = config.ray.snapshot_interval_s
        self._recovers, self._callbacks = not config.sync, callbacks
        self._learner_cpus = config.learner.reserved_cpus
        self._may_move = not in_placement_group()  # whose bundles stay where they are
        self._nodes_looked_at = self._head_answered_at = time.monotonic()
        self._copies_for_move = False
        self.processes, self.faults = processes, FaultLog(callbacks.on_event)
        self.workers = tuple(f"rollout worker {index}" for index in range(config.num_workers))
        self._health = {process: Health(process) for process in (LEARNER, REPLAY, EVALUATOR, *self.workers)}
        self._health[EVALUATOR].ready = True  # it is started with the first evaluation
        self._calls: dict[ray.ObjectRef[Any], _Call] = {}
        self._pending: Counter[str] = Counter()
        self._generation, self._connected_to = 0, dict.fromkeys((LEARNER, *self.workers), -1)
        self.snapshots: list[Arrays] = []
        """The latest copies of the learner's state, one per run."""
        self._snapshot_at = self._heartbeat_at = -math.inf
        self._enough_workers_at, self._paused_until = time.monotonic(), 0.0
        shape = (config.replay.capacity, spec.transitions.width)
        self._row_copies = [Ring(*shape) for _ in configs]  # pages are allocated when they are written
        self._copied_up_to = [0] * len(configs)
        self._rings: list[Ring | None] = [None] * len(configs)
        self._latest_version = 0
        self.stored = 0
        """Transitions of each run in the replay buffer, as of its last heartbeat."""
        self.diverged = False
        """Whether the learner's numbers stopped being finite; no more updates are started then."""
        self.aborted = False
        """Whether the run has failed; then no process is replaced."""
        self._watch_replay()
        self._connect()

    def is_available(self, process: str) -> bool:
        """Whether a process can be given work now."""
        health = self._health[process]
        return health.ready and not health.leaving and time.monotonic() >= self._paused_until

    def is_ready(self, process: str) -> bool:
        """Whether a process is running, even if a process it depends on is being replaced."""
        return self._health[process].ready

    def num_pending(self, process: str) -> int:
        """Return the number of a process's calls in flight."""
        return self._pending[process]

    def has_call_with_deadline(self, process: str) -> bool:
        """Whether a process has a call with a deadline.

        Calls to a worker that is not scheduled yet have none.
        """
        return any(call.process == process and math.isfinite(call.timeout_s) for call in self._calls.values())

    @property
    def healthy_workers(self) -> int:
        """Rollout workers that are ready."""
        return sum(self._health[process].ready for process in self.workers)

    @property
    def has_enough_workers(self) -> bool:
        """Whether the run can continue with the rollout workers that are ready."""
        return self.healthy_workers >= self._min_workers

    @property
    def all_ready(self) -> bool:
        """Whether no process is missing or starting."""
        return all(health.ready for health in self._health.values()) and self.is_available(LEARNER)

    def watch(
        self,
        call: ray.ObjectRef[Any],
        process: str,
        on_result: Callable[[Any], None],
        on_abandoned: Callable[[], None] = lambda: None,
        *,
        timeout_s: float = 0.0,
        is_work: bool = True,
    ) -> None:
        """Track a call until it is answered or abandoned.

        Args:
            call: the call.
            process: that was called.
            on_result: takes the result.
            on_abandoned: called when there will be no result.
            timeout_s: how long to wait; default: from the process's mean call time.
            is_work: whether a result shows that the process can do its work.
        """
        if not timeout_s:
            timeout_s = self.deadline_s(process, self._timeout_s)
        self._calls[call] = _Call(process, time.monotonic(), timeout_s, on_result, on_abandoned, is_work)
        self._pending[process] += 1

    def reconcile(self) -> None:
        """Start replacements that are due, connect new processes, send heartbeats, take snapshots.

        Raises:
            TrainingError: if the driver's own node has announced its end, or the head does not answer.
        """
        if not self._recovers:
            return
        now = time.monotonic()
        if not self._head_answers(now):
            return  # what follows may need it, and would block
        self._leave_ending_nodes(now)
        for process, health in self._health.items():
            # The learner is scheduled before rollout workers.
            waits = process in self.workers and not self._health[LEARNER].ready
            due = health.start_at is not None and now >= health.start_at and not waits
            if due and not self.aborted:
                self._restart(process, health)
        self._connect()
        if (
            self.is_available(REPLAY)
            and now - self._heartbeat_at >= _HEARTBEAT_S
            and not self._pending[REPLAY]
        ):
            self._heartbeat_at = now
            deadline_s = self._health[REPLAY].deadline_s(self._timeout_s) / 2  # before its callers time out
            self.watch(self.processes.replay.size.remote(), REPLAY, self._on_heartbeat, timeout_s=deadline_s)
        self._take_snapshots(now)

    def _on_heartbeat(self, stored: int) -> None:
        self.stored = stored

    def poll(self, timeout_s: float) -> None:
        """Wait up to `timeout_s` for a call, handle all that have finished, abandon those past their timeout.

        Raises:
            TrainingError: if a process failed and will not be replaced.
        """
        if not self._calls:
            time.sleep(min(timeout_s, 0.01))
        calls = list(self._calls)
        first, rest = ray.wait(calls, num_returns=1, timeout=timeout_s) if calls else ([], [])
        more = ray.wait(rest, num_returns=len(rest), timeout=0)[0] if first and rest else []
        for done in (*first, *more):
            self.resolve(done)
        now = time.monotonic()
        for call in list(self._calls.values()):
            if now > call.sent_at + call.timeout_s:
                self._on_failure(call.process, timeout_error(call.process, call.timeout_s))
        if self._recovers:
            self._check_min_workers(now)

    def resolve(self, done: ray.ObjectRef[Any]) -> None:
        """Wait for one of the tracked calls and handle its result."""
        call = self._calls.pop(done, None)
        if call is None:
            return  # abandoned since
        self._pending[call.process] -= 1
        try:
            answer = wait_for_result(
                call.process, done, call.timeout_s if math.isfinite(call.timeout_s) else self._timeout_s
            )
        except TrainingError as error:
            call.on_abandoned()
            self._on_failure(call.process, error)
            return
        if call.is_work:
            self._health[call.process].mark_worked(time.monotonic() - call.sent_at)
        call.on_result(answer)

    def resolve_all(self, process: str) -> None:
        """Wait for all calls of a process and handle their results."""
        for call in [call for call, about in self._calls.items() if about.process == process]:
            self.resolve(call)

    def rows_at_hand(self, run: int) -> StoredTransitions | None:
        """Return a run's transitions as far as this process can read them without the replay buffer's."""
        rows, inserted = (self._rings[run] or self._row_copies[run]).read_from(0)
        return StoredTransitions(inserted, len(rows), iter([rows])) if len(rows) else None

    def discard_calls(self) -> None:
        """Drop all calls, before shutdown."""
        self._calls.clear()

    def set_latest_version(self, version: int) -> None:
        """Set the newest weights' version, which a restored learner must not fall behind."""
        self._latest_version = version

    def deadline_s(self, process: str, longest_s: float) -> float:
        """Return how long to wait for a process's call, at most `longest_s`."""
        return self._health[process].deadline_s(longest_s) if self._recovers else longest_s

    def _on_failure(self, process: str, error: TrainingError) -> None:
        """Record a failure, and let the process be replaced.

        Raises:
            TrainingError: if it is not to be replaced.
        """
        if isinstance(error, Diverged) and self.diverged:
            return  # reported already
        self.diverged |= isinstance(error, Diverged)
        if not self._recovers or not isinstance(error, PeerLost | ProcessLost | StageError):
            if self._recovers and self.aborted:
                return
            self.aborted = True
            raise error
        if isinstance(error, ProcessLost) and not head_answers():
            self._give_up_without_head()
        health = self._health[process]
        if isinstance(error, PeerLost):  # the peer's own calls will fail and have it replaced
            self._paused_until = time.monotonic() + _PAUSE_S
            self._heartbeat_at = -math.inf
        elif not health.down:  # otherwise another call has reported the loss
            self._on_lost(process, health, error)

    def _on_lost(self, process: str, health: Health, error: TrainingError) -> None:
        """End a lost process, and schedule its replacement.

        Raises:
            TrainingError: if it failed too often, or could not be built at the first start.
        """
        was_ready, self._copies_for_move = health.ready, False
        could_never_be_built = isinstance(error, StageError) and not was_ready and health.incarnation == 0
        health.mark_lost()
        self._abandon_calls(process)
        self.processes.end(self._actor(process))
        if self.aborted:
            return  # the last checkpoint is being made; nothing is replaced
        self.aborted = True  # in case one of the next lines raises
        if could_never_be_built:
            raise error
        self.faults.record_lost(process, error)
        if health.failed_too_often:
            times = f"{MAX_FAILURES} times in a row"
            raise TrainingError(f"lost {times} without finishing a call: {error}")
        self.aborted = False
        if process == LEARNER:
            # One that was running frees its own CPUs; one that was not may never have been given any.
            self._free_cpus(0 if was_ready else self._learner_cpus)

    def _free_cpus(self, num_running: int) -> None:
        """End unscheduled workers, and `num_running` running ones, to free CPUs for the learner."""
        for process in self.workers:
            health = self._health[process]
            if health.down or (health.ready and num_running == 0):
                continue
            if health.ready:
                num_running -= 1
                line = f"{process} was ended to free its CPU for the learner"
                self.faults.record_lost(process, TrainingError(line))
            self._abandon_calls(process)
            self.processes.end(self._actor(process))
            health.mark_deferred()

    def _head_answers(self, now: float) -> bool:
        """Whether the head answered when it was last asked.

        Raises:
            TrainingError: if it has not answered for too long.
        """
        if now - self._nodes_looked_at >= _NODES_LOOK_S:
            self._nodes_looked_at = now
            if head_answers():
                self._head_answered_at = now
            elif now - self._head_answered_at > _HEAD_PATIENCE_S:
                self._give_up_without_head()
        return self._head_answered_at == self._nodes_looked_at

    def _give_up_without_head(self) -> None:
        """Raise TrainingError, and ask nothing of any process from then on."""
        if self.aborted:
            return
        self.aborted = True
        for process, health in self._health.items():
            health.mark_lost()
            self._abandon_calls(process)
        raise TrainingError("the cluster's head does not answer; resume the run when it does")

    def _leave_ending_nodes(self, now: float) -> None:
        """Move processes off nodes that have announced their end, when their calls are answered.

        Raises:
            TrainingError: if one is the driver's.
        """
        if self._may_move and not self.aborted and self._nodes_looked_at == now:
            self._mark_leaving(ending_nodes())
        if self._health[LEARNER].leaving and self._health[REPLAY].leaving:
            self._move_learner_and_replay(now)
            return  # workers that moved first could take the learner's place on another node
        for process in (*self.workers, EVALUATOR):
            if self._health[process].leaving and not self._pending[process]:
                self._move(process)

    def _mark_leaving(self, ending: set[str]) -> None:
        if ending and own_node() in ending:
            self.aborted = True
            raise TrainingError("this node is about to end; resume the run on another one")
        for process, home in self._homes().items() if ending else ():
            self._health[process].leaving |= home in ending
        # The learner reads the replay buffer's memory, so they move together.
        pair = (self._health[LEARNER], self._health[REPLAY])
        if any(health.leaving for health in pair) and all(health.ready for health in pair):
            for health in pair:
                health.leaving = True

    def _move_learner_and_replay(self, now: float) -> None:
        """Wait for the calls of both and of the workers, copy what they hold, then end them."""
        working = [process for process in self.workers if self._health[process].ready]
        if any(self._pending[process] for process in (LEARNER, REPLAY, *working)):
            return
        if not self._copies_for_move:
            self._copies_for_move, self._snapshot_at = True, -math.inf
            self._take_snapshots(now)
            return
        self._copies_for_move = False
        self._move(LEARNER)
        self._move(REPLAY)
        if not self._has_room_for_learner():
            self._free_cpus(self._learner_cpus)

    def _move(self, process: str) -> None:
        """End a process on a node that is about to end; its replacement starts on another one."""
        self.faults.record_lost(process, TrainingError(f"{process} leaves its node, which is about to end"))
        self._abandon_calls(process)
        self.processes.end(self._actor(process))
        self._health[process].mark_deferred()

    def _has_room_for_learner(self) -> bool:
        """Whether a node that stays has CPUs for the learner beside its workers."""
        used = Counter(home for process, home in self._homes().items() if process in self.workers)
        return any(node.cpus - used[node.id] >= self._learner_cpus for node in lasting_nodes())

    def _homes(self) -> dict[str, str | None]:
        """Return the ids of the nodes of the processes that are ready."""
        absent = None if self.processes.has_evaluator else EVALUATOR  # asking for it would start it
        running = [process for process, health in self._health.items() if health.ready and process != absent]
        return {process: self.processes.node_of(self._actor(process)) for process in running}

    def _abandon_calls(self, process: str) -> None:
        for call in [call for call, about in self._calls.items() if about.process == process]:
            self._calls.pop(call).on_abandoned()
        self._pending[process] = 0

    def _actor(self, process: str) -> Any:
        if process in self.workers:
            return self.processes.workers[self.workers.index(process)]
        by_name = {LEARNER: "learner", REPLAY: "replay", EVALUATOR: "evaluator"}
        return getattr(self.processes, by_name[process])

    def _restart(self, process: str, health: Health) -> None:
        """Start the replacement of a process; the evaluator's is started by its next call."""
        if process == LEARNER:
            location = self.processes.start_learner()  # no other call would report that it does not start
            self.watch(location, process, lambda _: None, timeout_s=self._timeout_s, is_work=False)
        elif process == REPLAY:
            if not self._restart_replay():
                return  # it must run on the learner's node, and the learner is still starting
        elif process == EVALUATOR:
            health.mark_started()
            self.faults.record_recovered(
                process, health.mark_ready(), ", to be started for the next evaluation"
            )
            return
        else:
            # The number differs from those of all earlier workers, also from those before a resume.
            self.processes.start_worker(
                self.workers.index(process), self._callbacks.env_steps() + health.incarnation + 1
            )
        health.mark_started()
        if process in self._connected_to:
            self._connected_to[process] = -1

    def _restart_replay(self) -> bool:
        """Start a replay buffer on the previous one's memory; return whether its node is known yet."""
        node = self.processes.learner_node()
        if node is None:
            return False
        previous = [ring.address for ring in self._rings if ring is not None and ring.address is not None]
        self.processes.start_replay(node, previous if len(previous) == len(self._rings) else ())
        self._generation += 1
        self._watch_replay()
        return True

    def _watch_replay(self) -> None:
        """Ask a new replay buffer where its memory is, and whether it adopted the previous one's."""
        replay, generation = self.processes.replay, self._generation
        self.watch(
            replay.ring_addresses.remote(),
            REPLAY,
            self._attach_rings,
            timeout_s=self._timeout_s,
            is_work=False,
        )
        if generation:
            self.watch(
                replay.adopted.remote(),
                REPLAY,
                self._on_replay_restored,
                timeout_s=self._timeout_s,
                is_work=False,
            )
        else:
            self._health[REPLAY].ready = True  # calls wait in its queue

    def _attach_rings(self, addresses: list[RingAddress | None]) -> None:
        """Keep the transitions' memory open in the driver: it then outlives the replay buffer's process."""
        if self._recovers:
            self._rings = [Ring.attach(address) if address else None for address in addresses]

    def _on_replay_restored(self, adopted: bool) -> None:
        detail = ", with its transitions"
        if not adopted:
            try:
                rows = self._refill()
            except TrainingError as error:
                self._on_failure(REPLAY, error)
                return
            detail = f", with {rows:,} transitions of a snapshot"
            if rows == 0:
                self._callbacks.on_replay_emptied()
                detail = ", without its transitions"
        self.faults.record_recovered(REPLAY, self._health[REPLAY].mark_ready(), detail)

    def _refill(self) -> int:
        """Send a new replay buffer the copies of the previous one's rows; return their number."""
        for run, copy in enumerate(self._row_copies):
            self._wait_for_result(REPLAY, self.processes.replay.clear.remote(run, 0))
            for rows in copy.snapshot().stored(_REFILL_ROWS).chunks:
                self._wait_for_result(REPLAY, self.processes.replay.refill.remote(run, rows))
            self._copied_up_to[run] = copy.size
        return self._row_copies[0].size

    def _connect(self) -> None:
        """Connect the learner and the workers that are not yet connected to the current replay buffer."""
        if not self.is_available(REPLAY):
            return
        for process, generation in self._connected_to.items():
            health = self._health[process]
            if generation == self._generation or health.down:
                continue
            self._connected_to[process] = self._generation
            actor = self._actor(process)
            # A worker may stay unscheduled; `_check_min_workers` checks that enough are running.
            waits = self._recovers and process != LEARNER
            timeout_s = math.inf if waits and not health.ready else self._timeout_s
            calls = [actor.connect.remote(self.processes.replay)]
            if not health.ready and health.incarnation:
                calls += self._start_restoring(process, actor)
            again = self._reconnect(process)
            for call in calls[:-1]:
                self.watch(call, process, lambda _: None, again, timeout_s=timeout_s, is_work=False)
            self.watch(
                calls[-1], process, self._on_connected(process), again, timeout_s=timeout_s, is_work=False
            )

    def _reconnect(self, process: str) -> Callable[[], None]:
        """Return a function that has a process connected again."""

        def reconnect() -> None:  # both may be running, but the connection failed
            self._connected_to[process] = -1

        return reconnect

    def _start_restoring(self, process: str, actor: Any) -> list[ray.ObjectRef[Any]]:
        """Start the calls that give a replacement the newest weights, or the learner its snapshots."""
        if process != LEARNER:
            return [actor.refresh_weights.remote()]
        # Workers take only weights that are newer than their own.
        version = {"weights_version": np.array(self._latest_version, np.int64)}
        states = [{**state, **version} for state in self.snapshots]
        calls = [actor.set_state.remote(state, run) for run, state in enumerate(states)]
        if normalisers := self._callbacks.normalisers():  # snapshots may be from before any were known
            calls.append(actor.normalise_by.remote(normalisers))
        return calls

    def _on_connected(self, process: str) -> Callable[[Any], None]:
        def on_connected(_: Any) -> None:
            health = self._health[process]
            was_ready, missed_s = health.ready, health.mark_ready()
            if was_ready or health.incarnation == 0 or not missed_s:
                return
            if process == LEARNER:
                updates = int(self.snapshots[0]["updates"]) if self.snapshots else 0
                self._callbacks.on_learner_restored(updates)
            self.faults.record_recovered(process, missed_s)

        return on_connected

    def _check_min_workers(self, now: float) -> None:
        """Raise TrainingError if there have been too few rollout workers for `ray.timeout_s`."""
        if self.has_enough_workers:
            self._enough_workers_at = now
        elif now - self._enough_workers_at > self._timeout_s and not self.aborted:
            self.aborted = True
            raise TrainingError(
                f"only {self.healthy_workers} of {len(self.workers)} rollout workers ran for "
                f"{self._timeout_s:g} s (ray.timeout_s); the run needs {self._min_workers} (ray.min_workers)"
            )

    def _take_snapshots(self, now: float) -> None:
        """Copy the learner's state, and transitions that only the replay buffer's process holds."""
        due = not self.snapshots or now - self._snapshot_at >= self._snapshot_interval_s
        if not due or not self._health[LEARNER].ready or self._snapshot_at == math.inf:
            return
        self._snapshot_at = math.inf  # no other snapshot is taken before this one arrives
        captured: dict[int, Arrays] = {}

        def keep(state: Arrays, run: int) -> None:
            captured[run] = state
            if len(captured) == len(self._row_copies):
                self.snapshots = [captured[run] for run in sorted(captured)]
                self._snapshot_at = time.monotonic()

        def again() -> None:
            self._snapshot_at = -math.inf

        for run in range(len(self._row_copies)):
            state = self.processes.learner.get_state.remote(run)
            self.watch(state, LEARNER, functools.partial(keep, run=run), again)
        if None in self._rings and self._health[REPLAY].ready:
            for run in range(len(self._row_copies)):
                call = self.processes.replay.read_from.remote(run, self._copied_up_to[run])
                self.watch(call, REPLAY, self._copy_rows(run))

    def _copy_rows(self, run: int) -> Callable[[tuple[FloatArray, int]], None]:
        """Return a function that adds the rows from `read_from` to the copy of a run's rows."""

        def copy(answer: tuple[FloatArray, int]) -> None:
            rows, self._copied_up_to[run] = answer
            self._row_copies[run].add(rows)

        return copy

    def _wait_for_result(self, process: str, call: ray.ObjectRef[Any]) -> Any:
        return wait_for_result(process, call, self._timeout_s)
