"""The command that trains: a run from its beginning, or from a checkpoint."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import tyro

from distributed_maddpg.cli.output import print_json
from distributed_maddpg.cli.parsing import parse
from distributed_maddpg.config import EnvArgument, MADDPGConfig
from distributed_maddpg.errors import BadInput, CheckpointError, CheckpointUnavailable, TrainingError

if TYPE_CHECKING:
    from distributed_maddpg.checkpoint.folder import Checkpoint
    from distributed_maddpg.checkpoint.saver import SavingOptions

_AUTO = "auto"


@dataclass(frozen=True)
class TrainCommand:
    """Train MADDPG, and leave a run folder: config.toml, metrics.csv, returns.csv, report.html, checkpoints.

    Settings come from --preset, then from --config, then from the other options. Arguments of the environment
    are given as --env.kwargs NAME VALUE NAME VALUE, for instance --env.kwargs N 3 max_cycles 40.
    """

    settings: Annotated[MADDPGConfig, tyro.conf.arg(name="")]
    preset: str = "default"
    """Settings to start from: default, deception, notebook or paper."""
    config: str = ""
    """TOML file with settings laid over the preset's; it may name its own preset."""
    resume: str = ""
    """Run folder to continue from its newest checkpoint, with the settings it was started with. Or auto, with
    --run-dir: continue there from the newest checkpoint that can be read, and begin where there is none."""
    run_dir: str = ""
    """Folder to create; default: runs/<preset>-<date>-<time>."""
    checkpoint_dir: str = ""
    """Where checkpoints go: a folder, or a URL like s3://bucket/run; default: in the run's folder."""
    checkpoint_replay: bool = True
    """Keep the stored transitions in checkpoints, so that a continued run goes on exactly."""
    keep_checkpoints: int = 3
    """How many of the newest checkpoints stay; 0 for all."""
    num_seeds: int = 1
    """Runs with the seeds --seed and up, trained side by side; each gets a folder of its own."""
    json: bool = False
    """Print the summary as one JSON object on stdout."""


def run(arguments: list[str]) -> None:
    """Run the command with these arguments."""
    from distributed_maddpg.checkpoint.listing import set_aside  # noqa: PLC0415

    while True:
        start = _start(arguments)
        try:
            return _train_from(start, arguments)
        except CheckpointError as error:  # its files are whole, but the stages cannot take it over
            if not (start.auto and start.checkpoints) or isinstance(error, CheckpointUnavailable):
                raise
            print(f"skipped: {error}", file=sys.stderr)
            for checkpoint in start.checkpoints:
                set_aside(checkpoint.path, "broken")


def _train_from(start: _Start, arguments: list[str]) -> None:
    base, checkpoints, saving = start.settings, start.checkpoints, start.saving
    # The tables without fixed keys start empty, so that any key may be named.
    open_env = dataclasses.replace(base.env, kwargs={})
    open_algorithm = dataclasses.replace(base.algorithm, team_overrides={})
    default = TrainCommand(
        dataclasses.replace(base, env=open_env, algorithm=open_algorithm),
        checkpoint_dir=saving.folder,
        checkpoint_replay=saving.replay,
        keep_checkpoints=saving.keep,
    )
    command = parse(TrainCommand, "train", arguments, default)
    config = _with_tables(command.settings, base)
    num_seeds = len(checkpoints) or command.num_seeds
    if command.num_seeds not in (1, num_seeds):
        raise BadInput("--num-seeds", command.num_seeds, f"the folder to resume holds {num_seeds} runs")

    from distributed_maddpg.run.progress import Progress  # noqa: PLC0415
    from distributed_maddpg.run.training import default_run_dir, train_run, train_seeds  # noqa: PLC0415

    progress = Progress()
    for before in {each.config.ray.address for each in checkpoints} - {"", config.ray.address}:
        progress.note(f"the run used --ray.address {before}; a checkpoint alone does not connect to it again")
    resumed = "" if start.auto else command.resume
    run_dir = Path(resumed or command.run_dir or default_run_dir(command.preset))
    saving = dataclasses.replace(
        saving,
        folder=command.checkpoint_dir,
        replay=command.checkpoint_replay,
        keep=command.keep_checkpoints,
    )
    with contextlib.redirect_stdout(sys.stderr):  # an environment may print; stdout is for JSON
        if num_seeds == 1:
            checkpoint = checkpoints[0] if checkpoints else None
            summary = train_run(config, run_dir, progress, checkpoint, saving, restart=start.auto)
        else:
            going_on = checkpoints if command.resume else None
            summary = train_seeds(config, num_seeds, run_dir, progress, going_on, saving)
    progress.print_summary(summary)
    if command.json:
        print_json(summary)
    problems = [run["problem"] for run in [summary, *summary.get("runs", [])] if "problem" in run]
    if problems:
        raise TrainingError(problems[0])


