"""The Grafana dashboard is one that Grafana can read, and shows all that a run exports and nothing else.

Validators: the typed dashboard of grafana-foundation-sdk, which drops what it does not know, so that nothing
may be missing after a round trip; and promql-parser, which knows PromQL's grammar and functions.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")
from distributed_maddpg.files import parse_json
from distributed_maddpg.runtime.exporter import EXPORTED

_FOLDER = Path(__file__).resolve().parents[2] / "cluster" / "grafana"
_DOCUMENT = _FOLDER.parents[1] / "docs" / "metrics.md"
_METRICS = {metric.exported_name: metric for metric in EXPORTED}
_GENERAL = {"datasource", "run", "__rate_interval", "__all"}
"""Grafana's variables that are defined in the dashboard or by Grafana."""


@pytest.fixture
def dashboard() -> dict[str, Any]:
    read: dict[str, Any] = parse_json((_FOLDER / "dashboard.json").read_bytes())
    return read


def _lost(ours: Any, known: Any, path: str = "") -> Iterator[str]:
    """Return the paths of what is in `ours` and not the same in `known`."""
    if isinstance(ours, dict) and isinstance(known, dict):
        for key, value in ours.items():
            yield from _lost(value, known.get(key), f"{path}.{key}")
    elif isinstance(ours, list) and isinstance(known, list) and len(ours) == len(known):
        for index, (one, other) in enumerate(zip(ours, known, strict=True)):
            yield from _lost(one, other, f"{path}[{index}]")
    elif ours != known:
        yield path


def _unknown(dashboard: dict[str, Any]) -> list[str]:
    """Return the paths that Grafana's types do not have."""
    pytest.importorskip("grafana_foundation_sdk")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    typed = Dashboard.from_json(copy.deepcopy(dashboard))
    return list(_lost(dashboard, json.loads(JSONEncoder().encode(typed))))


def _queries(dashboard: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


_TERM = re.compile(r"(sum|max) by \(([^)]*)\) \((?:(rate|increase)\()?(ray_\w+)")


def _problems(queries: list[str]) -> list[str]:
    """Return what is wrong with queries: metrics and tags that no run exports, rates of gauges."""
    problems = []
    for query in queries:
        terms = _TERM.findall(query)
        if [name for *_, name in terms] != re.findall(r"ray_\w+", query):
            problems.append(f"{query} is not made of known terms")
        problems += [problem for term in terms if (problem := _term_problem(*term))]
        problems += [
            f"${name} is undefined" for name in re.findall(r"\$(\w+)", query) if name not in _GENERAL
        ]
    return problems


def _term_problem(aggregate: str, tags: str, function: str, name: str) -> str:
    metric = _METRICS.get(name)
    if metric is None:
        return f"{name} is not exported"
    if unknown := set(tags.split(", ")) - set(metric.tags):
        return f"{name} has no tag {unknown}"
    # The series of the processes that a run was resumed in: their rates add up, their totals do not.
    fits = aggregate == ("sum" if function else "max") and (metric.kind == "counter" or not function)
    return "" if fits else f"{name} is a {metric.kind}"


def test_grafana_knows_every_field(dashboard: dict[str, Any]) -> None:
    assert _unknown(dashboard) == []


@pytest.mark.parametrize(
    "path",
    [
        ["templating"],
        ["panels", 0, "gridPos"],
        ["panels", 0, "gridPos", "w"],
        ["panels", 6, "targets"],
        ["panels", 6, "targets", 0, "legendFormat"],
        ["panels", 9, "fieldConfig", "defaults", "custom", "stacking"],
        ["panels", 9, "options", "legend", "placement"],
        ["templating", "list", 1, "includeAll"],
    ],
    ids=lambda path: str(path[-1]),
)
def test_a_misspelt_field_is_found(dashboard: dict[str, Any], path: list[str | int]) -> None:
    *parents, last = path
    part: Any = dashboard
    for key in parents:
        part = part[key]
    part[f"{last}s"] = part.pop(last)
    assert any(f".{last}s" in unknown for unknown in _unknown(dashboard))


def test_panels_show_every_metric_that_a_run_exports_and_no_other(dashboard: dict[str, Any]) -> None:
    queries = _queries(dashboard)
    assert _problems(queries) == []
    assert set(re.findall(r"ray_\w+", " ".join(queries))) == set(_METRICS)
    assert all('{run=~"$run"}' in query for query in queries)


@pytest.mark.parametrize(
    ("right", "wrong", "problem"),
    [
        ("ray_maddpg_updates_total", "ray_maddpg_update_total", "ray_maddpg_update_total is not exported"),
        ("ray_maddpg_env_steps_total", "ray_maddpg_env_steps", "ray_maddpg_env_steps is not exported"),
        ("max by (run) (ray_maddpg_replay_fill", "sum by (run) (rate(ray_maddpg_replay_fill", "is a gauge"),
        ("(run, process)", "(run, kind)", "has no tag {'kind'}"),
        ("$__rate_interval", "$__interval_rate", "$__interval_rate is undefined"),
        ("sum by", "sum bye", "is not made of known terms"),
        ("max by (run) (ray_maddpg_env", "sum by (run) (ray_maddpg_env", "is a counter"),
    ],
)
def test_a_misspelt_query_is_found(dashboard: dict[str, Any], right: str, wrong: str, problem: str) -> None:
    queries = _queries(dashboard)
    assert any(right in query for query in queries)
    found = _problems([query.replace(right, wrong) for query in queries])
    assert any(problem in each for each in found)


def test_queries_are_promql(dashboard: dict[str, Any]) -> None:
    promql = pytest.importorskip("promql_parser")
    queries = [query.replace("$__rate_interval", "1m") for query in _queries(dashboard)]
    for query in queries:
        promql.parse(query)
    for right, wrong in (("increase(", "increases("), ("sum by", "sum bye"), ("[1m]", ""), ("=~", "~=")):
        [*_, changed] = [query.replace(right, wrong) for query in queries if right in query]
        with pytest.raises(ValueError):
            promql.parse(changed)


def test_legends_name_tags_of_their_query(dashboard: dict[str, Any]) -> None:
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            grouped = re.findall(r"by \(([^)]*)\)", target["expr"])[0].split(", ")
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= set(grouped)


def test_panels_lie_side_by_side(dashboard: dict[str, Any]) -> None:
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in dashboard["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_the_document_lists_what_is_exported() -> None:
    rows = [line for line in _DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| `ray_")]
    assert rows == [
        f"| `{metric.exported_name}` | {metric.kind} | `{metric.key}` | {metric.unit} | {metric.text} |"
        for metric in EXPORTED
    ]
