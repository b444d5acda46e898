from __future__ import annotations

from dataclasses import replace

import pytest

from distributed_maddpg.benchmarks.command import run_benchmark
from distributed_maddpg.benchmarks.options import BenchmarkOptions
from distributed_maddpg.errors import BadInput


def test_one_size_is_changed_at_a_time() -> None:
    options = BenchmarkOptions(
        agents="2,4", batch_sizes="64", widths="16", batch_size=128, num_threads=1, seconds=0.02, repeats=1
    )
    result = run_benchmark("growth", options)
    points = result["points"]
    names = ("agents", "critics", "batch_size", "width")
    sizes = [tuple(point[name] for name in names) for point in points]
    assert sizes == [(2, 2, 128, 64), (4, 4, 128, 64), (4, 2, 128, 64), (3, 3, 64, 64), (3, 3, 128, 16)]
    assert {point["threads"] for point in points} == {1}
    lowest = min(point["sgemm_share"] for point in points)
    assert result["ratios"]["gflops/sgemm_gflops"] == lowest > 0
    assert result["figures"]["gflops"] / result["references"]["sgemm_gflops"] == pytest.approx(lowest)


def test_the_environments_arguments_are_taken() -> None:
    usual = BenchmarkOptions(batch_size=64, seconds=0.02, repeats=1)
    small, large = (run_benchmark("learner", each) for each in (usual, replace(usual, env_kwargs={"N": 3})))
    assert large["settings"]["flops_per_update"] > 1.5 * small["settings"]["flops_per_update"]
    assert large["command"] == (
        "distributed-maddpg benchmark learner --batch-size 64 --env.kwargs N 3 --seconds 0.02 --repeats 1"
    )


def test_sizes_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(BadInput, match=r"^--widths = '64,x': must be positive numbers"):
        BenchmarkOptions(widths="64,x")


def test_a_sweep_without_sizes_or_on_a_gpu_is_refused() -> None:
    with pytest.raises(BadInput, match=r"^--agents = '': name at least one size"):
        run_benchmark("growth", BenchmarkOptions(agents="", batch_sizes="", widths=""))
    with pytest.raises(BadInput, match=r"^--device = 'auto': growth is measured on the CPU"):
        run_benchmark("growth", BenchmarkOptions(device="auto"))
