"""How many threads the learner uses."""

from __future__ import annotations

import math
import os
from pathlib import Path

_TRIAL_S, _HOLD_S = 0.2, 20.0
"""Seconds of learning with each number of threads that is tried, and before numbers are tried again."""
_LEAST_GAIN = 1.03
"""By which more threads must be faster."""
_MOST_THREADS = 64


def available_cores(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Return the cores that this process may use: of its affinity, and the quota of its control groups."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(affinity, _cpu_quota(cgroups, own))))


def most_threads() -> int:
    """Return how many threads a learner may try."""
    return min(available_cores(), _MOST_THREADS)


def _cpu_quota(cgroups: Path, own: Path) -> float:
    """Return the CPUs that the control groups of this process allow; infinity without a limit."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return math.inf
    quotas = [math.inf]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        root = cgroups / "cpu" if "cpu" in controllers.split(",") else cgroups
        if root == cgroups and controllers:
            continue  # another controller of version 1
        folder = root / path.lstrip("/")
        # In a container the path may be that outside; the root is the container's own group then.
        for group in (folder, *folder.parents, root):
            if group == root or root in group.parents:
                quotas.append(_quota_of(group))
    return min(quotas)


def _quota_of(group: Path) -> float:
    try:
        if (unified := group / "cpu.max").exists():
            quota, period = unified.read_text(encoding="utf-8").split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return float(quota) / float(period) if float(quota) > 0 else math.inf
    except (OSError, ValueError):  # no such group, or "max"
        return math.inf


class ThreadTuner:
    """Finds the number of threads with which learning is fastest, and looks again from time to time.

    Rollout workers come and go and need cores, too. The number of threads changes no result, so that it may
    depend on time.
    """

    def __init__(self, most: int) -> None:
        """Try 1, 2, 4 and so on, up to `most`."""
        self._most = most
        self.threads = 1
        """To use now; changes from call to call while `is_settled` is false."""
        self._rates: dict[int, float] = {}
        self._is_first_call, self._is_trying = True, self._most > 1
        self._updates, self._seconds = 0, 0.0

    def add(self, updates: int, seconds: float) -> None:
        """Count updates that were made with `threads`, and choose the number for the next ones."""
        if self._is_first_call:  # it allocates
            self._is_first_call = False
            return
        self._updates, self._seconds = self._updates + updates, self._seconds + seconds
        if self._seconds < (_TRIAL_S if self._is_trying else _HOLD_S):
            return
        rate, self._updates, self._seconds = self._updates / self._seconds, 0, 0.0
        if self._is_trying:
            self._end_trial(rate)
        elif self._most > 1:
            self._rates, self._is_trying, self.threads = {}, True, max(1, self.threads // 2)

    @property
    def is_settled(self) -> bool:
        """Whether the number was found, and is not being looked for again."""
        return not (self._is_first_call or self._is_trying)

    def _end_trial(self, rate: float) -> None:
        """Try more threads if these were faster than the best so far; otherwise keep the best."""
        best = max(self._rates.values(), default=0.0)
        self._rates[self.threads] = rate
        is_better = rate >= _LEAST_GAIN * best
        if is_better and self.threads < self._most:
            self.threads = min(2 * self.threads, self._most)
            return
        self._is_trying = False
        if not is_better:
            del self._rates[self.threads]
            self.threads = max(self._rates, key=self._rates.__getitem__)
