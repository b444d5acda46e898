"""Programs that record how a batch script calls them, in place of Slurm's, Ray's and the trainer."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_NODES = ("n1", "n2", "n3")
_PROGRAMS = ("srun", "scontrol", "hostname", "ray", "python")


def install(folder: Path) -> None:
    """Write each program as a script that calls this file."""
    folder.mkdir(parents=True)
    for name in _PROGRAMS:
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "{__file__}" {name} "$@"\n')
        script.chmod(0o755)


def calls(log: Path, program: str = "") -> list[list[str]]:
    """Return the recorded command lines, of one program or of all, in their order."""
    recorded = [json.loads(line)["words"] for line in log.read_text(encoding="utf-8").splitlines()]
    return [words for words in recorded if program in ("", words[0])]


def records(log: Path) -> list[dict[str, Any]]:
    """Return all that was recorded: words, process and environment."""
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def _record(words: list[str]) -> None:
    environment = {
        name: os.environ.get(name, "") for name in ("RAY_AUTH_MODE", "RAY_TMPDIR", "SRUN_CPUS_PER_TASK")
    }
    line = json.dumps({"words": words, "pid": os.getpid(), "environment": environment})
    with open(os.environ["STAND_IN_LOG"], "a", encoding="utf-8") as log:
        log.write(line + "\n")


def _srun(words: list[str]) -> None:
    command = list(words)
    while command[0].startswith("--"):
        command.pop(0)
    os.execvp(command[0], command)


def _scontrol(words: list[str]) -> None:
    if words[:2] == ["show", "hostnames"]:
        print("\n".join(_NODES))


def _hostname(words: list[str]) -> None:
    print("10.1.2.3 192.168.1.1")


def _ray(words: list[str]) -> None:
    if words[0] == "get-auth-token":
        print("secret-token")
        token = Path(os.environ["HOME"]) / ".ray" / "auth_token"
        token.parent.mkdir()
        token.write_text("secret-token")
    elif words[0] == "symmetric-run":
        command = words[words.index("--") + 1 :]
        if "STAND_IN_NO_RAY" not in os.environ:
            os.execvp(command[0], command)
    elif words[0] == "start" and os.environ.get("STAND_IN_RAY_ENDS"):
        sys.exit(1)  # as where the head has ended
    elif words[0] == "start":
        time.sleep(60)  # --block, until a signal


def _python(words: list[str]) -> None:
    """Be Python for a program in a word, else a trainer that ends at once or on SIGTERM, with a summary."""
    if words[0] == "-c":
        os.execv(sys.executable, [sys.executable, *words])
    finished = os.environ["STAND_IN_TRAINER"] == "finishes"
    if os.environ["STAND_IN_TRAINER"] == "waits":
        signal.sigwait({signal.SIGTERM})
        _record(["trainer got SIGTERM"])
    if os.environ["STAND_IN_TRAINER"] == "fails":
        sys.exit(3)
    run_dir = Path(words[words.index("--run-dir") + 1])
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "summary.json").write_text(json.dumps({"finished": finished}))


_BEHAVIOUR: dict[str, Callable[[list[str]], None]] = {
    "srun": _srun,
    "scontrol": _scontrol,
    "hostname": _hostname,
    "ray": _ray,
    "python": _python,
}

if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM} if sys.argv[1] == "python" else set())
    _record(sys.argv[1:])
    _BEHAVIOUR[sys.argv[1]](sys.argv[2:])
