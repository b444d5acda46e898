"""A parallel environment that goes wrong on purpose; by name `tests.support.failing:parallel_env`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from tests.support.counting import CountingEnv


class FailingEnv(CountingEnv):
    """A CountingEnv that raises or sleeps for ever at its `fail_at`-th step; with 0, when it is reset.

    Args:
        fail_at: counted from 1, anew in each process and copy.     how: "raise" or "sleep".
        folder, times: with a folder, only so many times among all processes that use it.
        spared: id of a process in which it never fails.
        kwargs: of CountingEnv.
    """

    def __init__(
        self,
        fail_at: int = 0,
        how: str = "raise",
        folder: str = "",
        times: int = 0,
        spared: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.spared = spared
        self.fail_at, self.how, self.steps = fail_at, how, 0
        self.folder, self.times = folder, times

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
        if os.getpid() == self.spared or (self.folder and not self._may_fail()):
            return
        if self.how == "sleep":
            time.sleep(3600)
        raise RuntimeError(f"boom at step {self.steps}")

    def _may_fail(self) -> bool:
        for number in range(self.times):
            try:
                (Path(self.folder) / str(number)).touch(exist_ok=False)
            except FileExistsError:
                continue
            return True
        return False


def parallel_env(**kwargs: Any) -> FailingEnv:
    return FailingEnv(**kwargs)
