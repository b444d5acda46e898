"""Trials of Ray Tune: settings, fitness, checkpoints, and where their processes are."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pandas")  # the extra "tune"
pytest.importorskip("pyarrow")

from ray import tune

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput
from distributed_maddpg.trainer import MADDPG
from distributed_maddpg.tune import MADDPGTrainable, trial_settings
from tests.support.target import parallel_env, target_config

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
RATES = ("algorithm.actor_lr", "algorithm.critic_lr")
ALARMING = re.compile("Traceback| ERROR |worker died|SystemExit")
TINY = {
    "num_workers": 0,
    "rollout": {"num_envs": 4},
    "algorithm": {"policy_hidden_sizes": [8], "critic_hidden_sizes": [8]},
    "learner": {"batch_size": 32, "device": "cpu", "num_threads": 1},
    "pacing": {"total_env_steps": 2_000, "learning_starts": 100, "report_interval_env_steps": 1_000},
    "evaluation": {"episodes": 20, "final_episodes": 20},
}


@pytest.fixture
def make_trial(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., MADDPGTrainable]]:
    """Return a function that makes a trial outside Tune, in this process."""
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "results"))
    trials = []

    def make(config: dict[str, Any], **arguments: Any) -> MADDPGTrainable:
        kind = tune.with_parameters(MADDPGTrainable, **arguments) if arguments else MADDPGTrainable
        trials.append(kind(config))
        return trials[-1]

    yield make
    for trial in trials:
        trial.stop()


def run_folder_of(folder: Path, **changes: Any) -> str:
    """Return the folder of a checkpoint of a short run."""
    with MADDPG(MADDPGConfig.from_dict({**TINY, **changes}, MADDPGConfig.preset("default"))) as algo:
        algo.train()
        return algo.save(folder)


def test_settings_are_nested_or_dotted_on_those_of_a_preset() -> None:
    settings = trial_settings(
        {
            "algorithm": {"actor_lr": 0.1, "critic_lr": 0.2},
            "algorithm.critic_lr": np.float64(0.3),
            "algorithm.team_overrides.adversary": "ddpg",
            "pacing.learning_starts": np.int64(7),
        }
    )
    default = MADDPGConfig.preset("default")
    algorithm = {"actor_lr": 0.1, "critic_lr": 0.3, "team_overrides": {"adversary": "ddpg"}}
    changes = {"algorithm": algorithm, "pacing": {"learning_starts": 7}}
    assert settings == MADDPGConfig.from_dict(changes, default)
    assert trial_settings({"preset": "paper"}) == MADDPGConfig.preset("paper") != default
    assert trial_settings({**target_config().to_dict()}) == target_config()


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"algorithm.actor_rl": 0.1}, "algorithm.actor_rl = 0.1: no such setting; did you mean 'actor_lr'?"),
        ({"algorithm.gamma": 1.2}, "algorithm.gamma = 1.2: must lie in [0, 1]"),
        ({"preset": "defualt"}, "preset = 'defualt': did you mean 'default'?"),
    ],
)
def test_a_wrong_hyper_parameter_is_one_line_before_anything_starts(
    config: dict[str, Any], line: str
) -> None:
    with pytest.raises(BadInput) as caught:
        MADDPGTrainable.default_resource_request(config)
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("config", "bundles", "own_cpus"),
    [
        ({"num_workers": 0}, [{"CPU": 1}], 1),
        ({"num_workers": 0, "learner": {"num_threads": 3, "device": "cuda"}}, [{"CPU": 3, "GPU": 1}], 3),
        ({"num_workers": 2, "learner.num_threads": 4}, [{"CPU": 4}, {"CPU": 1}, {"CPU": 1}], 0),
        ({"num_workers": 1, "learner.device": "cuda"}, [{"CPU": 1, "GPU": 1}, {"CPU": 1}], 0),
    ],
)
def test_a_trial_asks_for_what_its_processes_take(
    config: dict[str, Any], bundles: list[dict[str, float]], own_cpus: int
) -> None:
    asked = MADDPGTrainable.default_resource_request(config)
    assert asked.bundles == bundles
    assert asked.head_cpus == own_cpus


def test_each_result_has_the_scores_of_the_newest_policies(make_trial: Callable[..., Any]) -> None:
    trial = make_trial(TINY)
    first, second = trial.train(), trial.train()
    for result, iteration in ((first, 1), (second, 2)):
        assert result["training_iteration"] == iteration
        assert result["num_env_steps_sampled_lifetime"] == result["evaluation"]["num_env_steps"]
        assert result["evaluation"]["num_updates"] == result["num_updates_lifetime"] > 0
        assert result["evaluation"]["episodes"] == 20
    assert (first["done"], second["done"]) == (False, True)
    assert second["evaluation"]["success"] == trial._algo.evaluate(20)["success"]


def test_another_trial_continues_a_checkpoint_with_its_own_settings(
    make_trial: Callable[..., Any], tmp_path: Path
) -> None:
    one = make_trial(TINY)
    one.train()
    one.save(str(tmp_path / "saved"))
    digest, updates = one._algo.weights_digest(), one._algo.updates
    same, other = make_trial(TINY), make_trial({**TINY, "algorithm.actor_lr": 0.002})
    for trial in (same, other):
        trial.restore(str(tmp_path / "saved"))
        assert (trial._algo.env_steps, trial._algo.updates) == (one._algo.env_steps, updates)
        assert trial._algo.weights_digest() == digest
    for trial in (one, same, other):
        result = trial.train()
        assert result["training_iteration"] == 2 and result["num_updates_lifetime"] > updates
    assert same._algo.weights_digest() == one._algo.weights_digest() != other._algo.weights_digest()
    assert other._algo.config.algorithm.actor_lr == 0.002
    with pytest.raises(BadInput, match=r"algorithm.policy_hidden_sizes = .*16"):
        make_trial({**TINY, "algorithm.policy_hidden_sizes": [16]}).restore(str(tmp_path / "saved"))


def test_a_process_that_is_used_again_starts_anew(make_trial: Callable[..., Any]) -> None:
    trial, fresh = make_trial(TINY), make_trial({**TINY, "seed": 3})
    trial.train()
    before = trial._algo
    assert trial.reset({**TINY, "seed": 3})
    assert before._stopped and trial._algo.env_steps == 0
    fresh.train(), trial.train()
    assert trial._algo.weights_digest() == fresh._algo.weights_digest()


def test_cross_play_is_the_mean_over_opponents(make_trial: Callable[..., Any], tmp_path: Path) -> None:
    from distributed_maddpg.evaluation.matchups import TeamSource, evaluate_teams
    from distributed_maddpg.seeding import integer_seed

    paths = [run_folder_of(tmp_path / str(seed), seed=seed) for seed in (7, 8)]
    trial = make_trial(TINY, opponents=paths)
    found = trial.train()["cross_play"]
    own = TeamSource(trial._algo.config, trial._algo.policy_parameters())
    seed = integer_seed(0, "evaluation", 0)
    distances = []
    for path in paths:
        with MADDPG.from_checkpoint(path) as other:
            adversary = TeamSource(other.config, other.policy_parameters())
        card = evaluate_teams({"adversary": adversary, "agent": own}, 20, seed)
        distances.append(card.to_dict()["final_distance_mean"]["adversary"])
    assert distances[0] != distances[1]
    assert list(found) == ["adversary", "agent"]
    assert found["agent"]["final_distance_mean"]["adversary"] == pytest.approx(np.mean(distances))
    assert found["adversary"]["final_distance_mean"]["adversary"] != pytest.approx(np.mean(distances))


def test_opponents_of_another_game_are_refused(make_trial: Callable[..., Any], tmp_path: Path) -> None:
    path = run_folder_of(tmp_path / "other", env={"kwargs": {"N": 3}})
    with pytest.raises(BadInput) as caught:
        make_trial(TINY, opponents=[path])
    start, _, end = str(caught.value).partition("plays simple_adversary with ")
    assert start == f"opponents = {path!r}: "
    assert "'N': 3" in end.partition(", the trial ")[0] and "'N': 2" in end.partition(", the trial ")[2]


@pytest.mark.parametrize(
    ("config", "gpus", "visible"),
    [(TINY, [], ""), (TINY, [0], "0"), ({**TINY, "num_workers": 1}, [], "0")],
)
def test_a_trial_in_one_process_sees_no_gpu_that_it_did_not_ask_for(
    config: dict[str, Any],
    gpus: list[int],
    visible: str,
    make_trial: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr("distributed_maddpg.tune.ray.get_gpu_ids", lambda: gpus)
    monkeypatch.setattr(MADDPGTrainable, "is_actor", lambda _: True)
    trial = make_trial(config)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible
    trial._in_tune = False  # its end then leaves this process's handlers alone


@pytest.mark.slow
def test_a_best_response_is_at_least_the_adversarys_own(make_trial: Callable[..., Any]) -> None:
    trial = make_trial(TINY, best_response_budget=0.001)
    result = trial.train()
    found = result["best_response"]["adversary"]
    assert found["success"]["success"]["adversary"] > result["evaluation"]["success"]["adversary"]
    assert set(found) == {"return", "final_distance", "success"}
    assert "ci95" not in found["success"]


def test_an_environment_of_a_script_is_passed_with_parameters(make_trial: Callable[..., Any]) -> None:
    config = target_config().to_dict()
    del config["env"]
    trial = make_trial(config, env=parallel_env)
    result = trial.train()
    assert trial._algo.spec.agents == ("even_0", "odd_0")
    assert set(result["evaluation"]["agent_episode_returns_mean"]) == {"even_0", "odd_0"}


@pytest.mark.ray
@pytest.mark.slow
def test_all_processes_of_a_trial_are_in_its_placement_group_and_end_with_it(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "tests.support.trials", "group_over_two_nodes", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    names = {"learner", "replay", "evaluator", "worker 0", "worker 1"}
    assert seen["groups"] == dict.fromkeys(names, seen["group"])
    assert len(seen["bundles"]) == 3
    assert set(seen["bundles"].values()) == set(seen["cluster"]), "it spans both nodes"
    assert seen["nodes"]["learner"] == seen["nodes"]["replay"]
    assert seen["free_cpus"] == 1, "of four, what the group does not hold"
    assert seen["name"], "metrics are tagged with the trial's name"
    assert (seen["error"], seen["ended"], seen["killed"]) == ("", True, True)
    assert seen["wrong"] == "algorithm.actor_rl = 0.1: no such setting; did you mean 'actor_lr'?"
    calm, kills, _ = done.stderr.partition("a trial is killed from here on")
    assert kills and not ALARMING.search(calm), calm


def run_example(name: str, *options: str) -> tuple[str, dict[str, Any]]:
    """Return an example's output, and what the command that it prints last says of the best checkpoint."""
    words = [sys.executable, str(ROOT / "examples" / name), *options]
    done = subprocess.run(words, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    command, what, checkpoint = done.stdout.splitlines()[-1].split(" ", 2)
    assert (command, what) == ("distributed-maddpg", "evaluate")
    words = [sys.executable, "-m", "distributed_maddpg", what, checkpoint, "--episodes", "10", "--json"]
    evaluated = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert evaluated.returncode == 0, evaluated.stderr
    return done.stdout + done.stderr, json.loads(evaluated.stdout)


@pytest.mark.ray
@pytest.mark.slow
def test_asha_names_the_best_trials_checkpoint(tmp_path: Path) -> None:
    options = ["--trials", "2", "--env-steps", "16000", "--storage", str(tmp_path)]
    output, best = run_example("tune_asha.py", *options)
    rows = [
        list(map(json.loads, file.read_text().splitlines())) for file in tmp_path.glob("asha/*/result.json")
    ]
    successes = [own[-1]["evaluation"]["success"]["agents"] for own in rows]
    assert len(rows) == 2 and max(map(len, rows)) == 8
    assert f"best trial: {max(successes):.1f} % success" in output
    assert best["episodes"] == 10
    assert not ALARMING.search(output), output


@pytest.mark.ray
@pytest.mark.slow
def test_pbt_continues_the_best_trials_checkpoint_with_other_settings(tmp_path: Path) -> None:
    opponent = run_folder_of(tmp_path / "opponent", seed=7)
    options = ["--env-steps", "24000", "--storage", str(tmp_path), "--opponents", opponent]
    output, best = run_example("tune_pbt.py", *options)
    exploits = [json.loads(line) for line in (tmp_path / "pbt" / "pbt_global.txt").read_text().splitlines()]
    assert exploits
    for _, _, _, _, cloned, new in exploits:
        assert {**cloned, **dict.fromkeys(RATES)} == {**new, **dict.fromkeys(RATES)}
        assert all(cloned[rate] != new[rate] for rate in RATES)
    last = exploits[-1]
    [file] = tmp_path.glob(f"pbt/*_{last[0]}_*/result.json")
    rows = [row for row in map(json.loads, file.read_text().splitlines()) if row["config"] == last[-1]]
    assert rows[0]["training_iteration"] > 2, "it went on where the other was"
    for row in rows:
        assert row["num_env_steps_sampled_lifetime"] >= 3000 * row["training_iteration"]
        assert row["num_updates_lifetime"] == row["evaluation"]["num_updates"] > 0
    assert rows[-1]["num_env_steps_sampled_lifetime"] == 24000
    assert best["episodes"] == 10
    assert not ALARMING.search(output), output
