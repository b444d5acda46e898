"""One self-contained HTML page of a scaling benchmark; needs no network."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from distributed_maddpg.report.html import new_figure, page, table

_RATES = {
    "collect_env_steps_per_s": "collecting alone",
    "env_steps_per_s": "with learning",
}


def scaling_page(result: Mapping[str, Any]) -> str:
    """Return the page: rates and efficiency over workers, and where the time went.

    Args:
        result: a result of the benchmark `scaling`, as plain values.
    """
    points: list[Mapping[str, Any]] = result["points"]
    machine = f"{result['machine']['cores']} cores, {result['machine']['cpu']}"
    head = f"<p><code>{html.escape(result['command'])}</code>, on {html.escape(machine)}</p>"
    jobs = [(f"{point['workers']} x {point['num_envs']}", point["bottleneck"]) for point in points]
    body = head + table([("workers x envs per worker", "bottleneck"), *jobs])
    return page("Scaling over rollout workers", body, [*_rates_and_efficiency(points), _time(points)])


def _rates_and_efficiency(points: list[Mapping[str, Any]]) -> tuple[Any, Any]:
    rates = new_figure("Environment steps per second", "rollout workers", "env steps per second")
    efficiency = new_figure("Efficiency against ideal linear scaling", "rollout workers", "percent of ideal")
    for envs in dict.fromkeys(point["num_envs"] for point in points):
        group = [point for point in points if point["num_envs"] == envs]
        x = [point["workers"] for point in group]
        for name, text in _RATES.items():
            title = f"{text}, {envs} envs per worker"
            rates.add_scatter(x=x, y=[point[name] for point in group], name=title, mode="lines+markers")
            ideal = [point[f"ideal_{name}"] for point in group]
            rates.add_scatter(x=x, y=ideal, name=f"ideal, {title}", mode="lines", line={"dash": "dot"})
            percent = [100 * point[f"efficiency_{name}"] for point in group]
            efficiency.add_scatter(x=x, y=percent, name=title, mode="lines+markers")
    rates.update_yaxes(type="log")
    for figure in (rates, efficiency):
        figure.update_xaxes(tick0=1, dtick=1)
    return rates, efficiency


def _time(points: list[Mapping[str, Any]]) -> Any:
    axis = "stage, workers x envs per worker"
    figure = new_figure("Where the time goes while learning", axis, "percent of the time")
    stages = [
        f"{stage}, {p['workers']} x {p['num_envs']}" for stage in ("workers", "learner") for p in points
    ]
    for name in points[0]["shares"]:
        own = [100 * point["shares"][name] for point in points]
        zeros = [0.0] * len(points)
        values = own + zeros if name.startswith("rollout_") else zeros + own
        figure.add_bar(x=stages, y=values, name=name.replace("rollout_", "workers ").replace("_", " "))
    return figure.update_layout(barmode="stack")
