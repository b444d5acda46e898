"""Runs on clusters of several nodes, each in a process of its own: `python -m tests.support.nodes <name>`.

A process can be in one cluster at a time, and the session's other tests have theirs. Each function prints
what it saw as JSON; the tests in `test_nodes.py` judge it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import ray
from ray.cluster_utils import Cluster

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput, TrainingError
from distributed_maddpg.preflight import check
from distributed_maddpg.runtime.driver import RayRunner
from distributed_maddpg.runtime.tasks import run_in_parallel
from tests.support.target import CALM, target_config
from tests.support.watched import Watched

_QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_timeout_ms": 500}
_QUICK["health_check_failure_threshold"] = 4
_WITHIN_S = 200.0


@contextmanager
def _cluster(head_cpus: int, *nodes: int | dict[str, Any]) -> Iterator[tuple[Cluster, list[Any]]]:
    """Start a head, where this process is the driver, and further nodes, given by CPUs or by options."""
    options = {"object_store_memory": 100 * 2**20, "include_dashboard": False}
    head = {"num_cpus": head_cpus, "_system_config": _QUICK, **options}
    cluster = _patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster, [_add(cluster, node) for node in nodes]
    finally:
        ray.shutdown()
        cluster.shutdown()


def _add(cluster: Cluster, node: int | dict[str, Any]) -> Any:
    options = node if isinstance(node, dict) else {"num_cpus": node}
    added = _patiently(lambda: cluster.add_node(**options, object_store_memory=100 * 2**20))
    cluster.wait_for_nodes()
    return added


def _patiently(start: Callable[[], Any]) -> Any:
    """Start something of Ray's, several times if a busy machine delays its agents by more than 15 s."""
    for _ in range(4):
        try:
            return start()
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
    return start()


def _config(**changes: Any) -> MADDPGConfig:
    base = target_config(
        num_workers=2,
        env=CALM,
        replay={"capacity": 200_000},
        pacing={"total_env_steps": 10**9, "report_interval_env_steps": 64, "learning_starts": 320},
        ray={"timeout_s": 60.0, "snapshot_interval_s": 1.0},
    )
    return MADDPGConfig.from_dict(changes, base)


@contextmanager
def _run(config: MADDPGConfig) -> Iterator[Watched]:
    runner = RayRunner([config], check(config))
    try:
        yield Watched(runner)
    finally:
        runner.close()


def _end(watched: Watched) -> dict[str, Any]:
    total = watched.finish()
    [result] = watched.runner.results()
    return {
        "total": total,
        "env_steps": result["num_env_steps_sampled_lifetime"],
        "updates": result["num_updates_lifetime"],
        "learner_updates": int(watched.runner.learner_state(0)["updates"]),
        "stored": len(watched.rows()),
        "faults": result["fault_tolerance"],
        "lost": watched.happened("lost"),
        "recovered": watched.happened("recovered"),
        "lines": [event.message for event in watched.events],
        "versions_sorted": watched.versions == sorted(watched.versions),
    }


def _node_of(watched: Watched, process: str) -> str:
    started = watched.runner._processes._started
    return str(ray.get(started[watched.actors[process]], timeout=120).node)


def _kill_raylet(node: Any) -> None:
    [raylet] = node.all_processes["raylet"]
    os.kill(raylet.process.pid, signal.SIGKILL)


