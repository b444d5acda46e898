"""Where a run's processes go: what they need, whether the nodes have it, and the options that tell Ray."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from operator import ge, sub
from typing import Any, NamedTuple

import ray
from ray.autoscaler.sdk import request_resources
from ray.util.placement_group import PlacementGroup, placement_group_table
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.durations import format_duration, parse_duration
from distributed_maddpg.errors import BadInput
from distributed_maddpg.runtime.nodes import Node, alive_nodes, describe, lasting_nodes

_POLL_S = 1.0
_REPORT_S = 30.0
_OFF_SPOT = {"ray.io/market-type": "!spot"}
_COUNTED = ("CPU", "GPU")
_LOG = logging.getLogger("distributed_maddpg")


class _Place(NamedTuple):
    """What a run is started on, in words."""

    name: str
    part: str
    remedy: str


_CLUSTER = _Place("the cluster", "node", "add nodes")
_GROUP = _Place("the placement group", "bundle", "enlarge the group")


def await_placement(config: MADDPGConfig) -> bool:
    """Wait until the nodes have what a run needs to start; return whether the learner gets a GPU.

    Ray's autoscaler is asked for everything that the run would use. Every half minute a line says what is
    still missing. A placement group has what it was made with, so that there is nothing to wait for.

    Raises:
        BadInput: saying what is missing, if it still is after `ray.wait_for_nodes`.
    """
    group = ray.util.get_current_placement_group()
    if group is not None:
        bundles = _free_bundles(group)
        if problem := shortfall(config, bundles, _GROUP):
            raise problem
        return _gets_gpu(config, bundles)
    wait_s = parse_duration("ray.wait_for_nodes", config.ray.wait_for_nodes)
    began = reported = time.monotonic()
    asked = False
    try:
        while problem := shortfall(config, lasting_nodes()):
            waited = time.monotonic() - began
            if waited >= wait_s:
                raise problem
            if not asked:
                request_resources(bundles=_bundles(config))
                _LOG.warning("waiting up to %s for nodes: %s", format_duration(wait_s), problem)
                asked = True
            elif time.monotonic() - reported >= _REPORT_S:
                reported = time.monotonic()
                _LOG.warning("still waiting for nodes after %s: %s", format_duration(waited), problem)
            time.sleep(min(_POLL_S, wait_s - waited))
    finally:
        if asked:  # from here on, the actors that Ray cannot place yet ask for themselves
            request_resources(bundles=[])
    nodes = lasting_nodes()
    _note_missing_workers(config, nodes)
    return _gets_gpu(config, nodes)


def has_too_few_cpus(config: MADDPGConfig) -> bool:
    """Whether the cluster has too few CPUs for the learner and all workers."""
    return config.num_workers > _workers_that_fit(config, lasting_nodes())


def in_placement_group() -> bool:
    """Whether this process belongs to a placement group, where its actors then go as well."""
    return ray.util.get_current_placement_group() is not None


def learner_options(config: MADDPGConfig, gpu: bool) -> dict[str, Any]:
    """Return what the learner asks of Ray: a node that is not labelled spot, as long as one has room."""
    options: dict[str, Any] = {"num_cpus": config.learner.reserved_cpus, "num_gpus": int(gpu)}
    if not in_placement_group() and any(node.spot for node in alive_nodes()):
        options |= {"label_selector": _OFF_SPOT, "fallback_strategy": [{"label_selector": {}}]}
    return options


def replay_options(node: str) -> dict[str, Any]:
    """Return what the replay buffer asks of Ray: to run on that node; empty: on any."""
    group = ray.util.get_current_placement_group()
    if not node:
        return {"num_cpus": 0}
    if group is None:
        return {"num_cpus": 0, "label_selector": {"ray.io/node-id": node}}
    homes: dict[int, str] = placement_group_table(group)["bundles_to_node_id"]
    bundle = next((index for index, home in homes.items() if home == node), -1)
    strategy = PlacementGroupSchedulingStrategy(group, bundle, placement_group_capture_child_tasks=True)
    return {"num_cpus": 0, "scheduling_strategy": strategy}


def worker_options() -> dict[str, Any]:
    """Return what a rollout worker asks of Ray: a CPU, on all nodes alike."""
    return {"num_cpus": 1} | ({} if in_placement_group() else {"scheduling_strategy": "SPREAD"})


def shortfall(config: MADDPGConfig, nodes: Sequence[Node], place: _Place = _CLUSTER) -> BadInput | None:
    """Return what the nodes lack for a run to start: room for the learner on one of them, and workers."""
    learner, cpus = config.learner, config.learner.reserved_cpus
    total = sum(node.cpus for node in nodes)
    has = f"{place.name} has {total} ({describe(nodes)}); lower it or {place.remedy}"
    if learner.device == "cuda" and not any(node.gpus for node in nodes):
        return BadInput(
            "learner.device", "cuda", f"{place.name} has no GPU ({describe(nodes)}); use cpu or auto"
        )
    if not _learner_nodes(config, nodes):
        unit = "GPU and the CPUs" if learner.device == "cuda" else "CPUs"
        return BadInput("learner.num_threads", cpus, f"needs the {unit} on one {place.part}, but {has}")
    needed = config.num_workers if config.sync else config.ray.min_workers
    if needed > _workers_that_fit(config, nodes):
        field = "num_workers" if config.sync else "ray.min_workers"
        return BadInput(field, needed, f"needs {needed + cpus} CPUs together with the learner, but {has}")
    return None


def _free_bundles(group: PlacementGroup) -> list[Node]:
    """Return the bundles of a group as nodes, without what this process takes of the first that has it."""
    assigned = ray.get_runtime_context().get_assigned_resources()  # type: ignore[no-untyped-call]
    own = [assigned.get(name, 0) for name in _COUNTED]
    bundles = [[each.get(name, 0) for name in _COUNTED] for each in group.bundle_specs]
    home = next((index for index, bundle in enumerate(bundles) if all(map(ge, bundle, own))), None)
    if home is not None:
        bundles[home] = list(map(sub, bundles[home], own))
    return [Node("", f"bundle {index}", int(cpus), int(gpus)) for index, (cpus, gpus) in enumerate(bundles)]


def _learner_nodes(config: MADDPGConfig, nodes: Sequence[Node]) -> list[Node]:
    """Return the nodes that can hold the learner: those with a GPU, if it may use one and there are any."""
    fit = [node for node in nodes if node.cpus >= config.learner.reserved_cpus]
    with_gpu = [node for node in fit if node.gpus and _may_use_gpu(config)]
    return with_gpu or ([] if config.learner.device == "cuda" else fit)


def _gets_gpu(config: MADDPGConfig, nodes: Sequence[Node]) -> bool:
    return _may_use_gpu(config) and any(node.gpus for node in _learner_nodes(config, nodes))


def _may_use_gpu(config: MADDPGConfig) -> bool:
    return config.learner.device != "cpu" and not config.algorithm.networks


def _workers_that_fit(config: MADDPGConfig, nodes: Sequence[Node]) -> int:
    return sum(node.cpus for node in nodes) - config.learner.reserved_cpus


def _bundles(config: MADDPGConfig) -> list[dict[str, float]]:
    """Return everything that a run would use, as the autoscaler takes it."""
    gpu = {"GPU": 1.0} if config.learner.device == "cuda" else {}
    return [{"CPU": float(config.learner.reserved_cpus), **gpu}] + [{"CPU": 1.0}] * config.num_workers


def _note_missing_workers(config: MADDPGConfig, nodes: Sequence[Node]) -> None:
    if config.num_workers > _workers_that_fit(config, nodes):
        _LOG.warning(
            "the cluster has %d CPUs: of %d rollout workers, those without a CPU start when nodes are added",
            sum(node.cpus for node in nodes),
            config.num_workers,
        )
