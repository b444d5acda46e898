"""The driver: starts the calls that the `Pacer` allows, and handles their results.

Asynchronous runs keep a call queued at every process. Lock-step runs (`sync=True`) alternate collection,
ordered pushes, updates and weight refreshes, and so are reproducible. The driver handles counts, reports and
references; no transition passes through it.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import ray

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import EnvFactory
from distributed_maddpg.errors import TrainingError
from distributed_maddpg.evaluation.scorecard import Evaluation, Scorecard
from distributed_maddpg.metrics import IterationLog, flatten
from distributed_maddpg.normalisation import run_moments
from distributed_maddpg.pacing import Pacer, fragments_per_call, updates_per_call
from distributed_maddpg.runtime.calls import wait_for_result
from distributed_maddpg.runtime.cluster import (
    Processes,
    check_can_be_sent,
    connect,
    disconnect,
    start_processes,
)
from distributed_maddpg.runtime.exporter import MetricsExporter
from distributed_maddpg.runtime.supervisor import EVALUATOR, LEARNER, REPLAY, RecoveryCallbacks, Supervisor
from distributed_maddpg.seeding import generator, integer_seed, pack_generator
from distributed_maddpg.types import (
    Arrays,
    EnvSpec,
    FaultEvent,
    FloatArray,
    LearnerReport,
    RolloutReport,
    RunState,
    StoredTransitions,
    Weights,
    checked_array,
    join_states,
    state_part,
)

T = TypeVar("T")
_LOG = logging.getLogger("distributed_maddpg")

_CALLS_AHEAD = 2
"""Calls queued at a process, so that it does not idle while the driver is busy."""
_POLL_S = 0.5
_EPISODES_PER_TIMEOUT = 100
"""Episodes for which an evaluation gets another `ray.timeout_s`."""
_CHUNK_BYTES = 8 * 2**20


class RayRunner:
    """Runs the stages in Ray actors."""

    def __init__(
        self,
        configs: Sequence[MADDPGConfig],
        spec: EnvSpec,
        on_event: Callable[[FaultEvent], None] = lambda _: None,
        env_factory: EnvFactory | None = None,
        names: Sequence[str] = (),
    ) -> None:
        """Start all actors of one run or several.

        Args:
            configs: one per run.
            spec: of the environment.
            on_event: called with each loss and each recovery when it happens.
            env_factory: makes the environment, where it was given as a callable.
            names: what the metrics of each run are tagged with; default, also of an empty one: random.
        """
        config = configs[0]
        if env_factory is not None:
            check_can_be_sent(env_factory)
        self._config, self._seeds = config, [own.seed for own in configs]
        self._chunk_rows = max(1, _CHUNK_BYTES // (4 * spec.transitions.width))
        self.pacer = Pacer(config.pacing)
        self._logs = [IterationLog(spec, config.num_workers) for _ in configs]
        self._moments = [own for each in configs if (own := run_moments(spec, each))]
        self._fragments_per_call = [1] * config.num_workers
        self._fragments_asked = [0] * config.num_workers
        self._evaluations: list[list[Evaluation]] = [[] for _ in configs]
        self._evaluation_missed = False
        self._drained = self._inconsistent = False
        self._latest_version = 0
        self._updates_per_call = 1
        self._owns_connection = connect(config)
        try:
            self._processes = self._start_processes(configs, spec, env_factory)
            callbacks = RecoveryCallbacks(
                self._on_learner_restored,
                self.pacer.restart_warmup,
                lambda: self.pacer.env_steps,
                self._normalisers,
                on_event,
            )
            self._supervisor = Supervisor(configs, spec, self._processes, callbacks)
        except BaseException:
            if self._owns_connection:
                disconnect()
            raise
        self._workers = self._supervisor.workers
        self._exporter = MetricsExporter(
            [name or f"run-{secrets.token_hex(4)}" for name in names or [""] * len(configs)]
        )

    def _start_processes(
        self, configs: Sequence[MADDPGConfig], spec: EnvSpec, env_factory: EnvFactory | None
    ) -> Processes:
        return start_processes(configs, spec, env_factory)

    @property
    def device(self) -> str:
        """Where the learner runs."""
        return self._device()[0]

    @property
    def device_reason(self) -> str:
        """The setting that chose the device, and the rates of both devices where both were timed."""
        return self._device()[1]

    def _device(self) -> tuple[str, str]:
        device: tuple[str, str] = self._wait_for_result("learner", self._processes.learner.device.remote())
        return device

    def run(self, stop: Callable[[], bool]) -> bool:
        """Train until a report is due or `stop()` returns true; return whether one is due.

        Raises:
            TrainingError: in lock-step, if a process fails, dies or does not answer in time; in asynchronous
                runs, if that happens repeatedly.
        """
        self._drained, due = False, False
        while not (due or stop() or self.pacer.finished):
            if self._config.sync:
                self._sync_round()
                self._evaluate_if_due()
            else:
                self._step_async()
            self._export_progress()
            due = self.pacer.report_due()
        return due or self.pacer.finished

    def results(self) -> list[dict[str, Any]]:
        """Return each run's metrics of the iteration so far.

        The learner answers after its queued calls; the other processes continue meanwhile.
        """
        stored = self._call_with_retry(REPLAY, lambda: self._processes.replay.size.remote())
        metrics = self._call_with_retry(LEARNER, lambda: self._processes.learner.metrics.remote())
        counters = self._counters(stored)
        return [log.result(counters, own) for log, own in zip(self._logs, metrics, strict=True)]

    def _counters(self, stored: int) -> dict[str, Any]:
        """Return the counts of all runs, nested as in a result, with so many `stored` transitions."""
        return {
            "num_env_steps_sampled_lifetime": self.pacer.env_steps,
            "num_updates_lifetime": self.pacer.updates,
            "weights_seq_no": self._latest_version,
            "replay_buffer": {
                "num_env_steps_stored": stored,
                "fill": stored / self._config.replay.capacity,
            },
            "fault_tolerance": {
                "num_healthy_workers": self._supervisor.healthy_workers,
                **self._supervisor.faults.counts,
            },
        }

    def export(self, results: Sequence[Mapping[str, Any]]) -> None:
        """Export the complete results of an iteration to Ray's metrics."""
        self._exporter.export([flatten(result) for result in results])

    def _export_progress(self) -> None:
        """Export what the driver knows between two results, at most once a second; it asks no process."""
        if self._exporter.due:
            counters = self._counters(self._supervisor.stored)
            self._exporter.export([flatten(log.progress(counters)) for log in self._logs])

    def next_iteration(self) -> None:
        """Reset what is counted per iteration."""
        self._call_with_retry(LEARNER, lambda: self._processes.learner.next_iteration.remote())
        for log in self._logs:
            log.next_iteration()
        self._exporter.next_iteration()

    def pop_evaluations(self, run: int) -> list[Evaluation]:
        """Return a run's evaluations since the last call; in lock-step and at the end, wait for all."""
        if self._config.sync or self.pacer.finished:
            self._supervisor.resolve_all(EVALUATOR)
        evaluations, self._evaluations[run] = self._evaluations[run], []
        return evaluations

    def weights(self, run: int) -> Weights:
        """Return a run's current policies."""
        weights: Weights = self._call_with_retry(LEARNER, lambda: self._processes.learner.weights.remote(run))
        return weights

    def learner_state(self, run: int) -> Arrays:
        """Return the learner's state of a run, after its queued calls."""
        self._supervisor.resolve_all(LEARNER)
        return self._call_with_retry(LEARNER, lambda: self._processes.learner.get_state.remote(run))

    def drain(self) -> None:
        """Wait for all calls in flight, so that counts, transitions and weights belong to one moment."""
        self._drained = True
        while any(map(self._supervisor.has_call_with_deadline, (LEARNER, *self._workers))):
            self._step()

    def capture(self, run: int, with_replay: bool) -> RunState:
        """Return the state of a run; asynchronous runs continue meanwhile.

        Its transitions are read later, while training may continue. Without `drain` before, each process
        answers at a different moment. The transitions then include at least those that are counted, and the
        updates are the learner's own count.

        Raises:
            TrainingError: if lock-step failed during collection, or a process that is needed is lost.
        """
        if self._inconsistent:
            raise TrainingError("the run failed during collection; that state cannot be resumed")
        env_steps = self.pacer.env_steps
        replay = self._stored_rows(run) if with_replay else None
        learner, sampling = self._learner_states(run)
        updates = int(learner["updates"])
        stages = {
            "pacing": self.pacer.get_state(env_steps, updates),
            "learner": learner,
            "replay": {"generator": sampling},
            "log": self._logs[run].get_state(),
            "evaluation": {"missed": np.array(self._evaluation_pending(run))},
            **self._worker_states(run),
        }
        if self._moments:
            stages["moments"] = self._moments[run].get_state()
        return RunState(env_steps, updates, join_states(stages), replay)

    def restore(self, run: int, state: RunState) -> None:
        """Continue from what `capture` returned."""
        stages, learner, replay = state.stages, self._processes.learner, self._processes.replay
        self._wait_for_result(LEARNER, learner.set_state.remote(state_part(stages, "learner"), run))
        sampling = checked_array(stages, "replay/generator", (6,), np.uint64)
        self._wait_for_result(LEARNER, learner.set_generator_state.remote(run, sampling))
        self._restore_workers(run, stages)
        self._latest_version = int(checked_array(stages, "learner/weights_version", (), np.int64))
        self._supervisor.set_latest_version(self._latest_version)
        self._logs[run].set_state(state_part(stages, "log"))
        if self._moments:
            self._moments[run].set_state(state_part(stages, "moments"))
        self._evaluation_missed |= bool(state_part(stages, "evaluation").get("missed", False))
        self.pacer.set_state(state_part(stages, "pacing"))
        if state.replay is not None:
            capacity = self._config.replay.capacity
            self._wait_for_result(REPLAY, replay.clear.remote(run, state.replay.first_row_number(capacity)))
            for rows in state.replay.chunks:
                self._wait_for_result(REPLAY, replay.refill.remote(run, rows[-capacity:]))
        if self._wait_for_result(REPLAY, replay.size.remote()) == 0:
            self.pacer.restart_warmup()

    def evaluate(self, num_episodes: int, seed: int, run: int) -> Scorecard:
        """Play greedy episodes with a run's current policies."""
        self._supervisor.resolve_all(EVALUATOR)  # it plays one evaluation at a time
        weights = self.weights(run)
        answer: tuple[int, Scorecard, FloatArray] = self._call_with_retry(
            EVALUATOR,
            lambda: self._processes.evaluator.evaluate.remote(weights, num_episodes, seed),
            self._evaluation_timeout_s(num_episodes),
        )
        return answer[1]

    def close(self) -> None:
        """End all actors, and the cluster if this run started it."""
        self._supervisor.discard_calls()
        if self._owns_connection:
            disconnect()  # which ends the actors
        else:
            self._processes.end_all()

    # State

    def _can_answer(self, process: str) -> bool:
        """Whether a call may still be answered: a process lost after the run has failed is not replaced."""
        return not self._supervisor.aborted or self._supervisor.is_ready(process)

    def _evaluation_pending(self, run: int) -> bool:
        """Whether an evaluation that was due is not in the run's table yet."""
        in_flight = self._supervisor.num_pending(EVALUATOR) > 0
        return in_flight or self._evaluation_missed or bool(self._evaluations[run])

    def _learner_states(self, run: int) -> tuple[Arrays, npt.NDArray[np.uint64]]:
        """Return the learner's state and that of the generator of its minibatches."""
        fresh_generator = pack_generator(generator(self._seeds[run], "replay", self.pacer.env_steps))
        if not self._can_answer(LEARNER) and self._supervisor.snapshots:
            return self._supervisor.snapshots[run], fresh_generator
        learner = self._call_with_retry(LEARNER, lambda: self._processes.learner.get_state.remote(run))
        if not self._can_answer(REPLAY):  # it holds the generator where memory is not shared
            return learner, fresh_generator
        sampling = self._call_with_retry(LEARNER, lambda: self._processes.learner.generator_state.remote(run))
        return learner, sampling

    def _stored_rows(self, run: int) -> StoredTransitions | None:
        """Take a snapshot of a run's replay buffer; its rows are read in chunks, on demand."""
        if not self._can_answer(REPLAY):
            return self._supervisor.rows_at_hand(run)
        replay = self._processes.replay
        number, inserted, num_rows = self._call_with_retry(
            REPLAY, lambda: self._processes.replay.begin_snapshot.remote(run)
        )

        def chunks() -> Iterator[FloatArray]:
            while ray.is_initialized():  # otherwise the call would start a new cluster
                rows = self._wait_for_result(
                    REPLAY, replay.read_snapshot.remote(run, number, self._chunk_rows)
                )
                if len(rows) == 0:
                    return
                yield rows
            raise TrainingError("the run ended before its transitions were read")

        return StoredTransitions(inserted, num_rows, chunks())

    def _worker_states(self, run: int) -> dict[str, Arrays]:
        """Return the states of the running workers by "worker_<index>"."""
        states: dict[str, Arrays] = {}
        waiting: set[int] = set()
        for index, (process, worker) in enumerate(zip(self._workers, self._processes.workers, strict=True)):
            if not self._config.sync and not self._supervisor.is_ready(process):
                continue
            waiting.add(index)

            def keep(state: Arrays, index: int = index) -> None:
                states[f"worker_{index}"] = state
                waiting.discard(index)

            def skip(index: int = index) -> None:
                waiting.discard(index)

            self._supervisor.watch(worker.get_state.remote(run), process, keep, skip)
        while waiting:
            self._step()
        return {name: states[name] for name in sorted(states)}

    def _restore_workers(self, run: int, stages: Arrays) -> None:
        """Send the workers their states and the weights; asynchronously some may not be scheduled yet."""
        incarnation = int(checked_array(stages, "pacing/counts", (None,), np.int64)[0]) + 1
        for index, (process, worker) in enumerate(zip(self._workers, self._processes.workers, strict=True)):
            own = state_part(stages, f"worker_{index}")
            restored = (
                worker.set_state.remote(own, run) if own else worker.restart_episodes.remote(run, incarnation)
            )

            def log_line(line: str | None, process: str = process) -> None:
                if line:
                    _LOG.warning("%s %s", process, line)

            calls: tuple[ray.ObjectRef[Any], ...] = (restored, worker.refresh_weights.remote())
            for call in calls:
                if self._config.sync:
                    log_line(self._wait_for_result(process, call))
                else:
                    self._supervisor.watch(call, process, log_line, timeout_s=math.inf, is_work=False)
        while not self._config.sync and not self._supervisor.has_enough_workers:
            self._supervisor.poll(_POLL_S)
            self._supervisor.reconcile()

    def _on_learner_restored(self, updates: int) -> None:
        """Set the updates that a restored learner has made; the lost ones become due again."""
        self._supervisor.faults.counts["updates_lost"] += max(0, self.pacer.updates - updates)
        self.pacer.set_updates(updates)

    # Asynchronous

    def _step_async(self) -> None:
        all_were_ready = self._supervisor.all_ready
        self._supervisor.reconcile()
        self._dispatch()
        if all_were_ready:
            self._check_progress()
        self._supervisor.poll(_POLL_S)
        self._evaluate_if_due()

    def _dispatch(self) -> None:
        """Start every call that the pacing allows."""
        supervisor = self._supervisor
        if self._drained or supervisor.aborted:
            return
        may_learn = supervisor.is_available(LEARNER) and not supervisor.diverged
        while may_learn and supervisor.num_pending(LEARNER) < _CALLS_AHEAD:
            updates = min(self.pacer.updates_due(), self._updates_per_call)
            if updates == 0:
                break
            self._start_learning(updates)
        if not supervisor.is_available(REPLAY):
            return  # workers could not push
        for ahead in range(_CALLS_AHEAD):  # every worker's first call before any worker's second
            idle = [
                index
                for index, process in enumerate(self._workers)
                if supervisor.num_pending(process) == ahead and supervisor.is_available(process)
            ]
            for index, fragments in self._assign_fragments(idle).items():
                self._start_collecting(index, fragments)

    def _check_progress(self) -> None:
        """Raise TrainingError if all processes are ready and idle, because the run would never end."""
        supervisor = self._supervisor
        processes = (LEARNER, EVALUATOR, *self._workers)
        may_idle = self._drained or supervisor.aborted or supervisor.diverged or self.pacer.finished
        if supervisor.all_ready and not (may_idle or any(map(supervisor.num_pending, processes))):
            raise TrainingError(
                "pacing: nothing is running and nothing may start; this is a bug, please report"
            )

    def _assign_fragments(self, idle: list[int]) -> Counter[int]:
        """Assign the fragments that the pacing allows, one by one, to the workers with the fewest so far."""
        fragment = self._config.rollout.fragment_env_steps
        shares: Counter[int] = Counter()
        workers = sorted(idle, key=self._fragments_asked.__getitem__)
        while workers and self.pacer.may_collect(fragment):
            for index in workers:
                if self.pacer.may_collect(fragment):
                    self.pacer.collection_started(fragment)
                    shares[index] += 1
            workers = [index for index in workers if shares[index] < self._fragments_per_call[index]]
        return shares

    def _start_collecting(self, index: int, fragments: int) -> None:
        self._fragments_asked[index] += fragments
        env_steps = fragments * self._config.rollout.fragment_env_steps
        call = self._processes.workers[index].collect.remote(fragments, self.pacer.env_steps)

        def on_lost() -> None:  # some may be stored, but none was counted
            self.pacer.collection_failed(env_steps)
            self._supervisor.faults.counts["env_steps_lost"] += env_steps

        self._supervisor.watch(call, self._workers[index], self._on_collected, on_lost)

    def _on_collected(self, reports: list[RolloutReport]) -> None:
        report = reports[0]  # the counts are the same in all runs
        self.pacer.collection_done(report.env_steps)
        busy_s = report.busy_s * len(reports)
        fragments_per_s = report.env_steps / self._config.rollout.fragment_env_steps / busy_s
        self._fragments_per_call[report.worker] = fragments_per_call(fragments_per_s)
        for log, own in zip(self._logs, reports, strict=True):
            log.add_rollout(own, self._latest_version)
        for moments, own in zip(self._moments, reports, strict=False):  # none without env.normalise
            moments.add(own.moments)

    def _start_learning(self, updates: int) -> None:
        self.pacer.learning_started(updates)
        call = self._learn(updates, self.pacer.publish_due())
        self._supervisor.watch(call, LEARNER, self._on_learned, lambda: self.pacer.learning_failed(updates))

    def _learn(self, updates: int, publish: bool) -> ray.ObjectRef[LearnerReport]:
        """Call the learner, which first gets what to normalise by, where the run does."""
        learner = self._processes.learner
        if self._moments:
            learner.normalise_by.remote(self._normalisers())
        return learner.learn.remote(updates, publish)

    def _normalisers(self) -> list[FloatArray]:
        """Return what each run normalises by; none without `env.normalise`."""
        return [moments.normaliser() for moments in self._moments]

    def _on_learned(self, report: LearnerReport) -> None:
        self.pacer.learning_done(report.updates)
        tolerance = self._config.pacing.tolerance_updates
        self._updates_per_call = updates_per_call(report, self._updates_per_call, tolerance)
        self._latest_version = report.weights_version
        self._supervisor.set_latest_version(report.weights_version)
        for log in self._logs:
            log.add_learner(report)

    def _evaluate_if_due(self) -> None:
        """Start an evaluation of the current weights, unless the previous one is still running."""
        if not (self.pacer.evaluation_due() or self._evaluation_missed):
            return
        if self._config.sync:
            self._supervisor.resolve_all(EVALUATOR)  # so that evaluations do not depend on speed
        if self._supervisor.num_pending(EVALUATOR) or not self._supervisor.is_available(EVALUATOR):
            return
        self._evaluation_missed = False
        episodes, env_steps = self._config.evaluation.episodes, self.pacer.env_steps
        for run, run_seed in enumerate(self._seeds):
            seed = integer_seed(run_seed, "evaluation", self.pacer.evaluation_number)
            weights = self._processes.learner.weights.remote(run)
            call = self._processes.evaluator.evaluate.remote(weights, episodes, seed)

            def finish(answer: tuple[int, Scorecard, FloatArray], run: int = run) -> None:
                self._evaluations[run].append(Evaluation(env_steps, *answer))

            timeout_s = self._supervisor.deadline_s(
                EVALUATOR, self._evaluation_timeout_s(episodes * (run + 1))
            )
            self._supervisor.watch(call, EVALUATOR, finish, self._retry_evaluation, timeout_s=timeout_s)

    def _retry_evaluation(self) -> None:
        self._evaluation_missed = True

    # Lock-step

    def _sync_round(self) -> None:
        """Collect one fragment per worker, store them in the workers' order, make the due updates."""
        workers = self._processes.workers
        if not self.pacer.collection_finished:
            env_steps = self.pacer.env_steps
            self._inconsistent = True
            self._get_from_workers(
                [worker.collect_and_hold.remote(env_steps) for worker in workers], self._on_held
            )
            for process, worker in zip(self._workers, workers, strict=True):
                self._wait_for_result(process, worker.push.remote())
            self._inconsistent = False
        updates = self.pacer.updates_due()
        if updates == 0:
            return
        self.pacer.learning_started(updates)
        publish = self.pacer.publish_due()
        self._on_learned(self._wait_for_result("learner", self._learn(updates, publish)))
        if publish:
            self._refresh_weights()

    def _refresh_weights(self) -> None:
        self._get_from_workers(
            [worker.refresh_weights.remote() for worker in self._processes.workers], lambda _: None
        )

    def _on_held(self, reports: list[RolloutReport]) -> None:
        self.pacer.collection_started(reports[0].env_steps)
        self._on_collected(reports)

    def _get_from_workers(self, calls: list[ray.ObjectRef[Any]], finish: Callable[[Any], None]) -> None:
        """Wait for one call of each worker, and handle the results in the workers' order."""
        for index, call in enumerate(calls):
            finish(self._wait_for_result(self._workers[index], call))

    # Waiting

    def _evaluation_timeout_s(self, num_episodes: int) -> float:
        """Return how long an evaluation may take: it grows with the number of episodes."""
        return self._config.ray.timeout_s * (1 + num_episodes / _EPISODES_PER_TIMEOUT)

    def _call_with_retry(
        self, process: str, call: Callable[[], ray.ObjectRef[T]], timeout_s: float = 0.0
    ) -> T:
        """Wait for a call's result while the run continues; retry it if the process is replaced."""
        answers: list[T] = []
        sent = failed = False

        def retry() -> None:
            nonlocal sent, failed
            sent, failed = False, True

        while not answers:
            if self._supervisor.aborted and (failed or not self._supervisor.is_ready(process)):
                raise TrainingError(f"{process} was lost")
            if not sent and (self._config.sync or self._supervisor.is_available(process)):
                sent = True
                self._supervisor.watch(call(), process, answers.append, retry, timeout_s=timeout_s)
            self._step()
        return answers[0]

    def _step(self) -> None:
        """Handle finished calls, and in asynchronous runs start new ones."""
        if self._config.sync:
            self._supervisor.poll(_POLL_S)
        else:
            self._step_async()

    def _wait_for_result(self, process: str, call: ray.ObjectRef[T]) -> T:
        return wait_for_result(process, call, self._config.ray.timeout_s)
