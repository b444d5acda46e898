"""When each stage may move: counts in, decisions out."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from distributed_maddpg.config import PacingConfig
from distributed_maddpg.types import Arrays, checked_array

_NEVER = 2**62
_MAX_CHUNK_UPDATES = 64


class Pacer:
    """Keeps env steps and updates in the configured proportion, and says when each interval is over.

    The learner may have made `1 + (env_steps - learning_starts) // env_steps_per_update` updates once
    `learning_starts` steps are in: an update at the start, then one per `env_steps_per_update`. And
    collection may run ahead of the updates made by `tolerance_updates` updates' worth of steps. Whoever
    starts work in another process counts it as scheduled when it starts and as done when it is reported; in
    one process the two coincide.
    """

    def __init__(self, config: PacingConfig) -> None:
        """Start at zero."""
        self._config = config
        self.env_steps = 0
        """Collected and stored."""
        self.updates = 0
        """Made by the learner."""
        self._env_steps_in_flight = 0
        self._updates_in_flight = 0
        # Until when an empty replay buffer is filled anew, and how many updates had been made before.
        self._warmup_until = 0
        self._warmup_updates = 0
        self._published_at = 0
        self._intervals = {
            "report": _Interval(config.report_interval_env_steps),
            "evaluation": _Interval(config.evaluation_interval_env_steps),
            "checkpoint": _Interval(config.checkpoint_interval_env_steps),
        }

    def updates_due(self) -> int:
        """Updates the learner may start now."""
        return max(0, self._updates_allowed(self.env_steps) - self.updates - self._updates_in_flight)

    def may_collect(self, env_steps: int) -> bool:
        """Whether a worker may start on so many more steps without running too far ahead of the learner."""
        ahead = self.env_steps + self._env_steps_in_flight
        if ahead >= self._config.total_env_steps:
            return False
        slack = max(self._config.tolerance_updates * self._config.env_steps_per_update, env_steps)
        limit = self._config.learning_starts + self.updates * self._config.env_steps_per_update + slack
        return ahead + env_steps <= limit or ahead < max(self._config.learning_starts, self._warmup_until)

    def collection_started(self, env_steps: int) -> None:
        """Count steps that a worker has been asked for."""
        self._env_steps_in_flight += env_steps

    def collection_done(self, env_steps: int) -> None:
        """Count steps that have reached the replay buffer."""
        self._env_steps_in_flight -= env_steps
        self.env_steps += env_steps

    def collection_failed(self, env_steps: int) -> None:
        """Take back steps that were asked for and will not be reported."""
        self._env_steps_in_flight -= env_steps

    def learning_started(self, updates: int) -> None:
        """Count updates that the learner has been asked for."""
        self._updates_in_flight += updates

    def learning_done(self, updates: int) -> None:
        """Count updates that the learner has made."""
        self._updates_in_flight -= updates
        self.updates += updates

    def learning_failed(self, updates: int) -> None:
        """Take back updates that were asked for and will not be reported."""
        self._updates_in_flight -= updates

    def publish_due(self) -> bool:
        """Whether new weights should follow the updates started so far; true once per interval."""
        started = self.updates + self._updates_in_flight
        if started - self._published_at < self._config.publish_interval_updates:
            return False
        self._published_at = started
        return True

    def report_due(self) -> bool:
        """Whether a report is due; true once per interval of steps, and when the last update is made."""
        if self.collection_finished:
            return self.finished
        return self._intervals["report"].passed(self.env_steps)

    def evaluation_due(self) -> bool:
        """Whether an evaluation is due; true once per interval of steps, but the end has its own."""
        return not self.collection_finished and self._intervals["evaluation"].passed(self.env_steps)

    @property
    def evaluation_number(self) -> int:
        """How many intervals between evaluations are over; an evaluation's seed depends on it."""
        return self.env_steps // max(1, self._config.evaluation_interval_env_steps)

    def checkpoint_due(self) -> bool:
        """Whether a checkpoint is due; true once per interval of steps."""
        return self._intervals["checkpoint"].passed(self.env_steps)

    @property
    def collection_finished(self) -> bool:
        """Whether all steps are in."""
        return self.env_steps >= self._config.total_env_steps

    @property
    def finished(self) -> bool:
        """Whether all steps are in and all updates they earn are made."""
        return self.collection_finished and self.updates >= self._updates_allowed(self.env_steps)

    def set_updates(self, updates: int) -> None:
        """Go back to the updates of a learner that was restored, with none under way."""
        self.updates, self._updates_in_flight = updates, 0
        self._published_at = min(self._published_at, updates)
        self._warmup_updates = min(self._warmup_updates, updates)  # none from a buffer that is still empty

    def get_state(self, env_steps: int, updates: int) -> Arrays:
        """Return the counts, with work under way left out.

        Args:
            env_steps: what is known to be stored, at most those counted here.
            updates: what the learner has made.
        """
        counts = (env_steps, updates, self._published_at, self._warmup_until, self._warmup_updates)
        return {"counts": np.array(counts, np.int64)}

    def set_state(self, state: Arrays) -> None:
        """Go on from the counts that `get_state` returned, with nothing under way.

        Raises:
            ValueError: if they are no counts.
        """
        counts = checked_array(state, "counts", (5,), np.int64)
        if (counts < 0).any():
            raise ValueError("counts holds negative numbers")
        self.env_steps, self.updates, self._published_at = counts[:3].tolist()
        self._warmup_until, self._warmup_updates = counts[3:].tolist()
        if self._warmup_until == _NEVER:  # the run may have been made longer since
            self._warmup_until = 0
        self._env_steps_in_flight = self._updates_in_flight = 0
        for interval in self._intervals.values():
            interval.passed(self.env_steps)

    def restart_warmup(self) -> None:
        """Let an empty replay buffer be filled before learning goes on.

        The updates that fall due meanwhile are made up for afterwards; a run whose steps are all in has
        nothing left to learn from.
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


def in_chunks(updates: int) -> Iterator[int]:
    """Return so many updates in pieces whose minibatches fit into memory: thousands may be due at once."""
    while updates > 0:
        yield min(updates, _MAX_CHUNK_UPDATES)
        updates -= _MAX_CHUNK_UPDATES


class _Interval:
    """A multiple of steps that is passed; a length of zero never is."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._passed = 0

    def passed(self, env_steps: int) -> bool:
        """Whether another multiple was passed since the last time this said so."""
        passed = env_steps // self._length if self._length else 0
        if passed <= self._passed:
            return False
        self._passed = passed
        return True
