"""What `train --dry-run` shows and writes."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from distributed_maddpg._version import __version__
from distributed_maddpg.cli.output import print_json
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput
from distributed_maddpg.files import local_path, write_atomic

if TYPE_CHECKING:
    from distributed_maddpg.cli.train import TrainCommand
    from distributed_maddpg.run.progress import Progress
    from distributed_maddpg.run.training import RunOptions


def dry_run(
    command: TrainCommand, config: MADDPGConfig, run_dir: Path, options: RunOptions, progress: Progress
) -> None:
    """Show what the command would do, and write its settings if asked for.

    Raises:
        BadInput: if the command would be refused.
    """
    from distributed_maddpg.run.plan import plan_run  # noqa: PLC0415
    from distributed_maddpg.run.plan_text import plan_rows  # noqa: PLC0415

    with contextlib.redirect_stdout(sys.stderr), progress.print_log():
        plan = plan_run(config, command.num_seeds, run_dir, options)
    if command.write_config:
        _write_config(command, config)
        progress.note(f"wrote {command.write_config}; use it with --config {command.write_config}")
    if command.json:
        print_json(plan.to_dict())
        return
    progress.print_pairs(plan_rows(plan))
    progress.note("all checks passed; nothing was started: leave out --dry-run to train")


def _write_config(command: TrainCommand, config: MADDPGConfig) -> None:
    from distributed_maddpg.config.commented import commented_toml  # noqa: PLC0415 - loads pydantic

    path = local_path("--write-config", command.write_config)
    if path.exists():
        raise BadInput("--write-config", command.write_config, "is there already; name a new file")
    title = f"Settings of distributed-maddpg {__version__}, from the preset {command.preset}."
    try:
        write_atomic(path, commented_toml(config, title))
    except OSError as error:
        raise BadInput(
            "--write-config", command.write_config, f"cannot be written ({error.strerror})"
        ) from None
