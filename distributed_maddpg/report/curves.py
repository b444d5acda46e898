"""Learning curves of several runs in one figure, with a band over the seeds."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from distributed_maddpg.files import write_atomic
from distributed_maddpg.report.html import page
from distributed_maddpg.report.table_files import read_numbers

Curves = Mapping[str, Sequence[float]]
"""Columns of a run's `returns.csv`."""
_COUNTS = ("env_steps", "updates", "episodes")
_SUCCESS = "success_"
_COLOURS = ("#4a78c9", "#d9534f", "#3aa655", "#8e6bb3", "#c98f2d", "#5b5b5b")


def read_curves(run_dir: Path) -> dict[str, list[float]]:
    """Return the greedy returns and success rates of a run over its env steps.

    Raises:
        BadInput: if the folder holds none.
    """
    return read_numbers(run_dir / "returns.csv")


def write_curves(path: Path, title: str, groups: Mapping[str, Sequence[Curves]]) -> None:
    """Write a page with a figure of each number: each group's mean over its runs, and a band.

    Args:
        path: of the page.
        title: of the page.
        groups: the curves of each group's runs, which differ in their seeds.
    """
    # Imported here: plotly costs half a second that only who wants a page should pay.
    import plotly.graph_objects as go  # noqa: PLC0415
    from plotly.io import to_html  # noqa: PLC0415

    parts: list[str] = []
    for name in _numbers(groups):
        figure = go.Figure()
        for colour, (group, runs) in zip(_COLOURS * len(groups), groups.items(), strict=False):
            x, mean, least, most = over_seeds(runs, name)
            outline = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
            figure.add_scatter(x=x, y=most, **outline)
            figure.add_scatter(x=x, y=least, fill="tonexty", fillcolor=_pale(colour), **outline)
            figure.add_scatter(x=x, y=mean, mode="lines", line={"color": colour}, name=group or "mean")
        percent = name.startswith(_SUCCESS)
        figure.update_layout(
            title=f"{'Success of ' if percent else 'Greedy return of '}{name.removeprefix(_SUCCESS)}",
            xaxis_title="environment steps",
            yaxis_title="percent of episodes" if percent else "return",
            template="plotly_white",
            height=420,
            showlegend=len(groups) > 1,
            legend_traceorder="normal",  # plotly turns it round where areas are filled
        )
        parts.append(to_html(figure, full_html=False, include_plotlyjs=not parts))
    seeds = ", ".join(f"{group} {len(runs)}".strip() for group, runs in groups.items())
    text = f"Mean over seeds, and a band from the least to the most of them; seeds: {seeds}."
    write_atomic(path, page(title, "\n".join([f"<p>{html.escape(text)}</p>", *parts])))


def over_seeds(runs: Sequence[Curves], name: str) -> tuple[npt.NDArray[np.float64], ...]:
    """Return env steps `[K]`, and mean, least and most of a number over runs, `[K]` each.

    Runs that were evaluated at other steps are interpolated to those of the first, as far as all of them go.
    """
    end = min(run["env_steps"][-1] for run in runs)
    x = np.array([step for step in runs[0]["env_steps"] if step <= end], np.float64)
    values = np.array([np.interp(x, run["env_steps"], run[name]) for run in runs])
    return x, values.mean(axis=0), values.min(axis=0), values.max(axis=0)


def _numbers(groups: Mapping[str, Sequence[Curves]]) -> list[str]:
    """Return the numbers that all runs have, success first."""
    runs = [run for group in groups.values() for run in group]
    shared = [name for name in runs[0] if name not in _COUNTS and all(name in run for run in runs)]
    return sorted(shared, key=lambda name: not name.startswith(_SUCCESS))


def _pale(colour: str) -> str:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"
