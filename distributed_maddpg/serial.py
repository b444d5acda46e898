"""The whole of training in one process, without Ray: the executable specification (floor F4).

One rollout worker, one replay buffer and one learner take turns in lock-step. It is reproducible bit for bit,
and `runtime/` with `sync=True` and one worker must give the same weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy.typing as npt

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.evaluation import Evaluation, Scorecard, evaluate_weights
from distributed_maddpg.learner import make_learner
from distributed_maddpg.metrics import IterationLog
from distributed_maddpg.pacing import Pacer
from distributed_maddpg.replay import make_replay_buffer
from distributed_maddpg.rollout import make_rollout_worker
from distributed_maddpg.seeding import integer_seed
from distributed_maddpg.types import EnvSpec, LearnerReport, RolloutReport, Weights


class SerialRoot:
    """Runs the stages in turn."""

    def __init__(self, config: MADDPGConfig, spec: EnvSpec) -> None:
        """Build all stages."""
        self._config = config
        self.pacer = Pacer(config.pacing)
        self._worker = make_rollout_worker(config, 0)
        self._replay = make_replay_buffer(config, spec)
        self._learner = make_learner(config, spec)
        self.device = str(self._learner.device)
        self._log = IterationLog(spec, 0)
        self._evaluations: list[Evaluation] = []
        self._evaluation_index = 0

    def run(self, stop: Callable[[], bool]) -> None:
        """Train until a report is due or `stop()` says so."""
        while not stop():
            if not self.pacer.collected:
                self._collect()
            self._learn()
            if self.pacer.evaluation_due():
                self._evaluate()
            if self.pacer.report_due():
                return

    def take_result(self) -> dict[str, Any]:
        """Return what happened since the last call, and start anew."""
        counters = {
            "num_env_steps_sampled_lifetime": self.pacer.env_steps,
            "num_updates_lifetime": self.pacer.updates,
            "weights_seq_no": self._learner.weights_version,
            "replay_buffer": {"num_env_steps_stored": self._replay.size},
        }
        return self._log.take(counters, self._learner.take_metrics()[0])

    def take_evaluations(self) -> list[Evaluation]:
        """Return the evaluations that ended since the last call."""
        taken, self._evaluations = self._evaluations, []
        return taken

    def weights(self) -> Weights:
        """Return the policies as the learner has them now."""
        return self._learner.weights()

    def learner_state(self) -> dict[str, npt.NDArray[Any]]:
        """Return the learner's complete state."""
        return self._learner.get_state()

    def resume(self, state: dict[str, npt.NDArray[Any]], env_steps: int, updates: int) -> None:
        """Continue from a learner's state and the run's counts."""
        self._learner.set_state(state)
        self._worker.set_weights(self._learner.weights())
        self.pacer.resume(env_steps, updates)

    def evaluate(self, num_episodes: int, seed: int) -> Scorecard:
        """Play greedy episodes with the learner's policies."""
        return evaluate_weights(self._config, self._learner.weights().policies, num_episodes, seed)

    def close(self) -> None:
        """Release the environments."""
        self._worker.close()

    def _evaluate(self) -> None:
        self._evaluation_index += 1
        seed = integer_seed(self._config.seed, "evaluation", self._evaluation_index)
        card = self.evaluate(self._config.evaluation.episodes, seed)
        self._evaluations.append(Evaluation(self.pacer.env_steps, self.pacer.updates, card))

    def _collect(self) -> None:
        started = time.perf_counter()
        rows, episodes = self._worker.collect(self._config.rollout.fragment_steps, self.pacer.env_steps)
        self._replay.add(rows)
        self.pacer.collection_started(len(rows))
        self.pacer.collection_done(len(rows))
        busy_s = time.perf_counter() - started
        report = RolloutReport(0, len(rows), episodes, self._worker.weights_version, busy_s)
        self._log.add_rollout(report, self._learner.weights_version)

    def _learn(self) -> None:
        updates = self.pacer.updates_due()
        if updates == 0:
            return
        started = time.perf_counter()
        batches = self._replay.sample(updates, self._config.learner.batch_size)
        sampled = time.perf_counter()
        self.pacer.learning_started(updates)
        self._learner.learn([batches])
        self.pacer.learning_done(updates)
        if self.pacer.publish_due():
            self._worker.set_weights(self._learner.publish()[0])
        self._log.add_learner(
            LearnerReport(
                updates, self._learner.weights_version, time.perf_counter() - sampled, sampled - started
            )
        )
