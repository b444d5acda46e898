from __future__ import annotations

import json
from typing import Any

import pytest

from distributed_maddpg.benchmarks import command
from distributed_maddpg.benchmarks.options import BenchmarkOptions
from distributed_maddpg.cli import main
from distributed_maddpg.errors import BadInput, TrainingError
from tests.benchmarks.test_tables import MACHINE, result

LABELS = [
    "env", "rollout", "replay", "learner-1-thread", "learner", "learner-seeds", "growth-1-thread",
    "train-notebook", "train-paper", "train-default", "scaling"
]  # fmt: skip


def test_every_kind_is_run_and_every_ratio_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def run(kind: str, options: BenchmarkOptions) -> dict[str, Any]:
        seen.append((kind, options))
        return result(benchmark=kind, ratios={"a/b": float(len(kind))})

    monkeypatch.setattr(command, "_run_in_process", run)
    monkeypatch.setattr(command, "machine", lambda: MACHINE)
    notes: list[str] = []
    kept: dict[str, Any] = {}
    measured = command.run_all(BenchmarkOptions(seed=7), notes.append, kept.__setitem__)
    assert kept == measured["results"]
    assert [kind for kind, _ in seen] == [
        "env", "rollout", "replay", "learner", "learner", "learner", "growth",
        "train", "train", "train", "scaling"
    ]  # fmt: skip
    assert {options.seed for _, options in seen} == {7}
    assert [options.num_seeds for kind, options in seen if kind == "learner"] == [1, 1, 4]
    jobs = [(options.preset, options.env_steps) for kind, options in seen if kind == "train"]
    assert jobs == [("notebook", 0), ("paper", 0), ("default", 0)]
    assert list(measured["results"]) == LABELS
    assert measured["ratios"] == {
        f"{label}: a/b": float(len(kind)) for label, (kind, _) in zip(LABELS, seen, strict=True)
    }
    assert measured["command"] == "distributed-maddpg benchmark all --seed 7"
    assert notes[0] == "measuring env"


def test_a_gpu_is_measured_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "machine", lambda: {**MACHINE, "gpu": "Card"})
    plan = command._plan(BenchmarkOptions())
    assert {"learner-cuda", "learner-cuda-seeds"} < {options.label(kind) for kind, options in plan}


def test_a_kind_in_its_own_process_gives_its_json() -> None:
    found = command._run_in_process(
        "env", BenchmarkOptions(num_envs=8, env_id="simple", seconds=0.02, repeats=1)
    )
    assert found["settings"]["num_envs"] == 8


def test_a_kind_that_refuses_its_options_is_bad_input() -> None:
    with pytest.raises(BadInput, match=r"^benchmark = 'learner': preset = 'papper': did you mean 'paper'\?"):
        command._run_in_process("learner", BenchmarkOptions(preset="papper"))


def test_a_kind_that_fails_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command.sys, "executable", "false")
    with pytest.raises(TrainingError, match=r"^benchmark env: ended without a message"):
        command._run_in_process("env", BenchmarkOptions())


@pytest.mark.ray
@pytest.mark.slow
def test_the_command_measures_every_kind_and_writes_its_files(
    capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    options = ["--preset", "notebook", "--workers", "1", "--seconds", "0.1", "--repeats", "2"]
    arguments = ["benchmark", "all", "--json", *options, "--env-steps", "8000", "--out", str(tmp_path)]
    assert main(arguments) == 0
    measured = json.loads(capsys.readouterr().out)
    assert list(measured["results"]) == LABELS
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"{label}.json" for label in LABELS), "scaling.html", "benchmarks.md"
    }  # fmt: skip
