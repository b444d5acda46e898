"""The command `train`, which starts a run or resumes one from a checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import tyro

from distributed_maddpg.cli.dry_run import dry_run
from distributed_maddpg.cli.output import print_json
from distributed_maddpg.cli.parsing import parse, refuse_empty, take_options, words_of
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.durations import parse_duration
from distributed_maddpg.envs import env_spec, is_builtin
from distributed_maddpg.errors import BadInput, CheckpointError, CheckpointUnavailable, TrainingError
from distributed_maddpg.files import local_path
from distributed_maddpg.user_code import load_callable

if TYPE_CHECKING:
    from distributed_maddpg.checkpoint.folder import Checkpoint
    from distributed_maddpg.run.folder import CheckpointRecord
    from distributed_maddpg.run.training import RunOptions

_AUTO, _NONE = "auto", "none"
_NAMED = (
    *("--preset", "--config", "--resume", "--run-dir", "--checkpoint-dir", "--env.id"),
    *("--keep-best", "--max-time", "--write-config", "--callbacks", "--wandb", "--algorithm.networks"),
)
"""Options that are read before the others; none of them may be empty."""


@dataclass(frozen=True)
class TrainCommand:
    """Train MADDPG, and write a run folder: config.toml, metrics.csv, returns.csv, report.html, checkpoints.

    Settings come from --preset, then from --config, then from the other options. Arguments of the environment
    are given as --env.kwargs NAME VALUE NAME VALUE, for instance --env.kwargs N 3 max_cycles 40. A value may
    be JSON: sizes [3,4].

    Examples:
        distributed-maddpg train
        distributed-maddpg train --preset notebook --num-workers 0
        distributed-maddpg train --env.id simple_spread --pacing.total-env-steps 2e6
        distributed-maddpg train --env.kwargs N 4 --stop-at success.agents=95
        distributed-maddpg train --preset paper --dry-run --write-config my.toml
        distributed-maddpg train --config my.toml --run-dir runs/mine
        distributed-maddpg train --max-time 15m --run-dir runs/long
        distributed-maddpg train --resume runs/long
        distributed-maddpg train --num-seeds 5 --seed 100
    """

    settings: Annotated[MADDPGConfig, tyro.conf.arg(name="")]
    preset: str = "default"
    """Settings to start from: default, deception, notebook or paper."""
    config: str = ""
    """TOML file with settings that override the preset's; it may name its own preset."""
    resume: str = ""
    """Run folder to resume from its newest checkpoint, with the settings it was started with. Or auto, with
    --run-dir: resume there from the newest checkpoint that can be read, or start a run if there is none."""
    run_dir: str = ""
    """Run folder, created if it does not exist; default: runs/<preset>-<date>-<time>."""
    checkpoint_dir: str = ""
    """Where checkpoints go: a folder, or a URL like s3://bucket/run; default: in the run's folder."""
    checkpoint_replay: bool = True
    """Save the replay buffer in checkpoints, so that a resumed run continues exactly."""
    keep_checkpoints: int = 3
    """How many of the newest checkpoints to keep; 0 for all."""
    keep_best: str = ""
    """Also keep the best checkpoint by this score of the evaluations, such as success.agents. The largest is
    the best, of distances the smallest; NAME:max or NAME:min says it. none: do not, also if the run did."""
    stop_at: tuple[str, ...] = ()
    """End the run once an evaluation reaches all of these: NAME=NUMBER is at least, for distances at most;
    'NAME>=NUMBER' or 'NAME<=NUMBER' says it. Of several seeds, each has to reach them in the same evaluation.
    none: train to the last step, also if the run had a goal."""
    max_time: str = ""
    """End the run as an interrupt does, with its checkpoint saved, before this much time has passed since the
    command's start: 90s, 15m, 5h50m, 2d. How much earlier follows from how long its checkpoints and rounds
    took: at least a minute, or a tenth of the time if that is less."""
    callbacks: str = ""
    """Class derived from Callbacks whose methods are called on results, evaluations and checkpoints:
    "package.module:Class" or "path/to/file.py:Class". A resumed run needs the option again."""
    wandb: str = ""
    """Project of Weights & Biases to write the run to as well; its variables WANDB_ENTITY, WANDB_RUN_GROUP,
    WANDB_NAME and WANDB_MODE=offline say the rest. A resumed run continues there, unless it says none."""
    num_seeds: int = 1
    """Runs with the seeds --seed and up, trained side by side; each gets a folder of its own."""
    dry_run: bool = False
    """Start and write nothing: make all checks, and say what would be started, how much memory and disk it
    needs, and how often it would learn, evaluate and save."""
    write_config: str = ""
    """With --dry-run: write all settings to this new TOML file, each below its help text, for --config."""
    json: bool = False
    """Print the summary, or with --dry-run the plan, as one JSON object on stdout."""

    def __post_init__(self) -> None:
        """Check the options."""
        if self.write_config and not self.dry_run:
            raise BadInput("--write-config", self.write_config, "needs --dry-run")
        if self.num_seeds < 1:
            raise BadInput("--num-seeds", self.num_seeds, "must be at least 1")
        if self.max_time and self.max_time_s == 0:
            raise BadInput("--max-time", self.max_time, "must be longer than nothing")

    @property
    def max_time_s(self) -> float:
        """Return --max-time in seconds."""
        return parse_duration("--max-time", self.max_time) if self.max_time else math.inf


