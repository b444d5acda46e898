"""`python -m distributed_maddpg` is the command `distributed-maddpg`."""

import sys

from distributed_maddpg.cli import main

if __name__ == "__main__":
    sys.exit(main())
