"""Driving a run over Ray while its processes are killed or stopped, and looking at what became of it."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import ray

from distributed_maddpg.pacing import Pacer
from distributed_maddpg.types import FaultEvent

WITHIN_S = 300.0
"""Far more than anything here takes on an idle machine."""


class Watched:
    """A RayRunner, what it said so far, and its history."""

    def __init__(self, runner: Any) -> None:
        self.runner = runner
        self.events: list[FaultEvent] = []
        runner._supervisor.faults._on_event = self.events.append
        self.updates: list[tuple[float, int]] = []
        self.versions: list[int] = []

    @property
    def actors(self) -> dict[str, Any]:
        """Return the actors of this moment by name; the evaluator only if it was started."""
        processes = self.runner._processes
        found = {f"rollout worker {index}": worker for index, worker in enumerate(processes.workers)}
        found |= {"learner": processes.learner, "replay buffer": processes.replay}
        return found | ({"evaluator": processes._evaluator} if processes._evaluator else {})

    def pids(self) -> dict[str, int]:
        """Return the ids of their processes, busy or not."""
        started = self.runner._processes._started
        return {process: ray.get(started[actor], timeout=300).pid for process, actor in self.actors.items()}

    def until(self, reached: Callable[[], bool], within_s: float = WITHIN_S) -> None:
        """Train until something is so."""
        deadline = time.monotonic() + within_s

        def stop() -> bool:
            self._look()
            return reached() or time.monotonic() > deadline

        while not stop():
            self.runner.run(stop)
        assert reached(), (self.events, self.runner.pacer.__dict__)

    def hit(self, number: int, *names: str) -> dict[str, int]:
        """Send a signal to processes by name; return their ids."""
        pids = self.pids()
        for process in names:
            os.kill(pids[process], number)
        return {process: pids[process] for process in names}

    def happened(self, kind: str) -> list[str]:
        """Return the processes that were lost, or that recovered, in order."""
        return [event.process for event in self.events if event.kind == kind]

    def until_back(self, *names: str) -> float:
        """Train until processes were lost and replaced; return after how many seconds."""
        started = time.monotonic()
        self.until(lambda: all(process in self.happened("recovered") for process in names))
        self.until(lambda: self.runner._supervisor.all_ready)
        return time.monotonic() - started

    def finish(self, more_env_steps: int = 1280) -> int:
        """Let the run end soon, after some more steps; train until it has; return the total."""
        pacer = self.runner.pacer
        total = (pacer.env_steps + pacer._env_steps_in_flight) // 32 * 32 + more_env_steps
        pacer._config = dataclasses.replace(pacer._config, total_env_steps=total)
        self.until(lambda: pacer.finished)
        return total

    def updates_before(self, seconds: float) -> int:
        """Return the updates that had been made so long ago."""
        moment = time.monotonic() - seconds
        return max((count for at, count in self.updates if at <= moment), default=0)

    def ask(self, process: str, what: Callable[[Any], Any]) -> Any:
        """Return what a function finds in a process."""
        return ray.get(self.actors[process].__ray_call__.remote(what), timeout=300)

    def rows(self) -> Any:
        """Return all transitions that the replay buffer itself holds, oldest first."""
        replay = self.actors["replay buffer"]
        number, *_ = ray.get(replay.begin_snapshot.remote(0), timeout=300)
        chunks = []
        while len(chunk := ray.get(replay.read_snapshot.remote(0, number, 1 << 20), timeout=300)):
            chunks.append(chunk)
        return np.concatenate(chunks)

    def _look(self) -> None:
        self.updates.append((time.monotonic(), self.runner.pacer.updates))
        if not self.versions or self.versions[-1] != self.runner._latest_version:
            self.versions.append(self.runner._latest_version)


def updates_earned(runner: Any, env_steps: int) -> int:
    """Return the updates that so many steps earn in a run that nothing happens to."""
    pacer = Pacer(dataclasses.replace(runner._config.pacing, total_env_steps=env_steps))
    pacer.collection_started(env_steps)
    pacer.collection_done(env_steps)
    return pacer.updates_due()


def counters(**changes: int) -> dict[str, int]:
    """Return what `fault_tolerance` says of restarts, all 0 but the changes."""
    kinds = ("rollout_worker", "replay_buffer", "learner", "evaluator")
    return {f"num_{kind}_restarts": changes.get(kind, 0) for kind in kinds}
