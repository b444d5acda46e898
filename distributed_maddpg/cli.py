"""The command line (floor F6): exit 0 done, 1 failed, 2 bad input, 3 a checkpoint that cannot be read.

JSON goes to stdout with --json, everything else to stderr. Heavy modules are imported by the command that
needs them, so that --help and a refusal are quick.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar

import tyro

from distributed_maddpg._version import __version__
from distributed_maddpg.benchmarks.options import BenchmarkOptions, Kind
from distributed_maddpg.chaos.options import ChaosOptions
from distributed_maddpg.config import EnvArgument, MADDPGConfig
from distributed_maddpg.errors import (
    BadInput,
    CheckpointError,
    CheckpointUnavailable,
    TrainingError,
    did_you_mean,
)
from distributed_maddpg.experiments.options import CrossPlayOptions, ReproduceOptions

if TYPE_CHECKING:
    from distributed_maddpg.checkpoint import Checkpoint
    from distributed_maddpg.progress import Progress
    from distributed_maddpg.report.tables import Table
    from distributed_maddpg.saving import SavingOptions

T = TypeVar("T")
_DEBUG = "DISTRIBUTED_MADDPG_DEBUG"
_AUTO = "auto"
_BENCHMARK_DEFAULTS = BenchmarkOptions()
_CHAOS_DEFAULTS = ChaosOptions()
_CROSS_PLAY_DEFAULTS = CrossPlayOptions()
_REPRODUCE_DEFAULTS = ReproduceOptions()

_USAGE = """usage: distributed-maddpg COMMAND ...

  train                      train and leave a run folder with checkpoints, curves and a report
  evaluate CHECKPOINT        play greedy episodes and print the scorecard; --best-response tries to exploit it
  cross-play CHECKPOINT...   play every team against every opponent, and print the matrix
  reproduce EXPERIMENT       train and compare what the paper's table does: physical-deception
  benchmark WHAT             measure env, rollout, replay, learner, train, scaling or all
  report RUN_DIR             write a run's report.html anew
  chaos                      kill and freeze a job's processes at random, and measure how it recovers

distributed-maddpg COMMAND --help explains a command; distributed-maddpg --version prints the version.
"""


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


@dataclass(frozen=True)
class EvaluateCommand:
    """Play greedy episodes from fresh start states with a checkpoint's policies."""

    checkpoint: tyro.conf.Positional[str]
    """Checkpoint, or a run folder, or a folder or URL of checkpoints for the newest one."""
    episodes: int = 1000
    """How many episodes."""
    seed: int = 0
    """Seed of the start states; the same seed gives the same numbers."""
    env_id: Annotated[str, tyro.conf.arg(name="env.id")] = ""
    """The checkpoint's environment, to allow that it is imported and run; needed for one of your own."""
    matchups: bool = True
    """Also play the teams against scripted ones: up to nine more evaluations."""
    best_response: bool = False
    """Also train a fresh opponent of each team, which shows how far the team can be exploited."""
    best_response_updates: int = 5_000
    """Updates that each of them learns for, rounded up to a fragment's; about 25 s."""
    json: bool = False
    """Print one JSON object on stdout instead of a table."""


@dataclass(frozen=True)
class CrossPlayCommand:
    """Play the teams of any checkpoints of one environment against each other's opponents, in Ray tasks."""

    checkpoints: tyro.conf.Positional[tuple[str, ...]]
    """Checkpoints, or run folders for the newest of each; one or more."""
    options: Annotated[CrossPlayOptions, tyro.conf.arg(name="")] = _CROSS_PLAY_DEFAULTS
    out: str = ""
    """Folder for cross_play.json, cross_play.csv and cross_play.html with the heat maps."""
    env_id: Annotated[str, tyro.conf.arg(name="env.id")] = ""
    """The checkpoints' environment, to allow that it is imported and run; needed for one of your own."""
    json: bool = False
    """Print one JSON object on stdout instead of tables."""


@dataclass(frozen=True)
class ReproduceCommand:
    """Train good agents and adversaries by MADDPG and DDPG, all four pairings, as the paper does.

    Writes results.json, README.md and curves.html. Started again it goes on where it was stopped.
    """

    experiment: tyro.conf.Positional[Literal["physical-deception"]]
    """Which experiment."""
    options: Annotated[ReproduceOptions, tyro.conf.arg(name="")] = _REPRODUCE_DEFAULTS
    out: str = ""
    """Folder for runs and results; default: reproductions/physical-deception-n<agents>-<preset>-<budget>."""
    json: bool = False
    """Print one JSON object on stdout instead of tables."""


