"""The HTML page of a run, `report.html`: Plotly figures that need no network."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distributed_maddpg.errors import BadInput
from distributed_maddpg.files import read_small, write_atomic
from distributed_maddpg.report.curves import read_curves, read_numbers, write_curves
from distributed_maddpg.report.html import curve_mode, new_figure, page, table
from distributed_maddpg.types import MPE2_MODULES

_NEEDED_METRICS = ("num_env_steps_sampled_lifetime", "env_steps_per_s", "updates_per_s")
_MAX_BYTES = 64 * 2**20
_SMOOTHING = 9
"""Points of the moving average over returns, as in the teaching notebook."""


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run folder from its CSV files; return its path.

    Where the folder holds the runs of several seeds, the page shows their curves together.

    Raises:
        BadInput: if the folder holds no run, or a file of it is damaged.
    """
    path, seeds = run_dir / "report.html", sorted(run_dir.glob("seed_*/returns.csv"))
    if seeds and not (run_dir / "metrics.csv").exists():
        runs = [read_curves(each.parent) for each in seeds]
        if not all(each["env_steps"] for each in runs):
            raise BadInput("RUN_DIR", str(run_dir), "a run in it holds no evaluation yet; train first")
        write_curves(path, run_dir.name, {"": runs})
        return path
    metrics = read_numbers(run_dir / "metrics.csv", _NEEDED_METRICS)
    # A run interrupted before its first evaluation has no returns yet.
    evaluated = (run_dir / "returns.csv").exists()
    returns = read_curves(run_dir) if evaluated else {"env_steps": []}
    if not metrics["num_env_steps_sampled_lifetime"]:
        raise BadInput("RUN_DIR", str(run_dir), "holds no metrics yet; train first")
    figures, texts = [], _measure_texts(run_dir)
    for title, unit, curves in (*_evaluation_figures(returns, texts), *_training_figures(metrics)):
        figure = new_figure(title, "environment steps", unit)
        for name, (x, y), visible in curves:
            shown = None if visible else "legendonly"
            figure.add_scatter(x=x, y=y, name=name, mode=curve_mode(y), visible=shown)
        figures.append(figure)
    write_atomic(path, page(run_dir.name, _summary(run_dir) + _animation(run_dir), figures))
    return path


Curve = tuple[str, tuple[list[float], list[float]], bool]
Figure = tuple[str, str, list[Curve]]


def _evaluation_figures(returns: dict[str, list[float]], texts: Mapping[str, str]) -> list[Figure]:
    counts = ("env_steps", "updates", "episodes")
    others = ("success_", "measure_")
    agents = [name for name in returns if name not in counts and not name.startswith(others)]
    rates = [name for name in returns if name.startswith("success_")]
    x = returns["env_steps"]
    figures: list[Figure] = []
    if agents:
        smooth = [(f"{agent}", (x, moving_average(returns[agent])), True) for agent in agents]
        raw = [(f"{agent}, unsmoothed", (x, returns[agent]), False) for agent in agents]
        figures.append(
            (f"Greedy return per episode (moving average of {_SMOOTHING})", "return", smooth + raw)
        )
    if rates:
        curves = [(name.removeprefix("success_"), (x, returns[name]), True) for name in rates]
        figures.append(("Success in the last frame of greedy episodes", "percent of episodes", curves))
    for name in returns:
        if name.startswith("measure_"):  # each has a unit of its own
            shown = name.removeprefix("measure_").replace("_", " ")
            title = f"{shown.capitalize()}: {texts.get(name.removeprefix('measure_'), 'a measure')}"
            figures.append((title, "mean over greedy episodes", [(shown, (x, returns[name]), True)]))
    return figures


