from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import psutil
import pytest

from distributed_maddpg.benchmarks.command import run_benchmark
from distributed_maddpg.benchmarks.options import BenchmarkOptions
from distributed_maddpg.benchmarks.simulation import Demand, carried, demand, saturation, weights_bytes
from distributed_maddpg.benchmarks.tables import tables
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import env_spec
from distributed_maddpg.errors import BadInput

PAPER = MADDPGConfig.preset("paper")  # fragments of 64 x 4 env steps, rows of 77 numbers
SPEC = env_spec(PAPER.env.id, PAPER.env.backend, PAPER.env.kwargs)
MIB = 2**20


def test_a_slow_worker_pushes_each_fragment_or_each_call_of_half_a_second() -> None:
    # 256 env steps take 0.1 s: five fragments a call, of 78,848 bytes each.
    single = demand(PAPER, SPEC, 2_560.0, 20.0, 0)
    assert (single.pushes, single.calls, single.pulls) == (10.0, 2.0, 10.0)
    assert single.pushed_bytes == 2_560 * 308
    # First layer 10 to 64 with padding, then 64 to 64 and 64 to 5, of three agents.
    assert weights_bytes(PAPER, SPEC) == 4 * 3 * (11 * 64 + 65 * 64 + 65 * 5)
    assert single.pulled_bytes == 10 * weights_bytes(PAPER, SPEC)
    joined = demand(PAPER, SPEC, 2_560.0, 20.0, 2 * MIB)
    assert (joined.pushes, joined.calls, joined.pulls) == (2.0, 2.0, 2.0)
    assert joined.pushed_bytes == single.pushed_bytes


def test_a_fast_workers_calls_have_sixteen_fragments_and_its_pulls_the_rate_of_versions() -> None:
    fast = demand(PAPER, SPEC, 409_600.0, 20.0, 0)
    assert (fast.pushes, fast.calls, fast.pulls) == (1_600.0, 100.0, 20.0)
    # 14 fragments are the first that are a MiB; the last two are pushed at the end of the call.
    joined = demand(PAPER, SPEC, 409_600.0, 20.0, MIB)
    assert (joined.pushes, joined.calls) == (200.0, 100.0)


def test_fragments_larger_than_the_largest_push_are_not_joined() -> None:
    large = replace(PAPER, rollout=replace(PAPER.rollout, fragment_steps=100))  # 1.97 MB each
    assert demand(large, SPEC, 64_000.0, 20.0, MIB).pushes == 10.0


def test_pushes_and_pulls_share_the_replay_buffers_process() -> None:
    capacity = {"pushes": 1_000.0, "pulls": 2_000.0, "calls": 500.0}
    asked = Demand(pushes=5.0, pulls=10.0, calls=2.0, pushed_bytes=0.0, pulled_bytes=0.0)
    assert carried(capacity, asked) == {"ingest and weights": 100.0, "driver": 250.0}


def test_a_series_is_saturated_from_where_all_larger_ones_are() -> None:
    def jobs(agents: int, *reached: float) -> list[dict[str, Any]]:
        series = {"agents": agents, "worker_env_steps_per_s": 10.0}
        return [{**series, "workers": 4**k, "reached": share} for k, share in enumerate(reached)]

    points = jobs(3, 0.8, 1.0, 0.89, 0.4) + jobs(9, 1.0, 0.9) + jobs(33, 0.2)
    assert saturation(points) == {(3, 10.0): "16", (9, 10.0): "none up to 4", (33, 10.0): "1"}


def test_too_many_processes_are_refused_before_any_is_started() -> None:
    with pytest.raises(BadInput, match=r"^--host-processes = 17: must be at most 16"):
        run_benchmark("scaling", BenchmarkOptions(simulate=True, host_processes=17))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"workers": "1,99999"}, r"--workers = '1,99999': must be at most 10000 with --simulate"),
        ({"agents": "1"}, r"env\.kwargs\.N = 0: "),
        ({"env_id": "simple_spread"}, r"--env\.id = 'simple_spread': has 2 agents where 3 are to be"),
        ({"env_id": "nope_v9"}, r"env\.id = 'nope_v9': "),
    ],
)
def test_what_cannot_be_simulated_is_refused_before_ray_starts(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], line: str
) -> None:
    monkeypatch.setattr("distributed_maddpg.runtime.simulation.simulation", None)
    with pytest.raises(BadInput, match=f"^{line}"):
        run_benchmark("scaling", BenchmarkOptions(simulate=True, **options))


def settings() -> MADDPGConfig:
    """Return settings of a job without end whose pacing limits nothing."""
    never = 10**12
    changes = {
        "rollout": {"num_envs": 16, "fragment_steps": 4},
        "replay": {"capacity": 2**17},
        "pacing": {
            "total_env_steps": never,
            "learning_starts": 64,
            "tolerance_updates": never,
            "report_interval_env_steps": never,
            "evaluation_interval_env_steps": 0,
        },
    }
    return MADDPGConfig.from_dict(changes, PAPER)