@dataclass(frozen=True)
class BenchmarkCommand:
    """Measure one stage, or a whole job, beside what it is compared with, in the same run."""

    kind: tyro.conf.Positional[Kind]
    """What to measure."""
    options: Annotated[BenchmarkOptions, tyro.conf.arg(name="")] = _BENCHMARK_DEFAULTS
    json: bool = False
    """Print one JSON object on stdout instead of tables."""
    out: str = ""
    """Folder for <kind>.json, scaling.html, and benchmarks.md of all results in it."""
    name: str = ""
    """Part of the files' names, as in <kind>-<name>.json, for the same kind with other options."""


@dataclass(frozen=True)
class ChaosCommand:
    """Train over Ray while processes of the job are killed and frozen at random, beside an undisturbed twin.

    Exit code 0 means: the job completed, nothing hung, no checkpoint was lost, no process was left over, and
    its scorecard is the twin's within noise. A node cannot be killed on one machine; the tests do that.
    """

    options: Annotated[ChaosOptions, tyro.conf.arg(name="")] = _CHAOS_DEFAULTS
    run_dir: str = ""
    """Folder for both run folders, what the jobs said, and chaos.json; default: runs/chaos-<date>-<time>."""
    out: str = ""
    """Markdown file in which the tables replace those of an earlier time, or follow what is there."""
    json: bool = False
    """Print one JSON object on stdout instead of tables."""


@dataclass(frozen=True)
class ReportCommand:
    """Write report.html into a run folder from its CSV files."""

    run_dir: tyro.conf.Positional[str]
    """Run folder."""


