from __future__ import annotations

import pytest

from distributed_maddpg.benchmarks.options import BenchmarkOptions, powers_of_two, to_arguments
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput


def _on_the_command_line(option: str) -> str:
    return f"--{option.replace('_', '-')}"


@pytest.mark.parametrize("option", ["num_envs", "num_seeds", "seconds", "repeats"])
def test_an_option_without_sense_is_named(option: str) -> None:
    with pytest.raises(BadInput, match=f"^{_on_the_command_line(option)} = 0: must be positive"):
        BenchmarkOptions(**{option: 0})


@pytest.mark.parametrize("option", ["batch_size", "num_workers", "env_steps", "seed"])
def test_a_negative_option_is_named(option: str) -> None:
    with pytest.raises(BadInput, match=f"^{_on_the_command_line(option)} = -1: must be zero or positive"):
        BenchmarkOptions(**{option: -1})


@pytest.mark.parametrize("text", ["1,,2", "0", "1;2", "a", "-1", "1.5", "1,", str(10**9)])
@pytest.mark.parametrize("option", ["workers", "envs_per_worker"])
def test_a_list_that_is_none_is_named(option: str, text: str) -> None:
    line = f"^{_on_the_command_line(option)} = '{text}': must be positive numbers with commas"
    with pytest.raises(BadInput, match=line):
        BenchmarkOptions(**{option: text})


def test_lists_are_sorted_and_hold_each_number_once() -> None:
    options = BenchmarkOptions(workers="4, 1,2,2", envs_per_worker="256")
    assert options.worker_counts() == (1, 2, 4)
    assert options.env_counts() == (256,)
    assert BenchmarkOptions().env_counts() == ()


@pytest.mark.parametrize(
    ("most", "counts"), [(1, (1,)), (2, (1, 2)), (3, (1, 2)), (8, (1, 2, 4, 8)), (12, (1, 2, 4, 8))]
)
def test_workers_double_up_to_the_cores(most: int, counts: tuple[int, ...]) -> None:
    assert powers_of_two(most) == counts


def test_arguments_repeat_what_differs_from_the_defaults() -> None:
    assert to_arguments(BenchmarkOptions()) == []
    options = BenchmarkOptions(preset="notebook", env_steps=0, workers="1,2")
    assert to_arguments(options) == ["--preset", "notebook", "--env-steps", "0", "--workers", "1,2"]


def test_simulated_sizes_have_defaults_of_their_own() -> None:
    options = BenchmarkOptions(simulate=True)
    assert to_arguments(options) == ["--simulate"]
    assert options.label("scaling") == "scaling-simulated"
    assert options.simulated_workers() == (1, 4, 16, 64, 256, 1000)
    assert options.simulated_agents() == (3, 9, 33)
    few = BenchmarkOptions(simulate=True, workers="8,2", agents="5")
    assert (few.simulated_workers(), few.simulated_agents()) == ((2, 8), (5,))


def test_settings_are_the_presets_without_evaluations() -> None:
    paper = MADDPGConfig.preset("paper")
    settings = BenchmarkOptions(batch_size=64, env_steps=500, num_workers=3).settings()
    assert (settings.learner.batch_size, settings.num_workers) == (64, 3)
    assert settings.pacing.total_env_steps == 500
    assert settings.pacing.evaluation_interval_env_steps == 0
    assert settings.algorithm == paper.algorithm
    assert settings.pacing.env_steps_per_update == paper.pacing.env_steps_per_update


def test_no_env_steps_and_no_batch_size_mean_the_presets_own() -> None:
    settings = BenchmarkOptions(preset="notebook", env_steps=0).settings()
    assert settings.pacing.total_env_steps == 200_000
    assert settings.learner.batch_size == 1024


def test_a_label_tells_results_of_one_kind_apart() -> None:
    options = BenchmarkOptions(device="cuda", num_seeds=16, preset="notebook")
    assert options.label("learner") == "learner-cuda-seeds"
    assert (options.label("train"), options.label("env")) == ("train-notebook", "env")
