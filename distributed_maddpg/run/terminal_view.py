"""The live view of a run on a terminal: a few lines below the log, drawn again as training goes on."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from distributed_maddpg.bottleneck import bottleneck_text
from distributed_maddpg.durations import format_duration
from distributed_maddpg.run.standing import Scores, Standing

_REDRAWS_PER_S = 2
_STALLED_S = 20.0
"""Counts that stand still for this long are pointed out."""
_LABEL, _LEAST_LABELLED, _LEAST_BAR = 11, 44, 34
"""Columns of a label; columns below which the lines lose them, and below which the bar is left out."""
_LEAST_TREND = 3
_TREND_CHARS = "▁▂▃▄▅▆▇█"
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"
_Row = tuple[str, Text]


def is_interactive(file: TextIO, console: Console) -> bool:
    """Whether lines can be drawn again: on a terminal that moves its cursor, watched by a person."""
    # rich takes a pipe for a terminal where FORCE_COLOR is set, as many CI systems do.
    return file.isatty() and console.is_interactive and not os.environ.get("CI")


class WholeFrames:
    """A terminal that shows each write at once (synchronised output), so that nothing flickers.

    Terminals that do not know the two sequences ignore them.
    """

    def __init__(self, file: TextIO) -> None:
        """Write to `file`."""
        self._file = file

    def write(self, text: str) -> int:
        """Write a whole frame."""
        return self._file.write(f"{_BEGIN}{text}{_END}" if "\x1b[" in text else text)

    def __getattr__(self, name: str) -> Any:
        """Leave everything else to the file."""
        return getattr(self._file, name)


class FramedConsole(Console):
    """A console on which a line and the view never mix, whichever thread draws.

    rich measures how far up the view begins before it draws. If two threads did so at the same time, and the
    view had become a line longer, one of them would begin at the wrong line.
    """

    def __init__(self, **options: Any) -> None:
        """Take rich's own options."""
        self.drawing = threading.RLock()
        super().__init__(**options)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print above the view."""
        with self.drawing:
            super().print(*objects, **options)


class _FramedLive(Live):
    """Draws as a `FramedConsole` does; its own lock is always taken second."""

    def refresh(self) -> None:
        assert isinstance(self.console, FramedConsole)
        with self.console.drawing:
            super().refresh()

    def stop(self) -> None:
        assert isinstance(self.console, FramedConsole)
        with self.console.drawing:
            super().stop()


class TerminalView:
    """Draws the newest standing until it is closed, in as many columns and lines as there are."""

    def __init__(self, console: FramedConsole) -> None:
        """Start to draw; `show` says what."""
        self._standing: Standing | None = None
        self._phase = ""
        self._live = _FramedLive(
            self,
            console=console,
            refresh_per_second=_REDRAWS_PER_S,
            transient=True,
            vertical_overflow="crop",
        )
        self._live.start()

    def show(self, standing: Standing) -> None:
        """Take what to draw from now on; a thread draws it."""
        self._standing = standing

    def set_phase(self, text: str) -> None:
        """Say what the run does besides training; safe to call from a signal handler."""
        self._phase = text

    def close(self) -> None:
        """Remove the lines, and give the cursor back."""
        self._live.stop()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the lines that fit."""
        if self._standing is None:
            yield Text(self._phase or "starting", no_wrap=True, overflow="ellipsis")
            return
        width = options.max_width
        columns = width - (_LABEL + 1 if width >= _LEAST_LABELLED else 0)
        yield _bar(self._standing, width)
        rows = list(standing_rows(self._standing, self._phase, columns, options.ascii_only))
        table = Table.grid(padding=(0, 1))
        if width >= _LEAST_LABELLED:
            table.add_column(style="dim", no_wrap=True, width=_LABEL)
        table.add_column(no_wrap=True)
        for label, text in rows[: max(0, console.height - 2)]:
            text.truncate(columns, overflow="crop" if options.ascii_only else "ellipsis")
            table.add_row(*((label, text) if width >= _LEAST_LABELLED else (text,)))
        yield table