class _Start(NamedTuple):
    """What --resume, --preset and --config say, before the other options."""

    settings: MADDPGConfig
    checkpoints: list[Checkpoint]
    """To go on from."""
    saving: SavingOptions
    auto: bool


def _start(arguments: list[str]) -> _Start:
    from distributed_maddpg.checkpoint.saver import SavingOptions  # noqa: PLC0415

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--preset", "--config", "--resume", "--run-dir", "--checkpoint-dir", "--env.id"):
        parser.add_argument(name, default="")
    try:
        named, _ = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise BadInput(str(error.argument_name), "", str(error.message)) from None
    env_id = getattr(named, "env.id")  # first, because another environment takes other arguments
    checkpoints, saving = _checkpoints(named, env_id) if named.resume else ([], SavingOptions())
    if checkpoints:
        base = _going_on(checkpoints[0], named.config)
    else:
        base = MADDPGConfig.preset(named.preset or "default")
        if named.config:
            base = MADDPGConfig.from_toml(named.config, base)
    base = MADDPGConfig.from_dict({"env": {"id": env_id}}, base) if env_id else base
    return _Start(base, checkpoints, saving, named.resume == _AUTO)


def _going_on(checkpoint: Checkpoint, config_file: str) -> MADDPGConfig:
    """Return a checkpoint's settings; of a settings file given beside it, the cluster's address alone."""
    from distributed_maddpg.trainer import checkpoint_settings  # noqa: PLC0415

    base = checkpoint_settings(checkpoint)
    address = MADDPGConfig.from_toml(config_file).ray.address if config_file else ""
    return dataclasses.replace(base, ray=dataclasses.replace(base.ray, address=address))


def _checkpoints(named: argparse.Namespace, env_id: str) -> tuple[list[Checkpoint], SavingOptions]:
    """Return the checkpoint that --resume names, or finds by itself, and how the run saves them.

    Of several seeds' runs one of each.
    """
    auto = named.resume == _AUTO
    if auto and not named.run_dir:
        raise BadInput("--resume", _AUTO, "needs --run-dir, the folder to continue or to begin in")
    for option in () if auto else ("preset", "config", "run_dir"):
        if getattr(named, option):
            remedy = "cannot go with --resume, which continues a run's own settings in its own folder"
            raise BadInput(f"--{option.replace('_', '-')}", getattr(named, option), remedy)
    from distributed_maddpg.run.folder import (  # noqa: PLC0415
        check_checkpoints_present,
        checkpoints_folder,
        read_checkpoint_record,
    )
    from distributed_maddpg.run.resume import checkpoints_to_resume  # noqa: PLC0415
    from distributed_maddpg.trainer import check_environment  # noqa: PLC0415

    run_dir = Path(named.run_dir if auto else named.resume)
    seeds = [path for path in run_dir.glob("seed_*") if path.name.removeprefix("seed_").isdigit()]
    runs = sorted(seeds, key=lambda path: int(path.name.removeprefix("seed_"))) or [run_dir]
    # Several seeds' runs have each their own; that a folder was named is refused later.
    folders = (
        [named.checkpoint_dir] * len(runs)
        if named.checkpoint_dir
        else [checkpoints_folder(run) for run in runs]
    )
    for run, folder in zip(runs, folders, strict=True):
        check_checkpoints_present(run, folder)
    checkpoints = checkpoints_to_resume(folders, auto, lambda line: print(line, file=sys.stderr))
    for checkpoint in checkpoints:
        check_environment(checkpoint, env_id)
    return checkpoints, read_checkpoint_record(runs[0]).saving


def _with_tables(settings: MADDPGConfig, base: MADDPGConfig) -> MADDPGConfig:
    """Lay the command line's tables without fixed keys over the base's."""
    words: dict[str, EnvArgument] = {"true": True, "false": False}
    given = {key: words.get(str(value).lower(), value) for key, value in settings.env.kwargs.items()}
    env = dataclasses.replace(settings.env, kwargs={**base.env.kwargs, **given})
    overrides = {**base.algorithm.team_overrides, **settings.algorithm.team_overrides}
    algorithm = dataclasses.replace(settings.algorithm, team_overrides=overrides)
    return dataclasses.replace(settings, env=env, algorithm=algorithm)
