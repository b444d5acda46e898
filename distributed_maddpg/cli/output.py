"""Results as JSON on stdout, or as tables on stderr."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed_maddpg.report.tables import Table
    from distributed_maddpg.run.progress import Progress


def print_json(values: dict[str, Any]) -> None:
    """Print values as one line of JSON on stdout."""
    print(json.dumps(values), flush=True)


def present(result: dict[str, Any], shown: Sequence[Table], as_json: bool, progress: Progress) -> None:
    """Print a result as JSON on stdout, or show its tables."""
    if as_json:
        print_json(result)
    else:
        show_tables(shown, progress)


def show_tables(shown: Sequence[Table], progress: Progress) -> None:
    """Show tables, one below the other."""
    for table in shown:
        progress.print_table(table.title, table.headers, table.rows)
        progress.note("")
