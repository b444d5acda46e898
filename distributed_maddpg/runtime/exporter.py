"""Exports a run's metrics to Ray, whose agents offer them to Prometheus; `EXPORTED` lists them all."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ray.util.metrics import Counter, Gauge

from distributed_maddpg.errors import reason

_INTERVAL_S = 1.0
_RUN = "run"
_PLACEHOLDER = re.compile(r"<(\w+)>")
_LOG = logging.getLogger("distributed_maddpg")

_Series = tuple[str, ...]
"""Name of a metric and the values of its tags."""


@dataclass(frozen=True)
class ExportedMetric:
    """A metric of a run in Ray's endpoint; docs/metrics.md and the Grafana dashboard use the same table."""

    name: str
    """Ray prefixes it with `ray_`, and appends `_total` to that of a counter."""
    kind: Literal["counter", "gauge"]
    key: str
    """Of the value in a result of `train()`, flattened. It may hold one placeholder, such as `<process>`,
    whose values are those of a tag of that name."""
    unit: str
    text: str

    @property
    def tags(self) -> tuple[str, ...]:
        """Names of its tags."""
        return (_RUN, *_PLACEHOLDER.findall(self.key))

    @property
    def exported_name(self) -> str:
        """Its name in Ray's endpoint."""
        return f"ray_{self.name}_total" if self.kind == "counter" else f"ray_{self.name}"

    def values(self, flat: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], float]]:
        """Return the placeholder's value, if there is one, and the number of each key that it matches."""
        if self.key in flat:
            yield (), float(flat[self.key])
        elif "<" in self.key:
            start, end = _PLACEHOLDER.split(self.key)[::2]
            for key, value in flat.items():
                if key.startswith(start) and key.endswith(end) and len(key) > len(start) + len(end):
                    yield (key[len(start) : len(key) - len(end)],), float(value)


EXPORTED = (
    ExportedMetric(
        "maddpg_env_steps", "counter", "num_env_steps_sampled_lifetime", "env steps", "collected and stored"
    ),
    ExportedMetric(
        "maddpg_updates",
        "counter",
        "num_updates_lifetime",
        "updates",
        "of all agents; stands still while a restored learner repeats those that were lost",
    ),
    ExportedMetric(
        "maddpg_rollout_seconds",
        "counter",
        "timers/rollout_<part>_s",
        "s",
        "where the time of a rollout worker went, mean over workers: busy, blocked_push, blocked_weights, "
        "blocked_pacing",
    ),
    ExportedMetric(
        "maddpg_learner_seconds",
        "counter",
        "timers/learner_<part>_s",
        "s",
        "where the learner's time went: busy, blocked_replay, blocked_pacing",
    ),
    ExportedMetric(
        "maddpg_restarts",
        "counter",
        "fault_tolerance/num_<process>_restarts",
        "processes",
        "replaced since the start or resume: rollout_worker, replay_buffer, learner, evaluator",
    ),
    ExportedMetric(
        "maddpg_env_steps_lost",
        "counter",
        "fault_tolerance/env_steps_lost",
        "env steps",
        "requested from workers that were lost",
    ),
    ExportedMetric(
        "maddpg_updates_lost",
        "counter",
        "fault_tolerance/updates_lost",
        "updates",
        "of a lost learner after its last snapshot",
    ),
    ExportedMetric(
        "maddpg_quarantined_blocks",
        "counter",
        "fault_tolerance/num_quarantined_blocks",
        "fragments",
        "dropped because a number was not finite",
    ),
    ExportedMetric(
        "maddpg_healthy_workers",
        "gauge",
        "fault_tolerance/num_healthy_workers",
        "workers",
        "rollout workers that run and answer",
    ),
    ExportedMetric(
        "maddpg_replay_fill",
        "gauge",
        "replay_buffer/fill",
        "",
        "stored transitions over the capacity, 0 to 1",
    ),
    ExportedMetric(
        "maddpg_weights_version", "gauge", "weights_seq_no", "versions", "newest published weights"
    ),
    ExportedMetric(
        "maddpg_versions_behind_mean",
        "gauge",
        "weights/versions_behind_mean",
        "versions",
        "staleness: age of the weights that workers collect with, mean over this interval's fragments",
    ),
    ExportedMetric(
        "maddpg_versions_behind_max",
        "gauge",
        "weights/versions_behind_max",
        "versions",
        "the largest of these",
    ),
    ExportedMetric(
        "maddpg_env_steps_per_second",
        "gauge",
        "env_steps_per_s",
        "1/s",
        "of the newest report; between reports, see the counter",
    ),
    ExportedMetric("maddpg_updates_per_second", "gauge", "updates_per_s", "1/s", "of the newest report"),
    ExportedMetric(
        "maddpg_episode_return_mean",
        "gauge",
        "env_runners/episode_return_mean",
        "return",
        "sum over agents, training episodes with exploration",
    ),
    ExportedMetric(
        "maddpg_greedy_return",
        "gauge",
        "evaluation/agent_episode_returns_mean/<agent>",
        "return",
        "of the newest evaluation during training",
    ),
    ExportedMetric(
        "maddpg_success",
        "gauge",
        "evaluation/success/<who>",
        "%",
        "of that evaluation; simple_adversary only",
    ),
    ExportedMetric(
        "maddpg_measure",
        "gauge",
        "evaluation/measures/<measure>",
        "",
        "of that evaluation: what the scenario is judged by",
    ),
)
"""Every metric that a run with Ray exports."""


