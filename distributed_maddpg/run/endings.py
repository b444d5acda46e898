"""When runs end before their last environment step: at a time, or when evaluations reach a goal."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.durations import format_duration
from distributed_maddpg.run.goals import Goal, scores_of

_MAX_RESERVE_S, _RESERVED_SHARE = 60.0, 0.1
_SAVES, _FRAGMENTS = 3, 2
"""What may be left to do at the end, in the slowest saves so far and in fragments of each worker: a save that
is under way, the last one, and one to spare; two calls queued at a worker."""


@dataclass(frozen=True)
class EndingOptions:
    """When a run ends early."""

    stop_at: tuple[Goal, ...] = ()
    """All to be reached by one evaluation, by each of several runs; empty: none."""
    max_time_s: float = math.inf
    """Seconds from `started` until the last checkpoint is written."""
    started: float = 0.0
    """Moment of `clock` at which the command started."""
    clock: Callable[[], float] = time.monotonic


class Ending:
    """Decides when runs that are trained together end early."""

    def __init__(
        self, options: EndingOptions, config: MADDPGConfig, reached: Sequence[Mapping[str, float]]
    ) -> None:
        """Start to watch runs.

        Args:
            options: when to end.
            config: of the first run.
            reached: for each run, the scores that ended it before, if it resumes from that moment.
        """
        self._options = options
        self._fragment_env_steps = config.rollout.fragment_env_steps * max(1, config.num_workers)
        self._reached: list[dict[int, dict[str, float]]] = [{} for _ in reached]
        self._asked: float | None = None
        self._longest_round_s = self._in_flight_s = 0.0
        self._slowest_save_s = 0.0
        self._stopped_after_s = 0.0
        self.time_is_up = False
        """Whether `check_time` was true; then the run is interrupted."""
        self.scores: list[dict[str, float]] = [{} for _ in reached]
        """Of each run, the scores that reached all goals; empty before."""
        if options.stop_at and all(map(self._reaches_all, reached)):
            self.scores = [dict(own) for own in reached]

    @property
    def is_reached(self) -> bool:
        """Whether all goals are reached; then the run has finished."""
        return any(self.scores)

    @property
    def reason(self) -> str:
        """Why the run ended early, in one line; empty if it did not."""
        if self.time_is_up:
            taken = format_duration(self._stopped_after_s)
            limit = format_duration(self._options.max_time_s)
            return f"stopped after {taken} (--max-time {limit}); the same command with --resume auto goes on"
        goals = ", ".join(map(str, self._options.stop_at))
        return f"ended early, because an evaluation reached {goals} (--stop-at)" if self.is_reached else ""

    def check_time(self) -> bool:
        """Whether the last checkpoint must be written now to be complete in time; asked once a round."""
        if self.time_is_up:
            return True
        now = self._options.clock()
        if self._asked is not None:
            self._longest_round_s = max(self._longest_round_s, now - self._asked)
        self._asked, self._stopped_after_s = now, now - self._options.started
        self.time_is_up = self._options.max_time_s - self._stopped_after_s <= self._margin_s()
        return self.time_is_up

    def add_result(self, result: Mapping[str, Any], slowest_save_s: float) -> None:
        """Learn how long the end will take.

        Args:
            result: of an iteration.
            slowest_save_s: seconds that the slowest checkpoint took so far.
        """
        if result["env_steps_per_s"] > 0:
            self._in_flight_s = _FRAGMENTS * self._fragment_env_steps / result["env_steps_per_s"]
        self._slowest_save_s = slowest_save_s

    def add_evaluations(self, run: int, evaluations: Sequence[Mapping[str, Any]]) -> None:
        """Compare a run's evaluations with the goals; those of the other runs at the same steps count."""
        for evaluation in evaluations:
            scores, env_steps = scores_of(evaluation), evaluation["num_env_steps"]
            if not self._options.stop_at or not self._reaches_all(scores):
                continue
            self._reached[run][env_steps] = {goal.name: scores[goal.name] for goal in self._options.stop_at}
            if all(env_steps in own for own in self._reached):
                self.scores = [own[env_steps] for own in self._reached]

    def _reaches_all(self, scores: Mapping[str, float]) -> bool:
        return all(goal.is_reached(scores) for goal in self._options.stop_at)

    def _margin_s(self) -> float:
        """Return the seconds that the end takes: a round or the work in flight, and saving."""
        least = min(_MAX_RESERVE_S, _RESERVED_SHARE * self._options.max_time_s)
        saving_s = max(least, _SAVES * self._slowest_save_s)
        return saving_s + max(self._longest_round_s, self._in_flight_s)
