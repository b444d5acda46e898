"""SIGINT and SIGTERM end a run with a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_on_signals(request_stop: Callable[[], None], before_start: bool = False) -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into a request to stop, and the second into an immediate end.

    Before the stages are up there is nothing to save, so that the first one already ends the run.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals belong to the main thread; an embedding program keeps its own
        return
    seen = before_start

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        if seen:
            raise KeyboardInterrupt
        seen = True
        request_stop()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
