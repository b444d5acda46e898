from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput
from distributed_maddpg.runtime import nodes as cluster_nodes
from distributed_maddpg.runtime import placement
from distributed_maddpg.runtime.nodes import Node, describe
from distributed_maddpg.runtime.placement import (
    await_placement,
    has_too_few_cpus,
    replay_options,
    shortfall,
    worker_options,
)

HEAD = Node("a", "10.0.0.1", 2, 0)
BIG = Node("b", "10.0.0.2", 8, 0)
GPU = Node("c", "10.0.0.3", 4, 1)


def config(**changes: Any) -> MADDPGConfig:
    return MADDPGConfig.from_dict(changes, MADDPGConfig(num_workers=4))


def test_equal_nodes_are_described_together() -> None:
    many = [Node(str(number), f"10.0.1.{number}", 4, 0) for number in range(9)]
    assert describe([HEAD, GPU]) == "10.0.0.1: 2 CPUs; 10.0.0.3: 4 CPUs and 1 GPU"
    assert describe([HEAD, *many]) == "10.0.0.1: 2 CPUs; 10.0.1.0, 10.0.1.1 and 7 more: 4 CPUs"
    assert describe([]) == "no nodes"


@pytest.mark.parametrize(
    ("changes", "nodes", "problem"),
    [
        ({}, [HEAD], None),
        ({"ray": {"min_workers": 4}}, [HEAD, BIG], None),
        ({"learner": {"device": "cuda"}}, [HEAD, GPU], None),
        (
            {"ray": {"min_workers": 4}},
            [HEAD, HEAD],
            "ray.min_workers = 4: needs 5 CPUs together with the learner, but the cluster has 4 "
            "(10.0.0.1 and 10.0.0.1: 2 CPUs); lower it or add nodes",
        ),
        (
            {"sync": True},
            [GPU],
            "num_workers = 4: needs 5 CPUs together with the learner, but the cluster has 4 "
            "(10.0.0.3: 4 CPUs and 1 GPU); lower it or add nodes",
        ),
        (
            {"learner": {"num_threads": 6}},
            [HEAD, GPU, GPU],
            "learner.num_threads = 6: needs the CPUs on one node, but the cluster has 10 "
            "(10.0.0.1: 2 CPUs; 10.0.0.3 and 10.0.0.3: 4 CPUs and 1 GPU); lower it or add nodes",
        ),
        (
            {"learner": {"device": "cuda", "num_threads": 6}},
            [GPU, BIG],
            "learner.num_threads = 6: needs the GPU and the CPUs on one node, but the cluster has 12 "
            "(10.0.0.3: 4 CPUs and 1 GPU; 10.0.0.2: 8 CPUs); lower it or add nodes",
        ),
        (
            {"learner": {"device": "cuda"}},
            [HEAD],
            "learner.device = 'cuda': the cluster has no GPU (10.0.0.1: 2 CPUs); use cpu or auto",
        ),
    ],
)
def test_what_is_missing_is_named(changes: dict[str, Any], nodes: list[Node], problem: str | None) -> None:
    found = shortfall(config(**changes), nodes)
    assert (None if found is None else str(found)) == problem


