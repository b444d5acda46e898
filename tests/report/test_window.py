"""Frames in a window, of SDL's display that nobody sees."""

import pytest

from distributed_maddpg.errors import BadInput
from distributed_maddpg.report.window import open_window
from tests.report.test_video import COLOURS, frames


@pytest.fixture
def pygame(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    import pygame

    return pygame


def test_each_frame_fills_the_window(pygame):
    with open_window(40, fps=50) as window:
        seen = []
        for frame in frames():
            window.show([frame])
            seen.append(pygame.surfarray.array3d(pygame.display.get_surface()))
            assert pygame.display.get_caption()[0].endswith(f"episode {frame.episode}, step {frame.step}")
    assert [array.shape for array in seen] == [(40, 30, 3)] * 6
    assert [tuple(array[30, 15]) for array in seen] == COLOURS
    assert not pygame.display.get_init()


@pytest.mark.parametrize("event", ["QUIT", "K_ESCAPE", "K_q"])
def test_its_user_closes_it(pygame, event):
    def closing():
        yield frames()[0]
        kind = pygame.QUIT if event == "QUIT" else pygame.KEYDOWN
        pygame.event.post(
            pygame.event.Event(kind, {} if event == "QUIT" else {"key": getattr(pygame, event)})
        )
        yield from frames()[1:]

    with open_window(40, fps=50) as window:
        assert window.show(closing()) == 2


def test_without_a_display_it_is_refused(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(BadInput, match="--window = True: needs a display, and there is none here"):
        with open_window(40, fps=10):
            pass
    monkeypatch.setenv("DISPLAY", ":99")  # of no X server
    with pytest.raises(BadInput, match="--window = True: needs a display, and there is none here"):
        with open_window(40, fps=10):
            pass
