from __future__ import annotations

from typing import Any

import pytest

from distributed_maddpg.benchmarks.command import run_benchmark
from distributed_maddpg.benchmarks.options import BenchmarkOptions
from distributed_maddpg.benchmarks.scaling import with_efficiency


def point(workers: int, collect: float, training: float) -> dict[str, Any]:
    return {"workers": workers, "collect_env_steps_per_s": collect, "env_steps_per_s": training}


def test_efficiency_is_the_share_of_ideal_linear_from_the_smallest_count() -> None:
    small, large = with_efficiency([point(2, 100.0, 10.0), point(6, 240.0, 10.0)])
    assert small["efficiency_collect_env_steps_per_s"] == 1.0
    assert large["ideal_collect_env_steps_per_s"] == 300.0
    assert large["efficiency_collect_env_steps_per_s"] == 0.8
    assert (large["ideal_env_steps_per_s"], large["efficiency_env_steps_per_s"]) == (
        30.0,
        pytest.approx(1 / 3),
    )


def test_a_first_job_without_a_rate_gives_no_efficiency() -> None:
    assert with_efficiency([point(1, 0.0, 1.0)])[0]["efficiency_collect_env_steps_per_s"] == 0.0


@pytest.mark.ray
@pytest.mark.alone
def test_scaling_over_ray_names_a_bottleneck_for_every_job(ray_cluster: None) -> None:
    # Batches so large that collecting while learning is several times slower than collecting alone.
    options = BenchmarkOptions(
        preset="notebook", workers="1,2", envs_per_worker="32", batch_size=1024, seconds=0.5, repeats=2
    )
    result = run_benchmark("scaling", options)
    first, second = result["points"]
    assert [(p["workers"], p["num_envs"]) for p in (first, second)] == [(1, 32), (2, 32)]
    for name in ("collect_env_steps_per_s", "env_steps_per_s"):
        ideal = 2 * first[name]
        assert second[f"efficiency_{name}"] == pytest.approx(second[name] / ideal)
        assert result["references"][f"ideal_{name}"] == pytest.approx(ideal)
        assert result["ratios"][f"{name}/ideal_{name}"] == second[f"efficiency_{name}"]
    assert all(p["collect_env_steps_per_s"] > p["env_steps_per_s"] > 0 for p in (first, second))
    assert all(p["updates_per_s"] > 0 for p in (first, second))
    assert all(0 <= share <= 1.2 for p in (first, second) for share in p["shares"].values())
    assert all(p["bottleneck"] and p["collect_bottleneck"] for p in (first, second))

    import ray

    assert ray.is_initialized()  # a cluster that was there before stays
