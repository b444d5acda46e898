"""The command that measures speed."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from distributed_maddpg.benchmarks.options import BenchmarkOptions, Kind
from distributed_maddpg.cli.output import print_json, show_tables
from distributed_maddpg.cli.parsing import parse

if TYPE_CHECKING:
    from distributed_maddpg.run.progress import Progress

_DEFAULTS = BenchmarkOptions()


@dataclass(frozen=True)
class BenchmarkCommand:
    """Measure one stage, or a whole job, beside what it is compared with, in the same run."""

    kind: tyro.conf.Positional[Kind]
    """What to measure."""
    options: Annotated[BenchmarkOptions, tyro.conf.arg(name="")] = _DEFAULTS
    json: bool = False
    """Print one JSON object on stdout instead of tables."""
    out: str = ""
    """Folder for <kind>.json, scaling.html, and benchmarks.md of all results in it."""
    name: str = ""
    """Part of the files' names, as in <kind>-<name>.json, for the same kind with other options."""


def run(arguments: list[str]) -> None:
    """Run the command with these arguments."""
    command = parse(BenchmarkCommand, "benchmark", arguments)

    from distributed_maddpg.benchmarks.command import run_all, run_benchmark  # noqa: PLC0415
    from distributed_maddpg.benchmarks.files import check_folder, check_name, write_result  # noqa: PLC0415
    from distributed_maddpg.run.progress import Progress  # noqa: PLC0415

    progress, out = Progress(), Path(command.out)
    check_name(command.name)
    if command.out:
        check_folder(out)

    def keep(label: str, result: dict[str, Any]) -> None:
        for path in write_result(out, label, result, command.name) if command.out else []:
            progress.note(f"wrote {path}")

    with contextlib.redirect_stdout(sys.stderr):
        if command.kind == "all":
            measured = run_all(command.options, progress.note, keep)
        else:
            measured = run_benchmark(command.kind, command.options)
            keep(command.options.label(command.kind), measured)
    results = measured["results"] if command.kind == "all" else {command.kind: measured}
    if command.json:
        print_json(measured)
    else:
        _show(list(results.values()), progress)


def _show(results: list[dict[str, Any]], progress: Progress) -> None:
    """Show benchmarks' results as tables, and the machine once."""
    from distributed_maddpg.benchmarks.tables import machine_text, tables  # noqa: PLC0415

    for result in results:
        show_tables(tables(result), progress)
    progress.note(f"machine: {machine_text(results[0]['machine'])}")