def workers_join_and_leave() -> dict[str, Any]:
    """Start with room for one worker of three; add a node for two more; take it away again."""
    seen: dict[str, Any] = {}
    with _cluster(2) as (cluster, _), _run(_config(num_workers=3)) as watched:
        supervisor = watched.runner._supervisor
        watched.until(lambda: watched.runner.pacer.updates > 50)
        seen["before"] = supervisor.healthy_workers
        node = _add(cluster, 2)
        started = time.monotonic()
        watched.until(lambda: supervisor.healthy_workers == 3, _WITHIN_S)
        seen["join_s"] = time.monotonic() - started
        env_steps = watched.runner.pacer.env_steps
        watched.until(lambda: watched.runner.pacer.env_steps > env_steps + 3200)
        seen["asked"] = list(watched.runner._fragments_asked)
        started = time.monotonic()
        cluster.remove_node(node, allow_graceful=False)
        watched.until(lambda: supervisor.healthy_workers == 1, _WITHIN_S)
        seen["leave_s"] = time.monotonic() - started
        env_steps = watched.runner.pacer.env_steps
        watched.until(lambda: watched.runner.pacer.env_steps > env_steps + 3200, _WITHIN_S)
        seen["after"] = supervisor.healthy_workers
        return seen | _end(watched)


def too_few_workers() -> dict[str, Any]:
    """Take away the node of one worker of two where two are needed."""
    config = _config(ray={"min_workers": 2, "timeout_s": 40.0})
    with _cluster(2, 1) as (cluster, [node]), _run(config) as watched:
        watched.until(lambda: watched.runner._supervisor.healthy_workers == 2)
        watched.until(lambda: watched.runner.pacer.updates > 50)
        cluster.remove_node(node, allow_graceful=False)
        started = time.monotonic()
        try:
            watched.until(lambda: False, _WITHIN_S)
        except TrainingError as error:
            return {"error": str(error), "seconds": time.monotonic() - started}
        return {"error": ""}


def never_enough() -> dict[str, Any]:
    """Ask for more workers than there are CPUs."""
    with _cluster(2):
        try:
            with _run(_config(ray={"min_workers": 2})):
                return {"error": ""}
        except BadInput as error:
            return {"error": str(error), "address": ray.nodes()[0]["NodeManagerAddress"]}


def node_of_workers_dies() -> dict[str, Any]:
    """Kill the raylet of a node with two of three workers; another node has room for them."""
    with _cluster(2, 2, 2) as (_, nodes), _run(_config(num_workers=3)) as watched:
        watched.until(lambda: watched.runner._supervisor.healthy_workers == 3)
        watched.until(lambda: watched.runner.pacer.updates > 50)
        mine = ray.get_runtime_context().get_node_id()
        places = {process: _node_of(watched, process) for process in watched.actors}
        aside = {places["learner"], places["replay buffer"], mine}
        [victim, *_] = [
            node for node in nodes if node.node_id not in aside and node.node_id in places.values()
        ]
        lost = [process for process, place in places.items() if place == victim.node_id]
        pids = [watched.pids()[process] for process in lost]
        started = time.monotonic()
        _kill_raylet(victim)
        watched.until(lambda: set(lost) <= set(watched.happened("recovered")), _WITHIN_S)
        seconds = time.monotonic() - started
        running = [number for number in pids if os.path.exists(f"/proc/{number}")]
        return {"victims": lost, "seconds": seconds, "running": running} | _end(watched)


def node_of_learner_and_replay_dies() -> dict[str, Any]:
    """Kill the raylet of the node with learner and replay buffer, whose rows the driver copies."""
    # The head has too few CPUs for such a learner, so that it is elsewhere.
    config = _config(learner={"num_threads": 3})
    from distributed_maddpg.runtime import supervisor as module

    # All nodes are on this machine, where the driver could reach the memory.
    module.Ring.attach = staticmethod(lambda address: None)  # type: ignore[method-assign]
    with _cluster(2, 5, 5) as (_, nodes), _run(config) as watched:
        runner, supervisor = watched.runner, watched.runner._supervisor
        watched.until(lambda: runner.pacer.updates > 300 and supervisor._copied_up_to[0] > 0, _WITHIN_S)
        places = {process: _node_of(watched, process) for process in watched.actors}
        [victim] = [node for node in nodes if node.node_id == places["learner"]]
        lost = [process for process, place in places.items() if place == victim.node_id]
        copied = supervisor._row_copies[0].read_from(0)[0].copy()
        env_steps, updates, safe = runner.pacer.env_steps, runner.pacer.updates, watched.updates_before(4.0)
        started = time.monotonic()
        _kill_raylet(victim)
        watched.until(lambda: set(lost) <= set(watched.happened("recovered")), _WITHIN_S)
        seconds = time.monotonic() - started
        same = bool(np.array_equal(watched.rows()[: len(copied)], copied))
        together = _node_of(watched, "learner") == _node_of(watched, "replay buffer") != victim.node_id
        seen = {"victims": lost, "seconds": seconds, "same": same, "together": together}
        seen |= {"copied": len(copied), "at_kill": [env_steps, updates, safe]}
        return seen | _end(watched)