def _bar(standing: Standing, width: int) -> Table | Text:
    shown = f"{100 * standing.progress:3.0f} %  {time_text(standing, with_elapsed=width >= 60)}"
    line = Text(shown, no_wrap=True, overflow="ellipsis")
    if width < _LEAST_BAR:
        return line
    table = Table.grid(padding=(0, 1))
    room = max(8, width - len(line.plain) - 2)
    table.add_row(ProgressBar(1.0, standing.progress, width=min(48, room)), line)
    return table


def time_text(standing: Standing, with_elapsed: bool = True) -> str:
    """Return how much time a run needs still, and has taken."""
    left = "time left: not known yet"
    if standing.time_left_s is not None:
        left = f"{format_duration(round(standing.time_left_s))} left"
    return f"{left}  ({format_duration(round(standing.elapsed_s))} so far)" if with_elapsed else left


def standing_rows(
    standing: Standing, phase: str = "", columns: int = 100, ascii_only: bool = False
) -> Iterator[_Row]:
    """Yield how a run is doing as labels and texts, the most important first.

    Args:
        standing: of the run.
        phase: what it does besides training.
        columns: room for a text; only trends of scores adapt to it.
        ascii_only: leave out what is not ASCII.
    """
    if now := _now(standing, phase):
        yield "now", now
    yield "env steps", Text(_counted(standing.env_steps, standing.env_steps_per_s, standing.total_env_steps))
    yield "updates", Text(_counted(standing.updates, standing.updates_per_s))
    if standing.scores:
        yield standing.scores.kind, scores_text(standing.scores, columns, ascii_only)
    if standing.faults:
        yield "faults", Text(faults_text(standing), style="yellow")
    if standing.bottleneck:
        yield "bottleneck", Text(bottleneck_text(standing.bottleneck, standing.shares))
    if standing.versions_behind:
        mean, most = standing.versions_behind
        yield "weights", Text(f"{mean:.1f} versions old, {most:.0f} at most")
    if standing.healthy_workers:
        yield "workers", Text("{} of {} healthy".format(*standing.healthy_workers))


def _now(standing: Standing, phase: str) -> Text | None:
    """Return what the run does besides training, if anything."""
    if phase:
        return Text(phase, style="bold")
    if not standing.env_steps:
        return Text("waiting for the first env steps")
    if standing.stalled_s >= _STALLED_S:
        text = f"no new env steps for {format_duration(round(standing.stalled_s))}"
        return Text(text, style="yellow")
    return None


def _counted(count: int, per_s: float | None, total: int = 0) -> str:
    text = f"{count:,} of {total:,}" if total else f"{count:,}"
    return text if per_s is None else f"{text}, {per_s:,.0f} a second"


def faults_text(standing: Standing) -> str:
    """Return what happened, as `status` does: "rollout worker restarts 2, env steps lost 1,024"."""
    return ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in standing.faults.items())


def scores_text(scores: Scores, columns: int, ascii_only: bool = False) -> Text:
    """Return an evaluation's scores, with as much of their trends as there is room for."""
    shown = {name: score_text(scores.kind, name, value) for name, value in scores.values.items()}
    room = (columns - len("  ".join(shown.values()))) // len(shown) - 1 if not ascii_only else 0
    line = Text(no_wrap=True, overflow="ellipsis")
    for name, text in shown.items():
        newest = scores.trends.get(name, ())[-room:] if room >= _LEAST_TREND else ()
        line.append(f"{'  ' if line else ''}{text}")
        if trend := trend_text(newest, scores.kind == "success"):
            line.append(f" {trend}", style="cyan")
    return line


def score_text(kind: str, name: str, value: float) -> str:
    """Return a score with its name, such as "agents 82 %"."""
    shown = f"{value:.0f} %" if kind == "success" else f"{value:.2f}"
    return f"{name.replace('_', ' ') if kind == 'measures' else name} {shown}"


def trend_text(values: Sequence[float], percent: bool = False) -> str:
    """Return values as columns of eight heights, from 0 to 100 or from the least to the largest value."""
    if len(values) < 2:
        return ""
    low, high = (0.0, 100.0) if percent else (min(values), max(values))
    top = len(_TREND_CHARS) - 1
    heights = [top // 2 if high == low else math.floor((x - low) / (high - low) * top + 0.5) for x in values]
    return "".join(_TREND_CHARS[min(top, max(0, height))] for height in heights)
