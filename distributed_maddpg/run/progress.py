"""Progress of a run: a live view on a terminal, elsewhere a plain line every 5 s."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Protocol, TextIO, cast

from rich.table import Table
from rich.text import Text

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import is_builtin
from distributed_maddpg.run.standing import Standing, StandingLog
from distributed_maddpg.run.terminal_view import FramedConsole, TerminalView, WholeFrames, is_interactive

if TYPE_CHECKING:
    from distributed_maddpg.run.endings import EndingOptions

_PLAIN_INTERVAL_S, _VIEW_INTERVAL_S = 5.0, 0.25
RESUME_WITH = "resume with: "
"""Begins the line of an interrupted run that says how to resume it."""
STOPPING = "stopping, with a checkpoint; a second interrupt ends it without"


class View(Protocol):
    """What shows the newest standing of a run until it is closed."""

    def show(self, standing: Standing) -> None:
        """Show it."""

    def set_phase(self, text: str) -> None:
        """Say what the run does besides training; called from a signal handler too."""

    def close(self) -> None:
        """End it."""


class Progress:
    """Prints progress and results to stderr; stdout is for JSON."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Print to `stream`; default: stderr."""
        file = stream or sys.stderr
        self._clock = clock
        width = None if file.isatty() else 200  # no line wrapping in a log file
        self._console = FramedConsole(file=file, highlight=False, width=width)
        self._interactive = is_interactive(file, self._console)
        if self._interactive:
            self._console.file = cast("IO[str]", WholeFrames(file))
        self._view: View | None = None
        self._log: StandingLog | None = None
        self._last_shown = self._last_plain = 0.0
        self._any_result = self._unprinted = False
        self._evaluation = ""

    def print_start(
        self, config: MADDPGConfig, run_dir: Path, num_seeds: int, ending: EndingOptions | None = None
    ) -> None:
        """Print what is about to run, and a warning if it is too short to learn."""
        self._log = StandingLog(config, ending, self._clock)
        self._last_plain = self._clock()
        workers = f"{config.num_workers} rollout worker{'s' if config.num_workers > 1 else ''}"
        where = f"{workers} on Ray" if config.num_workers else "one process"
        mode = ", lock-step" if config.sync and config.num_workers else ""
        seeds = f", {num_seeds} seeds side by side, the first one shown" if num_seeds > 1 else ""
        self.note(f"training {config.env.id} with {where}{mode}{seeds}; files go to {run_dir}")
        starts, total = config.pacing.learning_starts, config.pacing.total_env_steps
        if total < starts:
            reason = f"pacing.total_env_steps {total} ends before pacing.learning_starts {starts} has passed"
            self.note(f"nothing will be learnt: {reason}; raise the first or lower the second")

    def print_counts(self, env_steps: int, updates: int) -> None:
        """Show how far training is; for every round, of which there may be thousands a second."""
        now = self._clock()
        if self._log is None or now - self._last_shown < _VIEW_INTERVAL_S:
            return
        self._last_shown = now
        self._log.add_counts(env_steps, updates)
        self._show(self._log.standing(), now - self._last_plain >= _PLAIN_INTERVAL_S)

    def print_result(self, result: dict[str, Any]) -> None:
        """Print one result of `train()`."""
        assert self._log is not None
        if result["evaluation"]:
            self._evaluation = evaluation_text(result["evaluation"])
        self._log.add_result(result)
        standing = self._log.standing()
        is_due = self._clock() - self._last_plain >= _PLAIN_INTERVAL_S
        self._show(standing, is_due or not self._any_result or standing.progress >= 1.0)
        self._any_result = True

    def _show(self, standing: Standing, plain: bool) -> None:
        """Show a standing in the view; without one as a line, if `plain`."""
        self._unprinted = True
        if self._view is not None:
            self._view.show(standing)
        elif plain:
            self._print_plain(standing)

    def _print_plain(self, standing: Standing) -> None:
        self._last_plain, self._unprinted = self._clock(), False
        self.note(f"{standing.line()}  {self._evaluation}".rstrip())

    def begin(self, phase: str) -> None:
        """Show in the view what the run does besides training from now on."""
        self.set_phase(phase)
        if self._view is not None and self._log is not None:
            self._view.show(self._log.standing())

    def set_phase(self, text: str) -> None:
        """Have the view say so when it is next drawn; safe to call from a signal handler."""
        if self._view is not None:
            self._view.set_phase(text)

    def __enter__(self) -> Progress:
        """Start the view if the stream is a terminal."""
        self._view = self._open_view()
        return self

    def _open_view(self) -> View | None:
        return TerminalView(self._console) if self._interactive else None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the view; its last standing remains as a line."""
        if self._view is not None:
            self._view.close()
            self._view = None
            if self._unprinted and self._log is not None:
                self._print_plain(self._log.standing())

    def print_summary(self, summary: dict[str, Any]) -> None:
        """Print the summary of a run as a table."""
        table = _pairs()
        for row in summary_rows(summary):
            table.add_row(*row)
        self._console.print(table)
        for run in summary.get("runs", [summary]) if summary["interrupted"] else []:
            folder, env_id = run["files"]["run_dir"], run["env_id"]
            named = "" if is_builtin(env_id) else f" --env.id {env_id}"
            named += f" --algorithm.networks {run['networks']}" if "networks" in run else ""
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


def summary_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the summary of a run, or of several, as names and texts."""
    rows = [*_outcome_rows(summary), *_evaluation_rows(summary.get("evaluation"))]
    for run in summary.get("runs", []):
        if "evaluation" in run:
            name = Path(run["files"]["run_dir"]).name.replace("_", " ")
            rows.append((name, evaluation_text(run["evaluation"])))
    collected = f"{summary['env_steps']:,} env steps, {summary['env_steps_per_s']:,.0f} a second"
    learnt = f"{summary['updates']:,} updates, {summary['updates_per_s']:,.1f} a second"
    seconds = f"{summary['training_s']:.1f} s on {summary['device']} ({summary['device_reason']})"
    rows += [("collected", collected), ("learnt", learnt), ("training time", seconds)]
    return rows + [(kind.replace("_", " "), path) for kind, path in summary["files"].items()]


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
