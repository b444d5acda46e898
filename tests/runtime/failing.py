"""A parallel environment that goes wrong on purpose; by name `tests.runtime.failing:parallel_env`."""

from __future__ import annotations

import time
from typing import Any

from tests.envs.counting import CountingEnv


class FailingEnv(CountingEnv):
    """A CountingEnv that raises or sleeps for ever at its `fail_at`-th step; with 0, when it is reset."""

    def __init__(self, fail_at: int = 0, how: str = "raise", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fail_at, self.how, self.steps = fail_at, how, 0

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        if self.fail_at == 0:
            self._fail()
        return super().reset(seed, options)

    def step(self, actions: dict[str, Any]) -> tuple[Any, Any, Any, Any, Any]:
        self.steps += 1
        if self.steps == self.fail_at:
            self._fail()
        return super().step(actions)

    def _fail(self) -> None:
        if self.how == "sleep":
            time.sleep(3600)
        raise RuntimeError(f"boom at step {self.steps}")


def parallel_env(**kwargs: Any) -> FailingEnv:
    return FailingEnv(**kwargs)
