"""The command `report`, which writes the page of one or more runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from distributed_maddpg.cli.parsing import parse
from distributed_maddpg.errors import BadInput
from distributed_maddpg.files import local_path


@dataclass(frozen=True)
class ReportCommand:
    """Write the page of a run, or one page that compares several: report.html in the first folder.

    Examples:
        distributed-maddpg report runs/first
        distributed-maddpg report runs/first runs/second --out compared.html
    """

    run_dirs: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN_DIR...")]
    """Run folders; a folder with the runs of several seeds is one curve with a band."""
    out: str = ""
    """Another file to write to."""


def run(arguments: list[str]) -> None:
    """Run the command with these arguments."""
    command = parse(ReportCommand, "report", arguments)
    if not command.run_dirs:
        raise BadInput("RUN_DIR", "", "name the folder of a run, or of several")
    from distributed_maddpg.report.page import write_report  # noqa: PLC0415

    run_dirs = [local_path("RUN_DIR", run_dir) for run_dir in command.run_dirs]
    out = local_path("--out", command.out) if command.out else None
    try:
        print(write_report(run_dirs, out))
    except OSError as error:
        name, value = ("--out", command.out) if out else ("RUN_DIR", command.run_dirs[0])
        raise BadInput(name, value, f"the page cannot be written ({error.strerror})") from None