def run(arguments: list[str]) -> None:
    """Run the command with these arguments."""
    from distributed_maddpg.checkpoint.listing import set_aside  # noqa: PLC0415

    started = time.monotonic()
    while True:
        origin = _read_origin(arguments)
        try:
            return _train_from(origin, arguments, started)
        except CheckpointError as error:  # its files are intact, but the stages cannot restore it
            if not (origin.auto and origin.checkpoints) or isinstance(error, CheckpointUnavailable):
                raise
            print(f"skipped: {error}", file=sys.stderr)
            for checkpoint in origin.checkpoints:
                set_aside(checkpoint.path, "broken")


def _train_from(origin: _Origin, arguments: list[str], started: float) -> None:
    base, checkpoints, saving = origin.settings, origin.checkpoints, origin.record.saving
    # The tables without fixed keys start empty, so that any key can be given.
    open_env = dataclasses.replace(base.env, kwargs={})
    open_algorithm = dataclasses.replace(base.algorithm, team_overrides={})
    default = TrainCommand(
        dataclasses.replace(base, env=open_env, algorithm=open_algorithm),
        checkpoint_dir=saving.folder,
        checkpoint_replay=saving.replay,
        keep_checkpoints=saving.keep,
        keep_best=saving.keep_best,
        stop_at=origin.record.stop_at,
    )
    command = parse(TrainCommand, "train", arguments, default)
    config = _merge_tables(command.settings, base)
    num_seeds = len(checkpoints) or command.num_seeds
    if command.num_seeds not in (1, num_seeds):
        raise BadInput("--num-seeds", command.num_seeds, f"the folder to resume holds {num_seeds} runs")

    from distributed_maddpg.run.progress import Progress  # noqa: PLC0415
    from distributed_maddpg.run.training import default_run_dir, train_run, train_seeds  # noqa: PLC0415

    progress = Progress()
    for before in {each.config.ray.address for each in checkpoints} - {"", config.ray.address}:
        progress.note(f"the run used --ray.address {before}; give the option again to use that cluster")
    resumed = "" if origin.auto else command.resume
    run_dir = Path(resumed or command.run_dir or default_run_dir(command.preset))
    with contextlib.redirect_stdout(sys.stderr):  # a user's code may print; stdout is for JSON
        options = _with_hooks(_run_options(command, origin, started), command)
    if command.dry_run:
        dry_run(command, config, run_dir, options, progress)
        return
    with contextlib.redirect_stdout(sys.stderr):
        if num_seeds == 1:
            checkpoint = checkpoints[0] if checkpoints else None
            summary = train_run(config, run_dir, progress, checkpoint, options, restart=origin.auto)
        else:
            resumed_from = checkpoints if command.resume else None
            summary = train_seeds(config, num_seeds, run_dir, progress, resumed_from, options)
    if command.json:
        print_json(summary)
    problems = [run["problem"] for run in [summary, *summary.get("runs", [])] if "problem" in run]
    if problems:
        raise TrainingError(problems[0])


