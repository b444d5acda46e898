"""One self-contained HTML page of a run: Plotly figures that need no network."""

from __future__ import annotations

import base64
import html
import json
import math
from pathlib import Path
from typing import Any

from distributed_maddpg.errors import BadInput
from distributed_maddpg.files import write_atomic
from distributed_maddpg.report.curves import read_curves, write_curves
from distributed_maddpg.report.table_files import read_numbers

_SMOOTHING = 9
"""Points of the moving average over returns, as in the notebook this project grew from."""


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run folder from its CSV files; return its path.

    Where the folder holds the runs of several seeds, the page shows their curves together.

    Raises:
        BadInput: if the folder holds no run.
    """
    seeds = sorted(run_dir.glob("seed_*/returns.csv"))
    if seeds and not (run_dir / "metrics.csv").exists():
        path = run_dir / "report.html"
        write_curves(path, run_dir.name, {"": [read_curves(each.parent) for each in seeds]})
        return path
    # Imported here: plotly costs half a second that only a report should pay.
    import plotly.graph_objects as go  # noqa: PLC0415
    from plotly.io import to_html  # noqa: PLC0415

    metrics = read_numbers(run_dir / "metrics.csv")
    # A run interrupted before its first evaluation has no returns yet.
    returns = (
        read_numbers(run_dir / "returns.csv") if (run_dir / "returns.csv").exists() else {"env_steps": []}
    )
    if not metrics["num_env_steps_sampled_lifetime"]:
        raise BadInput("run_dir", str(run_dir), "holds no metrics yet; train first")
    figures = [figure for figure in (*_evaluation_figures(returns), *_training_figures(metrics)) if figure]
    parts = []
    for index, (title, unit, curves) in enumerate(figures):
        figure = go.Figure()
        for name, (x, y), visible in curves:
            figure.add_scatter(x=x, y=y, name=name, mode="lines", visible=None if visible else "legendonly")
        figure.update_layout(
            title=title,
            xaxis_title="environment steps",
            yaxis_title=unit,
            template="plotly_white",
            height=420,
        )
        parts.append(to_html(figure, full_html=False, include_plotlyjs=index == 0))
    page = _PAGE.format(
        title=html.escape(run_dir.name),
        summary=_summary(run_dir),
        animation=_animation(run_dir),
        figures="\n".join(parts),
    )
    path = run_dir / "report.html"
    write_atomic(path, page)
    return path


Curve = tuple[str, tuple[list[float], list[float]], bool]
Figure = tuple[str, str, list[Curve]]


def _evaluation_figures(table: dict[str, list[float]]) -> list[Figure]:
    counts = ("env_steps", "updates", "episodes")
    agents = [name for name in table if name not in counts and not name.startswith("success_")]
    rates = [name for name in table if name.startswith("success_")]
    x = table["env_steps"]
    figures: list[Figure] = []
    if agents:
        smooth = [(f"{agent}", (x, moving_average(table[agent])), True) for agent in agents]
        raw = [(f"{agent}, unsmoothed", (x, table[agent]), False) for agent in agents]
        figures.append(
            (f"Greedy return per episode (moving average of {_SMOOTHING})", "return", smooth + raw)
        )
    if rates:
        curves = [(name.removeprefix("success_"), (x, table[name]), True) for name in rates]
        figures.append(("Success in the last frame of greedy episodes", "percent of episodes", curves))
    return figures


def _training_figures(table: dict[str, list[float]]) -> list[Figure]:
    x = table["num_env_steps_sampled_lifetime"]

    def curves(prefix: str, suffix: str = "") -> list[Curve]:
        return [
            (name.removeprefix(prefix).removesuffix(suffix), (x, values), True)
            for name, values in table.items()
            if name.startswith(prefix) and name.endswith(suffix)
        ]

    return [
        (
            "Training return per episode, with exploration",
            "return",
            curves("env_runners/agent_episode_returns_mean/"),
        ),
        ("Critic loss", "mean squared TD error", curves("learners/", "/critic_loss")),
        ("Mean Q", "value", curves("learners/", "/q_mean")),
        ("Collecting", "env steps per second", [("env steps", (x, table["env_steps_per_s"]), True)]),
        ("Learning", "updates per second", [("updates", (x, table["updates_per_s"]), True)]),
        ("Where the time went", "seconds per report", curves("timers/")),
        ("Age of the workers' weights", "versions behind", curves("weights/versions_behind/")),
    ]


def moving_average(values: list[float], width: int = _SMOOTHING) -> list[float]:
    """Return the mean of each value and up to `width - 1` before it."""
    return [
        math.fsum(values[max(0, i - width + 1) : i + 1]) / (i + 1 - max(0, i - width + 1))
        for i in range(len(values))
    ]


def _summary(run_dir: Path) -> str:
    """Return the summary as table rows, where there is one."""
    path = run_dir / "summary.json"
    if not path.exists():
        return ""
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    rows: dict[str, str] = {
        "environment steps": f"{summary['env_steps']:,} ({summary['env_steps_per_s']:,.0f}/s)",
        "updates of all agents": f"{summary['updates']:,} ({summary['updates_per_s']:,.1f}/s)",
        "weights digest": summary["weights_digest"][:16],
    }
    for name, rate in summary.get("evaluation", {}).get("success", {}).items():
        rows[f"greedy success, {name}"] = f"{rate:.1f} %"
    return "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in rows.items())


def _animation(run_dir: Path) -> str:
    """Return the run's episodes as an inline picture, where there are any."""
    path = run_dir / "episodes.gif"
    if not path.exists():
        return ""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return _FIGURE.format(data=data)


_FIGURE = """<figure><img alt="greedy episodes" src="data:image/gif;base64,{data}">
<figcaption>Greedy episodes: the adversary (red) does not know which landmark is the goal (green); the good
agents (blue) do, and win by covering both.</figcaption></figure>"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body{{font-family:system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}}
figure{{margin:1rem 0}}figcaption{{color:#555;max-width:40rem}}img{{border:1px solid #ddd}}
th{{text-align:left;padding-right:2rem;font-weight:normal;color:#555}}
td{{font-variant-numeric:tabular-nums}}</style>
</head><body><h1>{title}</h1><table>{summary}</table>
{animation}
{figures}
</body></html>
"""
