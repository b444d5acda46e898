"""The command `status`, which shows how a run is doing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from distributed_maddpg.cli.output import print_json
from distributed_maddpg.cli.parsing import dashboard_address, parse, refuse_empty, take_options
from distributed_maddpg.durations import parse_duration
from distributed_maddpg.errors import BadInput
from distributed_maddpg.files import local_path

if TYPE_CHECKING:
    from distributed_maddpg.run.progress import Progress


@dataclass(frozen=True)
class StatusCommand:
    """Show a run's state, progress, rates, bottleneck, newest evaluation, checkpoint and recent faults.

    Examples:
        distributed-maddpg status runs/first
        distributed-maddpg status runs/first --json
        distributed-maddpg status --address http://127.0.0.1:8265
    """

    target: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[RUN_DIR]")] = ""
    """Run folder. With --address: submission id of a job; default: all training jobs that are running."""
    address: str = ""
    """Address of a cluster's dashboard, such as http://127.0.0.1:8265; also through an SSH tunnel. A tiny job
    on the head reads the run's folder, which takes some seconds."""
    timeout: str = "1m"
    """How long to wait for that job, such as 90s."""
    json: bool = False
    """Print one JSON object on stdout instead of tables."""

    def __post_init__(self) -> None:
        """Check the options."""
        parse_duration("--timeout", self.timeout)
        if not (self.target or self.address):
            raise BadInput("RUN_DIR", self.target, "name a run folder, or a cluster with --address")


def run(arguments: list[str]) -> None:
    """Run the command with these arguments."""
    refuse_empty(take_options(arguments, "--address")[0])
    command = parse(StatusCommand, "status", arguments)
    if command.address:
        _show_cluster(command)
        return
    from distributed_maddpg.run.status import run_status  # noqa: PLC0415

    status = run_status(local_path("RUN_DIR", command.target))
    if command.json:
        print_json(status)
    else:
        _print_runs(status)


def _show_cluster(command: StatusCommand) -> None:
    from distributed_maddpg.runtime.remote_status import remote_status  # noqa: PLC0415

    timeout_s = parse_duration("--timeout", command.timeout)
    address = dashboard_address(command.address)
    jobs = remote_status(address, command.target, timeout_s)
    if command.json:
        print_json({"address": address, "jobs": jobs})
    elif command.target and "status" in jobs[0]:
        _print_runs(jobs[0]["status"])
    else:
        _print_jobs(address, jobs)


def _print_runs(status: dict[str, Any]) -> None:
    from distributed_maddpg.run.status_text import runs_of, status_rows  # noqa: PLC0415

    progress = _progress()
    for own in runs_of(status):
        progress.print_pairs(status_rows(own))


def _print_jobs(address: str, jobs: list[dict[str, Any]]) -> None:
    from distributed_maddpg.run.status_text import overview  # noqa: PLC0415

    if jobs:
        _progress().print_table(f"training jobs at {address}", *overview(jobs))
    else:
        _progress().note(f"no training job is running at {address}")


def _progress() -> Progress:
    from distributed_maddpg.run.progress import Progress  # noqa: PLC0415

    return Progress()
