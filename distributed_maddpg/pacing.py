"""Decides when each stage may run, from counts alone."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from distributed_maddpg.config import PacingConfig
from distributed_maddpg.types import Arrays, LearnerReport, checked_array

_NEVER = 2**62
_CALL_S = 0.05
_COLLECT_S = 0.5
"""Target length of a worker's call; workers with slow environments collect fewer fragments per call."""
_MAX_FRAGMENTS_PER_CALL = 16
_MAX_CHUNK_UPDATES = 64


class Pacer:
    """Keeps env steps and updates in the configured ratio, and reports when an interval has passed.

    Once `learning_starts` steps are stored, the learner may have made
    `1 + (env_steps - learning_starts) // env_steps_per_update` updates: one at once, then one per
    `env_steps_per_update`. Collection may run ahead of the updates by `tolerance_updates *
    env_steps_per_update` env steps, or by one request if that is more. The caller counts work as started when
    it is submitted and as done when it is reported; in one process the two coincide.
    """

    def __init__(self, config: PacingConfig) -> None:
        """Start with all counts at zero."""
        self._config = config
        self.env_steps = 0
        """Steps collected and stored."""
        self.updates = 0
        """Updates made by the learner."""
        self._env_steps_in_flight = 0
        self._updates_in_flight = 0
        # After `restart_warmup`: the env step at which the warm-up ends, and the updates allowed until then.
        self._warmup_until = 0
        self._warmup_updates = 0
        self._published_at = 0
        self._intervals = {
            "report": config.report_interval_env_steps,
            "evaluation": config.evaluation_interval_env_steps,
            "checkpoint": config.checkpoint_interval_env_steps,
        }
        self._intervals_passed = dict.fromkeys(self._intervals, 0)

    def updates_due(self) -> int:
        """Return how many updates the learner may start now."""
        return max(0, self._updates_allowed(self.env_steps) - self.updates - self._updates_in_flight)

    def may_collect(self, env_steps: int) -> bool:
        """Whether a worker may start collecting `env_steps` without getting too far ahead of the learner."""
        ahead = self.env_steps + self._env_steps_in_flight
        if ahead >= self._config.total_env_steps:
            return False
        slack = max(self._config.tolerance_updates * self._config.env_steps_per_update, env_steps)
        limit = self._config.learning_starts + self.updates * self._config.env_steps_per_update + slack
        return ahead + env_steps <= limit or ahead < max(self._config.learning_starts, self._warmup_until)

    def collection_started(self, env_steps: int) -> None:
        """Count steps requested from a worker."""
        self._env_steps_in_flight += env_steps

    def collection_done(self, env_steps: int) -> None:
        """Count requested steps that the replay buffer has stored."""
        self._env_steps_in_flight -= env_steps
        self.env_steps += env_steps

    def collection_failed(self, env_steps: int) -> None:
        """Discard requested steps that will not be reported."""
        self._env_steps_in_flight -= env_steps

    def learning_started(self, updates: int) -> None:
        """Count updates requested from the learner."""
        self._updates_in_flight += updates

    def learning_done(self, updates: int) -> None:
        """Count requested updates that the learner has made."""
        self._updates_in_flight -= updates
        self.updates += updates

    def learning_failed(self, updates: int) -> None:
        """Discard requested updates that will not be reported."""
        self._updates_in_flight -= updates

    def publish_due(self) -> bool:
        """Whether to publish weights after the updates started so far; true once per interval."""
        started = self.updates + self._updates_in_flight
        if started - self._published_at < self._config.publish_interval_updates:
            return False
        self._published_at = started
        return True

    def report_due(self) -> bool:
        """Whether a report is due; true once per interval of steps, and after the last update."""
        if self.collection_finished:
            return self.finished
        return self._interval_passed("report")

    def evaluation_due(self) -> bool:
        """Whether an evaluation is due; true once per interval of steps, except after the last step.

        The final evaluation is made separately.
        """
        return not self.collection_finished and self._interval_passed("evaluation")

    @property
    def evaluation_number(self) -> int:
        """Evaluation intervals passed so far; the seed of an evaluation depends on it."""
        return self.env_steps // max(1, self._config.evaluation_interval_env_steps)

    def checkpoint_due(self) -> bool:
        """Whether a checkpoint is due; true once per interval of steps."""
        return self._interval_passed("checkpoint")

    @property
    def collection_finished(self) -> bool:
        """Whether all env steps are stored."""
        return self.env_steps >= self._config.total_env_steps

    @property
    def finished(self) -> bool:
        """Whether all env steps are stored and all updates they allow are made."""
        return self.collection_finished and self.updates >= self._updates_allowed(self.env_steps)

    def set_updates(self, updates: int) -> None:
        """Set the updates to those of a restored learner, with none in flight."""
        self.updates, self._updates_in_flight = updates, 0
        self._published_at = min(self._published_at, updates)
        self._warmup_updates = min(self._warmup_updates, updates)  # redo lost updates after the warm-up

    def get_state(self, env_steps: int, updates: int) -> Arrays:
        """Return the counts without work in flight.

        Args:
            env_steps: steps that are stored.
            updates: updates that the learner has made, which may include some that are still in flight here.
        """
        counts = (env_steps, updates, self._published_at, self._warmup_until, self._warmup_updates)
        return {"counts": np.array(counts, np.int64)}

    def set_state(self, state: Arrays) -> None:
        """Restore the counts that `get_state` returned, with no work in flight.

        Raises:
            ValueError: if they are missing, of another shape or type, or negative.
        """
        counts = checked_array(state, "counts", (5,), np.int64)
        if (counts < 0).any():
            raise ValueError("counts holds negative numbers")
        self.env_steps, self.updates, self._published_at = counts[:3].tolist()
        self._warmup_until, self._warmup_updates = counts[3:].tolist()
        if self._warmup_until == _NEVER:  # the run may have been extended since
            self._warmup_until = 0
        self._env_steps_in_flight = self._updates_in_flight = 0
        for name in self._intervals:
            self._interval_passed(name)

    def restart_warmup(self) -> None:
        """Allow no updates until an empty replay buffer has stored `learning_starts` steps.

        The warm-up also ends with the last step of the run. The updates that its steps allow are made after
        it. If all env steps were collected before, no updates follow, because nothing is stored.
        """
        total = self._config.total_env_steps
        until = min(self.env_steps + self._config.learning_starts, total)
        self._warmup_until = until if self.env_steps < total else _NEVER
        self._warmup_updates = self.updates

    def _updates_allowed(self, env_steps: int) -> int:
        since = env_steps - self._config.learning_starts
        if since < 0 or env_steps < self._warmup_until:
            return self._warmup_updates
        return 1 + math.floor(since / self._config.env_steps_per_update)

    def _interval_passed(self, name: str) -> bool:
        """Whether another multiple of an interval was passed since this was last true; never for length 0."""
        length = self._intervals[name]
        passed = self.env_steps // length if length else 0
        if passed <= self._intervals_passed[name]:
            return False
        self._intervals_passed[name] = passed
        return True


