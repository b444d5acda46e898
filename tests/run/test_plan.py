import csv
import dataclasses
import json
import os
from pathlib import Path

import pytest

from distributed_maddpg.cli import main
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.preflight import check_settings
from distributed_maddpg.run.plan import count_run, learner_place, networks_of
from distributed_maddpg.run.plan_text import size
from tests.test_cli import TINY, refused

OTHER = [
    *("--env.id", "simple_spread", "--env.kwargs", "N", "2", "--algorithm.name", "matd3"),
    *("--algorithm.critic-hidden-sizes", "100", "--pacing.total-env-steps", "330"),
    *("--pacing.evaluation-interval-env-steps", "60", "--pacing.checkpoint-interval-env-steps", "0"),
]


def planned(arguments, capsys):
    assert main(["train", *arguments, "--dry-run", "--json"]) == 0
    captured = capsys.readouterr()
    return json.loads(captured.out)


def summed_bytes(folder):
    return sum(path.stat().st_size for path in Path(folder).iterdir())


@pytest.mark.parametrize("more", [[], OTHER], ids=["simple_adversary", "simple_spread"])
def test_a_plan_is_what_the_run_then_does(more, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [*TINY, *more, "--run-dir", "run", "--keep-checkpoints", "0"]
    plan = planned(arguments, capsys)
    assert os.listdir(tmp_path) == []
    assert main(["train", *arguments, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["device"] == "cpu"
    counts = plan["counts"]
    assert (counts["env_steps"], counts["updates"]) == (summary["env_steps"], summary["updates"])
    with open("run/returns.csv") as file:
        rows = list(csv.DictReader(file))
    assert counts["evaluations"] == len(rows)
    assert counts["evaluation_episodes"] == sum(int(row["episodes"]) for row in rows)
    with open("run/metrics.csv") as file:
        assert counts["reports"] == len(list(csv.DictReader(file)))
    saved = sorted(Path("run/checkpoints").iterdir())
    assert counts["checkpoints"] == plan["kept_checkpoints"] == len(saved)
    # Text of the manifest and of the tables is not counted exactly.
    assert plan["checkpoint_bytes"] == pytest.approx(summed_bytes(summary["files"]["checkpoint"]), rel=0.05)


def test_parameters_are_counted_layer_by_layer():
    config = MADDPGConfig.from_dict({"algorithm": {"name": "matd3", "critic_hidden_sizes": [32]}})
    policies, critics = networks_of(config, check_settings(config))
    # simple_adversary: observations of 8, 10 and 10 columns, 5 action columns each, padded to the widest.
    assert (policies.count, policies.layers) == (3, (10, 64, 64, 5))
    assert policies.parameters == 3 * ((10 + 1) * 64 + (64 + 1) * 64 + (64 + 1) * 5)
    assert (critics.count, critics.layers) == (6, (43, 32, 1))
    assert critics.parameters == 6 * ((43 + 1) * 32 + 33)


def test_memory_is_listed_by_what_it_is_for(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = planned(["--num-workers", "3", "--replay.capacity", "1e5", "--num-seeds", "2"], capsys)
    kinds = {each["name"]: (each["count"], each["cpus"]) for each in plan["processes"]}
    others = {"driver": (1, 0), "replay buffer": (1, 0), "evaluator": (1, 0)}
    assert kinds == {**others, "learner": (1, 1), "rollout worker": (3, 1)}
    row = 4 * (2 * (8 + 10 + 10) + 3 * 5 + 3 + 3)  # obs and next obs, actions, rewards, discounts
    assert plan["transition_bytes"] == row
    assert plan["memory_bytes"]["replay buffer"] == 2 * 100_000 * row
    assert plan["memory_bytes"]["networks"] == 2 * 5 * 4 * plan["parameters"]
    assert [Path(each).name for each in plan["run_dirs"]] == ["seed_0", "seed_1"]
    assert plan["copies"] == 3 * 32
    assert os.listdir(tmp_path) == []


def test_a_run_too_short_to_learn_makes_no_update():
    pacing = {"total_env_steps": 5_000, "evaluation_interval_env_steps": 0}
    counts = count_run(MADDPGConfig.from_dict({"pacing": pacing}))
    assert (counts.updates, counts.evaluations, counts.checkpoints) == (0, 1, 1)


PLACES = [
    ({"learner": {"device": "cpu"}}, True, "cpu (learner.device)"),
    ({"ray": {"address": "h:6379"}}, False, "cuda if the cluster at h:6379 has a GPU, else cpu"),
    ({}, False, "cpu (torch sees no GPU)"),
    ({}, True, "cuda or cpu, whichever is faster in half a second at the start"),
    ({"num_workers": 0}, True, "cuda (torch sees a GPU)"),
]


@pytest.mark.parametrize(("values", "gpu", "place"), PLACES)
def test_where_the_learner_runs_is_said_as_far_as_it_is_known(values, gpu, place, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert learner_place(MADDPGConfig.from_dict(values), lambda: gpu) == place


def test_the_text_names_everything(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--num-workers", "0", "--run-dir", "r", "--dry-run"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    for text in (
        "run folder     r",
        "environment    simple_adversary, 32 copies stepped by compiled code",
        "policies       3 of 10-64-64-5, 5,189 parameters each",
        "replay buffer  1,000,000 rows of 308 bytes",
        "env steps      1,000,000; reports: 20",
        "updates        19,801",
        "evaluations    20 with 4,800 episodes",
        "checkpoints    2 written, 2 kept, up to 294 MiB each, in r/checkpoints",
        "nothing was started: leave out --dry-run to train",
    ):
        assert text in captured.err


def test_a_dry_run_makes_the_checks_of_train(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, line in (
        (["--replay.capacity", "1e13", "--num-workers", "0"], "replay.capacity = 10000000000000: needs"),
        (["--env.kwargs", "N", "0"], "N = 0"),
        (["--stop-at", "success.agent=9"], "evaluations have no such score; did you mean 'success.agents'?"),
        (["--resume", "auto", "--run-dir", "x"], "--dry-run = True: is for a new run; leave --resume out"),
        (["--num-seeds", "2", "--checkpoint-dir", "x"], "--checkpoint-dir = 'x': is for one run"),
        (["--run-dir", f"{__file__}/x"], "cannot be used (Not a directory); name another"),
    ):
        assert line in refused(["train", "--dry-run", *arguments], capsys)
    assert os.listdir(tmp_path) == []


def test_written_settings_are_those_of_the_command(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write = ["train", "--preset", "paper", "--seed", "7", "--dry-run", "--write-config"]
    assert main([*write, "my.toml"]) == 0
    assert "wrote my.toml; use it with --config my.toml" in capsys.readouterr().err
    assert MADDPGConfig.from_toml("my.toml") == dataclasses.replace(MADDPGConfig.preset("paper"), seed=7)
    assert "is there already; name a new file" in refused([*write, "my.toml"], capsys)
    assert "cannot be written (No such file" in refused([*write, "none/my.toml"], capsys)
    assert "--write-config = 'a.toml': needs --dry-run" in refused(
        ["train", "--write-config", "a.toml"], capsys
    )


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (2047, "2 KiB"), (1023 * 2**20, "1023 MiB"), (2**30, "1 GiB"), (5 * 2**42, "20 TiB")],
)
def test_sizes_are_read_easily(number, text):
    assert size(number) == text
