"""Trials of Ray Tune on clusters of their own: `python -m tests.support.trials <name> <folder>`.

Each function prints what it saw as JSON, last; `tests/test_tune.py` judges it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune

from distributed_maddpg.errors import BadInput
from distributed_maddpg.tune import MADDPGTrainable
from tests.support.nodes import _cluster
from tests.support.processes import gone, pid
from tests.support.target import target_config

_WITHIN_S = 200.0


class Observed(MADDPGTrainable):
    """A trial that reports with its first result where each of its processes is."""

    def step(self) -> dict[str, Any]:
        result = super().step()
        runner = self._algo._runner
        runner._processes.evaluator  # noqa: B018 - started by the evaluation of the step
        supervisor = runner._supervisor
        deadline = time.monotonic() + _WITHIN_S
        while not supervisor.all_ready and time.monotonic() < deadline:
            runner._step()
        mine = ray.util.get_current_placement_group()
        actors = _actors(runner._processes)
        result["seen"] = {
            "group": mine.id.hex(),
            "groups": {name: _asked(actor, _group) for name, actor in actors.items()},
            "nodes": {name: _asked(actor, _node) for name, actor in actors.items()},
            "bundles": ray.util.placement_group_table(mine)["bundles_to_node_id"],
            "node": ray.get_runtime_context().get_node_id(),
            "free_cpus": ray.available_resources().get("CPU", 0.0),
            "name": self._algo.name == self.trial_name != "default",
            "pids": [os.getpid(), *map(pid, actors.values())],
        }
        return result


def _actors(processes: Any) -> dict[str, Any]:
    found = {f"worker {index}": worker for index, worker in enumerate(processes.workers)}
    return found | {
        "learner": processes.learner,
        "replay": processes.replay,
        "evaluator": processes.evaluator,
    }


def _asked(actor: Any, question: Any) -> Any:
    return ray.get(actor.__ray_call__.remote(question), timeout=_WITHIN_S)


def _group(_: Any) -> str:
    return str(ray.get_runtime_context().get_placement_group_id())


def _node(_: Any) -> str:
    return str(ray.get_runtime_context().get_node_id())


def _space(**changes: Any) -> dict[str, Any]:
    config = target_config(
        num_workers=2, pacing={"total_env_steps": 10**9, "report_interval_env_steps": 640}, **changes
    )
    return config.to_dict()


def _fit(folder: Path, space: Mapping[str, Any], name: str, iterations: int) -> Any:
    run = tune.RunConfig(
        name=name, storage_path=str(folder), stop={"training_iteration": iterations}, verbose=0
    )
    return tune.Tuner(Observed, param_space=dict(space), run_config=run).fit()


def group_over_two_nodes(folder: Path) -> dict[str, Any]:
    """A trial with two workers on two nodes of two CPUs, which leaves one free; then one that is killed."""
    with _cluster(0, 2, 2) as (_, nodes):
        [result] = _fit(folder, _space(), "ends", 1)
        seen = dict(result.metrics["seen"])
        seen["cluster"] = [node.node_id for node in nodes]
        seen["error"] = str(result.error or "")
        seen["ended"] = gone(seen["pids"], 30)
        print("a trial is killed from here on", file=sys.stderr, flush=True)
        seen["killed"] = _kill_a_trial(folder)
        try:
            _fit(folder, _space() | {"algorithm.actor_rl": 0.1}, "wrong", 1)
        except BadInput as error:
            seen["wrong"] = str(error)
        return seen


def _kill_a_trial(folder: Path) -> bool:
    """Kill the process of a trial that runs; return whether its other processes end within 30 s."""
    ended: list[bool] = []

    def kill() -> None:
        deadline = time.monotonic() + _WITHIN_S
        while time.monotonic() < deadline and not ended:
            for file in (folder / "killed").glob("*/result.json"):
                if lines := file.read_text(encoding="utf-8").splitlines():
                    pids = json.loads(lines[0])["seen"]["pids"]
                    os.kill(pids[0], signal.SIGKILL)
                    ended.append(gone(pids, 30))
            time.sleep(0.2)

    killer = threading.Thread(target=kill)
    killer.start()
    [result] = _fit(folder, _space(), "killed", 10**6)
    killer.join()
    return ended == [True] and result.error is not None


if __name__ == "__main__":
    functions = {"group_over_two_nodes": group_over_two_nodes}
    print(json.dumps(functions[sys.argv[1]](Path(sys.argv[2]))))
