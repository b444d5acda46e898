"""The command line. Exit codes: 0 success, 1 failure, 2 bad input, 3 bad checkpoint.

With --json, JSON goes to stdout; tables and progress go to stderr. `report`, --help and --version print on
stdout. Each command has a file in this folder. It imports heavy modules only after it has parsed its options,
so that --help and errors in options are quick.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

from distributed_maddpg._version import __version__
from distributed_maddpg.errors import BadInput, CheckpointError, TrainingError, did_you_mean, reason

_DEBUG = "DISTRIBUTED_MADDPG_DEBUG"
COMMANDS = (
    "train",
    "submit",
    "evaluate",
    "render",
    "cross-play",
    "export",
    "reproduce",
    "benchmark",
    "report",
    "status",
    "watch",
    "chaos",
    "doctor",
    "completion",
    "schema",
)
"""Each is a module of this folder with a dataclass, as TrainCommand, and a function `run`."""
_USAGE = """usage: distributed-maddpg COMMAND ...

  train                      train, and write a run folder with checkpoints, curves and a report
  submit -- train ...        train as a job of a Ray cluster, and print its log
  evaluate CHECKPOINT        play greedy episodes and print scores; --best-response seeks strong opponents
  render CHECKPOINT          draw greedy episodes as a GIF, MP4 or PNG, or in a window
  cross-play CHECKPOINT...   play every team against every opponent, and print the matrix
  export CHECKPOINT          write each agent's policy as ONNX, npz or safetensors, for other programs
  reproduce EXPERIMENT       train and compare the runs of the paper's table: physical-deception
  benchmark WHAT             measure env, rollout, replay, learner, train, scaling or all
  report RUN_DIR...          write the page of a run again, or one that compares several
  status RUN_DIR             show how a run is doing; --address URL shows those of a cluster
  watch RUN_DIR...           serve the page of runs on this machine, and renew it while they train
  chaos                      kill and freeze a job's processes at random, and measure how it recovers
  doctor                     look at this machine, and say what would stop or slow a run
  completion SHELL           print a script that completes commands and options in bash, zsh or fish
  schema                     print a JSON Schema of the settings, for editors of TOML files

distributed-maddpg COMMAND --help explains a command; distributed-maddpg --version prints the version.
"""


def main(argv: list[str] | None = None) -> int:
    """Run a command line; return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    _open_closed_streams()
    try:
        return _dispatch(arguments)
    except BadInput as error:
        return _fail(error, 2)
    except CheckpointError as error:
        return _fail(error, 3)
    except TrainingError as error:
        return _fail(error, 1)
    except BrokenPipeError:
        # The reader of our output has exited; the interpreter's last flush must not fail because of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return _fail("interrupted", 1)
    except Exception as error:
        # Any error of a user's environment or a full disk becomes one line as well.
        if os.environ.get(_DEBUG):
            raise
        return _fail(f"{reason(error)} ({_DEBUG}=1 in the environment shows where)", 1)


def _open_closed_streams() -> None:
    """Lead streams that the shell closed, as with `2>&-`, nowhere.

    Otherwise a table of the run could be opened under their number, into which libraries print.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))


def _fail(error: object, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code


def _dispatch(arguments: list[str]) -> int:
    sys.path.append(os.getcwd())  # for a user's own environment in this folder, as with `python -m`
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE, end="", file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(__version__)
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        raise BadInput("command", name, did_you_mean(name, (*COMMANDS, "--help", "--version")))
    code: int | None = import_module(f"distributed_maddpg.cli.{name.replace('-', '_')}").run(arguments[1:])
    return code or 0
