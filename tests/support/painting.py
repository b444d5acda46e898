"""An environment that draws itself: a CountingEnv whose pictures say which episode and step they are of.

By name: `tests.support.painting:parallel_env`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.support.counting import CountingEnv


class PaintingEnv(CountingEnv):
    """Pictures of 20 x 30 pixels; red is the number of the episode, green the step.

    Args:
        render_mode: as in PettingZoo.
        broken: render returns nothing of use.
        **kwargs: of CountingEnv.
    """

    metadata: dict[str, Any] = {"name": "painting", "render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None, broken: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.render_mode, self.broken = render_mode, broken

    def render(self) -> Any:
        assert self.render_mode == "rgb_array"
        if self.broken:
            return "a picture"
        picture = np.zeros((20, 30, 3), np.uint8)
        picture[:] = self.episode, self.t, 255
        return picture


def parallel_env(**kwargs: Any) -> PaintingEnv:
    """Return a painting environment."""
    return PaintingEnv(**kwargs)