class MetricsExporter:
    """Sets Ray's metrics from results of runs, whole ones or parts; errors of Ray's never end a run."""

    def __init__(self, runs: Sequence[str]) -> None:
        """Register the metrics in this process.

        Args:
            runs: value of each run's tag `run`.
        """
        self._runs = tuple(runs)
        self._exported_at = -math.inf
        self._totals: dict[_Series, float] = {}
        """What each counter was when it was last exported."""
        self._latest: dict[_Series, float] = {}
        """The newest value of each gauge. All are set with every export, because Ray drops one that was not
        set for twenty seconds."""
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        try:
            for metric in EXPORTED:
                text = f"{metric.text} ({metric.unit})" if metric.unit else metric.text
                if metric.kind == "counter":
                    self._counters[metric.name] = Counter(metric.name, text, metric.tags)
                else:
                    self._gauges[metric.name] = Gauge(metric.name, text, metric.tags)
        except Exception as error:  # noqa: BLE001 - Ray's, whatever its type
            self._give_up(error)

    @property
    def due(self) -> bool:
        """Whether the last export was a second ago; Ray sends the values to its agent every ten."""
        return bool(self._gauges) and time.monotonic() - self._exported_at >= _INTERVAL_S

    def export(self, results: Sequence[Mapping[str, Any]]) -> None:
        """Set the metrics that each run's flattened result has a value of."""
        self._exported_at = time.monotonic()
        try:
            for run, flat in zip(self._runs, results, strict=True):
                self._export_run(run, flat)
            for series, value in self._latest.items():
                self._gauges[series[0]].set(value, _tags(series))
        except Exception as error:  # noqa: BLE001 - Ray's, whatever its type
            self._give_up(error)

    def next_iteration(self) -> None:
        """Note that the timers, which count per iteration, begin again at zero."""
        timers = {metric.name for metric in EXPORTED if metric.key.startswith("timers/")}
        self._totals = {
            series: 0.0 if series[0] in timers else total for series, total in self._totals.items()
        }

    def _export_run(self, run: str, flat: Mapping[str, Any]) -> None:
        for metric in EXPORTED:
            for labels, value in metric.values(flat):
                series = (metric.name, run, *labels)
                if not math.isfinite(value):
                    continue
                if metric.name in self._counters:
                    self._raise_to(series, value)
                elif metric.name in self._gauges:
                    self._latest[series] = value

    def _raise_to(self, series: _Series, total: float) -> None:
        """Increase a counter to a total; one that fell stands still until it is exceeded."""
        counter, before = self._counters[series[0]], self._totals.get(series)
        if before is None:
            # Not inc(), which refuses zero: a counter that first appears as 1 hides that increase from
            # Prometheus.
            counter._record(total, _tags(series))
        elif total > before:
            counter.inc(total - before, _tags(series))
        self._totals[series] = total if before is None else max(before, total)

    def _give_up(self, error: Exception) -> None:
        self._counters, self._gauges, self._latest = {}, {}, {}
        _LOG.warning("no more metrics go to Ray (%s); training continues", reason(error))


_TAGS = {metric.name: metric.tags for metric in EXPORTED}


def _tags(series: _Series) -> dict[str, str]:
    return dict(zip(_TAGS[series[0]], series[1:], strict=True))
