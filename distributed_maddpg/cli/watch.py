"""The command `watch`, which serves the page of runs and renews it while they train."""

from __future__ import annotations

import sys
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from distributed_maddpg.cli.parsing import parse
from distributed_maddpg.durations import parse_duration
from distributed_maddpg.errors import BadInput
from distributed_maddpg.files import local_path

_MAX_PORT, _LEAST_INTERVAL_S = 65_535, 0.1


@dataclass(frozen=True)
class WatchCommand:
    """Serve the page of runs to browsers on this machine, and renew it while they train; Ctrl-C ends it.

    Only the files of the folders are read, so the runs may train on any machine that writes to them, have
    ended, or not have started yet. From another machine: ssh -L 8270:127.0.0.1:8270 MACHINE, then open
    http://127.0.0.1:8270/ there.

    Examples:
        distributed-maddpg watch runs/first --open
        distributed-maddpg watch runs/first runs/second
        distributed-maddpg watch /shared/runs/first --port 0 --interval 10s
    """

    run_dirs: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN_DIR...")]
    """Run folders; several are compared in one page."""
    port: int = 8270
    """Port on loopback (127.0.0.1); 0: any that is free."""
    open: bool = False
    """Also open the page in a browser."""
    interval: str = "2s"
    """Least time between two looks at the folders, such as 10s for a slow file system."""

    def __post_init__(self) -> None:
        """Check the options."""
        if not self.run_dirs:
            raise BadInput("RUN_DIR", "", "is missing; name a run folder")
        if not 0 <= self.port <= _MAX_PORT:
            raise BadInput(
                "--port", self.port, f"must be a port, 1 to {_MAX_PORT}, or 0 for any that is free"
            )
        if parse_duration("--interval", self.interval) < _LEAST_INTERVAL_S:
            raise BadInput("--interval", self.interval, f"must be at least {_LEAST_INTERVAL_S}s")


def run(arguments: list[str]) -> None:
    """Run the command with these arguments."""
    command = parse(WatchCommand, "watch", arguments)
    run_dirs = [local_path("RUN_DIR", path) for path in command.run_dirs]
    for path in run_dirs:
        _check_may_hold_a_run(path)
    from distributed_maddpg.run.watch import Editions, PageServer  # noqa: PLC0415

    editions = Editions(run_dirs, parse_duration("--interval", command.interval))
    with PageServer(editions, command.port) as server:
        for path in run_dirs:
            if not path.exists():
                print(f"{path}: not there yet; the page waits for the run to start", file=sys.stderr)
        print(server.url, flush=True)
        print("Ctrl-C ends it; from another machine, see --help", file=sys.stderr)
        if command.open and not webbrowser.open(server.url):
            print("no browser could be opened; open the address yourself", file=sys.stderr)
        try:
            server.serve_forever(poll_interval=0.1)
        except KeyboardInterrupt:
            return


def _check_may_hold_a_run(path: Path) -> None:
    """Refuse what is not, and will not become, the folder of a run or the parent of several seeds' runs."""
    if path.exists() and not path.is_dir():
        raise BadInput("RUN_DIR", str(path), "is no folder; name the folder of a run")
    runs = sorted(each.parent for each in path.glob("*/config.toml"))
    if runs and not (path / "config.toml").exists() and not runs[0].name.startswith("seed_"):
        raise BadInput("RUN_DIR", str(path), f"holds runs; name one or several of them, such as {runs[0]}")
