"""Progress of a run: a live line on a terminal, otherwise a plain line every 5 s."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import is_builtin

_PLAIN_INTERVAL_S = 5.0
RESUME_WITH = "resume with: "
"""Begins the line of an interrupted run that says how to resume it."""


class Progress:
    """Prints progress and results to stderr; stdout is for JSON."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """Print to `stream`; default: stderr."""
        file = stream or sys.stderr
        width = None if file.isatty() else 200  # no line wrapping in a log file
        self._console = Console(file=file, highlight=False, width=width)
        self._bar: Bar | None = None
        self._total = 0
        self._last_plain = -_PLAIN_INTERVAL_S
        self._evaluation = ""

    def print_start(self, config: MADDPGConfig, run_dir: Path, num_seeds: int) -> None:
        """Print what is about to run, and a warning if it is too short to learn."""
        self._total = config.pacing.total_env_steps
        workers = f"{config.num_workers} rollout worker{'s' if config.num_workers > 1 else ''}"
        where = f"{workers} on Ray" if config.num_workers else "one process"
        mode = ", lock-step" if config.sync and config.num_workers else ""
        seeds = f", {num_seeds} seeds side by side, the first one shown" if num_seeds > 1 else ""
        self._console.print(f"training {config.env.id} with {where}{mode}{seeds}; files go to {run_dir}")
        starts, total = config.pacing.learning_starts, config.pacing.total_env_steps
        if total < starts:
            reason = f"pacing.total_env_steps {total} ends before pacing.learning_starts {starts} has passed"
            self.note(f"nothing will be learnt: {reason}; raise the first or lower the second")

    def print_result(self, result: dict[str, Any]) -> None:
        """Print one result of `train()`."""
        if result["evaluation"]:
            self._evaluation = evaluation_text(result["evaluation"])
        steps = result["num_env_steps_sampled_lifetime"]
        text = (
            f"{steps:,} env steps  {result['num_updates_lifetime']:,} updates  "
            f"{result['env_steps_per_s']:,.0f} env-steps/s  {result['updates_per_s']:.0f} updates/s  "
            f"weights {result['weights']['versions_behind_mean']:.1f} versions behind  {self._evaluation}"
        ).rstrip()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=min(steps, self._total), text=text)
        elif time.monotonic() - self._last_plain >= _PLAIN_INTERVAL_S or steps >= self._total:
            self._last_plain = time.monotonic()
            percent = min(100, 100 * steps / self._total)  # the last fragment may exceed the total
            self._console.print(f"[{percent:3.0f} %] {text}", markup=False)

    def __enter__(self) -> Progress:
        """Start the live line if the stream is a terminal."""
        if self._console.is_terminal:
            self._bar = Bar(
                BarColumn(bar_width=20),
                TextColumn("{task.percentage:3.0f} %"),
                TextColumn("{task.fields[text]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._bar.add_task("training", total=self._total, text="waiting for the first report")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the live line."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def print_summary(self, summary: dict[str, Any]) -> None:
        """Print the summary of a run as a table."""
        table = _pairs()
        for row in _outcome_rows(summary):
            table.add_row(*row)
        for row in _evaluation_rows(summary.get("evaluation")):
            table.add_row(*row)
        for run in summary.get("runs", []):
            if "evaluation" in run:
                name = Path(run["files"]["run_dir"]).name.replace("_", " ")
                table.add_row(name, evaluation_text(run["evaluation"]))
        table.add_row(
            "collected", f"{summary['env_steps']:,} env steps, {summary['env_steps_per_s']:,.0f} a second"
        )
        table.add_row("learnt", f"{summary['updates']:,} updates, {summary['updates_per_s']:,.1f} a second")
        table.add_row(
            "training time",
            f"{summary['training_s']:.1f} s on {summary['device']} ({summary['device_reason']})",
        )
        for kind, path in summary["files"].items():
            table.add_row(kind.replace("_", " "), path)
        self._console.print(table)
        for run in summary.get("runs", [summary]) if summary["interrupted"] else []:
            folder, env_id = run["files"]["run_dir"], run["env_id"]
            named = "" if is_builtin(env_id) else f" --env.id {env_id}"
            self.note(f"{RESUME_WITH}distributed-maddpg train --resume {folder}{named}")

    def print_pairs(self, rows: Sequence[tuple[str, str]]) -> None:
        """Print names and texts side by side."""
        table = _pairs()
        for name, text in rows:
            table.add_row(name, Text(text))
        self._console.print(table)

    def note(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False)

    @contextmanager
    def print_log(self) -> Iterator[None]:
        """Print the log messages of the package as lines, above the live line."""
        handler = _LogHandler(self.note)
        log = logging.getLogger("distributed_maddpg")
        propagates, log.propagate = log.propagate, False
        log.addHandler(handler)
        try:
            yield
        finally:
            log.removeHandler(handler)
            log.propagate = propagates

    def print_table(self, title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table of text; columns of numbers are right-aligned."""
        table = Table(box=None, pad_edge=False)
        for column, header in enumerate(headers):
            numeric = all(row[column].lstrip("+-")[:1].isdigit() or not row[column] for row in rows)
            table.add_column(header, justify="right" if numeric else "left", header_style="dim")
        for row in rows:
            table.add_row(*row)
        # Not as the table's title, which rich would wrap to the table's width.
        self._console.print(title, style="bold", markup=False)
        self._console.print(table)


def _pairs() -> Table:
    """Return an empty table of names and texts."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    return table


class _LogHandler(logging.Handler):
    """Calls a function with each message."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._note = note

    def emit(self, record: logging.LogRecord) -> None:
        self._note(record.getMessage())


def evaluation_text(card: dict[str, Any]) -> str:
    """Return what an evaluation says in a few words."""
    if "success" in card:
        return "greedy success: " + ", ".join(
            f"{name} {rate:.0f} %" for name, rate in card["success"].items()
        )
    if "measures" in card:
        return "greedy: " + _measures_text(card["measures"])
    returns = card["agent_episode_returns_mean"]
    return "greedy returns: " + ", ".join(f"{agent} {value:.1f}" for agent, value in returns.items())


def _outcome_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Return how a run ended, and by which score its best checkpoint is kept."""
    rows = [("result", "interrupted" if summary["interrupted"] else "finished")]
    if "reason" in summary:
        rows.append(("reason", summary["reason"]))
    for best in [run["best"] for run in summary.get("runs", [summary]) if "best" in run]:
        text = f"{best['name']} {best['value']:.4g} after {best['env_steps']:,} env steps"
        rows.append(("best evaluation", text))
    return rows


def _measures_text(measures: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in measures.items())


def _evaluation_rows(card: dict[str, Any] | None) -> list[tuple[str, str]]:
    if card is None:
        return []
    returns = ", ".join(
        f"{agent} {value:+.2f}" for agent, value in card["agent_episode_returns_mean"].items()
    )
    rows = [("greedy returns", f"{returns}  ({card['episodes']} episodes)")]
    if "success" in card:
        rates = ", ".join(f"{name} {rate:.1f} %" for name, rate in card["success"].items())
        rows.append(("greedy success", f"{rates}  (within {card['eps']} in the last frame)"))
    if "measures" in card:
        rows.append(("greedy episodes", _measures_text(card["measures"])))
    return rows
