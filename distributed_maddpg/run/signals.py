"""Ends a run with a checkpoint on SIGINT and SIGTERM."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_on_signals(request_stop: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """Call `request_stop` on the first SIGINT or SIGTERM, and raise KeyboardInterrupt on the second.

    Yields a function to call when the run has started. Until then the first signal raises, because there is
    nothing to save yet. It also sets the handlers again: Ray sets its own of SIGTERM when it starts.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None  # only the main thread may set handlers; an embedding program keeps its own
        return
    seen, lost = True, False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal seen, lost
        if seen:
            lost = True
            raise KeyboardInterrupt
        seen = True
        request_stop()

    def started() -> None:
        nonlocal seen
        if lost:  # compiled code called Python, which prints and ignores what is raised there
            raise KeyboardInterrupt
        seen = False
        for number in previous:
            signal.signal(number, handle)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield started
    finally:
        for number, handler in previous.items():
            # None: one that Python did not set, as of a program that embeds it
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