class Cluster:
    """Nodes that appear one by one, at each look at them; the clock goes on by what is slept."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *nodes: Node, ending: frozenset[str] = frozenset()
    ) -> None:
        self.coming, self.now, self.asked = list(nodes), 0.0, []
        monkeypatch.setattr(cluster_nodes, "alive_nodes", lambda: self.coming[: 1 + int(self.now / 100)])
        monkeypatch.setattr(cluster_nodes, "ending_nodes", lambda: set(ending))
        monkeypatch.setattr(placement, "request_resources", lambda bundles: self.asked.append(bundles))
        monkeypatch.setattr(placement.ray.util, "get_current_placement_group", lambda: None)
        monkeypatch.setattr(placement.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(placement.time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_run_waits_for_the_nodes_that_it_asks_the_autoscaler_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = Cluster(monkeypatch, HEAD, HEAD, GPU)
    waits = config(learner={"device": "cuda", "num_threads": 2}, ray={"wait_for_nodes": "15m"})
    assert await_placement(waits)
    assert 200 <= cluster.now < 205
    assert cluster.asked == [[{"CPU": 2, "GPU": 1}] + [{"CPU": 1}] * 4, []]
    lines = [record.getMessage() for record in caplog.records]
    lacks = "learner.device = 'cuda': the cluster has no GPU (10.0.0.1: 2 CPUs); use cpu or auto"
    assert lines[:2] == [
        f"waiting up to 15m for nodes: {lacks}",
        f"still waiting for nodes after 30s: {lacks}",
    ]
    assert len(lines) == 1 + 6


def test_a_run_that_has_waited_long_enough_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, HEAD)
    with pytest.raises(BadInput, match=r"ray.min_workers = 3: needs 4 CPUs .* has 2 \(10.0.0.1: 2 CPUs\)"):
        await_placement(config(ray={"wait_for_nodes": "90s", "min_workers": 3}))
    assert cluster.now == 90
    assert cluster.asked[-1] == []


def test_without_the_option_nothing_is_waited_or_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, HEAD)
    with pytest.raises(BadInput, match=r"ray.min_workers = 3"):
        await_placement(config(ray={"min_workers": 3}))
    assert (cluster.now, cluster.asked) == (0, [])
    assert not await_placement(config())


def test_nodes_that_end_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    Cluster(monkeypatch, HEAD, ending=frozenset("a"))
    with pytest.raises(BadInput, match="the cluster has 0 "):
        await_placement(config())


def test_workers_without_a_cpu_are_noted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Cluster(monkeypatch, HEAD)
    assert has_too_few_cpus(config()) and not has_too_few_cpus(config(num_workers=1))
    await_placement(config())
    assert "the cluster has 2 CPUs: of 4 rollout workers" in caplog.text


@pytest.mark.parametrize(
    ("changes", "bundles", "own", "problem"),
    [
        ({}, [{"CPU": 1}, {"CPU": 1}], {}, None),
        ({}, [{"CPU": 2}], {"CPU": 1}, "ray.min_workers = 1: needs 2 CPUs together with the learner, but "),
        ({}, [{}, {"CPU": 1}, {"CPU": 2}], {"CPU": 1.0}, None),
        (
            {"learner": {"num_threads": 2}},
            [{"CPU": 1}] * 5,
            {},
            "learner.num_threads = 2: needs the CPUs on one ",
        ),
        (
            {"learner": {"device": "cuda"}},
            [{"CPU": 8}],
            {},
            "learner.device = 'cuda': the placement group has no ",
        ),
        ({"sync": True}, [{"CPU": 1}] * 5, {}, None),
        ({"sync": True}, [{"CPU": 1}] * 5, {"CPU": 1}, "num_workers = 4: needs 5 CPUs "),
    ],
)
def test_a_placement_group_must_have_what_the_process_in_it_leaves(
    changes: dict[str, Any],
    bundles: list[dict[str, float]],
    own: dict[str, float],
    problem: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group = SimpleNamespace(bundle_specs=bundles)
    context = SimpleNamespace(get_assigned_resources=lambda: own)
    monkeypatch.setattr(placement.ray.util, "get_current_placement_group", lambda: group)
    monkeypatch.setattr(placement.ray, "get_runtime_context", lambda: context)
    if problem is None:
        assert not await_placement(config(**changes))
        return
    with pytest.raises(BadInput) as caught:
        await_placement(config(**changes))
    assert str(caught.value).startswith(problem)
    assert "(bundle 0" in str(caught.value)


def test_the_learner_gets_the_groups_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    group = SimpleNamespace(bundle_specs=[{"CPU": 1}, {"CPU": 2, "GPU": 1}])
    context = SimpleNamespace(get_assigned_resources=dict)
    monkeypatch.setattr(placement.ray.util, "get_current_placement_group", lambda: group)
    monkeypatch.setattr(placement.ray, "get_runtime_context", lambda: context)
    assert await_placement(config())
    assert not await_placement(config(learner={"device": "cpu"}))
    assert not await_placement(config(learner={"num_threads": 2, "device": "cpu"}))
    with pytest.raises(BadInput, match=r"needs the GPU and the CPUs on one bundle"):
        await_placement(config(learner={"num_threads": 3, "device": "cuda"}))


def test_the_replay_buffer_gets_a_bundle_on_the_learners_node(monkeypatch: pytest.MonkeyPatch) -> None:
    group, homes = SimpleNamespace(), {"bundles_to_node_id": {0: "a", 1: "b", 2: "b"}}
    monkeypatch.setattr(placement.ray.util, "get_current_placement_group", lambda: group)
    monkeypatch.setattr(placement, "placement_group_table", lambda asked: homes if asked is group else {})
    strategy = replay_options("b")["scheduling_strategy"]
    assert (strategy.placement_group, strategy.placement_group_bundle_index) == (group, 1)
    assert replay_options("gone")["scheduling_strategy"].placement_group_bundle_index == -1
    assert replay_options("") == {"num_cpus": 0}
    assert worker_options() == {"num_cpus": 1}
    monkeypatch.setattr(placement.ray.util, "get_current_placement_group", lambda: None)
    assert replay_options("b") == {"num_cpus": 0, "label_selector": {"ray.io/node-id": "b"}}
    assert worker_options() == {"num_cpus": 1, "scheduling_strategy": "SPREAD"}
