"""The command `report`, which writes a run's page."""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from distributed_maddpg.cli.parsing import parse
from distributed_maddpg.errors import BadInput
from distributed_maddpg.files import local_path


@dataclass(frozen=True)
class ReportCommand:
    """Write report.html into a run folder from its CSV files."""

    run_dir: tyro.conf.Positional[str]
    """Run folder."""


def run(arguments: list[str]) -> None:
    """Run the command with these arguments."""
    command = parse(ReportCommand, "report", arguments)
    from distributed_maddpg.report.page import write_report  # noqa: PLC0415

    run_dir = local_path("RUN_DIR", command.run_dir)
    try:
        print(write_report(run_dir))
    except OSError as error:
        remedy = f"report.html cannot be written ({error.strerror})"
        raise BadInput("RUN_DIR", command.run_dir, remedy) from None
