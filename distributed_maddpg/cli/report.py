"""The command `report`, which writes a run's page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from distributed_maddpg.cli.parsing import parse


@dataclass(frozen=True)
class ReportCommand:
    """Write report.html into a run folder from its CSV files."""

    run_dir: tyro.conf.Positional[str]
    """Run folder."""


def run(arguments: list[str]) -> None:
    """Run the command with these arguments."""
    command = parse(ReportCommand, "report", arguments)
    from distributed_maddpg.report.page import write_report  # noqa: PLC0415

    print(write_report(Path(command.run_dir)))
