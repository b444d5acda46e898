"""Frames of episodes in a window."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from distributed_maddpg.errors import BadInput
from distributed_maddpg.evaluation.rendering import Frame
from distributed_maddpg.report.video import PAUSE_S, resized

_UNSEEN = ("dummy", "offscreen")
"""SDL's displays that nobody sees, which it takes where it reaches no other."""
_TITLE = "distributed-maddpg"


class Window:
    """A window of which each frame fills the whole; its user closes it, or presses Escape or q."""

    def __init__(self, pygame: Any, width: int, fps: float) -> None:
        """Show frames of this width, and so many a second; see `open_window`."""
        self._pygame, self._width, self._fps = pygame, width, fps
        self._clock = pygame.time.Clock()

    def show(self, frames: Iterable[Frame]) -> int:
        """Show frames, the end of each episode a second longer; return how many until the window closed."""
        shown = 0
        for frame in frames:
            pixels = np.asarray(resized(frame, self._width)).transpose(1, 0, 2)
            screen = self._pygame.display.get_surface()
            if screen.get_size() != pixels.shape[:2]:
                screen = self._pygame.display.set_mode(pixels.shape[:2])
            self._pygame.surfarray.blit_array(screen, pixels)
            self._pygame.display.set_caption(f"{_TITLE}: episode {frame.episode}, step {frame.step}")
            self._pygame.display.flip()
            shown += 1
            for _ in range(1 + round(PAUSE_S * self._fps) * frame.last):
                if self._is_closed():
                    return shown
                self._clock.tick(self._fps)
        return shown

    def _is_closed(self) -> bool:
        """Return whether the user has closed the window, reading all that happened since the last call."""
        keys = (self._pygame.K_ESCAPE, self._pygame.K_q)
        return any(
            event.type == self._pygame.QUIT or (event.type == self._pygame.KEYDOWN and event.key in keys)
            for event in self._pygame.event.get()
        )


@contextmanager
def open_window(width: int, fps: float) -> Iterator[Window]:
    """Open a window, and close it on exit.

    Raises:
        BadInput: if there is no display.
    """
    remedy = "needs a display, and there is none here; write a file with --out x.gif instead"
    chosen = os.environ.get("SDL_VIDEODRIVER")
    displays = chosen or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform.startswith("linux") and not displays:
        raise BadInput("--window", True, remedy)
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # pygame prints to stdout, which carries JSON
    import pygame  # noqa: PLC0415 - as MPE2 draws with it, it is there

    try:
        pygame.display.init()
        if not chosen and pygame.display.get_driver() in _UNSEEN:
            raise pygame.error(f"SDL would use {pygame.display.get_driver()}")
        pygame.display.set_mode((width, width))
    except pygame.error as error:
        pygame.display.quit()
        raise BadInput("--window", True, f"{remedy} ({error})") from None
    try:
        yield Window(pygame, width, fps)
    finally:
        pygame.display.quit()
