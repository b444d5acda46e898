"""The driver: asks the Pacer, keeps every process busy, and notices when one fails or goes silent (floor F4).

Two ways of going round: asynchronous, where workers and learner always have their next call waiting; and
lock-step (`sync=True`), where all collect, push in order, learn and refresh, so that a run is reproducible.
The driver sees counts, reports and references; no transition passes through it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy.typing as npt
import ray

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import TrainingError
from distributed_maddpg.evaluation import Evaluation, Scorecard
from distributed_maddpg.metrics import IterationLog
from distributed_maddpg.pacing import Pacer
from distributed_maddpg.runtime.calls import ask, overdue
from distributed_maddpg.runtime.cluster import connect, disconnect, start_processes
from distributed_maddpg.seeding import integer_seed
from distributed_maddpg.types import EnvSpec, LearnerReport, RolloutReport, Weights

T = TypeVar("T")

_CALLS_AHEAD = 2
"""Calls a process may have waiting, so that it never idles while the driver thinks."""
_MAX_FRAGMENTS_PER_CALL = 16
_CALL_S = 0.5
"""Length of a worker's call that is aimed at: a slow environment is asked for fewer fragments at a time."""
_POLL_S = 0.5
_EPISODES_PER_TIMEOUT = 100


@dataclass(frozen=True)
class _Call:
    """A call under way: who was asked, until when it must answer, what to do with the answer."""

    who: str
    timeout_s: float
    deadline: float
    finish: Callable[[Any], None]


