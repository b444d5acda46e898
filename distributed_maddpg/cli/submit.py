"""The command `submit`, which trains as a job of a Ray cluster."""

from __future__ import annotations

import dataclasses
import os
import re
import secrets
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from distributed_maddpg.cli.parsing import dashboard_address, parse, refuse_empty, take_options
from distributed_maddpg.cli.train import parse_for_elsewhere
from distributed_maddpg.envs import is_builtin
from distributed_maddpg.errors import BadInput
from distributed_maddpg.run.progress import RESUME_WITH
from distributed_maddpg.user_code import names_file, split_name

if TYPE_CHECKING:
    from distributed_maddpg.runtime.jobs import JobResult

_HOME = "~/maddpg"
_TEXTS = ("--address", "--submission-id", "--runtime-env", "--working-dir", "--follow")
_PROGRAM = "distributed-maddpg submit"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # Ray colours repeated lines of its processes, also in a file
_INTERRUPTED = 130
"""What shells report of a command that Ctrl-C has ended."""


@dataclass(frozen=True)
class SubmitCommand:
    """Train as a job of a Ray cluster: distributed-maddpg submit [options] -- train [options of train].

    Prints the job's log until it ends, and ends with its exit code; a job that was stopped counts as success
    if it saved a checkpoint. Ctrl-C ends only the printing. This package must be installed on the cluster.
    The options of train are checked here, for which --config is read here too; other paths are the head's.

    Examples:
        distributed-maddpg submit -- train --preset deception
        distributed-maddpg submit --no-wait -- train --num-workers 16
        distributed-maddpg submit --follow maddpg-20260101-120000-abcd
    """

    address: str = ""
    """The dashboard's URL; default: RAY_API_SERVER_ADDRESS, then RAY_ADDRESS, then http://127.0.0.1:8265."""
    submission_id: str = ""
    """Name of the job, new on this cluster; default: maddpg-<date>-<time>-<four letters>. Without a --run-dir
    of train, files go to ~/maddpg/<submission id> on the head."""
    runtime_env: str = ""
    """YAML file with the job's runtime environment. Default: nothing is installed; a job that is stopped gets
    60 seconds to save its checkpoint."""
    working_dir: str = ""
    """Folder to send with the job, without /runs. Default: the current one if --env.id or --config of train
    names a file or module in it, otherwise none."""
    wait: bool = True
    """Print the log until the job ends; --no-wait returns once the job is submitted."""
    follow: str = ""
    """Submit nothing: print the log of the job with this submission id, and end as that job does."""


@dataclass(frozen=True)
class _Job:
    """What is submitted, and how to do it again."""

    words: list[str]
    working_dir: str
    metadata: dict[str, str]


def run(arguments: list[str]) -> int:
    """Run the command with these arguments; return the job's exit code."""
    before, train = _split(arguments)
    command = parse(SubmitCommand, "submit", before)
    refuse_empty(take_options(before, *_TEXTS)[0])
    command = dataclasses.replace(command, address=dashboard_address(command.address))
    _check(command, train)
    if command.follow:
        return _follow(command)
    if not command.submission_id:
        name = f"maddpg-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        command = dataclasses.replace(command, submission_id=name)
    return _submit(command, _job(command, train[1:]))


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the words before the first "--", and those after it."""
    if "--" not in arguments:
        if "train" in arguments:
            raise BadInput("command", "train", "needs -- before it: submit [options] -- train [options]")
        return arguments, []
    where = arguments.index("--")
    return arguments[:where], arguments[where + 1 :]


def _check(command: SubmitCommand, train: list[str]) -> None:
    """Check the command's own options."""
    job = train or command.submission_id or command.working_dir or command.runtime_env or not command.wait
    if command.follow and job:
        raise BadInput("--follow", command.follow, "submits nothing; leave out all but --address")
    if not command.follow and train[:1] != ["train"]:
        remedy = "must be train, after --: submit [options] -- train [options]; else use ray job submit"
        raise BadInput("command", " ".join(train[:1]), remedy)
    for name, value in (("--submission-id", command.submission_id), ("--follow", command.follow)):
        if value and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", value):
            raise BadInput(name, value, "takes up to 100 letters, digits and _ . -")
    if command.working_dir and not Path(command.working_dir).is_dir():
        raise BadInput("--working-dir", command.working_dir, "is no folder; name one of this machine")


def _job(command: SubmitCommand, arguments: list[str]) -> _Job:
    """Check the options of train, and return the job that runs it."""
    folders, rest = take_options(arguments, "--run-dir", "--resume", "--checkpoint-dir")
    refuse_empty(folders)
    for option, value in folders.items():
        _check_folder(option, value)
    resume = folders.get("--resume", "")
    _check_resume(resume, {**folders, **take_options(rest, "--preset", "--config")[0]})
    train = parse_for_elsewhere(rest, resume)
    if train.num_seeds > 1 and (folder := folders.get("--checkpoint-dir")):
        raise BadInput("--checkpoint-dir", folder, "is for one run; leave it out with several seeds")
    if resume in ("", "auto"):
        folders.setdefault("--run-dir", f"{_HOME}/{command.submission_id}")
    names = (train.settings.env.id, train.settings.algorithm.networks, train.callbacks)
    named = [name for name in names if name]
    sent = command.working_dir or ("." if _needs_this_folder(named, train.config) else "")
    words = [*rest, *(word for option in folders.items() for word in option)]
    again = words if resume else [*words, "--resume", "auto"]
    metadata = {
        "run_dir": folders.get("--run-dir") or resume,
        "resume": shlex.join([*_words(command), "--", "train", *again]),
    }
    return _Job(["python", "-m", "distributed_maddpg", "train", *words], sent, metadata)