def _run_options(command: TrainCommand, origin: _Origin, started: float) -> RunOptions:
    from distributed_maddpg.checkpoint.saver import SavingOptions  # noqa: PLC0415
    from distributed_maddpg.run.endings import EndingOptions  # noqa: PLC0415
    from distributed_maddpg.run.goals import parse_goals  # noqa: PLC0415
    from distributed_maddpg.run.training import RunOptions  # noqa: PLC0415

    goals = command.stop_at if origin.stop_at is None else origin.stop_at
    return RunOptions(
        SavingOptions(
            command.checkpoint_dir,
            command.checkpoint_replay,
            command.keep_checkpoints,
            "" if command.keep_best == _NONE else command.keep_best,
        ),
        EndingOptions(parse_goals(() if tuple(goals) == (_NONE,) else goals), command.max_time_s, started),
    )


def _with_hooks(options: RunOptions, command: TrainCommand) -> RunOptions:
    """Add what this machine must have installed or be able to import."""
    make = load_callable("--callbacks", command.callbacks) if command.callbacks else None
    return dataclasses.replace(options, callbacks=make, wandb=command.wandb)


class _Origin(NamedTuple):
    """What --resume, --preset and --config select, before the other options are applied."""

    settings: MADDPGConfig
    checkpoints: list[Checkpoint]
    """To resume from."""
    record: CheckpointRecord
    """How the run to resume saves its checkpoints, and its goals."""
    auto: bool
    stop_at: list[str] | None
    """All words after every --stop-at, of which tyro keeps the last; None without the option."""


def _read_origin(arguments: list[str]) -> _Origin:
    from distributed_maddpg.checkpoint.saver import SavingOptions  # noqa: PLC0415
    from distributed_maddpg.run.folder import CheckpointRecord  # noqa: PLC0415

    named, stop_at = take_options(arguments, *_NAMED)[0], words_of(arguments, "--stop-at")
    refuse_empty(named if stop_at is None else {**named, "--stop-at": stop_at})
    _check_places(named)
    env_id = named.get("--env.id", "")  # first, because each environment has other arguments
    checkpoints: list[Checkpoint] = []
    record = CheckpointRecord(SavingOptions())
    if "--resume" in named and {"--dry-run", "--dry_run"} & set(arguments):  # before anything is set aside
        raise BadInput("--dry-run", True, "is for a new run; leave --resume out, or see status RUN_DIR")
    if "--resume" in named:
        checkpoints, record = _checkpoints(named, env_id)
    if checkpoints:
        base = _resumed_settings(checkpoints[0], named.get("--config", ""))
    else:
        base = MADDPGConfig.preset(named.get("--preset", "default"))
        if "--config" in named:
            base = MADDPGConfig.from_toml(named["--config"], base)
    base = MADDPGConfig.from_dict({"env": {"id": env_id}}, base) if env_id else base
    return _Origin(base, checkpoints, record, named.get("--resume") == _AUTO, stop_at)


def _check_places(named: Mapping[str, str]) -> None:
    """Refuse places that cannot be used."""
    from distributed_maddpg.checkpoint.remote import check_checkpoints_place  # noqa: PLC0415

    for option in {"--run-dir", "--resume"} & set(named):
        local_path(option, named[option])
    if place := named.get("--checkpoint-dir"):
        check_checkpoints_place("--checkpoint-dir", place)


def _resumed_settings(checkpoint: Checkpoint, config_file: str) -> MADDPGConfig:
    """Return a checkpoint's settings; of a settings file, only the cluster's address is used."""
    from distributed_maddpg.preflight import checkpoint_settings  # noqa: PLC0415

    base = checkpoint_settings(checkpoint)
    address = MADDPGConfig.from_toml(config_file).ray.address if config_file else ""
    return dataclasses.replace(base, ray=dataclasses.replace(base.ray, address=address))


