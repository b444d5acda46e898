"""The command `reproduce`, which trains and compares the runs of a published table."""

from __future__ import annotations

import contextlib
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from distributed_maddpg.cli.output import print_result
from distributed_maddpg.cli.parsing import parse
from distributed_maddpg.experiments.options import ReproduceOptions

_DEFAULTS = ReproduceOptions()


@dataclass(frozen=True)
class ReproduceCommand:
    """Train good agents and adversaries by MADDPG and DDPG, all four pairings, as the paper does.

    Writes results.json, README.md, curves.html and the files of cross-play. Run it again to resume it.

    Examples:
        distributed-maddpg reproduce physical-deception --budget small
        distributed-maddpg reproduce physical-deception --num-good-agents 4
    """

    experiment: tyro.conf.Positional[Literal["physical-deception"]]
    """Which experiment."""
    options: Annotated[ReproduceOptions, tyro.conf.arg(name="")] = _DEFAULTS
    out: str = ""
    """Folder for runs and results; default: reproductions/physical-deception-n<agents>-<preset>-<budget>."""
    json: bool = False
    """Print one JSON object on stdout instead of tables."""


def run(arguments: list[str]) -> None:
    """Run the command with these arguments."""
    command = parse(ReproduceCommand, "reproduce", arguments)

    from distributed_maddpg.experiments.reproduction import (  # noqa: PLC0415
        default_out,
        reproduce,
        write_reproduction,
    )
    from distributed_maddpg.experiments.tables import reproduction_tables  # noqa: PLC0415
    from distributed_maddpg.run.progress import Progress  # noqa: PLC0415

    progress = Progress()
    out = Path(command.out) if command.out else default_out(command.options)
    with contextlib.redirect_stdout(sys.stderr):
        result = reproduce(command.options, out, progress.note)
    for path in write_reproduction(out, result, shlex.join(["distributed-maddpg", "reproduce", *arguments])):
        progress.note(f"wrote {path}")
    print_result(result, reproduction_tables(result), command.json, progress)