class RayRoot:
    """Runs the stages in Ray processes."""

    def __init__(self, configs: Sequence[MADDPGConfig], spec: EnvSpec) -> None:
        """Start all processes of one run or more; whichever is ready first need not wait for the others."""
        config = configs[0]
        self._config, self._seeds = config, [own.seed for own in configs]
        self.pacer = Pacer(config.pacing)
        self._logs = [IterationLog(spec, config.num_workers) for _ in configs]
        self._calls: dict[ray.ObjectRef[Any], _Call] = {}
        self._waiting: Counter[str] = Counter()
        self._workers = tuple(f"rollout worker {index}" for index in range(config.num_workers))
        self._fragments_per_call = [1] * config.num_workers
        self._fragments_asked = [0] * config.num_workers
        self._evaluations: list[list[Evaluation]] = [[] for _ in configs]
        self._evaluation_index = 0
        self._latest_version = 0
        self._updates_per_call = max(1, config.pacing.tolerance_updates // 4)
        self._disconnect = connect(config)
        try:
            self._processes = start_processes(configs, spec)
        except BaseException:
            self._leave()
            raise
        for who, call in zip(("learner", *self._workers), self._processes.connected, strict=True):
            self._watch(call, who, lambda _: None)

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

    def run(self, stop: Callable[[], bool]) -> None:
        """Train until a report is due or `stop()` says so.

        Raises:
            TrainingError: if a process fails, dies or does not answer in time.
        """
        while not (stop() or self.pacer.finished):
            if self._config.sync:
                self._round()
            else:
                self._dispatch()
                self._absorb(_POLL_S)
            self._evaluate_if_due()
            if self.pacer.report_due():
                return

    def take_results(self) -> list[dict[str, Any]]:
        """Return what happened in each run since the last call, and start anew.

        The learner answers when it is through with the calls before; meanwhile everything else goes on.
        """
        stored = self._meanwhile("replay buffer", self._processes.replay.size.remote())
        metrics = self._meanwhile("learner", self._processes.learner.take_metrics.remote())
        counters = {
            "num_env_steps_sampled_lifetime": self.pacer.env_steps,
            "num_updates_lifetime": self.pacer.updates,
            "weights_seq_no": self._latest_version,
            "replay_buffer": {"num_env_steps_stored": stored},
        }
        return [log.take(counters, own) for log, own in zip(self._logs, metrics, strict=True)]

    def take_evaluations(self, run: int) -> list[Evaluation]:
        """Return a run's evaluations since the last call; in lock-step and at the end, await all."""
        if self._config.sync or self.pacer.finished:
            self._await_evaluations()
        taken, self._evaluations[run] = self._evaluations[run], []
        return taken

    def weights(self, run: int) -> Weights:
        """Return a run's policies as the learner has them now."""
        weights: Weights = self._ask("learner", self._processes.learner.weights.remote(run))
        return weights

    def learner_state(self, run: int) -> dict[str, npt.NDArray[Any]]:
        """Return the learner's state of a run, when it is through with all calls, so that counts agree."""
        for call in [call for call, about in self._calls.items() if about.who == "learner"]:
            self._take(call)
        return self._ask("learner", self._processes.learner.get_state.remote(run))

    def resume(self, state: dict[str, npt.NDArray[Any]], env_steps: int, updates: int) -> None:
        """Continue from a learner's state and the counts of the only run."""
        self._latest_version = self._ask("learner", self._processes.learner.set_state.remote(state))
        self._refresh_weights()
        self.pacer.resume(env_steps, updates)

    def evaluate(self, num_episodes: int, seed: int, run: int) -> Scorecard:
        """Play greedy episodes with the learner's policies of a run."""
        weights = self._processes.learner.weights.remote(run)
        call = self._processes.evaluator.evaluate.remote(weights, num_episodes, seed)
        self._await_evaluations()  # the evaluator takes one at a time
        answer: tuple[int, Scorecard] = ask("evaluator", call, self._patience(num_episodes))
        return answer[1]

    def close(self) -> None:
        """End all processes, and the cluster if this run started it."""
        self._calls.clear()
        if not self._disconnect:  # otherwise all end with the connection
            self._processes.kill()
        self._leave()

    def _leave(self) -> None:
        if self._disconnect:
            disconnect()

    # Asynchronous

    def _dispatch(self) -> None:
        """Start every call that the pacing allows."""
        while self._waiting["learner"] < _CALLS_AHEAD:
            updates = min(self.pacer.updates_due(), self._updates_per_call)
            if updates == 0:
                break
            self._start_learning(updates)
        for ahead in range(_CALLS_AHEAD):  # every worker's first call before anyone's second
            idle = [index for index, who in enumerate(self._workers) if self._waiting[who] == ahead]
            for index, fragments in self._deal(idle).items():
                self._start_collecting(index, fragments)

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
        call = self._processes.workers[index].collect.remote(fragments, self.pacer.env_steps)
        self._watch(call, self._workers[index], self._collected)

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
        self._watch(call, "learner", self._learnt)

    def _learnt(self, report: LearnerReport) -> None:
        self.pacer.learning_done(report.updates)
        self._latest_version = report.weights_version
        for log in self._logs:
            log.add_learner(report)

    def _evaluate_if_due(self) -> None:
        """Evaluate the weights of this moment in the evaluator's process, unless it is still at the last."""
        if not self.pacer.evaluation_due():
            return
        if self._config.sync:
            self._await_evaluations()  # which evaluations are made must not depend on speed
        if self._waiting["evaluator"]:
            return
        self._evaluation_index += 1
        episodes, env_steps = self._config.evaluation.episodes, self.pacer.env_steps
        for run, run_seed in enumerate(self._seeds):
            seed = integer_seed(run_seed, "evaluation", self._evaluation_index)
            weights = self._processes.learner.weights.remote(run)
            call = self._processes.evaluator.evaluate.remote(weights, episodes, seed)

            def finish(answer: tuple[int, Scorecard], run: int = run) -> None:
                self._evaluations[run].append(Evaluation(env_steps, *answer))

            self._watch(call, "evaluator", finish, self._patience(episodes * (run + 1)))

    def _await_evaluations(self) -> None:
        for call in [call for call, about in self._calls.items() if about.who == "evaluator"]:
            self._take(call)

    # Lock-step

    def _round(self) -> None:
        """Collect one fragment per worker, store them in the workers' order, make the updates due."""
        workers = self._processes.workers
        if not self.pacer.collected:
            env_steps = self.pacer.env_steps
            self._ask_workers([worker.collect_and_hold.remote(env_steps) for worker in workers], self._held)
            for worker in workers:
                self._ask("replay buffer", worker.push.remote())
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

    def _watch(
        self, call: ray.ObjectRef[Any], who: str, finish: Callable[[Any], None], timeout_s: float = 0.0
    ) -> None:
        timeout_s = timeout_s or self._config.ray.timeout_s
        self._calls[call] = _Call(who, timeout_s, time.monotonic() + timeout_s, finish)
        self._waiting[who] += 1

    def _take(self, done: ray.ObjectRef[Any]) -> None:
        """Wait for one of the watched calls and act on its answer."""
        call = self._calls.pop(done)
        self._waiting[call.who] -= 1
        call.finish(ask(call.who, done, call.timeout_s))

    def _absorb(self, timeout_s: float) -> None:
        """Wait a moment for any answer, take all that are there, and complain of overdue ones."""
        if not self._calls:
            raise TrainingError(
                "pacing: nothing is running and nothing may start; this is a bug, please report"
            )
        first, rest = ray.wait(list(self._calls), num_returns=1, timeout=timeout_s)
        more = ray.wait(rest, num_returns=len(rest), timeout=0)[0] if first and rest else []
        for done in (*first, *more):
            self._take(done)
        now = time.monotonic()
        for call in self._calls.values():
            if now > call.deadline:
                raise overdue(call.who, call.timeout_s)

    def _meanwhile(self, who: str, call: ray.ObjectRef[T]) -> T:
        """Wait for an answer without letting anyone stand idle for it."""
        answers: list[T] = []
        self._watch(call, who, answers.append)
        while not answers:
            if not self._config.sync:
                self._dispatch()
            self._absorb(_POLL_S)
            self._evaluate_if_due()
        return answers[0]

    def _ask(self, who: str, call: ray.ObjectRef[T]) -> T:
        return ask(who, call, self._config.ray.timeout_s)
