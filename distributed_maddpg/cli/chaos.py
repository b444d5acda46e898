"""The command `chaos`, which injects faults into a job and measures how it recovers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from distributed_maddpg.chaos.options import ChaosOptions
from distributed_maddpg.cli.output import print_result
from distributed_maddpg.cli.parsing import parse
from distributed_maddpg.errors import TrainingError

_DEFAULTS = ChaosOptions()


@dataclass(frozen=True)
class ChaosCommand:
    """Train over Ray while processes of the job are killed and frozen at random, and once without faults.

    Exit code 0 means: the job completed, nothing hung, no checkpoint was lost, no process was left over, and
    its scores equal those of the job without faults within noise. Nodes are not killed:
    a single machine is one node.

    Examples:
        distributed-maddpg chaos --minutes 5 --num-workers 4
        distributed-maddpg chaos --kinds 'kill learner,freeze worker'
    """

    options: Annotated[ChaosOptions, tyro.conf.arg(name="")] = _DEFAULTS
    run_dir: str = ""
    """Folder for the run folders, the jobs' logs, and chaos.json; default: runs/chaos-<date>-<time>."""
    out: str = ""
    """Markdown file in which the tables replace earlier ones, or are added at the end."""
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
    print_result(result, tables(result), command.json, progress, machine_text(result["machine"]))
    if not result["passed"]:
        raise TrainingError("; ".join(result["failures"]))
