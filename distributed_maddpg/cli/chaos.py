"""The command that disturbs a job and measures how it recovers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from distributed_maddpg.chaos.options import ChaosOptions
from distributed_maddpg.cli.output import print_json, show_tables
from distributed_maddpg.cli.parsing import parse
from distributed_maddpg.errors import TrainingError

_DEFAULTS = ChaosOptions()


@dataclass(frozen=True)
class ChaosCommand:
    """Train over Ray while processes of the job are killed and frozen at random, beside an undisturbed twin.

    Exit code 0 means: the job completed, nothing hung, no checkpoint was lost, no process was left over, and
    its scorecard is the twin's within noise. A node cannot be killed on one machine; the tests do that.
    """

    options: Annotated[ChaosOptions, tyro.conf.arg(name="")] = _DEFAULTS
    run_dir: str = ""
    """Folder for both run folders, what the jobs said, and chaos.json; default: runs/chaos-<date>-<time>."""
    out: str = ""
    """Markdown file in which the tables replace those of an earlier time, or follow what is there."""
    json: bool = False
    """Print one JSON object on stdout instead of tables."""


def run(arguments: list[str]) -> None:
    """Run the command with these arguments."""
    command = parse(ChaosCommand, "chaos", arguments)

    from distributed_maddpg.benchmarks.tables import machine_text  # noqa: PLC0415
    from distributed_maddpg.chaos.experiment import default_run_dir, run_chaos  # noqa: PLC0415
    from distributed_maddpg.chaos.tables import tables, write_document  # noqa: PLC0415
    from distributed_maddpg.run.progress import Progress  # noqa: PLC0415

    progress = Progress()
    result = run_chaos(command.options, Path(command.run_dir or default_run_dir()), progress.note)
    if command.out:
        write_document(Path(command.out), result)
    if command.json:
        print_json(result)
    else:
        show_tables(tables(result), progress)
        progress.note(f"machine: {machine_text(result['machine'])}")
    if not result["passed"]:
        raise TrainingError("; ".join(result["against"]))
