"""The options of the experiments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from distributed_maddpg.benchmarks.options import check_numbers

_MAX_WAIT_S = 31_536_000  # a year; Ray does not accept much longer timeouts


@dataclass(frozen=True)
class CrossPlayOptions:
    """Options of cross-play."""

    episodes: int = 1000
    """Episodes of each matchup, all from the same start states."""
    seed: int = 0
    """Seed of the start states; the same seed gives the same numbers."""
    address: str = ""
    """Address of a running Ray cluster; empty: RAY_ADDRESS, which Ray sets inside a job; without it a new
    local cluster."""
    in_process: bool = False
    """Play one matchup after another in this process, without Ray."""
    timeout_s: float = 600.0
    """Timeout until the next matchup ends."""

    def __post_init__(self) -> None:
        """Check the options."""
        check_numbers(self, positive=["episodes"], not_negative=["seed"])
        check_numbers(self, positive=["timeout_s"], below=_MAX_WAIT_S)


@dataclass(frozen=True)
class ReproduceOptions:
    """Options of a reproduction."""

    num_good_agents: int = 2
    """Good agents, and landmarks; the paper has 2 and 4."""
    seeds: int = 5
    """Runs of each of the four pairings, with the seeds 0 and up; more can be added later."""
    budget: Literal["full", "small"] = "full"
    """full: the preset's own length. small: some seconds per run, to check that the experiment runs."""
    preset: str = "paper"
    """Settings of all runs: paper (its authors' choices), deception (our recipe) or another preset."""
    episodes: int = 1000
    """Greedy episodes of each run's evaluation, and of each matchup of the cross-play."""
    address: str = ""
    """Address of a running Ray cluster; empty: RAY_ADDRESS, which Ray sets inside a job; without it a new
    local cluster."""
    in_process: bool = False
    """Train one run after another in this process, without Ray."""
    timeout_s: float = 14_400.0
    """Timeout until the next run ends."""

    def __post_init__(self) -> None:
        """Check the options."""
        check_numbers(self, positive=["num_good_agents", "seeds", "episodes"])
        check_numbers(self, positive=["timeout_s"], below=_MAX_WAIT_S)