def main(argv: list[str] | None = None) -> int:
    """Run a command line; return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        return _dispatch(arguments)
    except BadInput as error:
        return _fail(error, 2)
    except CheckpointError as error:
        return _fail(error, 3)
    except TrainingError as error:
        return _fail(error, 1)
    except BrokenPipeError:
        # Whoever read our output has gone; the interpreter's last flush must not complain of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return _fail("interrupted", 1)
    except Exception as error:
        # Whatever a foreign environment or a full disk comes up with; a person gets one line all the same.
        if os.environ.get(_DEBUG):
            raise
        line = " ".join(f"{type(error).__name__}: {error}".split())
        return _fail(f"{line} ({_DEBUG}=1 in the environment shows where)", 1)


def _fail(error: object, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code


def _dispatch(arguments: list[str]) -> int:
    sys.path.append(os.getcwd())  # for a user's own environment in this folder, as `python -m` has it
    commands = {
        "train": _train,
        "evaluate": _evaluate,
        "cross-play": _cross_play,
        "reproduce": _reproduce,
        "benchmark": _benchmark,
        "report": _report,
        "chaos": _chaos,
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE, end="", file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(__version__)
        return 0
    if arguments[0] not in commands:
        raise BadInput("command", arguments[0], did_you_mean(arguments[0], commands))
    return commands[arguments[0]](arguments[1:])


def _train(arguments: list[str]) -> int:
    from distributed_maddpg.checkpoint import set_aside  # noqa: PLC0415

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


def _train_from(start: _Start, arguments: list[str]) -> int:
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

    from distributed_maddpg.progress import Progress  # noqa: PLC0415
    from distributed_maddpg.run import default_run_dir, train_run, train_seeds  # noqa: PLC0415

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
            summary = train_run(config, run_dir, progress, checkpoint, saving, anew=start.auto)
        else:
            going_on = checkpoints if command.resume else None
            summary = train_seeds(config, num_seeds, run_dir, progress, going_on, saving)
    progress.summary(summary)
    if command.json:
        _print_json(summary)
    problems = [run["problem"] for run in summary.get("runs", [summary]) if "problem" in run]
    return _fail(problems[0], 1) if problems else 0


class _Start(NamedTuple):
    """What --resume, --preset and --config say, before the other options."""

    settings: MADDPGConfig
    checkpoints: list[Checkpoint]
    """To go on from."""
    saving: SavingOptions
    auto: bool


def _start(arguments: list[str]) -> _Start:
    from distributed_maddpg.saving import SavingOptions  # noqa: PLC0415

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
    from distributed_maddpg.trainer import settings_of  # noqa: PLC0415

    base = settings_of(checkpoint)
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
    from distributed_maddpg.run import checkpoints_to_resume  # noqa: PLC0415
    from distributed_maddpg.run_folder import check_not_gone, checkpoints_folder, memory_of  # noqa: PLC0415
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
        check_not_gone(run, folder)
    checkpoints = checkpoints_to_resume(folders, auto, lambda line: print(line, file=sys.stderr))
    for checkpoint in checkpoints:
        check_environment(checkpoint, env_id)
    return checkpoints, memory_of(runs[0]).saving


def _with_tables(settings: MADDPGConfig, base: MADDPGConfig) -> MADDPGConfig:
    """Lay the command line's tables without fixed keys over the base's."""
    words: dict[str, EnvArgument] = {"true": True, "false": False}
    given = {key: words.get(str(value).lower(), value) for key, value in settings.env.kwargs.items()}
    env = dataclasses.replace(settings.env, kwargs={**base.env.kwargs, **given})
    overrides = {**base.algorithm.team_overrides, **settings.algorithm.team_overrides}
    algorithm = dataclasses.replace(settings.algorithm, team_overrides=overrides)
    return dataclasses.replace(settings, env=env, algorithm=algorithm)


def _evaluate(arguments: list[str]) -> int:
    command = parse(EvaluateCommand, "evaluate", arguments)
    if command.episodes < 1:
        raise BadInput("episodes", command.episodes, "must be at least 1")
    if command.seed < 0:
        raise BadInput("seed", command.seed, "must be zero or a positive integer")
    if command.best_response_updates < 1:
        raise BadInput("best_response_updates", command.best_response_updates, "must be at least 1")
    if not command.best_response and command.best_response_updates != EvaluateCommand.best_response_updates:
        raise BadInput("best_response_updates", command.best_response_updates, "needs --best-response")

    from distributed_maddpg.examination import best_responses, full_card, matchups  # noqa: PLC0415
    from distributed_maddpg.progress import Progress  # noqa: PLC0415
    from distributed_maddpg.report.card import card_tables  # noqa: PLC0415
    from distributed_maddpg.run_folder import newest_checkpoint  # noqa: PLC0415
    from distributed_maddpg.trainer import MADDPG  # noqa: PLC0415

    progress = Progress()
    path = str(newest_checkpoint(command.checkpoint))
    with (
        contextlib.redirect_stdout(sys.stderr),
        MADDPG.from_checkpoint(path, env_id=command.env_id) as algo,
    ):
        run = (algo.config, algo.policy_parameters())
        card = full_card(algo.scorecard(command.episodes, command.seed))
        if command.matchups:
            card["matchups"] = matchups(*run, command.episodes, command.seed)
        if command.best_response:
            budget = (command.best_response_updates, command.episodes, command.seed)
            card["best_response"] = best_responses(*run, *budget, progress.note)
    result = {"checkpoint": path, "seed": command.seed, **card}
    return _present(result, card_tables(card), command.json, progress)


def _cross_play(arguments: list[str]) -> int:
    command = parse(CrossPlayCommand, "cross-play", arguments)

    from distributed_maddpg.experiments.cross_play import (  # noqa: PLC0415
        cross_play,
        read_entrants,
        write_cross_play,
    )
    from distributed_maddpg.experiments.tables import cross_play_tables  # noqa: PLC0415
    from distributed_maddpg.progress import Progress  # noqa: PLC0415
    from distributed_maddpg.run_folder import check_writable  # noqa: PLC0415

    progress = Progress()
    if command.out:
        check_writable(Path(command.out))
    with contextlib.redirect_stdout(sys.stderr):
        entrants = read_entrants(command.checkpoints, command.env_id)
        result = cross_play(entrants, command.options, progress.note)
    for path in write_cross_play(Path(command.out), result) if command.out else []:
        progress.note(f"wrote {path}")
    return _present(result, cross_play_tables(result), command.json, progress)


def _reproduce(arguments: list[str]) -> int:
    command = parse(ReproduceCommand, "reproduce", arguments)

    from distributed_maddpg.experiments.reproduction import (  # noqa: PLC0415
        default_out,
        reproduce,
        write_reproduction,
    )
    from distributed_maddpg.experiments.tables import reproduction_tables  # noqa: PLC0415
    from distributed_maddpg.progress import Progress  # noqa: PLC0415

    progress = Progress()
    out = Path(command.out) if command.out else default_out(command.options)
    with contextlib.redirect_stdout(sys.stderr):
        result = reproduce(command.options, out, progress.note)
    for path in write_reproduction(out, result, shlex.join(["distributed-maddpg", "reproduce", *arguments])):
        progress.note(f"wrote {path}")
    return _present(result, reproduction_tables(result), command.json, progress)


def _benchmark(arguments: list[str]) -> int:
    command = parse(BenchmarkCommand, "benchmark", arguments)

    from distributed_maddpg.benchmarks.command import run_benchmark  # noqa: PLC0415
    from distributed_maddpg.benchmarks.files import check_folder, check_name, write_results  # noqa: PLC0415
    from distributed_maddpg.benchmarks.suite import run_all  # noqa: PLC0415
    from distributed_maddpg.progress import Progress  # noqa: PLC0415

    progress, out = Progress(), Path(command.out)
    check_name(command.name)
    if command.out:
        check_folder(out)

    def keep(label: str, result: dict[str, Any]) -> None:
        for path in write_results(out, {label: result}, command.name) if command.out else []:
            progress.note(f"wrote {path}")

    with contextlib.redirect_stdout(sys.stderr):
        if command.kind == "all":
            measured = run_all(command.options, progress.note, keep)
        else:
            measured = run_benchmark(command.kind, command.options)
            keep(command.options.label(command.kind), measured)
    results = measured["results"] if command.kind == "all" else {command.kind: measured}
    if command.json:
        _print_json(measured)
    else:
        _show(list(results.values()), progress)
    return 0


def _show(results: list[dict[str, Any]], progress: Progress) -> None:
    """Show benchmarks' results as tables, and the machine once."""
    from distributed_maddpg.benchmarks.tables import machine_text, tables  # noqa: PLC0415

    for result in results:
        _show_tables(tables(result), progress)
    progress.note(f"machine: {machine_text(results[0]['machine'])}")


