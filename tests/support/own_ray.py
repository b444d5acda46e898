"""A program that connects to Ray itself before it trains: `python -m tests.support.own_ray`."""

from __future__ import annotations

import os
import time

import ray

from distributed_maddpg import MADDPG
from tests.support.processes import gone
from tests.support.target import target_config


def main() -> None:
    """Train to the end and, in another run, stop in mid-run; print how long the end takes and who is left."""
    ray.init(logging_level="ERROR")
    config = target_config(num_workers=2, pacing={"evaluation_interval_env_steps": 320})
    for whole in (True, False):
        algo = MADDPG(config)
        algo.train()
        while whole and not algo.finished:
            algo.train()
        processes = algo._ensure_started()._processes  # type: ignore[attr-defined]
        pids = [ray.get(location, timeout=100).pid for location in processes._started.values()]
        started = time.monotonic()
        algo.stop()
        print(f"ended in {time.monotonic() - started:.3f} s")
        gone(pids, within_s=0.2)
        print("left:", [pid for pid in pids if os.path.exists(f"/proc/{pid}")])
    time.sleep(3)  # Ray reports a process some time after it was lost