@pytest.mark.ray
def test_nothing_that_simulated_workers_send_is_lost(ray_cluster: None) -> None:
    from distributed_maddpg.runtime.simulation import Load, record, simulation

    config = settings()
    fragment = config.rollout.fragment_env_steps
    recording = record(config, 0.05)
    with simulation(config, 2, 4) as sim:
        sim.prepare(config, SPEC, recording, 20.0)
        pids = [pid for name, pid in sim.pids.items() if name != "driver"]
        for joins in (False, True):
            sim.place(Load(4, 32 * fragment, joins=joins))
            before = sim.counts()
            with sim.job() as runner:
                activity = sim.watch(runner, 1.0)
                runner.drain()
                env_steps, states = runner.pacer.env_steps, runner.capture(0, with_replay=False).stages
            sent = sim.counts() - before
            assert sent["rows"] == sent["rows_stored"] == env_steps > 0
            assert sent["bytes"] == env_steps * 4 * SPEC.transitions.width
            assert sent["rows"] >= sent["pushes"] * fragment
            assert 0 < sent["pulls"] <= sent["pushes"]
            assert {name.partition("/")[0] for name in states} >= {f"worker_{i}" for i in range(4)}
            assert activity.per_s("env_steps") <= 4 * 32 * fragment * 1.5
    assert len(pids) == 4
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], 30)
    assert not alive


@pytest.mark.ray
def test_fragments_are_joined_where_the_replay_buffer_does_not_keep_up(ray_cluster: None) -> None:
    import ray

    from distributed_maddpg.runtime.actors import LARGEST_PUSH_BYTES
    from distributed_maddpg.runtime.simulation import Load, record, simulation

    config = settings()
    recording = record(config, 0.05)
    size = recording.blocks[0].nbytes  # 64 rows

    def pushes(load: Load, calls: int, fragments: int) -> list[int]:
        """Return how often a worker pushes in each of its calls."""
        sim.place(load)
        sim.connect()
        counts = [sim.counts()["pushes"]]
        for _ in range(calls):
            ray.get(sim.handles[0].collect.remote(fragments, 0), timeout=60)
            counts.append(sim.counts()["pushes"])
        return [after - before for before, after in itertools.pairwise(counts)]

    with simulation(config, 1, 1) as sim:
        sim.prepare(config, SPEC, recording, 20.0)
        # Collecting takes no time, so that any push is too slow: all of a call are joined from the second on.
        most = math.ceil(LARGEST_PUSH_BYTES / size)
        assert pushes(Load(1, math.inf), 3, 16)[1:] == [1, 1]
        assert pushes(Load(1, math.inf), 3, most)[1:] == [1, 1]
        assert pushes(Load(1, math.inf), 3, most + 1)[1:] == [2, 2]
        assert pushes(Load(1, math.inf, joins=False), 2, 16) == [16, 16]
        # A fragment takes half a second, which no push does.
        assert pushes(Load(1, 128.0), 1, 4) == [4]


@pytest.mark.ray
def test_a_quick_run_names_a_bottleneck_for_each_rate(ray_cluster: None) -> None:
    options = BenchmarkOptions(simulate=True, workers="1,2", agents="3", seconds=0.2, repeats=1)
    result = run_benchmark("scaling", options)
    points: dict[str, list[dict[str, Any]]] = {"edges": [], "driver": [], "limits": [], "jobs": []}
    for point in result["points"]:
        points[point["table"]].append(point)
    [edges] = points["edges"]
    assert (edges["row_bytes"], edges["fragment_bytes"]) == (308, 256 * 308)
    assert edges["single_rows_per_s"] == pytest.approx(256 * edges["single_pushes_per_s"], rel=0.01)
    assert edges["bytes_per_s"] == pytest.approx(308 * edges["rows_per_s"], rel=0.01)
    assert [point["workers"] for point in points["driver"]] == [1, 2]
    assert all(point["calls_per_s"] > 0 < point["wait_ms"] for point in points["driver"])
    slow, fast = points["limits"]
    assert slow["worker_env_steps_per_s"] == 5_000.0 < fast["worker_env_steps_per_s"]
    for limits in (slow, fast):
        processes = {"ingest and weights": limits["workers_ingest"], "driver": limits["workers_driver"]}
        assert limits["carried"] == min(processes.values()) == processes[limits["bottleneck"]]
        assert limits["saturated_at"]
    assert all(0 < job["reached"] < 2 for job in points["jobs"])
    assert result["figures"]["carried_workers"] == slow["carried"]
    assert len(tables(result)) == 5
