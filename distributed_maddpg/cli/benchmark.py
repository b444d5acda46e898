"""The command `benchmark`, which measures speed."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from distributed_maddpg.benchmarks.options import BenchmarkOptions, Kind
from distributed_maddpg.cli.output import print_result
from distributed_maddpg.cli.parsing import parse

_DEFAULTS = BenchmarkOptions()


@dataclass(frozen=True)
class BenchmarkCommand:
    """Measure one stage or a whole job, and what it is compared with, in the same run.

    Examples:
        distributed-maddpg benchmark env --num-envs 256
        distributed-maddpg benchmark learner --preset paper --repeats 3
        distributed-maddpg benchmark scaling --workers 1,2,4 --out results
        distributed-maddpg benchmark scaling --simulate --workers 1,16,256
    """

    kind: tyro.conf.Positional[Kind]
    """What to measure."""
    options: Annotated[BenchmarkOptions, tyro.conf.arg(name="")] = _DEFAULTS
    json: bool = False
    """Print one JSON object on stdout instead of tables."""
    out: str = ""
    """Folder for <kind>.json, scaling.html, and benchmarks.md of all results in it."""
    name: str = ""
    """Added to the files' names, as in <kind>-<name>.json, for the same kind with other options."""


def run(arguments: list[str]) -> None:
    """Run the command with these arguments."""
    command = parse(BenchmarkCommand, "benchmark", arguments)

    from distributed_maddpg.benchmarks.command import run_all, run_benchmark  # noqa: PLC0415
    from distributed_maddpg.benchmarks.files import check_folder, check_name, write_result  # noqa: PLC0415
    from distributed_maddpg.benchmarks.tables import machine_text, tables  # noqa: PLC0415
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
    results = measured["results"].values() if command.kind == "all" else [measured]
    shown = [table for result in results for table in tables(result)]
    print_result(measured, shown, command.json, progress, machine_text(measured["machine"]))