def _training_figures(metrics: dict[str, list[float]]) -> list[Figure]:
    x = metrics["num_env_steps_sampled_lifetime"]

    def curves(prefix: str, suffix: str = "") -> list[Curve]:
        return [
            (name.removeprefix(prefix).removesuffix(suffix), (x, values), True)
            for name, values in metrics.items()
            if name.startswith(prefix) and name.endswith(suffix)
        ]

    # An agent without a private part has zeros.
    information = [
        curve for curve in curves("learners/", "/information") if any(value > 0 for value in curve[1][1])
    ]
    title = "How much actions tell of the private part of observations"
    given_away = [(title, "squared distance of actions", information)] if information else []
    return [
        (
            "Training return per episode, with exploration",
            "return",
            curves("env_runners/agent_episode_returns_mean/"),
        ),
        *given_away,
        ("Critic loss", "mean squared TD error", curves("learners/", "/critic_loss")),
        ("Mean Q", "value", curves("learners/", "/q_mean")),
        ("Collecting", "env steps per second", [("env steps", (x, metrics["env_steps_per_s"]), True)]),
        ("Learning", "updates per second", [("updates", (x, metrics["updates_per_s"]), True)]),
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
    """Return the summary as a table, where there is one."""
    path = run_dir / "summary.json"
    if not path.exists():
        return ""
    with _naming(path):
        summary: dict[str, Any] = json.loads(read_small(path, _MAX_BYTES))
        rows: dict[str, str] = {
            "environment steps": f"{summary['env_steps']:,} ({summary['env_steps_per_s']:,.0f}/s)",
            "updates of all agents": f"{summary['updates']:,} ({summary['updates_per_s']:,.1f}/s)",
            "weights digest": summary["weights_digest"][:16],
        }
        for name, rate in summary.get("evaluation", {}).get("success", {}).items():
            rows[f"greedy success, {name}"] = f"{rate:.1f} %"
        for name, value in summary.get("evaluation", {}).get("measures", {}).items():
            rows[f"greedy episodes, {name.replace('_', ' ')}"] = f"{value:.3f}"
        return table(rows.items())


def _environment(run_dir: Path) -> str:
    """Return `env.id` of the run, empty if there is no summary."""
    return str(_in_summary(run_dir, "env_id", ""))


def _in_summary(run_dir: Path, name: str, default: Any) -> Any:
    """Return a value of the summary, or `default` if there is none."""
    path = run_dir / "summary.json"
    if not path.exists():
        return default
    with _naming(path):
        summary = json.loads(read_small(path, _MAX_BYTES))
        return summary[name] if name in summary else default


def _measure_texts(run_dir: Path) -> dict[str, str]:
    """Return what the measures of a run say, by name; of a scenario also if its summary does not say it."""
    env_id, texts = _environment(run_dir), {}
    if env_id in MPE2_MODULES:
        from distributed_maddpg.envs.mpe.scenarios import SCENARIOS  # noqa: PLC0415 - loads numba

        texts = {measure.name: measure.text for measure in SCENARIOS[env_id].measures}
    own = _in_summary(run_dir, "measures", {})
    with _naming(run_dir / "summary.json"):
        return texts | {name: str(text) for name, text in own.items()}


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Refuse a file of a run whose content is not what `train` wrote."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{path.name} cannot be used ({type(error).__name__}: {error}); repair or delete it"
        raise BadInput("RUN_DIR", str(path.parent), reason) from None


def _animation(run_dir: Path) -> str:
    """Return the animation of the run's episodes as an inline image, where there is one."""
    path = run_dir / "episodes.gif"
    if not path.exists():
        return ""
    with _naming(path):
        data = base64.b64encode(read_small(path, _MAX_BYTES)).decode("ascii")
    caption = _ADVERSARY_CAPTION if _environment(run_dir) == "simple_adversary" else _CAPTION
    return _FIGURE.format(data=data, caption=caption)


_FIGURE = """<figure><img alt="greedy episodes" src="data:image/gif;base64,{data}">
<figcaption>{caption}</figcaption></figure>"""
_ADVERSARY_CAPTION = """Greedy episodes: the adversary (red) does not know which landmark is the goal (green);
the good agents (blue) do. Their reward grows when one of them nears the goal and when the adversary is far
from it."""
_CAPTION = """Greedy episodes: agents in the colour of their team, adversaries red; landmarks grey, the goal
of an episode, if it has one, green."""