def _check_resume(resume: str, given: Mapping[str, str]) -> None:
    """Refuse options of train that contradict --resume."""
    if resume == "auto" and "--run-dir" not in given:
        raise BadInput("--resume", resume, "needs --run-dir, the folder to resume or to start in")
    for option in ("--preset", "--config", "--run-dir"):
        if resume not in ("", "auto") and option in given:
            remedy = "cannot be combined with --resume, which uses the run's own settings and folder"
            raise BadInput(option, given[option], remedy)


def _check_folder(option: str, value: str) -> None:
    """Refuse a folder that would be lost with the job's own, or that cannot be one."""
    url = option == "--checkpoint-dir" and "://" in value
    if not (value.startswith(("/", "~/")) or url or (option, value) == ("--resume", "auto")):
        remedy = "must be an absolute path on the head: Ray deletes the folder that the job runs in"
        default = f", or leave it out for {_HOME}/<submission id>" if option == "--run-dir" else ""
        raise BadInput(option, value, f"{remedy}; give one that begins with / or ~/{default}")


def _needs_this_folder(named: Iterable[str], config: str) -> bool:
    """Whether the job reads a file or imports a module of the current folder, given the names of code."""
    return bool(config and not Path(config).is_absolute()) or any(map(_is_in_this_folder, named))


def _is_in_this_folder(name: str) -> bool:
    if names_file(name):
        return not Path(split_name(name)[0]).is_absolute()
    package = name.partition(":")[0].partition(".")[0]
    return not is_builtin(name) and (Path(f"{package}.py").is_file() or Path(package).is_dir())


def _words(command: SubmitCommand) -> list[str]:
    """Return the command's own words, to do it again: under another submission id."""
    words = [*_PROGRAM.split(), "--address", command.address]
    for option, value in (("--runtime-env", command.runtime_env), ("--working-dir", command.working_dir)):
        words += [option, value] if value else []
    return words


def _submit(command: SubmitCommand, job: _Job) -> int:
    from distributed_maddpg.runtime.jobs import Jobs, for_shell, runtime_env  # noqa: PLC0415 - loads Ray

    environment = runtime_env(command.runtime_env, job.working_dir)
    jobs = Jobs(command.address)
    name = command.submission_id
    if jobs.find(name) is not None:
        raise BadInput(
            "--submission-id", name, f"is taken on this cluster; print its log with --follow {name}"
        )
    if job.working_dir:
        _note(f"sending the folder {os.path.abspath(job.working_dir)}")
    jobs.submit(for_shell(job.words), name, environment, job.metadata)
    _note(f"submitted {name} to {command.address}; files go to {job.metadata['run_dir']} on the head")
    _note_how_to_go_on(command.address, name)
    if not command.wait:
        _note(f"{RESUME_WITH}{job.metadata['resume']}")
        return 0
    return _follow(dataclasses.replace(command, follow=name))


def _follow(command: SubmitCommand) -> int:
    """Print a job's log and how it ended; return the exit code."""
    from distributed_maddpg.runtime.jobs import Jobs  # noqa: PLC0415 - loads Ray

    address, name = command.address, command.follow
    jobs = Jobs(address)
    if jobs.find(name) is None:
        raise BadInput("--follow", name, f"is no job of the cluster at {address}")
    log = _Log()
    try:
        result = jobs.print_log(name, log.write)
    except KeyboardInterrupt:
        _note(f"{name} goes on")
        _note_how_to_go_on(address, name)
        return _INTERRUPTED
    return _report(name, result, log.saved)


class _Log:
    """Prints a log as it comes, and notices whether the run saved a checkpoint to resume from."""

    def __init__(self) -> None:
        self.saved = False
        self._line = ""

    def write(self, text: str) -> None:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self.saved = (self.saved or line.startswith(RESUME_WITH)) and not line.startswith("error: ")
            print(line if sys.stdout.isatty() else _COLOUR.sub("", line))
        sys.stdout.flush()


def _report(name: str, result: JobResult, saved: bool) -> int:
    """Print how a job ended, and what resumes it; return the exit code."""
    failed, code = f"{name} failed", result.exit_code
    line, exit_code = {
        "SUCCEEDED": (f"{name} has ended", 0),
        "STOPPED": (
            f"{name} was stopped" + ("" if saved else " before it saved a checkpoint"),
            int(not saved),
        ),
    }.get(result.status, (f"{failed}: {result.reason}", 1))
    if result.status == "FAILED" and code is not None:
        line, exit_code = f"{failed} with exit code {code}", code if 0 < code < 256 else 1
    _note(line)
    if (saved or exit_code == 1) and "resume" in result.metadata:
        _note(f"{RESUME_WITH}{result.metadata['resume']}")
    return exit_code


def _note_how_to_go_on(address: str, name: str) -> None:
    _note(f"print its log with: {_PROGRAM} --address {address} --follow {name}")
    _note(f"stop it with: ray job stop --address {address} {name}")


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
