"""A run over Ray to be killed from outside: `python -m tests.support.endless_run`.

Prints the ids of its actors' processes as JSON once all work, and goes on for ever.
"""

from __future__ import annotations

import json

from distributed_maddpg.preflight import check
from distributed_maddpg.runtime.driver import RayRunner
from tests.support.target import CALM, target_config
from tests.support.watched import Watched


def main() -> None:
    """Train for ever."""
    pacing = {"total_env_steps": 10**12, "report_interval_env_steps": 64, "learning_starts": 320}
    config = target_config(num_workers=1, pacing=pacing, env=CALM)
    runner = RayRunner([config], check(config))
    watched = Watched(runner)
    watched.until(lambda: runner.pacer.updates > 20)
    print(json.dumps(watched.pids()), flush=True)
    while True:
        runner.run(lambda: False)


if __name__ == "__main__":
    main()
