"""Runs independent tasks in parallel on a Ray cluster."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import ray

from distributed_maddpg.config import MADDPGConfig, RayConfig
from distributed_maddpg.errors import TrainingError
from distributed_maddpg.runtime.calls import timeout_error, wait_for_result
from distributed_maddpg.runtime.cluster import connect, disconnect

R = TypeVar("R")

_RETRIES = 2
"""Retries of a task whose process or node was lost."""
_RESULT_TIMEOUT_S = 60.0


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM interrupt as SIGINT does; Ray's own handler exits and leaves its agents running."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def run_in_parallel(
    work: Callable[..., R], calls: Mapping[str, tuple[Any, ...]], address: str, timeout_s: float
) -> Iterator[tuple[str, R]]:
    """Run `work(*arguments)` for each of `calls` on one CPU each; yield name and result as they finish.

    Args:
        work: a function of a module that the other processes can import.
        calls: arguments by a name for display.
        address: of a running cluster; empty: the surrounding Ray job's, else a new local one.
        timeout_s: longest wait for the next task to finish.

    Raises:
        TrainingError: if a task fails or none finishes in time; the others are cancelled.
    """
    owns_connection = connect(MADDPGConfig(ray=RayConfig(address=address)))
    waiting: dict[ray.ObjectRef[R], str] = {}
    try:
        task = ray.remote(work).options(
            num_cpus=1, max_retries=_RETRIES, scheduling_strategy="SPREAD", enable_task_events=False
        )
        waiting = {task.remote(*arguments): name for name, arguments in calls.items()}
        with _sigterm_interrupts():
            while waiting:
                ready, _ = ray.wait(list(waiting), timeout=timeout_s)
                if not ready:
                    raise timeout_error(", ".join(waiting.values()), timeout_s)
                name = waiting.pop(ready[0])
                yield name, wait_for_result(name, ready[0], _RESULT_TIMEOUT_S)
    finally:
        for call in waiting:
            with suppress(ray.exceptions.RayError, TrainingError):
                ray.cancel(call, force=True)
        if owns_connection:
            disconnect()
