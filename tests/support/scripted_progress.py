"""Shows a made-up run on the terminal, a step further with each line of input: `python -m ...`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from distributed_maddpg.bottleneck import SHARES
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.run.progress import STOPPING, Progress


def result(env_steps: int, success: float, **faults: int) -> dict[str, Any]:
    """Return the result of ten seconds at 500 env steps and 5 updates a second."""
    return {
        "num_env_steps_sampled_lifetime": env_steps,
        "num_updates_lifetime": env_steps // 100,
        "env_steps_per_s": 500.0,
        "updates_per_s": 5.0,
        "time_this_iter_s": 10.0,
        "timers": {**dict.fromkeys(map("{}_s".format, SHARES), 0.5), "learner_busy_s": 8.0},
        "weights": {"versions_behind_mean": 1.25, "versions_behind_max": 4},
        "fault_tolerance": {"num_healthy_workers": 2, **faults},
        "evaluation": {
            "agent_episode_returns_mean": {"agent_0": 1.0},
            "success": {"agents": success, "adversary": 100 - success, "coverage": success / 2},
        },
    }


def main() -> None:
    """Print the start; then a result, a log line, a fault and the end of the run, one a line of input."""
    now = 0.0
    progress = Progress(clock=lambda: now)
    config = MADDPGConfig.from_dict({"num_workers": 2, "pacing": {"total_env_steps": 100_000}})
    progress.print_start(config, Path("runs/x"), 1)
    with progress:
        for step in range(5):
            now += 10.0
            if step < 4:
                restarts = {"num_rollout_worker_restarts": step // 2, "env_steps_lost": 64 * (step // 2)}
                progress.print_result(result(50_000 + 5_000 * step, 20.0 * (step + 1), **restarts))
            if step == 1:
                progress.note("saved runs/x/checkpoints/step_55000 (1.0 MB in 0.1 s)")
            if step == 4:
                progress.set_phase(STOPPING)
            sys.stdin.readline()


if __name__ == "__main__":
    main()
