"""The driver: asks the Pacer, keeps every process busy, and notices when one fails or goes silent.

Two ways of going round: asynchronous, where workers and learner always have their next call waiting; and
lock-step (`sync=True`), where all collect, push in order, learn and refresh, so that a run is reproducible.
The driver sees counts, reports and references; no transition passes through it.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import ray

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import EnvFactory
from distributed_maddpg.errors import TrainingError
from distributed_maddpg.evaluation.scorecard import Evaluation, Scorecard
from distributed_maddpg.metrics import IterationLog
from distributed_maddpg.pacing import Pacer
from distributed_maddpg.runtime.calls import ask
from distributed_maddpg.runtime.cluster import check_can_be_sent, connect, disconnect, start_processes
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
"""Calls a process may have waiting, so that it never idles while the driver thinks."""
_MAX_FRAGMENTS_PER_CALL = 16
_CALL_S = 0.5
"""Length of a worker's call that is aimed at: a slow environment is asked for fewer fragments at a time."""
_POLL_S = 0.5
_EPISODES_PER_TIMEOUT = 100
_CHUNK_BYTES = 8 * 2**20


class RayRunner:
    """Runs the stages in Ray processes."""

    def __init__(
        self,
        configs: Sequence[MADDPGConfig],
        spec: EnvSpec,
        on_event: Callable[[FaultEvent], None] = lambda _: None,
        env_factory: EnvFactory | None = None,
    ) -> None:
        """Start all processes of one run or more; whichever is ready first need not wait for the others.

        Args:
            configs: one per run.
            spec: of the environment.
            on_event: called with each loss and each recovery when it happens.
            env_factory: makes the environment, where it was given as a callable.
        """
        config = configs[0]
        if env_factory is not None:
            check_can_be_sent(env_factory)
        self._config, self._seeds = config, [own.seed for own in configs]
        self._chunk_rows = max(1, _CHUNK_BYTES // (4 * spec.transitions.width))
        self.pacer = Pacer(config.pacing)
        self._logs = [IterationLog(spec, config.num_workers) for _ in configs]
        self._fragments_per_call = [1] * config.num_workers
        self._fragments_asked = [0] * config.num_workers
        self._evaluations: list[list[Evaluation]] = [[] for _ in configs]
        self._evaluation_missed = False
        self._drained = self._inconsistent = False
        self._latest_version = 0
        self._updates_per_call = max(1, config.pacing.tolerance_updates // 4)
        self._disconnect = connect(config)
        try:
            self._processes = start_processes(configs, spec, env_factory)
            losses = RecoveryCallbacks(
                self._on_learner_restored, self.pacer.restart_warmup, lambda: self.pacer.env_steps, on_event
            )
            self._supervisor = Supervisor(configs, spec, self._processes, losses)
        except BaseException:
            self._leave()
            raise
        self._workers = self._supervisor.workers

    @property
    def device(self) -> str:
        """Where the learner runs."""
        return self._device()[0]

    @property
    def device_reason(self) -> str:
        """Which setting led there, and the rates of both devices where both were tried."""
        return self._device()[1]

    def _device(self) -> tuple[str, str]:
        device: tuple[str, str] = self._ask("learner", self._processes.learner.device.remote())
        return device

    def run(self, stop: Callable[[], bool]) -> bool:
        """Train until a report is due or `stop()` says so; return whether one is due.

        Raises:
            TrainingError: in lock-step if a process fails, dies or does not answer in time; otherwise if that
                happens again and again.
        """
        self._drained, due = False, False
        while not (due or stop() or self.pacer.finished):
            if self._config.sync:
                self._sync_round()
                self._evaluate_if_due()
            else:
                self._step_async()
            due = self.pacer.report_due()
        return due or self.pacer.finished

    def results(self) -> list[dict[str, Any]]:
        """Return what happened in each run in the iteration so far.

        The learner answers when it is through with the calls before; meanwhile everything else goes on.
        """
        stored = self._wait_for(REPLAY, lambda: self._processes.replay.size.remote())
        metrics = self._wait_for(LEARNER, lambda: self._processes.learner.metrics.remote())
        counters = {
            "num_env_steps_sampled_lifetime": self.pacer.env_steps,
            "num_updates_lifetime": self.pacer.updates,
            "weights_seq_no": self._latest_version,
            "replay_buffer": {"num_env_steps_stored": stored},
            "fault_tolerance": {
                "num_healthy_workers": self._supervisor.healthy_workers,
                **self._supervisor.faults.counts,
            },
        }
        return [log.result(counters, own) for log, own in zip(self._logs, metrics, strict=True)]

    def next_iteration(self) -> None:
        """Start anew what is counted per iteration."""
        self._wait_for(LEARNER, lambda: self._processes.learner.next_iteration.remote())
        for log in self._logs:
            log.next_iteration()

    def pop_evaluations(self, run: int) -> list[Evaluation]:
        """Return a run's evaluations since the last call; in lock-step and at the end, await all."""
        if self._config.sync or self.pacer.finished:
            self._supervisor.resolve_all(EVALUATOR)
        evaluations, self._evaluations[run] = self._evaluations[run], []
        return evaluations

    def weights(self, run: int) -> Weights:
        """Return a run's policies as the learner has them now."""
        weights: Weights = self._wait_for(LEARNER, lambda: self._processes.learner.weights.remote(run))
        return weights

    def learner_state(self, run: int) -> Arrays:
        """Return the learner's state of a run, when it is through with the calls before."""
        self._supervisor.resolve_all(LEARNER)
        return self._wait_for(LEARNER, lambda: self._processes.learner.get_state.remote(run))

    def drain(self) -> None:
        """Wait until nothing is under way, so that counts, transitions and weights are of one moment."""
        self._drained = True
        while any(map(self._supervisor.is_pending, (LEARNER, *self._workers))):
            self._step()

    def capture(self, run: int, with_replay: bool) -> RunState:
        """Return the state of a run; training goes on meanwhile, and while its transitions are read.

        Unless it was settled before, each process answers at a moment of its own. So the transitions are at
        least those that the counts tell of, and the updates are the learner's own count.

        Raises:
            TrainingError: if lock-step failed in the middle of collecting, or somebody needed is gone.
        """
        if self._inconsistent:
            raise TrainingError("it failed in the middle of collecting, and that cannot be continued")
        env_steps = self.pacer.env_steps
        replay = self._stored_rows(run) if with_replay and self._can_answer(REPLAY) else None
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
        return RunState(env_steps, updates, join_states(stages), replay)

    def restore(self, run: int, state: RunState) -> None:
        """Go on from what `capture` returned."""
        stages, learner, replay = state.stages, self._processes.learner, self._processes.replay
        self._ask(LEARNER, learner.set_state.remote(state_part(stages, "learner"), run))
        sampling = checked_array(stages, "replay/generator", (6,), np.uint64)
        self._ask(LEARNER, learner.set_generator_state.remote(run, sampling))
        self._restore_workers(run, stages)
        self._latest_version = int(checked_array(stages, "learner/weights_version", (), np.int64))
        self._supervisor.set_latest_version(self._latest_version)
        self._logs[run].set_state(state_part(stages, "log"))
        self._evaluation_missed |= bool(state_part(stages, "evaluation").get("missed", False))
        self.pacer.set_state(state_part(stages, "pacing"))
        if state.replay is not None:
            capacity = self._config.replay.capacity
            self._ask(REPLAY, replay.restart.remote(run, state.replay.first_row_number(capacity)))
            for rows in state.replay.chunks:
                self._ask(REPLAY, replay.refill.remote(run, rows[-capacity:]))
        if self._ask(REPLAY, replay.size.remote()) == 0:
            self.pacer.restart_warmup()

    def evaluate(self, num_episodes: int, seed: int, run: int) -> Scorecard:
        """Play greedy episodes with the learner's policies of a run."""
        self._supervisor.resolve_all(EVALUATOR)  # it takes one at a time
        weights = self.weights(run)
        answer: tuple[int, Scorecard] = self._wait_for(
            EVALUATOR,
            lambda: self._processes.evaluator.evaluate.remote(weights, num_episodes, seed),
            self._evaluation_timeout_s(num_episodes),
        )
        return answer[1]

    def close(self) -> None:
        """End all processes, and the cluster if this run started it."""
        self._supervisor.discard_calls()
        if not self._disconnect:  # otherwise all end with the connection
            self._processes.kill()
        self._leave()

    def _leave(self) -> None:
        if self._disconnect:
            disconnect()

    # State

    def _can_answer(self, process: str) -> bool:
        """Whether an answer may be awaited: not of one who is gone when the run has failed."""
        return not self._supervisor.aborted or self._supervisor.ready(process)

    def _evaluation_pending(self, run: int) -> bool:
        """Whether an evaluation that was due is not in the run's table yet."""
        under_way = self._supervisor.num_pending(EVALUATOR) > 0
        return under_way or self._evaluation_missed or bool(self._evaluations[run])

    def _learner_states(self, run: int) -> tuple[Arrays, npt.NDArray[np.uint64]]:
        """Return the learner's state and that of the generator of its minibatches."""
        drawn_anew = pack_generator(generator(self._seeds[run], "replay", self.pacer.env_steps))
        if not self._can_answer(LEARNER) and self._supervisor.snapshots:
            return self._supervisor.snapshots[run], drawn_anew
        learner = self._wait_for(LEARNER, lambda: self._processes.learner.get_state.remote(run))
        if not self._can_answer(REPLAY):  # which has the generator where memory is not shared
            return learner, drawn_anew
        sampling = self._wait_for(LEARNER, lambda: self._processes.learner.generator_state.remote(run))
        return learner, sampling

    def _stored_rows(self, run: int) -> StoredTransitions:
        """Fix what a run's replay buffer holds now, and return the way to read it piece by piece."""
        replay = self._processes.replay
        number, inserted, num_rows = self._wait_for(
            REPLAY, lambda: self._processes.replay.begin_snapshot.remote(run)
        )

        def chunks() -> Iterator[FloatArray]:
            while ray.is_initialized():  # a call would start a cluster anew
                rows = self._ask(REPLAY, replay.read_snapshot.remote(run, number, self._chunk_rows))
                if len(rows) == 0:
                    return
                yield rows
            raise TrainingError("the run ended before its transitions were read")

        return StoredTransitions(inserted, num_rows, chunks())

    def _worker_states(self, run: int) -> dict[str, Arrays]:
        """Return the states of the workers that are there, under their places' names."""
        states: dict[str, Arrays] = {}
        waiting: set[int] = set()
        for index, (process, worker) in enumerate(zip(self._workers, self._processes.workers, strict=True)):
            if not self._config.sync and not self._supervisor.ready(process):
                continue
            waiting.add(index)

            def keep(state: Arrays, index: int = index) -> None:
                states[f"worker_{index}"] = state
                waiting.discard(index)

            def without(index: int = index) -> None:
                waiting.discard(index)

            self._supervisor.watch(worker.get_state.remote(run), process, keep, without)
        while waiting:
            self._step()
        return {name: states[name] for name in sorted(states)}

    def _restore_workers(self, run: int, stages: Arrays) -> None:
        """Send the workers their states and the weights; in asynchronous mode some may find no place yet."""
        incarnation = int(checked_array(stages, "pacing/counts", (None,), np.int64)[0]) + 1
        for index, (process, worker) in enumerate(zip(self._workers, self._processes.workers, strict=True)):
            own = state_part(stages, f"worker_{index}")
            restored = (
                worker.set_state.remote(own, run) if own else worker.restart_episodes.remote(run, incarnation)
            )

            def say(line: str | None, process: str = process) -> None:
                if line:
                    _LOG.warning("%s %s", process, line)

            calls: tuple[ray.ObjectRef[Any], ...] = (restored, worker.refresh_weights.remote())
            for call in calls:
                if self._config.sync:
                    say(self._ask(process, call))
                else:
                    self._supervisor.watch(call, process, say, timeout_s=math.inf, is_work=False)
        while not self._config.sync and not self._supervisor.has_enough_workers:
            self._supervisor.poll(_POLL_S)
            self._supervisor.reconcile()

    def _on_learner_restored(self, updates: int) -> None:
        """Go on from the updates that a restored learner has made; the lost ones fall due again."""
        self._supervisor.faults.counts["updates_lost"] += max(0, self.pacer.updates - updates)
        self.pacer.set_updates(updates)

    # Asynchronous

    def _step_async(self) -> None:
        """Go round once."""
        might_start = self._supervisor.all_ready
        self._supervisor.reconcile()
        self._dispatch()
        if might_start:
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
            return  # there is nobody to push to
        for ahead in range(_CALLS_AHEAD):  # every worker's first call before anyone's second
            idle = [
                index
                for index, process in enumerate(self._workers)
                if supervisor.num_pending(process) == ahead and supervisor.is_available(process)
            ]
            for index, fragments in self._assign_fragments(idle).items():
                self._start_collecting(index, fragments)

    def _check_progress(self) -> None:
        """Complain if everybody is there and nobody has anything to do: waiting would be for ever."""
        supervisor = self._supervisor
        everybody = (LEARNER, EVALUATOR, *self._workers)
        may_rest = self._drained or supervisor.aborted or supervisor.diverged or self.pacer.finished
        if supervisor.all_ready and not (may_rest or any(map(supervisor.num_pending, everybody))):
            raise TrainingError(
                "pacing: nothing is running and nothing may start; this is a bug, please report"
            )

    def _assign_fragments(self, idle: list[int]) -> Counter[int]:
        """Deal out the fragments that the pacing allows, one by one, to who was asked for the fewest."""
        fragment = self._config.rollout.fragment_env_steps
        shares: Counter[int] = Counter()
        players = sorted(idle, key=self._fragments_asked.__getitem__)
        while players and self.pacer.may_collect(fragment):
            for index in players:
                if self.pacer.may_collect(fragment):
                    self.pacer.collection_started(fragment)
                    shares[index] += 1
            players = [index for index in players if shares[index] < self._fragments_per_call[index]]
        return shares

    def _start_collecting(self, index: int, fragments: int) -> None:
        self._fragments_asked[index] += fragments
        env_steps = fragments * self._config.rollout.fragment_env_steps
        call = self._processes.workers[index].collect.remote(fragments, self.pacer.env_steps)

        def lost() -> None:  # it may have stored some of them, but nobody counted
            self.pacer.collection_failed(env_steps)
            self._supervisor.faults.counts["env_steps_lost"] += env_steps

        self._supervisor.watch(call, self._workers[index], self._on_collected, lost)

    def _on_collected(self, reports: list[RolloutReport]) -> None:
        report = reports[0]  # the counts are the same in all runs
        self.pacer.collection_done(report.env_steps)
        busy_s = report.busy_s * len(reports)
        fragments_per_s = report.env_steps / self._config.rollout.fragment_env_steps / busy_s
        self._fragments_per_call[report.worker] = min(
            max(1, int(_CALL_S * fragments_per_s)), _MAX_FRAGMENTS_PER_CALL
        )
        for log, own in zip(self._logs, reports, strict=True):
            log.add_rollout(own, self._latest_version)

    def _start_learning(self, updates: int) -> None:
        self.pacer.learning_started(updates)
        call = self._processes.learner.learn.remote(updates, self.pacer.publish_due())
        self._supervisor.watch(call, LEARNER, self._on_learned, lambda: self.pacer.learning_failed(updates))

    def _on_learned(self, report: LearnerReport) -> None:
        self.pacer.learning_done(report.updates)
        self._latest_version = report.weights_version
        self._supervisor.set_latest_version(report.weights_version)
        for log in self._logs:
            log.add_learner(report)

    def _evaluate_if_due(self) -> None:
        """Evaluate the weights of this moment in the evaluator's process, unless it is still at the last."""
        if not (self.pacer.evaluation_due() or self._evaluation_missed):
            return
        if self._config.sync:
            self._supervisor.resolve_all(EVALUATOR)  # which evaluations are made must not depend on speed
        if self._supervisor.num_pending(EVALUATOR) or not self._supervisor.is_available(EVALUATOR):
            return
        self._evaluation_missed = False
        episodes, env_steps = self._config.evaluation.episodes, self.pacer.env_steps
        for run, run_seed in enumerate(self._seeds):
            seed = integer_seed(run_seed, "evaluation", self.pacer.evaluation_number)
            weights = self._processes.learner.weights.remote(run)
            call = self._processes.evaluator.evaluate.remote(weights, episodes, seed)

            def finish(answer: tuple[int, Scorecard], run: int = run) -> None:
                self._evaluations[run].append(Evaluation(env_steps, *answer))

            patience_s = self._supervisor.deadline_s(
                EVALUATOR, self._evaluation_timeout_s(episodes * (run + 1))
            )
            self._supervisor.watch(call, EVALUATOR, finish, self._retry_evaluation, timeout_s=patience_s)

    def _retry_evaluation(self) -> None:
        self._evaluation_missed = True

    # Lock-step

    def _sync_round(self) -> None:
        """Collect one fragment per worker, store them in the workers' order, make the updates due."""
        workers = self._processes.workers
        if not self.pacer.collection_finished:
            env_steps = self.pacer.env_steps
            self._inconsistent = True
            self._get_from_workers(
                [worker.collect_and_hold.remote(env_steps) for worker in workers], self._held
            )
            for worker in workers:
                self._ask("replay buffer", worker.push.remote())
            self._inconsistent = False
        updates = self.pacer.updates_due()
        if updates == 0:
            return
        self.pacer.learning_started(updates)
        publish = self.pacer.publish_due()
        self._on_learned(self._ask("learner", self._processes.learner.learn.remote(updates, publish)))
        if publish:
            self._refresh_weights()

    def _refresh_weights(self) -> None:
        self._get_from_workers(
            [worker.refresh_weights.remote() for worker in self._processes.workers], lambda _: None
        )

    def _held(self, reports: list[RolloutReport]) -> None:
        self.pacer.collection_started(reports[0].env_steps)
        self._on_collected(reports)

    def _get_from_workers(self, calls: list[ray.ObjectRef[Any]], finish: Callable[[Any], None]) -> None:
        """Wait for one answer of each worker, and take them in the workers' order."""
        for index, call in enumerate(calls):
            finish(self._ask(self._workers[index], call))

    # Waiting

    def _evaluation_timeout_s(self, num_episodes: int) -> float:
        """Return how long an evaluation may take; many episodes of a slow environment are no fault."""
        return self._config.ray.timeout_s * (1 + num_episodes / _EPISODES_PER_TIMEOUT)

    def _wait_for(self, process: str, call: Callable[[], ray.ObjectRef[T]], timeout_s: float = 0.0) -> T:
        """Wait for an answer without letting anyone stand idle for it; ask a successor if there is need."""
        answers: list[T] = []
        asked = failed = False

        def again() -> None:
            nonlocal asked, failed
            asked, failed = False, True

        while not answers:
            if self._supervisor.aborted and (failed or not self._supervisor.ready(process)):
                raise TrainingError(f"{process} was lost")
            if not asked and (self._config.sync or self._supervisor.is_available(process)):
                asked = True
                self._supervisor.watch(call(), process, answers.append, again, timeout_s=timeout_s)
            self._step()
        return answers[0]

    def _step(self) -> None:
        """Let things move on while an answer is awaited."""
        if self._config.sync:
            self._supervisor.poll(_POLL_S)
        else:
            self._step_async()

    def _ask(self, process: str, call: ray.ObjectRef[T]) -> T:
        return ask(process, call, self._config.ray.timeout_s)
