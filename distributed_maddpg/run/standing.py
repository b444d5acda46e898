"""How a run is doing, from the counts and results that its training loop hands over as it goes.

What terminals and notebooks show. `status.py` finds the same out from the files of a run in another process.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distributed_maddpg.bottleneck import SHARES, Bottleneck, name_bottleneck, time_shares
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.durations import format_duration

if TYPE_CHECKING:
    from distributed_maddpg.run.endings import EndingOptions  # which loads environments

_WINDOW_S = 30.0
"""Rates are those of this time, as in `status`."""
_LEAST_WINDOW_S = 2.0
"""Rates from less are noise; the newest result's own are better."""
_SAMPLE_S = 0.5
_TREND_POINTS = 12
_HEALTHY, _FAULTS_OF_NOTE = "num_healthy_workers", ("restarts", "lost", "quarantined_blocks")


@dataclass(frozen=True)
class Scores:
    """What the newest evaluation says in a few numbers."""

    kind: str
    """"success", "measures" or "returns"."""
    values: Mapping[str, float]
    trends: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Each value in the newest evaluations, oldest first."""


@dataclass(frozen=True)
class Standing:
    """A run at one moment; None stands for what is not known yet."""

    now: float
    """The moment, as the clock of `StandingLog` counts."""
    elapsed_s: float
    """Since training started."""
    stalled_s: float
    """Since the counts last changed."""
    env_steps: int
    total_env_steps: int
    updates: int
    env_steps_per_s: float | None = None
    updates_per_s: float | None = None
    time_left_s: float | None = None
    """At this rate, or until --max-time if that is sooner."""
    bottleneck: Bottleneck | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    versions_behind: tuple[float, int] | None = None
    """Age of the workers' weights: mean and largest."""
    healthy_workers: tuple[int, int] | None = None
    """How many run and answer, and of how many; in one process None."""
    faults: Mapping[str, int] = field(default_factory=dict)
    """What happened, by the names of docs/metrics.md without "num_"; nothing that is 0."""
    scores: Scores | None = None

    @property
    def progress(self) -> float:
        """Part of the env steps that are done; the last fragment may exceed them."""
        return min(1.0, self.env_steps / self.total_env_steps)

    def line(self) -> str:
        """Return it as one line."""
        parts = [
            f"[{100 * self.progress:3.0f} %] {self.env_steps:,} env steps",
            f"{self.updates:,} updates",
        ]
        if self.env_steps_per_s is not None and self.updates_per_s is not None:
            parts.append(f"{self.env_steps_per_s:,.0f} env-steps/s")
            parts.append(f"{self.updates_per_s:,.0f} updates/s")
        if self.time_left_s:
            parts.append(f"{format_duration(round(self.time_left_s))} left")
        if self.bottleneck:
            parts.append(f"bottleneck: {self.bottleneck}")
        if self.versions_behind:
            parts.append(f"weights {self.versions_behind[0]:.1f} versions behind")
        return "  ".join(parts)


class StandingLog:
    """Follows a run, or the first of several that are trained together."""

    def __init__(
        self,
        config: MADDPGConfig,
        ending: EndingOptions | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Follow a run from now on.

        Args:
            config: its settings.
            ending: when it ends early.
            clock: counts seconds, from the same moment as the ending's.
        """
        self._config, self._clock = config, clock
        self._ends_at = ending.started + ending.max_time_s if ending else math.inf
        self._started = self._changed = clock()
        self._env_steps = self._updates = 0
        self._samples: deque[tuple[float, int, int]] = deque()
        self._results: deque[Mapping[str, Any]] = deque()
        self._evaluations: deque[Mapping[str, float]] = deque(maxlen=_TREND_POINTS)
        self._kind = ""

    def add_counts(self, env_steps: int, updates: int) -> None:
        """Take how far training is; cheap enough for every round."""
        if (env_steps, updates) == (self._env_steps, self._updates):
            return
        now = self._changed = self._clock()
        if updates and not self._updates:
            self._samples.clear()  # collecting was faster as long as nothing was learnt
        self._env_steps, self._updates = env_steps, updates
        if not self._samples or now - self._samples[-1][0] >= _SAMPLE_S:
            self._samples.append((now, env_steps, updates))
        while now - self._samples[0][0] > _WINDOW_S:
            self._samples.popleft()

    def add_result(self, result: Mapping[str, Any]) -> None:
        """Take the result of an iteration."""
        self.add_counts(result["num_env_steps_sampled_lifetime"], result["num_updates_lifetime"])
        self._results.append(result)
        while sum(each["time_this_iter_s"] for each in list(self._results)[1:]) >= _WINDOW_S:
            self._results.popleft()
        if result["evaluation"]:
            self._kind, values = _scores_of(result["evaluation"])
            self._evaluations.append(values)

    def standing(self) -> Standing:
        """Return how the run is doing now."""
        now = self._clock()
        env_steps_per_s, updates_per_s = self._rates()
        newest = self._results[-1] if self._results else {}
        shares = self._shares()
        weights, faults = newest.get("weights"), newest.get("fault_tolerance", {})
        return Standing(
            now,
            now - self._started,
            now - self._changed,
            self._env_steps,
            self._config.pacing.total_env_steps,
            self._updates,
            env_steps_per_s,
            updates_per_s,
            self._time_left_s(env_steps_per_s),
            name_bottleneck(shares) if shares else None,
            shares,
            (weights["versions_behind_mean"], weights["versions_behind_max"]) if weights else None,
            (faults[_HEALTHY], self._config.num_workers) if _HEALTHY in faults else None,
            {
                name.removeprefix("num_"): count
                for name, count in faults.items()
                if count and name.endswith(_FAULTS_OF_NOTE)
            },
            self._scores(),
        )

    def _rates(self) -> tuple[float | None, float | None]:
        """Return env steps and updates a second over the newest samples, or of the newest result."""
        if self._samples:
            (first, *counts), (last, *now) = self._samples[0], self._samples[-1]
            if last - first >= _LEAST_WINDOW_S:
                env_steps, updates = ((b - a) / (last - first) for a, b in zip(counts, now, strict=True))
                return env_steps, updates
        if not self._results:
            return None, None
        return self._results[-1]["env_steps_per_s"], self._results[-1]["updates_per_s"]

    def _time_left_s(self, env_steps_per_s: float | None) -> float | None:
        pacing, left_s = self._config.pacing, self._ends_at - self._clock()
        learns_late = not self._updates and pacing.total_env_steps >= pacing.learning_starts
        if env_steps_per_s and not learns_late:
            left_s = min(left_s, (pacing.total_env_steps - self._env_steps) / env_steps_per_s)
        return max(0.0, left_s) if math.isfinite(left_s) else None

    def _shares(self) -> dict[str, float]:
        seconds = sum(each["time_this_iter_s"] for each in self._results)
        if not seconds > 0:
            return {}
        timers = {f"{name}_s": sum(each["timers"][f"{name}_s"] for each in self._results) for name in SHARES}
        return time_shares(timers, seconds, in_turn=self._config.num_workers == 0)

    def _scores(self) -> Scores | None:
        if not self._evaluations:
            return None
        newest = self._evaluations[-1]
        trends = {
            name: tuple(each[name] for each in self._evaluations if math.isfinite(each.get(name, math.nan)))
            for name in newest
        }
        return Scores(self._kind, newest, trends)


def _scores_of(card: Mapping[str, Any]) -> tuple[str, Mapping[str, float]]:
    """Return the kind of what an evaluation is judged by, and its values."""
    for kind in ("success", "measures"):
        if kind in card:
            return kind, card[kind]
    return "returns", card["agent_episode_returns_mean"]
