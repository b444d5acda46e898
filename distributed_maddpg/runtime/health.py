"""Health of each process, when to replace it, and counts of what was lost."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

from distributed_maddpg.errors import StageError, TrainingError, without_place
from distributed_maddpg.types import FaultEvent

MAX_FAILURES = 5
"""The run ends after this many losses of a process without a successful call between them, or this many equal
errors within `_REPEAT_WINDOW_S`."""
_REPEAT_WINDOW_S = 600.0
_SMOOTHING = 0.2
_KINDS = ("rollout_worker", "replay_buffer", "learner", "evaluator")
_LOST = ("env_steps_lost", "updates_lost")
_LOG = logging.getLogger("distributed_maddpg")


class Health:
    """The health of one process and its replacements."""

    def __init__(self, name: str) -> None:
        """Start with a process that is starting."""
        self.name = name
        self.ready = False
        """Whether it has answered since it was started."""
        self.leaving = False
        """Whether its node has announced its end: it gets no more work, and is then moved."""
        self.start_at: float | None = None
        """When to start a replacement (`time.monotonic`); None while a process is running or starting."""
        self.incarnation = 0
        """How many times it was replaced."""
        self._lost_at = 0.0
        self._failures = 0
        self._mean_call_s: float | None = None

    @property
    def down(self) -> bool:
        """Whether no process is running or starting."""
        return self.start_at is not None

    def deadline_s(self, timeout_s: float) -> float:
        """Return how long to wait for its next call: ten mean call times, within [1/8, 1] `timeout_s`."""
        return (
            timeout_s
            if self._mean_call_s is None
            else min(timeout_s, max(timeout_s / 8, 10 * self._mean_call_s))
        )

    def mark_worked(self, seconds: float) -> None:
        """Record a successful call of that length."""
        self._failures = 0
        usual_s = seconds if self._mean_call_s is None else self._mean_call_s
        self._mean_call_s = usual_s + _SMOOTHING * (seconds - usual_s)

    def mark_lost(self) -> None:
        """Record that it was lost; replacements start after 0, 1, 2, 4 seconds."""
        now = time.monotonic()
        if self._lost_at == 0.0:
            self._lost_at = now
        backoff = 2.0 ** (self._failures - 1) if self._failures else 0.0
        self.start_at, self.ready, self._mean_call_s = now + backoff, False, None
        self.leaving = False
        self._failures += 1

    def mark_deferred(self) -> None:
        """Record that it was ended to free its CPU or to leave its node; it is started again at once."""
        self.start_at, self.leaving = time.monotonic(), False
        if self.ready:
            self._lost_at, self.ready, self._mean_call_s = self.start_at, False, None

    @property
    def failed_too_often(self) -> bool:
        """Whether it was lost repeatedly without a successful call."""
        return self._failures >= MAX_FAILURES

    def mark_started(self) -> None:
        """Record that a replacement is starting."""
        self.start_at = None
        self.incarnation += 1

    def mark_ready(self) -> float:
        """Record that it is ready; return for how many seconds it was missing, 0 at the first start."""
        self.ready = True
        missed = time.monotonic() - self._lost_at if self._lost_at else 0.0
        self._lost_at = 0.0
        return missed


class FaultLog:
    """Counts losses and recoveries, and logs each in one line."""

    def __init__(self, on_event: Callable[[FaultEvent], None] = lambda _: None) -> None:
        """Start empty; `on_event` takes each event when it happens."""
        self._on_event = on_event
        self.counts = dict.fromkeys((*(f"num_{kind}_restarts" for kind in _KINDS), *_LOST), 0)
        self._errors: deque[tuple[float, str]] = deque()

    def record_lost(self, process: str, error: TrainingError) -> None:
        """Record that a process was lost.

        Raises:
            TrainingError: if its own code raised the same error repeatedly.
        """
        self._add(process, "lost", str(error))
        if isinstance(error, StageError):
            self._check_repeated(str(error))

    def record_recovered(self, process: str, seconds: float, detail: str = "") -> None:
        """Record that a process was replaced and is ready."""
        kind = process.rstrip("0123456789 ").replace(" ", "_")
        self.counts[f"num_{kind}_restarts"] += 1
        self._add(process, "recovered", f"{process} was replaced after {seconds:.1f} s{detail}", seconds)

    def _add(self, process: str, kind: str, line: str, seconds: float = 0.0) -> None:
        event = FaultEvent(time.time(), process, kind, line, seconds)
        _LOG.warning(line)
        self._on_event(event)

    def _check_repeated(self, line: str) -> None:
        now, error = time.monotonic(), without_place(line)
        self._errors.append((now, error))
        while now - self._errors[0][0] > _REPEAT_WINDOW_S:
            self._errors.popleft()
        if sum(error == other for _, other in self._errors) >= MAX_FAILURES:
            raise TrainingError(f"the same error {MAX_FAILURES} times: {line}")
