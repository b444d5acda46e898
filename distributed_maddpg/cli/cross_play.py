"""The command `cross-play`, which plays checkpoints against each other."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from distributed_maddpg.cli.output import print_result
from distributed_maddpg.cli.parsing import parse
from distributed_maddpg.experiments.options import CrossPlayOptions

_DEFAULTS = CrossPlayOptions()


@dataclass(frozen=True)
class CrossPlayCommand:
    """Play every team of some checkpoints of one environment against every opposing team, in Ray tasks.

    Examples:
        distributed-maddpg cross-play runs/first runs/second --out cross
        distributed-maddpg cross-play runs/first --episodes 2_000 --in-process
    """

    checkpoints: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="CHECKPOINT...")]
    """One or more checkpoints or run folders; of a run folder the newest checkpoint is used."""
    options: Annotated[CrossPlayOptions, tyro.conf.arg(name="")] = _DEFAULTS
    out: str = ""
    """Folder for cross_play.json, cross_play.csv and cross_play.html with the heat maps."""
    env_id: Annotated[str, tyro.conf.arg(name="env.id")] = ""
    """Confirms the checkpoints' environment, which is then imported and run. Needed unless it belongs to this
    package, mpe2 or PettingZoo."""
    networks: Annotated[str, tyro.conf.arg(name="algorithm.networks")] = ""
    """Confirms the checkpoints' networks of somebody's own layers, which are then imported and run."""
    json: bool = False
    """Print one JSON object on stdout instead of tables."""


def run(arguments: list[str]) -> None:
    """Run the command with these arguments."""
    command = parse(CrossPlayCommand, "cross-play", arguments)

    from distributed_maddpg.experiments.cross_play import (  # noqa: PLC0415
        cross_play,
        read_entries,
        write_cross_play,
    )
    from distributed_maddpg.experiments.tables import cross_play_tables  # noqa: PLC0415
    from distributed_maddpg.files import make_folder  # noqa: PLC0415
    from distributed_maddpg.run.progress import Progress  # noqa: PLC0415

    progress = Progress()
    if command.out:
        make_folder(Path(command.out), "--out")
    with contextlib.redirect_stdout(sys.stderr):
        entries = read_entries(command.checkpoints, command.env_id, command.networks)
        result = cross_play(entries, command.options, progress.note)
    for path in write_cross_play(Path(command.out), result) if command.out else []:
        progress.note(f"wrote {path}")
    print_result(result, cross_play_tables(result), command.json, progress)