def no_room_for_the_learner() -> dict[str, Any]:
    """Kill the raylet of the learner's node when workers that work fill all others."""
    config = _config(num_workers=3, learner={"num_threads": 2}, ray={"min_workers": 1, "timeout_s": 30.0})
    with _cluster(1, 2, 2) as (_, nodes), _run(config) as watched:
        runner = watched.runner
        watched.until(lambda: runner._supervisor.healthy_workers == 3 and runner.pacer.updates > 50)
        [victim] = [node for node in nodes if node.node_id == _node_of(watched, "learner")]
        _kill_raylet(victim)
        watched.until(lambda: "learner" in watched.happened("recovered"), _WITHIN_S)
        before = runner.pacer.updates
        watched.until(lambda: runner.pacer.updates > before + 50)
        watched.until(lambda: runner._supervisor.healthy_workers == 1)  # the head's may have been one of them
        runner.drain()  # though two workers wait for a place
        workers = runner._supervisor.healthy_workers
        return {"workers": workers, "stages": sorted(runner.capture(0, False).stages)} | _end(watched)


def _marked(market: str, **resources: int) -> dict[str, Any]:
    """Return a node's options with the label that tells a spot node."""
    return {**resources, "labels": {"ray.io/market-type": market}}


def _known_homes(watched: Watched) -> dict[str, str | None]:
    """Return the nodes of all processes, once they are known."""
    supervisor = watched.runner._supervisor
    watched.until(lambda: supervisor.all_ready and None not in supervisor._homes().values())
    homes: dict[str, str | None] = supervisor._homes()
    return homes


def placed_by_labels_and_resources() -> dict[str, Any]:
    """Start where only one node is not a spot node, then where one more has what Ray takes for a GPU."""
    seen: dict[str, Any] = {}
    with _cluster(0, _marked("spot", num_cpus=3), _marked("on-demand", num_cpus=3)) as (cluster, nodes):
        spot, lasting = (node.node_id for node in nodes)
        with _run(_config(num_workers=2)) as watched:
            homes = _known_homes(watched)
            seen["lasting"] = [process for process, home in homes.items() if home == lasting]
            seen["spot"] = [process for process, home in homes.items() if home == spot]
        gpu = _add(cluster, _marked("spot", num_cpus=2, num_gpus=1)).node_id
        with _run(_config(num_workers=2, learner={"device": "auto"})) as watched:
            homes = _known_homes(watched)
            seen["gpu"] = [process for process, home in homes.items() if home == gpu]
    return seen


