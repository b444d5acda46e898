"""The progress of a run in the output of a notebook's cell: one display that is replaced as training goes on.

It needs neither widgets nor JavaScript, so it looks the same in JupyterLab, Notebook, VS Code and an exported
page. Where HTML is not shown it is a line of text.
"""

from __future__ import annotations

import html
import io
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from distributed_maddpg.run.progress import Progress, View, summary_rows
from distributed_maddpg.run.standing import Standing
from distributed_maddpg.run.terminal_view import standing_rows, time_text

_REDRAW_S = 0.5
_NOTES = 4
"""Of the lines that a terminal would show, the newest so many stay in the cell."""


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython  # noqa: PLC0415 - only where it is loaded anyway

    return getattr(get_ipython(), "kernel", None) is not None


def progress_here() -> Progress:
    """Return what shows progress: in a notebook in the cell, elsewhere as the command does."""
    return CellProgress() if in_notebook() else Progress()


class CellProgress(Progress):
    """Shows the progress of a run in the cell that is executed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Show nothing yet."""
        super().__init__(io.StringIO(), clock)
        self._cell = CellView(clock)

    def note(self, text: str) -> None:
        """Show a line below the bar."""
        self._cell.note(text)

    def print_summary(self, summary: dict[str, Any]) -> None:
        """Show the summary in place of the bar."""
        rows = summary_rows(summary)
        if summary["interrupted"]:
            rows.append(("go on with", "run.resume()"))
        self._cell.finish(rows)

    def _open_view(self) -> View:
        return self._cell

    def _print_plain(self, standing: Standing) -> None:
        """Print nothing: the cell still shows it."""


class CellView:
    """One display in the output of a cell."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Draw with the first `show`."""
        self._clock, self._drawn_at = clock, -_REDRAW_S
        self._notes: deque[str] = deque(maxlen=_NOTES)
        self._standing: Standing | None = None
        self._phase = self._drawn_phase = ""
        self._handle: Any = None

    def show(self, standing: Standing) -> None:
        """Draw, unless the last time was just now."""
        self._standing = standing
        now = self._clock()
        if now - self._drawn_at >= _REDRAW_S or self._phase != self._drawn_phase:
            self._drawn_at, self._drawn_phase = now, self._phase
            self._draw()

    def set_phase(self, text: str) -> None:
        """Say so when drawn next; a signal handler must not draw, as it may have interrupted that."""
        self._phase = text

    def note(self, text: str) -> None:
        """Draw with a further line."""
        self._notes.append(text)
        self._draw()

    def finish(self, rows: Sequence[tuple[str, str]]) -> None:
        """Draw the rows of a summary."""
        self._notes.clear()
        self._display(_html(_grid(rows)), "\n".join(f"{name}: {text}" for name, text in rows))

    def close(self) -> None:
        """Leave what was drawn last."""
        self._phase = ""
        self._draw()

    def _draw(self) -> None:
        parts, lines = [], []
        if self._standing is not None:
            rows = [(name, text.plain) for name, text in standing_rows(self._standing, self._phase)]
            parts += [_bar(self._standing), _grid(rows)]
            lines = [self._standing.line()]
        parts += [f'<div style="opacity: .7">{html.escape(line)}</div>' for line in self._notes]
        self._display(_html("".join(parts)), "\n".join([*lines, *self._notes]))

    def _display(self, page: str, text: str) -> None:
        from IPython.display import display  # noqa: PLC0415 - loaded in a notebook

        bundle = {"text/html": page, "text/plain": text}
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


def _html(inside: str) -> str:
    style = "font: 13px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; max-width: 60em"
    return f'<div class="distributed-maddpg-progress" style="{style}">{inside}</div>'


def _bar(standing: Standing) -> str:
    text = f"{100 * standing.progress:.0f} %&ensp;{html.escape(time_text(standing))}"
    bar = f'<progress max="1" value="{standing.progress:.4f}" style="width: 20em; max-width: 50%"></progress>'
    return f"<div>{bar}&ensp;{text}</div>"


def _grid(rows: Sequence[tuple[str, str]]) -> str:
    """Return names and texts side by side; not as a table, to which notebooks give a style of their own."""
    cells = "".join(
        f'<span style="opacity: .7">{html.escape(name)}</span><span>{html.escape(text)}</span>'
        for name, text in rows
    )
    style = "display: grid; grid-template-columns: max-content auto; column-gap: 1em"
    return f'<div style="{style}">{cells}</div>'
