"""The command `export`, which writes policies for other programs."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from distributed_maddpg.cli.output import print_result
from distributed_maddpg.cli.parsing import parse, refuse_empty


@dataclass(frozen=True)
class ExportCommand:
    """Write the policy of each agent to a file of its own, for programs without this package.

    What the files hold, and how to load them: docs/exports.md.

    Examples:
        distributed-maddpg export runs/first
        distributed-maddpg export runs/first --best --format npz --out policies
        distributed-maddpg export runs/first --format safetensors --json
    """

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    """A checkpoint; or a run folder, or a folder or URL of checkpoints, of which the newest is used."""
    format: Literal["onnx", "npz", "safetensors"] = "onnx"
    """onnx: a graph from observations to actions. npz: arrays that distributed_maddpg/player.py plays with
    numpy alone. safetensors: the weights under torch's names."""
    out: str = "exported"
    """Folder for the files, <agent>.<format>."""
    best: bool = False
    """Use the checkpoint that train --keep-best kept instead of the newest."""
    env_id: Annotated[str, tyro.conf.arg(name="env.id")] = ""
    """Confirms the checkpoint's environment, which is then imported and created. Needed unless it belongs to
    this package, mpe2 or PettingZoo."""
    json: bool = False
    """Print one JSON object on stdout instead of a table."""


def run(arguments: list[str]) -> None:
    """Run the command with these arguments."""
    command = parse(ExportCommand, "export", arguments)
    refuse_empty({"CHECKPOINT": command.checkpoint, "--out": command.out})

    from distributed_maddpg.checkpoint.folder import load_checkpoint  # noqa: PLC0415
    from distributed_maddpg.export.folder import ExportedPolicy, export_policies  # noqa: PLC0415
    from distributed_maddpg.export.formats import check_available  # noqa: PLC0415
    from distributed_maddpg.export.policy import refuse_layers  # noqa: PLC0415
    from distributed_maddpg.report.tables import Table  # noqa: PLC0415
    from distributed_maddpg.run.folder import best_checkpoint, newest_checkpoint  # noqa: PLC0415
    from distributed_maddpg.run.progress import Progress  # noqa: PLC0415
    from distributed_maddpg.trainer import MADDPG  # noqa: PLC0415

    check_available(command.format)
    path = str((best_checkpoint if command.best else newest_checkpoint)(command.checkpoint))
    refuse_layers(
        load_checkpoint(path, policies_only=True).config.algorithm
    )  # first: a name confirms nothing here
    with (
        contextlib.redirect_stdout(sys.stderr),
        MADDPG.from_checkpoint(path, env_id=command.env_id) as algo,
    ):
        written = export_policies(algo, command.out, command.format)

    def row(file: ExportedPolicy) -> tuple[str, ...]:
        action = file.description["action"]
        return (
            file.path,
            str(file.description["observation"]["size"]),
            f"{action['size']} {action['kind']} ({action['head']})",
            f"{file.size_bytes:,}",
            f"{file.largest_difference:.1e}",
        )

    headers = ("file", "observation", "action", "bytes", "largest difference")
    table = Table(f"policies of {path}, played by {written[0].checked_with}", headers, [*map(row, written)])
    result = {"checkpoint": path, "format": command.format, "files": [file.to_dict() for file in written]}
    print_result(result, [table], command.json, Progress())
