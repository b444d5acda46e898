"""What experiments can be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from distributed_maddpg.errors import BadInput

_MAX_WAIT_S = 31_536_000  # a year


def _check(options: CrossPlayOptions | ReproduceOptions, **least: int) -> None:
    """Refuse counts below their least, and a wait that Ray cannot count."""
    for name, smallest in least.items():
        if getattr(options, name) < smallest:
            raise BadInput(name, getattr(options, name), f"must be at least {smallest}")
    if not 0 < options.timeout_s <= _MAX_WAIT_S:
        raise BadInput("timeout_s", options.timeout_s, f"must be a positive number up to {_MAX_WAIT_S}")


@dataclass(frozen=True)
class CrossPlayOptions:
    """How the teams play."""

    episodes: int = 1000
    """Episodes of each pairing, all from the same start states."""
    seed: int = 0
    """Seed of the start states; the same seed gives the same numbers."""
    address: str = ""
    """Address of a running Ray cluster; empty: that of the surrounding Ray job, else a local one."""
    in_process: bool = False
    """Play one pairing after another in this process, without Ray."""
    timeout_s: float = 600.0
    """Longest wait for the next pairing to end."""

    def __post_init__(self) -> None:
        """Check them."""
        _check(self, episodes=1, seed=0)


@dataclass(frozen=True)
class ReproduceOptions:
    """What to train, and how long."""

    num_good_agents: int = 2
    """Good agents, and landmarks; the paper has 2 and 4."""
    seeds: int = 5
    """Runs of each of the four pairings, with the seeds 0 and up; more can be added later."""
    budget: Literal["full", "small"] = "full"
    """full: the preset's own length. small: some seconds a run, which proves nothing but that it works."""
    preset: str = "paper"
    """Settings of all runs: paper, its authors' choices; deception, ours for the same; or another one."""
    episodes: int = 1000
    """Greedy episodes of each run's evaluation, and of each pairing of the cross-play."""
    address: str = ""
    """Address of a running Ray cluster; empty: that of the surrounding Ray job, else a local one."""
    in_process: bool = False
    """Train one run after another in this process, without Ray."""
    timeout_s: float = 14_400.0
    """Longest wait for the next run to end."""

    def __post_init__(self) -> None:
        """Check them."""
        _check(self, num_good_agents=1, seeds=1, episodes=1)
