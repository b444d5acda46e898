"""Each benchmark prints what it promises, measured side by side."""

from __future__ import annotations

import json

import pytest

from distributed_maddpg.benchmarks.command import BenchmarkOptions, run_benchmark
from distributed_maddpg.benchmarks.learner import update_flops
from distributed_maddpg.cli import main
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput
from distributed_maddpg.types import EnvSpec

QUICK = {"seconds": 0.05, "repeats": 3}


def test_env_kernel_is_far_ahead_of_mpe2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "env", "--json", "--seconds", "0.05", "--repeats", "3"]) == 0
    figures = json.loads(capsys.readouterr().out)
    ratio = figures["env_steps_per_s"] / figures["mpe2_env_steps_per_s"]
    assert figures["ratio"] == pytest.approx(ratio)
    assert ratio > 200  # measured 3 500 and more; this notices a tenfold slowdown


def test_rollout_keeps_a_share_of_its_policies_rate() -> None:
    figures = run_benchmark("rollout", BenchmarkOptions(**QUICK))
    share = figures["env_steps_per_s"] / figures["policy_only_env_steps_per_s"]
    assert figures["fraction_of_policy_only"] == pytest.approx(share)
    assert 0.04 < share < 1.0  # measured 0.4


def test_learner_reports_its_share_of_sgemm() -> None:
    figures = run_benchmark("learner", BenchmarkOptions(batch_size=256, **QUICK))
    achieved = figures["updates_per_s"] * figures["flops_per_update"] / 1e9
    assert figures["fraction_of_sgemm"] == pytest.approx(achieved / figures["sgemm_gflops"])
    assert 0.02 < figures["fraction_of_sgemm"] < 1.0  # measured 0.25


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


def test_train_counts_what_the_pacing_promises() -> None:
    figures = run_benchmark("train", BenchmarkOptions(preset="notebook", num_workers=0, env_steps=6_000))
    assert (figures["env_steps"], figures["updates"]) == (6_000, 21)
    assert figures["env_steps_per_s"] == pytest.approx(6_000 / figures["training_s"])


@pytest.mark.parametrize("option", ["num_envs", "seconds", "repeats", "env_steps"])
def test_an_option_without_sense_is_named(option: str) -> None:
    with pytest.raises(BadInput, match=f"^{option} = 0: must be positive"):
        BenchmarkOptions(**{option: 0})
