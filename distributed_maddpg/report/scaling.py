"""One self-contained HTML page of a scaling benchmark; needs no network."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

_RATES = {
    "collect_env_steps_per_s": "collecting alone",
    "env_steps_per_s": "with learning",
}


def scaling_page(result: Mapping[str, Any]) -> str:
    """Return the page: rates and efficiency over workers, and where the time went.

    Args:
        result: a result of the benchmark `scaling`, as plain values.
    """
    # Imported here: plotly costs half a second that only a page should pay.
    import plotly.graph_objects as go  # noqa: PLC0415
    from plotly.io import to_html  # noqa: PLC0415

    points: list[Mapping[str, Any]] = result["points"]
    figures = [_rates(go, points), _efficiency(go, points), _time(go, points)]
    parts = [
        to_html(figure, full_html=False, include_plotlyjs=index == 0) for index, figure in enumerate(figures)
    ]
    machine = f"{result['machine']['cores']} cores, {result['machine']['cpu']}"
    jobs = [(f"{point['workers']} x {point['num_envs']}", point["bottleneck"]) for point in points]
    rows = "".join(f"<tr><td>{job}</td><td>{html.escape(bottleneck)}</td></tr>" for job, bottleneck in jobs)
    return _PAGE.format(
        command=html.escape(result["command"]),
        machine=html.escape(machine),
        rows=rows,
        figures="\n".join(parts),
    )


def _rates(go: Any, points: list[Mapping[str, Any]]) -> Any:
    figure = go.Figure()
    for envs, group in _groups(points).items():
        workers = [point["workers"] for point in group]
        for name, text in _RATES.items():
            title = f"{text}, {envs} envs per worker"
            figure.add_scatter(
                x=workers, y=[point[name] for point in group], name=title, mode="lines+markers"
            )
            ideal = [point[f"ideal_{name}"] for point in group]
            figure.add_scatter(x=workers, y=ideal, name=f"ideal, {title}", mode="lines", line={"dash": "dot"})
    return _titled(figure, "Environment steps per second", "env steps per second", log=True)


def _efficiency(go: Any, points: list[Mapping[str, Any]]) -> Any:
    figure = go.Figure()
    for envs, group in _groups(points).items():
        workers = [point["workers"] for point in group]
        for name, text in _RATES.items():
            values = [100 * point[f"efficiency_{name}"] for point in group]
            title = f"{text}, {envs} envs per worker"
            figure.add_scatter(x=workers, y=values, name=title, mode="lines+markers")
    return _titled(figure, "Efficiency against ideal linear scaling", "percent of ideal")


def _time(go: Any, points: list[Mapping[str, Any]]) -> Any:
    figure = go.Figure()
    stages = [
        f"{stage}, {p['workers']} x {p['num_envs']}" for stage in ("workers", "learner") for p in points
    ]
    for name in points[0]["shares"]:
        own = [100 * point["shares"][name] for point in points]
        nothing = [0.0] * len(points)
        values = own + nothing if name.startswith("rollout_") else nothing + own
        figure.add_bar(x=stages, y=values, name=name.replace("rollout_", "workers ").replace("_", " "))
    figure = _titled(figure, "Where the time goes while learning", "percent of the time")
    figure.update_layout(barmode="stack", xaxis_title="stage, workers x envs per worker")
    return figure


def _groups(points: list[Mapping[str, Any]]) -> dict[int, list[Mapping[str, Any]]]:
    """Return the jobs by environment copies per worker."""
    groups: dict[int, list[Mapping[str, Any]]] = {}
    for point in points:
        groups.setdefault(point["num_envs"], []).append(point)
    return groups


def _titled(figure: Any, title: str, unit: str, log: bool = False) -> Any:
    figure.update_layout(
        title=title, xaxis_title="rollout workers", yaxis_title=unit, template="plotly_white", height=420
    )
    figure.update_xaxes(tick0=1, dtick=1)
    if log:
        figure.update_yaxes(type="log")
    return figure


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>scaling</title>
<style>body{{font-family:system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}}
th{{text-align:left;padding-right:2rem;font-weight:normal;color:#555}}</style>
</head><body><h1>Scaling over rollout workers</h1><p><code>{command}</code>, on {machine}</p>
<table><tr><th>workers x envs per worker</th><th>bottleneck</th></tr>{rows}</table>
{figures}
</body></html>
"""
