"""Runs the command `distributed-maddpg` as `python -m distributed_maddpg`."""

import signal
import sys

from distributed_maddpg.cli import main


def run() -> int:
    """Run the command line; a signal during interpreter shutdown does not change the exit code."""
    code = main()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    return code


if __name__ == "__main__":
    sys.exit(run())
