"""Curves of runs: read from their CSV files, and drawn with a band over the seeds."""

from __future__ import annotations

import csv
import html
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distributed_maddpg.errors import BadInput
from distributed_maddpg.files import read_small, write_atomic
from distributed_maddpg.report.html import curve_mode, new_figure, page

Curves = Mapping[str, Sequence[float]]
"""Columns of a run's `returns.csv`."""
_COUNTS = ("env_steps", "updates", "episodes")
_SUCCESS, _MEASURE = "success_", "measure_"
LARGEST = 1e200
"""Sums of many numbers below it are finite, which those of a damaged file need not be."""
_MAX_TABLE_BYTES = 256 * 2**20
_COLOURS = ("#4a78c9", "#d9534f", "#3aa655", "#8e6bb3", "#c98f2d", "#5b5b5b")


def read_curves(run_dir: Path) -> dict[str, list[float]]:
    """Return the greedy returns and success rates of a run over its env steps.

    Raises:
        BadInput: if the folder holds none.
    """
    return read_numbers(run_dir / "returns.csv", ("env_steps",))


def read_numbers(path: Path, needed: Sequence[str]) -> dict[str, list[float]]:
    """Return the columns of a run's CSV file as numbers; what is none, or too large to draw, becomes NaN.

    Rows without a number in the first column that is needed are left out: a full disk may have cut them.

    Raises:
        BadInput: if the file does not exist, is no CSV file, or has rows without a column that is needed.
    """
    try:
        text = read_small(path, _MAX_TABLE_BYTES).decode("utf-8")
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        if any(None in row for row in rows):
            raise ValueError("a row is longer than the header")
        if rows and (missing := sorted(set(needed) - set(rows[0]))):
            raise ValueError(f"it lacks the column {missing[0]}")
    except OSError as error:
        raise BadInput("RUN_DIR", str(path.parent), f"holds no run ({path.name}: {error.strerror})") from None
    except (ValueError, csv.Error) as error:
        raise BadInput("RUN_DIR", str(path.parent), f"{path.name} is not a run's table ({error})") from None
    names = list(rows[0]) if rows else needed
    rows = [row for row in rows if math.isfinite(_number(row[needed[0]]))]
    return {name: [_number(row[name]) for row in rows] for name in names}


def _number(text: str | None) -> float:
    try:
        number = float(text or "nan")
    except ValueError:
        return math.nan
    return number if abs(number) < LARGEST else math.nan


def write_curves(path: Path, title: str, groups: Mapping[str, Sequence[Curves]]) -> None:
    """Write a page with a figure of each number: each group's mean over its runs, and a band.

    Args:
        path: of the page.
        title: of the page.
        groups: the curves of each group's runs, which differ in their seeds.
    """
    seeds = ", ".join(f"{group} {len(runs)}".strip() for group, runs in groups.items())
    text = f"Mean over seeds, and a band from their minimum to their maximum; seeds: {seeds}."
    figures = (_figure(name, groups) for name in _numbers(groups))
    write_atomic(path, page(title, f"<p>{html.escape(text)}</p>", figures))


def _figure(name: str, groups: Mapping[str, Sequence[Curves]]) -> Any:
    figure = new_figure(*_title_and_unit(name))
    for colour, (group, runs) in zip(_COLOURS * len(groups), groups.items(), strict=False):
        x, mean, least, most = over_seeds(runs, name)
        outline = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
        figure.add_scatter(x=x, y=most, **outline)
        figure.add_scatter(x=x, y=least, fill="tonexty", fillcolor=_pale(colour), **outline)
        style = {"mode": curve_mode(mean), "line": {"color": colour}}
        figure.add_scatter(x=x, y=mean, name=group or "mean", **style)
    # Plotly reverses the legend of filled areas.
    return figure.update_layout(showlegend=len(groups) > 1, legend_traceorder="normal")


def _title_and_unit(name: str) -> tuple[str, str, str]:
    """Return the title of a column's figure and what its axes show."""
    x = "environment steps"
    if name.startswith(_SUCCESS):
        return f"Success of {name.removeprefix(_SUCCESS)}", x, "percent of episodes"
    if name.startswith(_MEASURE):
        shown = name.removeprefix(_MEASURE).replace("_", " ")
        return shown.capitalize(), x, "mean over greedy episodes"
    return f"Greedy return of {name}", x, "return"


def over_seeds(runs: Sequence[Curves], name: str) -> tuple[npt.NDArray[np.float64], ...]:
    """Return env steps `[K]`, and mean, least and most of a number over runs, `[K]` each.

    Runs evaluated at other steps are interpolated to those of the first, up to the end of the shortest run.
    """
    end = min(run["env_steps"][-1] for run in runs)
    x = np.array([step for step in runs[0]["env_steps"] if step <= end], np.float64)
    values = np.array([np.interp(x, run["env_steps"], run[name]) for run in runs])
    return x, values.mean(axis=0), values.min(axis=0), values.max(axis=0)


def _numbers(groups: Mapping[str, Sequence[Curves]]) -> list[str]:
    """Return the numbers that all runs have, success and measures first."""
    runs = [run for group in groups.values() for run in group]
    shared = [name for name in runs[0] if name not in _COUNTS and all(name in run for run in runs)]
    return sorted(shared, key=lambda name: not name.startswith((_SUCCESS, _MEASURE)))


def _pale(colour: str) -> str:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"
