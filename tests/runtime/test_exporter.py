"""Every metric of a run is in Ray's endpoint with the run's own numbers, and Ray's errors never end a run."""

from __future__ import annotations

import re
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("ray")
from distributed_maddpg import MADDPG, MADDPGConfig
from distributed_maddpg.metrics import flatten
from distributed_maddpg.runtime import exporter
from distributed_maddpg.runtime.exporter import EXPORTED, ExportedMetric, MetricsExporter
from tests.support.serial_runs import tiny

_RUN = 'folder "of" a run'
_WITHIN_S = 60.0
"""Ray sends what is set to the node's agent every ten seconds."""


class Recorded:
    """Stands for Ray's metrics: what was set last, and the sum of all increments."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], float] = {}
        self.sets: Counter[str] = Counter()

    def make(self, kind: str) -> Callable[[str, str, tuple[str, ...]], Any]:
        recorded = self

        class Metric:
            def __init__(self, name: str, text: str, tag_keys: tuple[str, ...]) -> None:
                self.name, self.tag_keys = name, tag_keys

            def _record(self, value: float, tags: dict[str, str]) -> None:
                assert tuple(tags) == self.tag_keys
                series = (self.name, *tags.values())
                before = recorded.values.get(series, 0.0) if kind == "counter" else 0.0
                recorded.values[series] = before + value
                recorded.sets[self.name] += 1

            def inc(self, value: float, tags: dict[str, str]) -> None:
                assert value > 0  # as Ray requires
                self._record(value, tags)

            set = _record

        return Metric


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    own = Recorded()
    monkeypatch.setattr(exporter, "Counter", own.make("counter"))
    monkeypatch.setattr(exporter, "Gauge", own.make("gauge"))
    return own


def test_counters_are_totals_and_gauges_the_newest_values(recorded: Recorded) -> None:
    metrics = MetricsExporter(["a"])
    for steps, stored in ((100, 0.25), (100, 0.5), (250, 0.75)):
        metrics.export([{"num_env_steps_sampled_lifetime": steps, "replay_buffer/fill": stored}])
    assert recorded.values == {("maddpg_env_steps", "a"): 250, ("maddpg_replay_fill", "a"): 0.75}
    assert recorded.sets["maddpg_env_steps"] == 2  # not when nothing has happened


def test_a_counter_is_there_from_the_start_and_never_falls(recorded: Recorded) -> None:
    metrics = MetricsExporter(["a"])
    seen = []
    for updates in (0, 300, 200, 280, 301):  # a learner was restored from a snapshot
        metrics.export([{"num_updates_lifetime": updates}])
        seen.append(recorded.values["maddpg_updates", "a"])
    assert seen == [0, 300, 300, 300, 301]


def test_timers_add_up_over_iterations(recorded: Recorded) -> None:
    metrics = MetricsExporter(["a"])
    for seconds, ends in ((1.0, False), (1.5, True), (2.5, False), (3.0, True), (0.25, False)):
        metrics.export([{"timers/learner_busy_s": seconds, "num_env_steps_sampled_lifetime": 7}])
        if ends:
            metrics.next_iteration()
    assert recorded.values["maddpg_learner_seconds", "a", "busy"] == 1.5 + 3.0 + 0.25
    assert recorded.values["maddpg_env_steps", "a"] == 7


def test_a_gauge_that_is_no_longer_reported_is_set_again(recorded: Recorded) -> None:
    metrics = MetricsExporter(["a"])
    metrics.export([{"env_steps_per_s": 1000.0}])
    metrics.export([{"env_steps_per_s": float("nan")}])
    assert recorded.sets["maddpg_env_steps_per_second"] == 2
    assert recorded.values == {("maddpg_env_steps_per_second", "a"): 1000.0}


def test_each_run_and_each_part_has_its_own_series(recorded: Recorded) -> None:
    metrics = MetricsExporter(["one", "two"])
    lost = "fault_tolerance/num_rollout_worker_restarts"
    metrics.export(
        [{lost: 1, "evaluation/success/agents": 90.0}, {"fault_tolerance/num_learner_restarts": 2}]
    )
    assert recorded.values == {
        ("maddpg_restarts", "one", "rollout_worker"): 1,
        ("maddpg_restarts", "two", "learner"): 2,
        ("maddpg_success", "one", "agents"): 90.0,
    }


def test_it_is_due_once_a_second(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    metrics = MetricsExporter(["a"])
    assert metrics.due
    metrics.export([{}])
    now[0] += 0.99
    assert not metrics.due
    now[0] += 0.02
    assert metrics.due


@pytest.mark.parametrize("breaks", ["__init__", "_record"])
def test_an_error_of_rays_is_one_warning(
    recorded: Recorded, breaks: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no metrics today")

    monkeypatch.setattr(exporter.Counter, breaks, fail)
    metrics = MetricsExporter(["a"])
    for _ in range(3):
        metrics.export([{"num_updates_lifetime": 1}])
    assert not metrics.due
    assert [record.getMessage() for record in caplog.records] == [
        "no more metrics go to Ray (RuntimeError: no metrics today); training continues"
    ]


def _scraped(port: int) -> dict[tuple[str, ...], float]:
    """Return what the agent says of this file's run: values by name and tags, as the exporter names them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found = {}
    for line in lines:
        match = re.fullmatch(r"(ray_maddpg_\w+)\{(.*)\} (\S+)", line)
        if match is None:
            continue
        labels = {
            name: text.replace('\\"', '"')
            for name, text in re.findall(r'(\w+)="((?:\\.|[^"\\])*)"', match[2])
        }
        [metric] = [metric for metric in EXPORTED if metric.exported_name == match[1]]
        if labels["run"] == _RUN:
            found[(metric.name, *(labels[tag] for tag in metric.tags[1:]))] = float(match[3])
    return found


