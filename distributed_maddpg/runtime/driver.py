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
from distributed_maddpg.errors import TrainingError
from distributed_maddpg.evaluation.scorecard import Evaluation, Scorecard
from distributed_maddpg.metrics import IterationLog
from distributed_maddpg.pacing import Pacer
from distributed_maddpg.runtime.calls import ask
from distributed_maddpg.runtime.cluster import connect, disconnect, start_processes
from distributed_maddpg.runtime.supervisor import EVALUATOR, LEARNER, REPLAY, Losses, Supervisor
from distributed_maddpg.seeding import generator, integer_seed, pack_generator
from distributed_maddpg.types import (
    Arrays,
    EnvSpec,
    FaultEvent,
    FloatArray,
    LearnerReport,
    RolloutReport,
    RunState,
    StoredRows,
    Weights,
    join_states,
    state_part,
    taken,
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


class RayRoot:
    """Runs the stages in Ray processes."""

    def __init__(
        self,
        configs: Sequence[MADDPGConfig],
        spec: EnvSpec,
        tell: Callable[[FaultEvent], None] = lambda _: None,
    ) -> None:
        """Start all processes of one run or more; whichever is ready first need not wait for the others.

        Args:
            configs: one per run.
            spec: of the environment.
            tell: hears of each loss and each recovery when it happens.
        """
        config = configs[0]
        self._config, self._seeds = config, [own.seed for own in configs]
        self._chunk_rows = max(1, _CHUNK_BYTES // (4 * spec.transitions.width))
        self.pacer = Pacer(config.pacing)
        self._logs = [IterationLog(spec, config.num_workers) for _ in configs]
        self._fragments_per_call = [1] * config.num_workers
        self._fragments_asked = [0] * config.num_workers
        self._evaluations: list[list[Evaluation]] = [[] for _ in configs]
        self._evaluation_missed = False
        self._settled = self._torn = False
        self._latest_version = 0
        self._updates_per_call = max(1, config.pacing.tolerance_updates // 4)
        self._disconnect = connect(config)
        try:
            self._processes = start_processes(configs, spec)
            losses = Losses(self._learner_back, self.pacer.refill, lambda: self.pacer.env_steps, tell)
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
        self._settled, due = False, False
        while not (due or stop() or self.pacer.finished):
            if self._config.sync:
                self._round()
                self._evaluate_if_due()
            else:
                self._advance()
            due = self.pacer.report_due()
        return due or self.pacer.finished

    def results(self) -> list[dict[str, Any]]:
        """Return what happened in each run in the iteration so far.

        The learner answers when it is through with the calls before; meanwhile everything else goes on.
        """
        stored = self._meanwhile(REPLAY, lambda: self._processes.replay.size.remote())
        metrics = self._meanwhile(LEARNER, lambda: self._processes.learner.metrics.remote())
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
        self._meanwhile(LEARNER, lambda: self._processes.learner.next_iteration.remote())
        for log in self._logs:
            log.next_iteration()

    def take_evaluations(self, run: int) -> list[Evaluation]:
        """Return a run's evaluations since the last call; in lock-step and at the end, await all."""
        if self._config.sync or self.pacer.finished:
            self._supervisor.take_all(EVALUATOR)
        taken, self._evaluations[run] = self._evaluations[run], []
        return taken

    def weights(self, run: int) -> Weights:
        """Return a run's policies as the learner has them now."""
        weights: Weights = self._meanwhile(LEARNER, lambda: self._processes.learner.weights.remote(run))
        return weights

    def learner_state(self, run: int) -> Arrays:
        """Return the learner's state of a run, when it is through with the calls before."""
        self._supervisor.take_all(LEARNER)
        return self._meanwhile(LEARNER, lambda: self._processes.learner.get_state.remote(run))

    def settle(self) -> None:
        """Wait until nothing is under way, so that counts, transitions and weights are of one moment."""
        self._settled = True
        while any(map(self._supervisor.awaited, (LEARNER, *self._workers))):
            self._step()

    def capture(self, run: int, with_replay: bool) -> RunState:
        """Return the state of a run; training goes on meanwhile, and while its transitions are read.

        Unless it was settled before, each process answers at a moment of its own. So the transitions are at
        least those that the counts tell of, and the updates are the learner's own count.

        Raises:
            TrainingError: if lock-step failed in the middle of collecting, or somebody needed is gone.
        """
        if self._torn:
            raise TrainingError("it failed in the middle of collecting, and that cannot be continued")
        env_steps = self.pacer.env_steps
        replay = self._stored_rows(run) if with_replay and self._may_still_ask(REPLAY) else None
        learner, sampling = self._learner_states(run)
        updates = int(learner["updates"])
        stages = {
            "pacing": self.pacer.get_state(env_steps, updates),
            "learner": learner,
            "replay": {"generator": sampling},
            "log": self._logs[run].get_state(),
            "evaluation": {"missed": np.array(self._evaluation_lacks(run))},
            **self._worker_states(run),
        }
        return RunState(env_steps, updates, join_states(stages), replay)

    def restore(self, run: int, state: RunState) -> None:
        """Go on from what `capture` returned."""
        stages, learner, replay = state.stages, self._processes.learner, self._processes.replay
        self._ask(LEARNER, learner.set_state.remote(state_part(stages, "learner"), run))
        sampling = taken(stages, "replay/generator", (6,), np.uint64)
        self._ask(LEARNER, learner.set_generator_state.remote(run, sampling))
        self._restore_workers(run, stages)
        self._latest_version = int(taken(stages, "learner/weights_version", (), np.int64))
        self._supervisor.note_version(self._latest_version)
        self._logs[run].set_state(state_part(stages, "log"))
        self._evaluation_missed |= bool(state_part(stages, "evaluation").get("missed", False))
        self.pacer.set_state(state_part(stages, "pacing"))
        if state.replay is not None:
            capacity = self._config.replay.capacity
            self._ask(REPLAY, replay.restart.remote(run, state.replay.first_number(capacity)))
            for rows in state.replay.chunks:
                self._ask(REPLAY, replay.refill.remote(run, rows[-capacity:]))
        if self._ask(REPLAY, replay.size.remote()) == 0:
            self.pacer.refill()

    def evaluate(self, num_episodes: int, seed: int, run: int) -> Scorecard:
        """Play greedy episodes with the learner's policies of a run."""
        self._supervisor.take_all(EVALUATOR)  # it takes one at a time
        weights = self.weights(run)
        answer: tuple[int, Scorecard] = self._meanwhile(
            EVALUATOR,
            lambda: self._processes.evaluator.evaluate.remote(weights, num_episodes, seed),
            self._patience(num_episodes),
        )
        return answer[1]

    def close(self) -> None:
        """End all processes, and the cluster if this run started it."""
        self._supervisor.forget_all()
        if not self._disconnect:  # otherwise all end with the connection
            self._processes.kill()
        self._leave()

    def _leave(self) -> None:
        if self._disconnect:
            disconnect()

    # State

    def _may_still_ask(self, who: str) -> bool:
        """Whether an answer may be awaited: not of one who is gone when the run has failed."""
        return not self._supervisor.given_up or self._supervisor.ready(who)

    def _evaluation_lacks(self, run: int) -> bool:
        """Whether an evaluation that was due is not in the run's table yet."""
        under_way = self._supervisor.waiting(EVALUATOR) > 0
        return under_way or self._evaluation_missed or bool(self._evaluations[run])

    def _learner_states(self, run: int) -> tuple[Arrays, npt.NDArray[np.uint64]]:
        """Return the learner's state and that of the generator of its minibatches."""
        drawn_anew = pack_generator(generator(self._seeds[run], "replay", self.pacer.env_steps))
        if not self._may_still_ask(LEARNER) and self._supervisor.snapshots:
            return self._supervisor.snapshots[run], drawn_anew
        learner = self._meanwhile(LEARNER, lambda: self._processes.learner.get_state.remote(run))
        if not self._may_still_ask(REPLAY):  # which has the generator where memory is not shared
            return learner, drawn_anew
        sampling = self._meanwhile(LEARNER, lambda: self._processes.learner.generator_state.remote(run))
        return learner, sampling

    def _stored_rows(self, run: int) -> StoredRows:
        """Fix what a run's replay buffer holds now, and return the way to read it piece by piece."""
        replay = self._processes.replay
        number, inserted, num_rows = self._meanwhile(
            REPLAY, lambda: self._processes.replay.begin_snapshot.remote(run)
        )

        def chunks() -> Iterator[FloatArray]:
            while ray.is_initialized():  # a call would start a cluster anew
                rows = self._ask(REPLAY, replay.read_snapshot.remote(run, number, self._chunk_rows))
                if len(rows) == 0:
                    return
                yield rows
            raise TrainingError("the run ended before its transitions were read")

        return StoredRows(inserted, num_rows, chunks())

    def _worker_states(self, run: int) -> dict[str, Arrays]:
        """Return the states of the workers that are there, under their places' names."""
        states: dict[str, Arrays] = {}
        waiting: set[int] = set()
        for index, (who, worker) in enumerate(zip(self._workers, self._processes.workers, strict=True)):
            if not self._config.sync and not self._supervisor.ready(who):
                continue
            waiting.add(index)

            def keep(state: Arrays, index: int = index) -> None:
                states[f"worker_{index}"] = state
                waiting.discard(index)

            def without(index: int = index) -> None:
                waiting.discard(index)

            self._supervisor.watch(worker.get_state.remote(run), who, keep, without)
        while waiting:
            self._step()
        return {name: states[name] for name in sorted(states)}

    def _restore_workers(self, run: int, stages: Arrays) -> None:
        """Send the workers their states and the weights; in asynchronous mode some may find no place yet."""
        life = int(taken(stages, "pacing/counts", (None,), np.int64)[0]) + 1
        for index, (who, worker) in enumerate(zip(self._workers, self._processes.workers, strict=True)):
            own = state_part(stages, f"worker_{index}")
            restored = worker.set_state.remote(own, run) if own else worker.begin_anew.remote(run, life)

            def say(line: str | None, who: str = who) -> None:
                if line:
                    _LOG.warning("%s %s", who, line)

            calls: tuple[ray.ObjectRef[Any], ...] = (restored, worker.refresh_weights.remote())
            for call in calls:
                if self._config.sync:
                    say(self._ask(who, call))
                else:
                    self._supervisor.watch(call, who, say, timeout_s=math.inf, work=False)
        while not self._config.sync and not self._supervisor.enough_workers:
            self._supervisor.absorb(_POLL_S)
            self._supervisor.tend()

    def _learner_back(self, updates: int) -> None:
        """Go on from the updates that a restored learner has made; the lost ones fall due again."""
        self._supervisor.faults.counts["updates_lost"] += max(0, self.pacer.updates - updates)
        self.pacer.set_updates(updates)

    # Asynchronous

    def _advance(self) -> None:
        """Go round once."""
        might_start = self._supervisor.all_ready
        self._supervisor.tend()
        self._dispatch()
        if might_start:
            self._check_moving()
        self._supervisor.absorb(_POLL_S)
        self._evaluate_if_due()

    def _dispatch(self) -> None:
        """Start every call that the pacing allows."""
        supervisor = self._supervisor
        if self._settled or supervisor.given_up:
            return
        may_learn = supervisor.may_ask(LEARNER) and not supervisor.diverged
        while may_learn and supervisor.waiting(LEARNER) < _CALLS_AHEAD:
            updates = min(self.pacer.updates_due(), self._updates_per_call)
            if updates == 0:
                break
            self._start_learning(updates)
        if not supervisor.may_ask(REPLAY):
            return  # there is nobody to push to
        for ahead in range(_CALLS_AHEAD):  # every worker's first call before anyone's second
            idle = [
                index
                for index, who in enumerate(self._workers)
                if supervisor.waiting(who) == ahead and supervisor.may_ask(who)
            ]
            for index, fragments in self._deal(idle).items():
                self._start_collecting(index, fragments)

    def _check_moving(self) -> None:
        """Complain if everybody is there and nobody has anything to do: waiting would be for ever."""
        supervisor = self._supervisor
        everybody = (LEARNER, EVALUATOR, *self._workers)
        may_rest = self._settled or supervisor.given_up or supervisor.diverged or self.pacer.finished
        if supervisor.all_ready and not (may_rest or any(map(supervisor.waiting, everybody))):
            raise TrainingError(
                "pacing: nothing is running and nothing may start; this is a bug, please report"
            )

    def _deal(self, idle: list[int]) -> Counter[int]:
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

        self._supervisor.watch(call, self._workers[index], self._collected, lost)

    def _collected(self, reports: list[RolloutReport]) -> None:
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
        self._supervisor.watch(call, LEARNER, self._learnt, lambda: self.pacer.learning_failed(updates))

    def _learnt(self, report: LearnerReport) -> None:
        self.pacer.learning_done(report.updates)
        self._latest_version = report.weights_version
        self._supervisor.note_version(report.weights_version)
        for log in self._logs:
            log.add_learner(report)

    def _evaluate_if_due(self) -> None:
        """Evaluate the weights of this moment in the evaluator's process, unless it is still at the last."""
        if not (self.pacer.evaluation_due() or self._evaluation_missed):
            return
        if self._config.sync:
            self._supervisor.take_all(EVALUATOR)  # which evaluations are made must not depend on speed
        if self._supervisor.waiting(EVALUATOR) or not self._supervisor.may_ask(EVALUATOR):
            return
        self._evaluation_missed = False
        episodes, env_steps = self._config.evaluation.episodes, self.pacer.env_steps
        for run, run_seed in enumerate(self._seeds):
            seed = integer_seed(run_seed, "evaluation", self.pacer.evaluation_number)
            weights = self._processes.learner.weights.remote(run)
            call = self._processes.evaluator.evaluate.remote(weights, episodes, seed)

            def finish(answer: tuple[int, Scorecard], run: int = run) -> None:
                self._evaluations[run].append(Evaluation(env_steps, *answer))

            patience_s = self._supervisor.deadline_s(EVALUATOR, self._patience(episodes * (run + 1)))
            self._supervisor.watch(call, EVALUATOR, finish, self._evaluate_again, timeout_s=patience_s)

    def _evaluate_again(self) -> None:
        self._evaluation_missed = True

    # Lock-step

    def _round(self) -> None:
        """Collect one fragment per worker, store them in the workers' order, make the updates due."""
        workers = self._processes.workers
        if not self.pacer.collected:
            env_steps = self.pacer.env_steps
            self._torn = True
            self._ask_workers([worker.collect_and_hold.remote(env_steps) for worker in workers], self._held)
            for worker in workers:
                self._ask("replay buffer", worker.push.remote())
            self._torn = False
        updates = self.pacer.updates_due()
        if updates == 0:
            return
        self.pacer.learning_started(updates)
        publish = self.pacer.publish_due()
        self._learnt(self._ask("learner", self._processes.learner.learn.remote(updates, publish)))
        if publish:
            self._refresh_weights()

    def _refresh_weights(self) -> None:
        self._ask_workers(
            [worker.refresh_weights.remote() for worker in self._processes.workers], lambda _: None
        )

    def _held(self, reports: list[RolloutReport]) -> None:
        self.pacer.collection_started(reports[0].env_steps)
        self._collected(reports)

    def _ask_workers(self, calls: list[ray.ObjectRef[Any]], finish: Callable[[Any], None]) -> None:
        """Wait for one answer of each worker, and take them in the workers' order."""
        for index, call in enumerate(calls):
            finish(self._ask(self._workers[index], call))

    # Waiting

    def _patience(self, num_episodes: int) -> float:
        """Return how long an evaluation may take; many episodes of a slow environment are no fault."""
        return self._config.ray.timeout_s * (1 + num_episodes / _EPISODES_PER_TIMEOUT)

    def _meanwhile(self, who: str, call: Callable[[], ray.ObjectRef[T]], timeout_s: float = 0.0) -> T:
        """Wait for an answer without letting anyone stand idle for it; ask a successor if there is need."""
        answers: list[T] = []
        asked = failed = False

        def again() -> None:
            nonlocal asked, failed
            asked, failed = False, True

        while not answers:
            if self._supervisor.given_up and (failed or not self._supervisor.ready(who)):
                raise TrainingError(f"{who} was lost")
            if not asked and (self._config.sync or self._supervisor.may_ask(who)):
                asked = True
                self._supervisor.watch(call(), who, answers.append, again, timeout_s=timeout_s)
            self._step()
        return answers[0]

    def _step(self) -> None:
        """Let things move on while an answer is awaited."""
        if self._config.sync:
            self._supervisor.absorb(_POLL_S)
        else:
            self._advance()

    def _ask(self, who: str, call: ray.ObjectRef[T]) -> T:
        return ask(who, call, self._config.ray.timeout_s)
