"""All of training in one process, without Ray: the executable specification.

One rollout worker, one replay buffer and one learner take turns. Runs are reproducible bit for bit, and
`runtime/` with `sync=True` and one worker gives the same weights. Several runs that differ only in their seed
each have a worker and a buffer, and share the pacing and the learner.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import EnvFactory
from distributed_maddpg.errors import TrainingError
from distributed_maddpg.evaluation.episodes import evaluate_weights
from distributed_maddpg.evaluation.scorecard import Evaluation, Scorecard
from distributed_maddpg.learner import make_learner
from distributed_maddpg.metrics import IterationLog
from distributed_maddpg.normalisation import run_moments
from distributed_maddpg.pacing import Pacer, in_chunks
from distributed_maddpg.replay.buffer import make_replay_buffer
from distributed_maddpg.rollout import make_rollout_worker
from distributed_maddpg.seeding import integer_seed
from distributed_maddpg.types import (
    Arrays,
    EnvSpec,
    FloatArray,
    LearnerReport,
    RolloutReport,
    RunState,
    Weights,
    checked_array,
    join_states,
    state_part,
)

_LOG = logging.getLogger("distributed_maddpg")


class Frozen(NamedTuple):
    """Agents that act greedily and do not learn, as opponents or team-mates of learning agents."""

    agents: tuple[bool, ...]
    """[N] whether each agent is frozen."""
    policies: FloatArray
    """[N, P]; only the rows of frozen agents are used."""


class _Run:
    """What runs do not share: rollout worker, replay buffer and log."""

    def __init__(
        self, config: MADDPGConfig, spec: EnvSpec, greedy: Sequence[bool], env_factory: EnvFactory | None
    ) -> None:
        self.config, self._env_factory = config, env_factory
        self.worker = make_rollout_worker(config, 0, greedy=greedy, env_factory=env_factory)
        self.replay = make_replay_buffer(config, spec)
        self.log = IterationLog(spec, 0)
        self.moments = run_moments(spec, config)
        self.evaluations: list[Evaluation] = []

    def collect(self, env_steps: int, latest_version: int) -> int:
        """Collect and store one fragment; return its env steps."""
        started = time.perf_counter()
        rows, episodes = self.worker.collect(self.config.rollout.fragment_steps, env_steps)
        self.replay.add(rows)
        busy_s = time.perf_counter() - started
        dropped = self.worker.pop_dropped()
        if self.moments is not None:
            self.moments.add(self.worker.pop_moments())
        report = RolloutReport(0, len(rows), episodes, self.worker.weights_version, busy_s, dropped=dropped)
        self.log.add_rollout(report, latest_version)
        return len(rows)

    def get_state(self) -> dict[str, Arrays]:
        """Return the state of each stage, without the stored transitions."""
        state = {
            "worker_0": self.worker.get_state(),
            "replay": {"generator": self.replay.generator_state()},
            "log": self.log.get_state(),
        }
        return state if self.moments is None else {**state, "moments": self.moments.get_state()}

    def set_state(self, state: RunState) -> None:
        """Continue from a state; if it holds no worker, start new episodes with new random streams."""
        self.log.set_state(state_part(state.stages, "log"))
        if self.moments is not None:
            self.moments.set_state(state_part(state.stages, "moments"))
        self.replay.set_generator_state(checked_array(state.stages, "replay/generator", (6,), np.uint64))
        if state.replay is not None:
            self.replay.ring.restore(state.replay)
        if worker := state_part(state.stages, "worker_0"):
            if line := self.worker.set_state(worker):
                _LOG.warning("rollout worker 0 %s", line)
        else:
            self.worker.close()
            self.worker = make_rollout_worker(
                self.config, 0, incarnation=state.env_steps + 1, env_factory=self._env_factory
            )


class SerialRunner:
    """Runs the stages in turn in this process."""

    def __init__(
        self,
        configs: Sequence[MADDPGConfig],
        spec: EnvSpec,
        frozen: Frozen | None = None,
        env_factory: EnvFactory | None = None,
    ) -> None:
        """Build all stages of one run or more.

        Args:
            configs: one per run; equal but for the seed.
            spec: of the environment.
            frozen: agents that do not learn.
            env_factory: makes the environment, where it was given as a callable.
        """
        self._config, self._env_factory = configs[0], env_factory
        self.pacer = Pacer(self._config.pacing)
        greedy = frozen.agents if frozen else ()
        self._runs = [_Run(config, spec, greedy, env_factory) for config in configs]
        self._learner = make_learner(self._config, spec, [config.seed for config in configs])
        self.device = str(self._learner.device)
        self.device_reason = self._learner.device_reason
        self._inconsistent = False
        if frozen:
            self._learner.freeze(frozen.agents, frozen.policies)
            for run, weights in zip(self._runs, self._learner.last_published(), strict=True):
                run.worker.set_weights(weights)

    def run(self, stop: Callable[[], bool]) -> bool:
        """Train until a report is due or `stop()` returns true; return whether one is due."""
        while not stop():
            if not self.pacer.collection_finished:
                self._collect()
            self._learn()
            if self.pacer.evaluation_due():
                self._evaluate()
            if self.pacer.report_due():
                return True
        return False

    def results(self) -> list[dict[str, Any]]:
        """Return each run's metrics of the iteration so far."""
        counters = {
            "num_env_steps_sampled_lifetime": self.pacer.env_steps,
            "num_updates_lifetime": self.pacer.updates,
            "weights_seq_no": self._learner.weights_version,
            "replay_buffer": {
                "num_env_steps_stored": self._runs[0].replay.size,
                "fill": self._runs[0].replay.size / self._config.replay.capacity,
            },
        }
        metrics = self._learner.metrics()
        return [run.log.result(counters, own) for run, own in zip(self._runs, metrics, strict=True)]

    def export(self, results: Sequence[Mapping[str, Any]]) -> None:
        """Do nothing: only Ray has an endpoint for metrics."""

    def next_iteration(self) -> None:
        """Reset what is counted per iteration."""
        self._learner.next_iteration()
        for run in self._runs:
            run.log.next_iteration()

    def pop_evaluations(self, run: int) -> list[Evaluation]:
        """Return a run's evaluations since the last call."""
        own = self._runs[run]
        evaluations, own.evaluations = own.evaluations, []
        return evaluations

    def weights(self, run: int) -> Weights:
        """Return a run's current policies."""
        return self._learner.weights(run)

    def learner_state(self, run: int) -> Arrays:
        """Return the learner's state of a run."""
        return self._learner.get_state(run)

    def drain(self) -> None:
        """Do nothing: in one process nothing is in flight between two rounds."""

    def capture(self, run: int, with_replay: bool) -> RunState:
        """Return the state of a run; training may continue while its transitions are read.

        Raises:
            TrainingError: if the run failed during collection.
        """
        if self._inconsistent:
            raise TrainingError("the run failed during collection; that state cannot be resumed")
        own, env_steps = self._runs[run], self.pacer.env_steps
        learner = self._learner.get_state(run)
        updates = int(learner["updates"])  # after a failed update, not the count of the pacer
        stages = {
            "pacing": self.pacer.get_state(env_steps, updates),
            "learner": learner,
            **own.get_state(),
        }
        replay = own.replay.ring.snapshot().stored() if with_replay else None
        return RunState(env_steps, updates, join_states(stages), replay)

    def restore(self, run: int, state: RunState) -> None:
        """Continue from what `capture` returned."""
        own = self._runs[run]
        self._learner.set_state(state_part(state.stages, "learner"), run)
        own.set_state(state)
        own.worker.set_weights(self._learner.last_published()[run])
        self.pacer.set_state(state_part(state.stages, "pacing"))
        if own.replay.size == 0:
            self.pacer.restart_warmup()

    def evaluate(self, num_episodes: int, seed: int, run: int) -> Scorecard:
        """Play greedy episodes with a run's current policies."""
        policies = self.weights(run).policies
        return evaluate_weights(self._config, policies, num_episodes, seed, self._env_factory)

    def close(self) -> None:
        """Release the environments and the stored transitions; the counters can still be read."""
        while self._runs:
            self._runs.pop().worker.close()

    def _evaluate(self) -> None:
        for index, run in enumerate(self._runs):
            seed = integer_seed(run.config.seed, "evaluation", self.pacer.evaluation_number)
            policies = self.weights(index).policies
            episodes = self._config.evaluation.episodes
            card = evaluate_weights(self._config, policies, episodes, seed, self._env_factory)
            run.evaluations.append(Evaluation(self.pacer.env_steps, self.pacer.updates, card, policies))

    def _collect(self) -> None:
        version, env_steps = self._learner.weights_version, self.pacer.env_steps
        self._inconsistent = True
        counts = [run.collect(env_steps, version) for run in self._runs]
        [collected] = set(counts)  # all runs collect equally many steps
        self._inconsistent = False
        self.pacer.collection_started(collected)
        self.pacer.collection_done(collected)

    def _learn(self) -> None:
        updates = self.pacer.updates_due()
        if updates == 0:
            return
        self.pacer.learning_started(updates)
        if self._config.env.normalise:
            self._learner.normalise_by([run.moments.normaliser() for run in self._runs if run.moments])
        seconds = np.zeros(2)
        for piece in in_chunks(updates):
            seconds += self._learn_piece(piece)
        self.pacer.learning_done(updates)
        if self.pacer.publish_due():
            for run, weights in zip(self._runs, self._learner.publish(), strict=True):
                run.worker.set_weights(weights)
        busy_s, sampling_s = (seconds / len(self._runs)).tolist()
        report = LearnerReport(updates, self._learner.weights_version, busy_s, sampling_s)
        for run in self._runs:
            run.log.add_learner(report)

    def _learn_piece(self, updates: int) -> tuple[float, float]:
        """Make the given number of updates; return the seconds of learning and of drawing minibatches."""
        started = time.perf_counter()
        if self._learner.samples_on_device:
            self._learner.mirror([run.replay.ring for run in self._runs])
            sampled = time.perf_counter()
            self._learner.learn_mirrored(updates)
        else:
            drawn = [run.replay.draw(updates, self._config.learner.batch_size) for run in self._runs]
            sampled = time.perf_counter()
            self._learner.learn(drawn)
        return time.perf_counter() - sampled, sampled - started
