"""Checks that look at the machine or the environment, before any process is started."""

from __future__ import annotations

import os
from pathlib import Path

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import env_spec
from distributed_maddpg.errors import BadInput
from distributed_maddpg.types import EnvSpec

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def check(config: MADDPGConfig) -> EnvSpec:
    """Return the environment's spec if these settings make sense for it and this machine can train with them.

    Raises:
        BadInput: naming the first setting that cannot be used, its value and the remedy.
    """
    spec = check_settings(config)
    check_machine(config, spec)
    return spec


def check_settings(config: MADDPGConfig) -> EnvSpec:
    """Return the environment's spec if these settings make sense for it; all that acting needs.

    Raises:
        BadInput: as `check`.
    """
    spec = env_spec(config.env.id, config.env.backend, config.env.kwargs)
    config.algorithm.per_agent(spec)
    config.exploration.check_heads(config.algorithm.heads(spec))
    return spec


def check_machine(config: MADDPGConfig, spec: EnvSpec, num_runs: int = 1) -> None:
    """Refuse settings that this machine cannot train so many runs with.

    Raises:
        BadInput: as `check`.
    """
    _check_memory(config, spec, num_runs)
    remote = config.num_workers > 0 and (config.ray.address or os.environ.get("RAY_ADDRESS"))
    if config.learner.device == "cuda" and not remote:
        # Imported here: only this question needs torch, and a driver on Ray does without.
        from distributed_maddpg.learner import choose_device  # noqa: PLC0415

        choose_device("cuda")


def _check_memory(config: MADDPGConfig, spec: EnvSpec, num_runs: int) -> None:
    row = spec.transitions.width * 4 * num_runs
    size_bytes = config.replay.capacity * row
    available = _memory_bytes()
    if size_bytes > available:
        raise BadInput(
            "replay.capacity",
            config.replay.capacity,
            f"needs {size_bytes / 2**30:.1f} GiB ({row} bytes a transition), this machine has "
            f"{available / 2**30:.1f} GiB; at most {int(available * 0.8) // row} is reasonable",
        )


def _memory_bytes() -> int:
    """Return the memory of this machine, or of its container where that is less."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in _CGROUP_LIMITS:
        try:
            limits.append(int(Path(path).read_text()))
        except (OSError, ValueError):
            continue  # no such control group, or "max"
    return min(limits)
