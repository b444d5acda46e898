"""Each benchmark states what it promises, measured side by side."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from distributed_maddpg.benchmarks.command import run_benchmark
from distributed_maddpg.benchmarks.learner import update_flops
from distributed_maddpg.benchmarks.options import BenchmarkOptions
from distributed_maddpg.benchmarks.rollout import env_step_flops
from distributed_maddpg.cli import main
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.learner import Learner
from distributed_maddpg.types import EnvSpec, PrivatePart, StackedLayout

QUICK = ["--seconds", "0.02", "--repeats", "2", "--num-envs", "32"]
KEYS = {"benchmark", "command", "settings", "figures", "references", "ratios", "spread", "points"}
KEYS |= {"profile", "machine"}


def test_json_goes_to_stdout_alone(capsys: pytest.CaptureFixture[str]) -> None:
    scenario = ["--env.id", "simple_tag", "--env.kwargs", "num_good", "2"]
    assert main(["benchmark", "env", "--json", *QUICK, *scenario]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert captured.out.count("\n") == 1
    assert set(result) == KEYS
    assert result["command"] == f"distributed-maddpg benchmark env {' '.join(in_order_of_fields(scenario))}"
    assert result["settings"] == {"env_id": "simple_tag", "num_envs": 32, "num_good": 2, "preset": "paper"}
    assert result["points"] == []


def in_order_of_fields(middle: list[str]) -> list[str]:
    """Return the arguments in the order of the options' fields."""
    return [*QUICK[4:], *middle, *QUICK[:4]]


def test_a_person_gets_tables_and_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["benchmark", "rollout", *QUICK, "--out", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    for part in ("policy only env steps/s", "sgemm gflops", "machine: ", "rollout.json", "benchmarks.md"):
        assert part in captured.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["benchmarks.md", "rollout.json"]


def test_rollout_is_compared_with_its_products_and_with_sgemm() -> None:
    result = run_benchmark("rollout", BenchmarkOptions(seconds=0.02, repeats=1, num_envs=64))
    figures, references, ratios = result["figures"], result["references"], result["ratios"]
    flops = result["settings"]["flops_per_env_step"]
    assert figures["gflops"] == pytest.approx(figures["env_steps_per_s"] * flops / 1e9)
    assert ratios == {
        "env_steps_per_s/policy_only_env_steps_per_s": pytest.approx(
            figures["env_steps_per_s"] / references["policy_only_env_steps_per_s"]
        ),
        "gflops/sgemm_gflops": pytest.approx(figures["gflops"] / references["sgemm_gflops"]),
    }


def test_learner_is_compared_with_sgemm() -> None:
    result = run_benchmark("learner", BenchmarkOptions(batch_size=64, seconds=0.02, repeats=1))
    figures, flops = result["figures"], result["settings"]["flops_per_update"]
    achieved = figures["updates_per_s"] * flops / 1e9
    assert figures["gflops"] == pytest.approx(achieved)
    ratio = achieved / result["references"]["sgemm_gflops"]
    assert result["ratios"] == {"gflops/sgemm_gflops": pytest.approx(ratio)}
    assert result["settings"]["batch_size"] == 64


def test_several_seeds_are_compared_with_one() -> None:
    options = BenchmarkOptions(preset="notebook", batch_size=16, num_seeds=2, seconds=0.02, repeats=1)
    result = run_benchmark("learner", options)
    assert "updates_per_s/updates_of_one_seed_per_s" in result["ratios"]
    assert result["settings"]["num_seeds"] == 2


def test_a_learner_that_draws_itself_is_measured_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Learner, "samples_on_device", True)
    monkeypatch.setattr(Learner, "learn", None)
    options = BenchmarkOptions(preset="notebook", batch_size=16, seconds=0.02, repeats=1)
    result = run_benchmark("learner", options)
    assert result["figures"]["updates_per_s"] > 0
    assert (result["settings"]["device"], result["settings"]["device_reason"]) == ("cpu", "cpu: cpu")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_replay_is_sampled_while_it_stores_beside_bare_numpy() -> None:
    options = BenchmarkOptions(preset="notebook", batch_size=256, seconds=0.1, repeats=1)
    result = run_benchmark("replay", options)
    names = ("batches_per_s", "batches_without_ingest_per_s")
    assert set(result["ratios"]) == {f"{name}/take_batches_per_s" for name in names}
    assert all(value > 0 for value in result["figures"].values())
    assert (result["settings"]["capacity"], result["settings"]["rows_per_push"]) == (100_000, 16_384)
    assert (result["settings"]["batch_size"], result["settings"]["row_bytes"]) == (256, 308)


def test_flops_of_an_env_step_are_those_counted_by_hand() -> None:
    layout = StackedLayout((8, 10, 10), (64, 32), 5)
    assert env_step_flops(layout) == 2 * 3 * (10 * 64 + 64 * 32 + 32 * 5)


def test_flops_of_an_update_are_those_counted_by_hand() -> None:
    spec = EnvSpec(("a_0", "b_0"), (2, 3), (1, 2), ("continuous", "continuous"))
    config = MADDPGConfig.from_dict(
        {
            "algorithm": {"policy_hidden_sizes": [4], "critic_hidden_sizes": [5]},
            "learner": {"batch_size": 10},
        }
    )
    critic_first, critic_second = 2 * 10 * 2 * 8 * 5, 2 * 10 * 2 * 5 * 1  # 8 joint columns
    policy_first, policy_second = 2 * 10 * 2 * 3 * 4, 2 * 10 * 2 * 4 * 2  # padded to 3 and 2
    own = 2 * 10 * 2 * 2 * 5
    critic = 3 * (critic_first + critic_second) + critic_second
    through = critic_first + critic_second + own + critic_second + own
    policy = 3 * (policy_first + policy_second) + policy_second
    assert update_flops(config, spec) == critic + through + policy
    team = EnvSpec(("a_0", "a_1"), (3, 3), (1, 1), ("continuous", "continuous"))  # 8 joint columns, too
    critic_own = 2 * 10 * 2 * 1 * 5
    for shares, outputs in ((False, 1), (True, 2)):
        algorithm = replace(config.algorithm, share_critics=shares)
        first, heads = critic_first // outputs, critic_second // outputs * outputs
        expected = 3 * (first + heads) + heads + first + 2 * critic_own + 2 * critic_second
        expected += 3 * 2 * 10 * 2 * (3 * 4 + 4 * 1) + 2 * 10 * 2 * 4 * 1
        assert update_flops(replace(config, algorithm=algorithm), team) == expected
    spec = replace(spec, private_parts=(None, PrivatePart((0, 1), ((1, 2), (2, 3)))))
    values = {
        "algorithm": {"private_values": "mean", "information_weight": 1.0},
        "learner": {"batch_size": 12},
    }
    config = MADDPGConfig.from_dict(values, config)
    through = critic_first + own + 2 * (2 * 10 * 2 * 1 * 5) + 2 * critic_second + 2 * critic_second + own
    policy = (policy_first + policy_second) + 1.25 * (2 * (policy_first + policy_second) + policy_second)
    assert update_flops(config, spec) == 1.2 * (critic + through + policy)
