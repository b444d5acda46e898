"""What a long run's processes hold, report by report: `python -m tests.support.soak <workers> <env steps>`.

Prints JSON: per process, megabytes of its own (USS) and open files after the first third and at the end, and
the references to Ray objects that the driver holds.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from typing import Any

import psutil

from distributed_maddpg import MADDPG
from tests.support.target import target_config


def _look(named: dict[str, int]) -> dict[str, dict[str, float]]:
    gc.collect()
    seen = {}
    for name, number in named.items():
        process = psutil.Process(number)
        seen[name] = {"mb": process.memory_full_info().uss / 2**20, "files": process.num_fds()}
    return seen


def _processes(algo: MADDPG) -> dict[str, int]:
    named = {"driver": os.getpid()}
    if algo.config.num_workers == 0:
        return named
    from tests.support.watched import Watched

    named |= Watched(algo._ensure_started()).pids()
    for child in psutil.Process().children(recursive=True):
        for name in ("gcs_server", "raylet"):
            if child.name() == name:
                named[name] = child.pid
    return named


def _references(algo: MADDPG) -> int:
    if algo.config.num_workers == 0:
        return 0
    import ray

    return len(ray._private.worker.global_worker.core_worker.get_all_reference_counts())


def main(workers: int, total: int) -> None:
    """Run, and look at a third and at the end."""
    config = target_config(
        num_workers=workers,
        env={"id": "simple_adversary", "kwargs": {}},
        algorithm={"policy_hidden_sizes": [8], "critic_hidden_sizes": [8], "policy_head": "auto"},
        exploration={"kind": "auto"},
        rollout={"num_envs": 16, "fragment_steps": 25},
        learner={"batch_size": 32, "num_threads": 1},
        replay={"capacity": 20_000},
        pacing={
            "total_env_steps": total,
            "env_steps_per_update": 32,
            "learning_starts": 2_000,
            "report_interval_env_steps": 2_000,
            "evaluation_interval_env_steps": 20_000,
        },
        evaluation={"episodes": 5},
        ray={"snapshot_interval_s": 1.0},
    )
    seen: list[dict[str, Any]] = []
    started = time.monotonic()
    with MADDPG(config) as algo:
        while not algo.finished:
            algo.train()
            if (len(seen) == 0 and algo.env_steps >= total // 3) or (len(seen) == 1 and algo.finished):
                seen.append({"processes": _look(_processes(algo)), "references": _references(algo)})
        seen[0]["seconds"], seen[1]["seconds"] = 0.0, time.monotonic() - started
    print(json.dumps(seen))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
