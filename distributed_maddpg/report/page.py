"""The page of runs, `report.html`: data as JSON, and JavaScript that draws them without a network."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from distributed_maddpg._version import __version__
from distributed_maddpg.errors import BadInput
from distributed_maddpg.files import write_atomic
from distributed_maddpg.report.cards import group_card
from distributed_maddpg.report.charts import charts
from distributed_maddpg.report.configuration import settings_table
from distributed_maddpg.report.html import table
from distributed_maddpg.report.plotly_bundle import plotly_script
from distributed_maddpg.report.replays import replays
from distributed_maddpg.report.runs import STEPS, Group, read_groups

_SCRIPTS = (
    *("dom.js", "theme.js", "cards.js", "replay_data.js", "replay_draw.js", "replay.js"),
    *("charts.js", "settings.js", "live.js", "main.js"),
)
_LIVE_STATES = ("starting", "running")


def report_data(run_dirs: Sequence[Path], ended: bool = False) -> dict[str, Any]:
    """Return everything that the page of runs draws, as values that JSON can hold.

    Args:
        run_dirs: folders of runs, or of several seeds' runs (`seed_<n>`).
        ended: whether the runs have ended, though their process may still hold the folders' locks.

    Raises:
        BadInput: if a folder holds no run, or a file of it is damaged.
    """
    groups = read_groups(run_dirs, ended)
    return {
        "title": " and ".join(group.name for group in groups[:3])
        + (" and others" if len(groups) > 3 else ""),
        "written": time.time(),
        "version": __version__,
        "live": any(group.state in _LIVE_STATES for group in groups),
        "groups": [group_card(group) for group in groups],
        **charts(groups),
        "events": sorted(
            (event for index, group in enumerate(groups) for event in _events(group, index)),
            key=lambda event: float(event["time"]),
        ),
        "settings": settings_table(groups),
        "replay": replays(groups),
    }


def _events(group: Group, index: int) -> Iterator[dict[str, Any]]:
    """Yield what is marked on the axis of env steps: resumes, losses and recoveries of processes."""
    for run in group.runs:
        of = f"{run.path.name}: " if len(group.runs) > 1 else ""
        for start in run.starts[1:]:
            text = f"{of}resumed at {int(start['env_steps']):,} env steps"
            yield {
                "x": start["env_steps"],
                "time": start["time"],
                "kind": "resumed",
                "text": text,
                "group": index,
            }
        for event in run.events:
            known = {"time": event["time"], "kind": str(event["kind"]), "group": index}
            known["text"] = f"{of}{event['message']}"
            steps = run.steps_at(float(event["time"]))
            yield {"x": None if steps is None else round(steps), **known}


def report_html(run_dirs: Sequence[Path], live_url: str = "", ended: bool = False) -> str:
    """Return the page of runs.

    Args:
        run_dirs: as in `report_data`.
        live_url: from which the page asks for new data every few seconds, which is `report_data` as JSON; it
            may be relative. Empty: the page never uses the network.
        ended: as in `report_data`.

    Raises:
        BadInput: if a folder holds no run, or a file of it is damaged.
    """
    return page_of(report_data(run_dirs, ended), live_url)


def page_of(data: Mapping[str, Any], live_url: str = "") -> str:
    """Return the page of what `report_data` returned."""
    parts = {
        "title": html.escape(str(data["title"])),
        "connect": "'self' http://127.0.0.1:* http://localhost:*" if live_url else "'none'",
        "style": _asset("page.css"),
        "plain": _plain_summary(data),
        "data": _json({**data, "live_url": live_url}),
        "plotly": plotly_script(),
        "script": "\n".join(map(_asset, _SCRIPTS)),
    }
    text = _asset("page.html")
    for name, part in parts.items():
        text = text.replace(f"<!--{name}-->", part, 1)
    return text.encode(errors="replace").decode()  # names of files need not be text


def _asset(name: str) -> str:
    return resources.files("distributed_maddpg.report").joinpath("assets", name).read_text("utf-8")


def _json(data: Mapping[str, Any]) -> str:
    """Return JSON that can stand in a script element: without what would end or comment it."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _plain_summary(data: Mapping[str, Any]) -> str:
    """Return the summary as tables, for a browser without JavaScript or an old one."""
    parts = []
    for card in data["groups"]:
        rows = [("state", f"{card['state_name']}. {card['ending']}"), ("results", card["results_of"])]
        rows += [(own["label"], f"{own['value']} {own['unit']}  {own['note']}") for own in card["results"]]
        rows += [(f"return of {own['label']}", f"{own['value']}  {own['note']}") for own in card["returns"]]
        rows += [(own["label"], f"{own['value']}  {own['note']}") for own in card["facts"]]
        parts.append(f"<h2>{html.escape(card['name'])}</h2>{table(rows)}")
    return "\n".join(parts)


def write_report(run_dirs: Sequence[Path], out: Path | None = None, ended: bool = False) -> Path:
    """Write the page of runs; return its path.

    Args:
        run_dirs: as in `report_data`.
        out: the file; None: `report.html` in the first folder.
        ended: as in `report_data`.

    Raises:
        BadInput: if a folder holds no run, or nothing of it was reported yet, or a file of it is damaged.
    """
    for group in read_groups(run_dirs, ended):
        if not any(run.metrics.get(STEPS) or run.returns.get("env_steps") for run in group.runs):
            raise BadInput("RUN_DIR", str(group.path), "holds no metrics yet; train first")
    path = out or run_dirs[0] / "report.html"
    write_atomic(path, report_html(run_dirs, ended=ended))
    return path