def _checkpoints(named: Mapping[str, str], env_id: str) -> tuple[list[Checkpoint], CheckpointRecord]:
    """Return the checkpoint that --resume names or finds, and the record of the run's checkpoints.

    A folder of several seeds has one checkpoint per run.
    """
    auto = named["--resume"] == _AUTO
    if auto and "--run-dir" not in named:
        raise BadInput("--resume", _AUTO, "needs --run-dir, the folder to resume or to start in")
    for option in () if auto else ("--preset", "--config", "--run-dir"):
        if option in named:
            remedy = "cannot be combined with --resume, which uses the run's own settings and folder"
            raise BadInput(option, named[option], remedy)
    from distributed_maddpg.preflight import check_environment_allowed  # noqa: PLC0415
    from distributed_maddpg.run.folder import (  # noqa: PLC0415
        check_checkpoints_present,
        checkpoints_folder,
        read_checkpoint_record,
    )
    from distributed_maddpg.run.resume import checkpoints_to_resume  # noqa: PLC0415

    run_dir = Path(named["--run-dir" if auto else "--resume"])
    seeds = [path for path in run_dir.glob("seed_*") if path.name.removeprefix("seed_").isdigit()]
    runs = sorted(seeds, key=lambda path: int(path.name.removeprefix("seed_"))) or [run_dir]
    # Each of several seeds' runs has its own folder; a named one is refused later.
    folders = [named.get("--checkpoint-dir") or checkpoints_folder(run) for run in runs]
    for run, folder in zip(runs, folders, strict=True):
        check_checkpoints_present(run, folder)
    checkpoints = checkpoints_to_resume(folders, auto, lambda line: print(line, file=sys.stderr))
    for checkpoint in checkpoints:
        check_environment_allowed(checkpoint, env_id, named.get("--algorithm.networks", ""))
    return checkpoints, read_checkpoint_record(runs[0])


def _merge_tables(settings: MADDPGConfig, base: MADDPGConfig) -> MADDPGConfig:
    """Merge the command line's tables without fixed keys into the base's."""
    env = dataclasses.replace(settings.env, kwargs={**base.env.kwargs, **settings.env.kwargs})
    overrides = {**base.algorithm.team_overrides, **settings.algorithm.team_overrides}
    algorithm = dataclasses.replace(settings.algorithm, team_overrides=overrides)
    return dataclasses.replace(settings, env=env, algorithm=algorithm)


@dataclass(frozen=True)
class _ElsewhereSettings(MADDPGConfig):
    """Settings to be laid over those of a checkpoint on another machine, and so not checked together."""

    def __post_init__(self) -> None:
        """Check nothing: each section has checked itself."""


def parse_for_elsewhere(arguments: list[str], resume: str) -> TrainCommand:
    """Parse the options of a run on another machine, without those that name its folders there.

    Args:
        arguments: without --run-dir, --resume and --checkpoint-dir.
        resume: value of --resume; the settings of a run to resume are not here.

    Raises:
        BadInput: naming the option, the value and the remedy.
    """
    origin = _read_origin(arguments)
    base = origin.settings
    open_env, open_algorithm = (
        dataclasses.replace(base.env, kwargs={}),
        dataclasses.replace(base.algorithm, team_overrides={}),
    )
    kind = MADDPGConfig if resume in ("", _AUTO) else _ElsewhereSettings
    sections = {each.name: getattr(base, each.name) for each in dataclasses.fields(base)}
    settings = kind(**{**sections, "env": open_env, "algorithm": open_algorithm})
    command = parse(TrainCommand, "train", arguments, TrainCommand(settings))
    if command.settings.ray.address:
        command.settings.ray.cluster_address()  # refuses a URL
    _check_scores_elsewhere(command, origin, resume)
    return command


def _check_scores_elsewhere(command: TrainCommand, origin: _Origin, resume: str) -> None:
    """Refuse bad goals, and scores that a known environment lacks; other environments are not here."""
    from distributed_maddpg.run.goals import check_scores  # noqa: PLC0415

    options = _run_options(command, origin, 0.0)
    if resume or not (options.ending.stop_at or options.ranking):
        return
    config = _merge_tables(command.settings, origin.settings)
    env = config.env
    if is_builtin(env.id):
        spec = env_spec(env.id, env.backend, env.kwargs, env.measures)
        check_scores(config, spec, options.ending.stop_at, options.ranking)