def _present(result: dict[str, Any], shown: Sequence[Table], as_json: bool, progress: Progress) -> int:
    """Print a result as JSON on stdout, or show its tables; return the exit code."""
    if as_json:
        _print_json(result)
    else:
        _show_tables(shown, progress)
    return 0


def _show_tables(shown: Sequence[Table], progress: Progress) -> None:
    for table in shown:
        progress.table(table.title, table.headers, table.rows)
        progress.note("")


def _report(arguments: list[str]) -> int:
    command = parse(ReportCommand, "report", arguments)
    from distributed_maddpg.report.page import write_report  # noqa: PLC0415

    print(write_report(Path(command.run_dir)))
    return 0


def _chaos(arguments: list[str]) -> int:
    command = parse(ChaosCommand, "chaos", arguments)

    from distributed_maddpg.benchmarks.tables import machine_text  # noqa: PLC0415
    from distributed_maddpg.chaos.experiment import default_run_dir, run_chaos  # noqa: PLC0415
    from distributed_maddpg.chaos.tables import tables, write_document  # noqa: PLC0415
    from distributed_maddpg.progress import Progress  # noqa: PLC0415

    progress = Progress()
    result = run_chaos(command.options, Path(command.run_dir or default_run_dir()), progress.note)
    if command.out:
        write_document(Path(command.out), result)
    if command.json:
        _print_json(result)
    else:
        _show_tables(tables(result), progress)
        progress.note(f"machine: {machine_text(result['machine'])}")
    return 0 if result["passed"] else _fail("; ".join(result["against"]), 1)


def _print_json(values: dict[str, Any]) -> None:
    print(json.dumps(values), flush=True)


def parse(kind: type[T], name: str, arguments: list[str], default: T | None = None) -> T:
    """Parse a command's options into its dataclass; turn tyro's framed complaint into one line.

    Raises:
        BadInput: naming the option, the value and the remedy.
    """
    program = f"distributed-maddpg {name}"

    def fill() -> T:
        if default is None:
            return tyro.cli(kind, args=arguments, prog=program)
        return tyro.cli(kind, args=arguments, prog=program, default=default)

    if {"-h", "--help"} & set(arguments):
        return fill()
    complaint = io.StringIO()
    columns = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "2000"  # unfolded, so that the complaint can be taken apart
    try:
        with contextlib.redirect_stderr(complaint):
            return fill()
    except SystemExit:
        raise _Refused(_one_line(complaint.getvalue())) from None
    finally:
        if columns is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = columns


class _Refused(BadInput):
    """A command line that tyro refused; the line is already complete."""

    def __init__(self, line: str) -> None:
        ValueError.__init__(self, line)


def _one_line(complaint: str) -> str:
    """Return the first sentence of tyro's framed complaint, and the nearest option it suggests."""
    lines = [line.strip("│╭╮╰╯ ─") for line in complaint.splitlines()]
    lines = [line for line in lines if line.strip("-")]  # tyro rules with "-" where stdout is not UTF-8
    first = lines[1] if len(lines) > 1 else "the command line cannot be read"
    if first.endswith(":") and len(lines) > 3:  # a heading over what is missing
        first = f"{first} {lines[2]} {lines[3]}"
    if first.endswith("Failed to parse key-value pairs!"):
        option = first.split()[2].rstrip(":")
        return f"{option}: a name lacks its value; give {option} NAME VALUE NAME VALUE"
    # An error of ours, raised while tyro filled a section, says everything by itself.
    ours = first.partition(": ")[2] if first.startswith("Error parsing settings") else first
    near = [line.split()[0].rstrip(",") for line in lines[2:] if line.startswith("--")]
    return f"{ours}; did you mean {near[0]}?" if near and "Unrecognized" in first else ours
