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


def print_result(
    result: dict[str, Any], tables: Sequence[Table], as_json: bool, progress: Progress, machine: str = ""
) -> None:
    """Print a result as JSON on stdout, or show its tables and the machine that it was measured on."""
    if as_json:
        print_json(result)
        return
    for table in tables:
        progress.print_table(table.title, table.headers, table.rows)
        progress.note("")
    if machine:
        progress.note(f"machine: {machine}")
