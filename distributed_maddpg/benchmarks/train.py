"""Rates of a whole training job, start included (floor F5)."""

from __future__ import annotations

import time
from typing import Any

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.trainer import MADDPG


def benchmark_train(config: MADDPGConfig) -> dict[str, Any]:
    """Train with `config` to its end, without files; return rates and where the stages waited."""
    begun = time.perf_counter()
    timers: dict[str, float] = {}
    with MADDPG(config) as algo:
        algo.start()
        started = time.perf_counter()
        while not algo.finished:
            for name, seconds in algo.train()["timers"].items():
                timers[name] = timers.get(name, 0.0) + seconds
        ended = time.perf_counter()
        env_steps, updates, device = algo.env_steps, algo.updates, algo.device
    training_s = ended - started
    return {
        "num_workers": config.num_workers,
        "device": device,
        "env_steps": env_steps,
        "updates": updates,
        "startup_s": started - begun,
        "training_s": training_s,
        "env_steps_per_s": env_steps / training_s,
        "updates_per_s": updates / training_s,
        "timers": timers,
    }
