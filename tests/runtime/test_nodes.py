"""Nodes join, leave and die: a run uses what is there; only too few workers for too long end it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distributed_maddpg.pacing import Pacer
from tests.support.target import target_config

pytest.importorskip("ray")

pytestmark = [pytest.mark.ray, pytest.mark.slow]

_ROOT = Path(__file__).resolve().parents[2]


def _seen(name: str) -> dict[str, Any]:
    """Return what one of the functions of `nodes.py` saw."""
    words = [sys.executable, "-m", "tests.support.nodes", name]
    done = subprocess.run(words, cwd=_ROOT, capture_output=True, text=True, timeout=580)
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stderr[-4000:]
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen


def _check_counts(seen: dict[str, Any]) -> None:
    pacing = target_config(pacing={"total_env_steps": seen["total"]}).pacing
    pacer = Pacer(pacing)
    pacer.collection_started(seen["total"])
    pacer.collection_done(seen["total"])
    assert seen["env_steps"] == seen["total"]
    assert seen["updates"] == seen["learner_updates"] == pacer.updates_due()
    assert seen["versions_sorted"]


def test_workers_join_when_a_node_does_and_leave_with_it() -> None:
    seen = _seen("workers_join_and_leave")
    assert (seen["before"], seen["after"]) == (1, 1)
    assert min(seen["asked"]) > 0, "those that joined worked"
    assert len([process for process in seen["lost"] if process.startswith("rollout worker")]) >= 2
    assert seen["faults"]["updates_lost"] == 0
    assert seen["stored"] >= seen["total"]
    _check_counts(seen)


def test_too_few_workers_for_too_long_end_the_run() -> None:
    seen = _seen("too_few_workers")
    ran = "only 1 of 2 rollout workers ran for 40 s (ray.timeout_s)"
    assert seen["error"] == f"{ran}; the run needs 2 (ray.min_workers)"
    assert seen["seconds"] > 40


def test_fewer_cpus_than_workers_that_are_needed_are_refused() -> None:
    seen = _seen("never_enough")
    remedy = f"needs 3 CPUs together with the learner, but the cluster has 2 ({seen['address']}: 2 CPUs)"
    assert seen["error"] == f"ray.min_workers = 2: {remedy}; lower it or add nodes"


def test_a_node_with_workers_dies_and_others_take_over() -> None:
    seen = _seen("node_of_workers_dies")
    assert seen["running"] == [], "its processes ended with its raylet"
    assert set(seen["victims"]) <= set(seen["recovered"])
    assert all(process.startswith("rollout worker") for process in seen["lost"])
    assert seen["faults"]["updates_lost"] == 0
    assert seen["faults"]["num_healthy_workers"] == 3
    assert seen["stored"] >= seen["total"]
    _check_counts(seen)


def test_workers_make_room_for_a_learner_that_finds_none() -> None:
    seen = _seen("no_room_for_the_learner")
    assert seen["workers"] == 1, "the node that is left beside the head's holds the learner"
    assert len({name.partition("/")[0] for name in seen["stages"] if name.startswith("worker_")}) == 1
    lines = [line for line in seen["lines"] if line.endswith(" was ended to free its CPU for the learner")]
    assert 2 <= len(lines) <= 4
    _check_counts(seen)


def test_the_node_of_learner_and_replay_buffer_dies_and_the_drivers_copies_go_on() -> None:
    seen = _seen("node_of_learner_and_replay_dies")
    assert {"learner", "replay buffer"} <= set(seen["victims"]) <= set(seen["recovered"])
    assert seen["same"] and seen["together"]
    _, updates, safe = seen["at_kill"]
    [line] = [line for line in seen["lines"] if line.startswith("replay buffer was replaced after ")]
    rows = int(line.split(", with ")[1].split(" ")[0].replace(",", ""))
    assert line.endswith(" transitions of a snapshot")
    assert seen["copied"] <= rows
    assert seen["faults"]["updates_lost"] <= updates - safe + 100
    _check_counts(seen)


def test_the_learner_goes_to_the_gpu_or_off_spot_nodes_and_workers_spread() -> None:
    seen = _seen("placed_by_labels_and_resources")
    assert [process for process in seen["lasting"] if "worker" not in process] == ["learner", "replay buffer"]
    assert {len(seen["lasting"]), len(seen["spot"])} == {3, 1}, "a worker on each"
    assert {"learner", "replay buffer"} <= set(seen["gpu"]), "a spot node, but the only one with a GPU"


def test_a_node_that_announces_its_end_is_left_and_nothing_is_lost() -> None:
    seen = _seen("nodes_are_left_before_they_end")
    assert {"learner", "replay buffer"} <= set(seen["leaving"])
    assert sorted(seen["lost"]) == sorted(seen["recovered"]) == sorted(seen["leaving"])
    assert seen["ended_by_itself"] == 0, (
        "Ray ends a drained node once it is idle, here long before its deadline"
    )
    assert seen["together"]
    assert (seen["faults"]["updates_lost"], seen["faults"]["env_steps_lost"]) == (0, 0)
    assert seen["stored"] == seen["total"]
    _check_counts(seen)


def test_a_run_whose_driver_must_leave_ends_with_what_can_be_resumed() -> None:
    seen = _seen("the_drivers_node_ends")
    assert seen["error"] == "this node is about to end; resume the run on another one"
    assert seen["updates"] == seen["made"] > 50


def test_independent_pieces_spread_over_nodes_and_outlive_one() -> None:
    seen = _seen("pieces_spread_and_one_node_dies")
    begun, ended, victim = seen["begun"], seen["ended"], seen["victim"]
    assert sorted(ended) == list("abcdef")
    assert len({node for _, node, _ in begun}) == 3
    assert [name for name, node, _ in begun if node == victim] and victim not in ended.values()