def nodes_are_left_before_they_end() -> dict[str, Any]:
    """Drain the node of learner and replay buffer, as when a provider takes back a spot node."""
    from distributed_maddpg.runtime import supervisor as module

    # All nodes are on this machine, where the driver could reach the memory.
    module.Ring.attach = staticmethod(lambda address: None)  # type: ignore[method-assign]
    # The head has too few CPUs for such a learner, so that it is elsewhere.
    config = _config(num_workers=3, learner={"num_threads": 3})
    with _cluster(2, 4, 4) as (cluster, nodes), _run(config) as watched:
        runner, supervisor = watched.runner, watched.runner._supervisor
        watched.until(lambda: supervisor.healthy_workers == 3 and runner.pacer.updates > 300)
        homes = supervisor._homes()
        [victim] = [node for node in nodes if node.node_id == homes["learner"]]
        leaving = [process for process, home in homes.items() if home == victim.node_id]
        before = runner.pacer.updates
        started = time.monotonic()
        _drain(cluster.address, victim.node_id)
        watched.until(lambda: set(leaving) <= set(watched.happened("recovered")), _WITHIN_S)
        seen = {"leaving": leaving, "seconds": time.monotonic() - started, "before": before}
        [raylet] = victim.all_processes["raylet"]
        seen["ended_by_itself"] = raylet.process.wait(timeout=60)
        homes = supervisor._homes()
        seen["together"] = homes["learner"] == homes["replay buffer"] != victim.node_id
        return seen | _end(watched)


def the_drivers_node_ends() -> dict[str, Any]:
    """Drain the node that the driver is on."""
    with _cluster(2) as (cluster, _), _run(_config(num_workers=1)) as watched:
        watched.until(lambda: watched.runner.pacer.updates > 50)
        _drain(cluster.address, ray.get_runtime_context().get_node_id())
        try:
            watched.until(lambda: False, _WITHIN_S)
        except TrainingError as error:
            run = watched.runner.capture(0, with_replay=True)
            return {"error": str(error), "updates": run.updates, "made": watched.runner.pacer.updates}
        return {"error": ""}


def _drain(address: str, node: str) -> None:
    """Announce a node's end, as `ray start --block` does at SIGTERM and an autoscaler does."""
    why = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot", "--node-id", node]
    words = ["ray", "drain-node", "--address", address, *why, "--deadline-remaining-seconds", "120"]
    subprocess.run([sys.executable, "-m", "ray.scripts.scripts", *words[1:]], check=True, timeout=120)


def _piece(name: str, begun: str) -> str:
    """Write name, node and process, and take a while; return the node."""
    node = str(ray.get_runtime_context().get_node_id())
    with Path(begun).open("a") as file:
        file.write(f"{name} {node} {os.getpid()}\n")
    time.sleep(6.0)
    return node


def pieces_spread_and_one_node_dies() -> dict[str, Any]:
    """Do six independent pieces on three nodes, one of which is killed while it does its first."""
    with _cluster(1, 1, 1) as (_, [victim, _]), TemporaryDirectory() as folder:
        begun = Path(folder) / "begun"
        begun.touch()

        def lines() -> list[list[str]]:
            return [line.split() for line in begun.read_text().splitlines()]

        def kill() -> None:
            deadline = time.monotonic() + _WITHIN_S
            while victim.node_id not in begun.read_text():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            _kill_raylet(victim)
            [pid] = [pid for _, node, pid in lines() if node == victim.node_id]
            os.kill(int(pid), signal.SIGKILL)  # which would answer for some seconds yet

        with ThreadPoolExecutor() as pool:
            killed = pool.submit(kill)
            ended = dict(
                run_in_parallel(_piece, {name: (name, str(begun)) for name in "abcdef"}, "", _WITHIN_S)
            )
            killed.result()
        return {"victim": victim.node_id, "begun": lines(), "ended": ended}


def main(name: str) -> None:
    """Run one of the functions above and print what it saw."""
    functions: dict[str, Callable[[], dict[str, Any]]] = {
        function.__name__: function
        for function in (
            workers_join_and_leave,
            too_few_workers,
            never_enough,
            node_of_workers_dies,
            node_of_learner_and_replay_dies,
            no_room_for_the_learner,
            pieces_spread_and_one_node_dies,
            placed_by_labels_and_resources,
            nodes_are_left_before_they_end,
            the_drivers_node_ends,
        )
    }
    print(json.dumps(functions[name]()))


if __name__ == "__main__":
    main(sys.argv[1])