def _expected(metric: ExportedMetric, result: dict[str, Any]) -> dict[tuple[str, ...], float]:
    return {(metric.name, *labels): value for labels, value in metric.values(flatten(result))}


@pytest.mark.ray
def test_a_live_scrape_has_every_metric_with_the_runs_own_numbers(ray_cluster: None) -> None:
    import ray

    [node] = [node for node in ray.nodes() if node["Alive"]]
    config = tiny(num_workers=1)
    results: list[dict[str, Any]] = []
    with MADDPG(config) as algo:
        algo.name = _RUN
        while not algo.finished:
            results.append(algo.train())
        evaluated = [result["evaluation"] for result in results if result["evaluation"]]
        final = flatten({**results[-1], "evaluation": evaluated[-1]})
        timers: Counter[str] = Counter()
        for result in results:
            timers.update(flatten({"timers": result["timers"]}))
        expected = {
            series: value
            for metric in EXPORTED
            for series, value in _expected(metric, {**final, **timers}).items()
        }
        deadline = time.monotonic() + _WITHIN_S
        while not expected.keys() <= (scraped := _scraped(node["MetricsExportPort"])).keys():
            assert time.monotonic() < deadline, sorted(expected.keys() - scraped.keys())
            time.sleep(0.5)
    assert scraped == pytest.approx(expected)
    assert {series[0] for series in scraped} == {metric.name for metric in EXPORTED} - {"maddpg_measure"}
    assert scraped["maddpg_env_steps",] >= 240
    assert scraped["maddpg_restarts", "learner"] == 0
    assert scraped["maddpg_healthy_workers",] == 1


@pytest.mark.ray
def test_counts_move_between_two_reports(
    make_runner: Callable[..., Any], endless: Callable[..., MADDPGConfig]
) -> None:
    runner = make_runner(endless(pacing={"report_interval_env_steps": 10**8}))
    seen: list[dict[str, Any]] = []
    export = runner._exporter.export

    def watch(results: list[dict[str, Any]]) -> None:
        seen.extend(results)
        export(results)

    runner._exporter.export = watch
    deadline = time.monotonic() + _WITHIN_S
    # The heartbeat that tells how many transitions are stored comes once a second as well.
    runner.run(lambda: bool(seen and seen[-1]["replay_buffer/fill"] > 0) or time.monotonic() > deadline)
    steps = [flat["num_env_steps_sampled_lifetime"] for flat in seen]
    assert steps == sorted(steps) and 0 < steps[-1] <= runner.pacer.env_steps
    assert seen[-1]["replay_buffer/fill"] > 0
    assert seen[-1]["timers/rollout_busy_s"] > 0
    last = {series[0]: total for series, total in runner._exporter._totals.items()}
    assert last["maddpg_env_steps"] == steps[-1]