def updates_per_call(last: LearnerReport, now: int, tolerance_updates: int) -> int:
    """Return how many updates the learner's next calls make: a power of two, in 0.05 s or a little less.

    Shorter calls cost more than their updates. At most a quarter of `tolerance_updates`, so that the workers
    go on collecting meanwhile. A learner that is sent its minibatches fetches them ahead only while the
    number stays the same.

    Args:
        last: the learner's last call.
        now: the present number, which is kept if it takes up to a quarter too long.
        tolerance_updates: see `PacingConfig`.
    """
    in_time = _CALL_S * last.updates / max(last.busy_s, 1e-9)
    fitting = 1 << int(math.log2(max(1.0, in_time)))
    if fitting < now <= 1.25 * in_time:
        fitting = now
    return max(1, min(fitting, tolerance_updates // 4))


def fragments_per_call(fragments_per_s: float) -> int:
    """Return how many fragments a worker that collects `fragments_per_s` is asked for at once."""
    return int(min(max(1.0, _COLLECT_S * fragments_per_s), _MAX_FRAGMENTS_PER_CALL))


def in_chunks(updates: int) -> Iterator[int]:
    """Split updates into chunks whose minibatches fit into memory; thousands may be due at once."""
    while updates > 0:
        yield min(updates, _MAX_CHUNK_UPDATES)
        updates -= _MAX_CHUNK_UPDATES
