"""Whole runs with networks of a user's layers."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

from distributed_maddpg import MADDPG, layouts
from distributed_maddpg.checkpoint.folder import load_checkpoint
from distributed_maddpg.cli import main
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput, CheckpointError
from distributed_maddpg.report import replays
from distributed_maddpg.report.page import report_data
from distributed_maddpg.run.progress import Progress
from distributed_maddpg.run.training import train_run
from distributed_maddpg.trainer import train_together
from tests.support.target import IDLE_RETURN, target_config

RESIDUAL = "tests.support.networks:residual"
SHORT = {
    "total_env_steps": 640,
    "report_interval_env_steps": 320,
    "checkpoint_interval_env_steps": 320,
    "env_steps_per_update": 32,
}
AGENTS = ("even_0", "odd_0")


def config(networks=RESIDUAL, pacing=SHORT, **changes):
    changes["algorithm"] = {"networks": networks, **changes.get("algorithm", {})}
    return target_config(pacing=pacing, **{"learner": {"batch_size": 32}, **changes})


def digest(settings):
    with MADDPG(settings) as algo:
        while not algo.finished:
            algo.train()
        return algo.weights_digest()


def test_a_run_learns():
    settings = {"pacing": {"env_steps_per_update": 10}, "learner": {"batch_size": 64, "device": "cpu"}}
    with MADDPG(config("tests.support.networks:wide", **settings)) as algo:
        while not algo.finished:
            algo.train()
        returns = algo.evaluate(100)["agent_episode_returns_mean"]
        assert algo.device_reason == "cpu: cpu, plain update: autograd differentiates algorithm.networks"
    # Seeds 0 to 3: -0.001 to -0.014; the built-in perceptrons, which these repeat, -0.001 to -0.016.
    assert all(returns[agent] > 0.5 * IDLE_RETURN for agent in AGENTS), returns


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"algorithm": {"name": "matd3"}},
        {"algorithm": {"name": "ddpg", "team_overrides": {"odd": "matd3"}}},
        {"algorithm": {"other_actions": "current", "regulariser": "actions", "n_step": 2}},
        {"env": {"normalise": True}},
    ],
)
def test_a_run_is_reproducible_with_every_variant(changes):
    assert digest(config(**changes)) == digest(config(**changes)) != digest(config(seed=1, **changes))


def test_several_seeds_train_as_each_alone():
    runs = MADDPG.for_seeds(config(seed=4), 2)
    with runs[0]:
        while not runs[0].finished:
            train_together(runs)
        together = [run.weights_digest() for run in runs]
    assert together == [digest(config(seed=4)), digest(config(seed=5))]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_of_ray_acts_with_them_as_one_process_does():
    assert digest(config(num_workers=1, sync=True)) == digest(config())


def train(run_dir, checkpoint=None):
    settings = checkpoint.config if checkpoint else config()
    return train_run(settings, run_dir, Progress(io.StringIO()), checkpoint)


def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path):
    whole = train(tmp_path / "run")
    resumed = train(tmp_path / "run", load_checkpoint(tmp_path / "run" / "checkpoints" / "step_320"))
    assert resumed["weights_digest"] == whole["weights_digest"]


@pytest.fixture
def saved(tmp_path):
    summary = train(tmp_path / "run")
    assert summary["networks"] == RESIDUAL
    return summary["files"]["checkpoint"]


def test_a_checkpoint_imports_them_only_if_they_are_confirmed(saved):
    env_id = config().env.id
    line = f"its networks '{RESIDUAL}' would be imported and run"
    for networks in ("", "os:system"):
        with pytest.raises(CheckpointError, match=line):
            MADDPG.from_checkpoint(saved, env_id=env_id, networks=networks)
    obs = {"even_0": np.full(1, 0.5, np.float32), "odd_0": np.full(2, 0.5, np.float32)}
    with MADDPG.from_checkpoint(saved, env_id=env_id, networks=RESIDUAL) as algo:
        actions = algo.compute_actions(obs)
    assert [action.shape for action in actions.values()] == [(1,), (2,)]


def test_the_commands_ask_for_the_same_confirmation(saved, tmp_path, capsys):
    env = ["--env.id", config().env.id]
    confirmed = ["--algorithm.networks", RESIDUAL]
    evaluate = ["evaluate", saved, "--episodes", "2", "--no-matchups", "--json", *env]
    resume = ["train", "--resume", str(tmp_path / "run"), "--pacing.total-env-steps", "1280", *env]
    for command in (evaluate, resume):
        assert main(command) == 3
        assert f"if you trust it, name them: --algorithm.networks {RESIDUAL}" in capsys.readouterr().err
        assert main([*command, *confirmed]) == 0
    resumed = load_checkpoint(tmp_path / "run" / "checkpoints" / "step_1280")
    assert resumed.config.algorithm.networks == RESIDUAL


def test_the_strongest_opponents_are_refused(saved, capsys):
    names = ["--env.id", config().env.id, "--algorithm.networks", RESIDUAL]
    assert main(["evaluate", saved, "--best-response", *names]) == 2
    assert "--best-response = True: cannot be used with algorithm.networks" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"networks": "tests.support.networks:perceptron"},
            "it was trained with tests.support.networks:resid",
        ),
        ({"networks": ""}, "it was trained with tests.support.networks:residual"),
        ({"name": "ddpg"}, "with algorithm.networks, agents of ddpg must stay ddpg"),
    ],
)
def test_other_networks_than_those_of_a_checkpoint_are_refused(saved, changes, line):
    other = MADDPGConfig.from_dict({"algorithm": changes}, config())
    with pytest.raises(BadInput, match=line):
        MADDPG.from_checkpoint(saved, other)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("raises", r"fails for a policy of 1 inputs and 1 outputs \(SystemExit: no networks today\)"),
        (
            "no_layers",
            "returns a str for a policy of 1 inputs and 1 outputs; all must be derived from layers",
        ),
        ("wrong_size", "returns layers with 8 outputs for a policy of 1 inputs and 1 outputs"),
        ("not_iterable", "fails for a policy .*not iterable"),
        ("not_finite", "give outputs .* all of them finite numbers"),
        ("only_numpy", "fail .*numpy"),
        ("other_in_torch", "give other outputs in numpy and in torch"),
        ("over_rows", "give other outputs of a row alone and among others"),
        ("other_shapes", r"have initial parameters of shapes \[\(3, 1\)\] in _Broken"),
        ("own_random", "have other initial parameters the second time in _Broken; draw from rng alone"),
        ("fails_in_forward", "no_such_method"),
        ("no_such_name", "has no callable 'no_such_name'"),
    ],
)
def test_layers_that_cannot_be_used_are_refused_in_one_line(name, line):
    full = f"tests.support.broken_networks:{name}"
    with pytest.raises(BadInput, match=rf"^algorithm\.networks = '{full}': .*{line}") as caught:
        MADDPG(config(full))
    assert "\n" not in str(caught.value)


def test_layers_that_depend_on_other_networks_are_refused():
    settings = {"env": {"id": "simple_spread"}, "num_workers": 0}
    settings["algorithm"] = {"networks": "tests.support.broken_networks:over_networks"}
    with pytest.raises(BadInput, match="give other outputs in a stack of networks and alone"):
        MADDPG(MADDPGConfig.from_dict(settings))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"learner": {"precision": "bf16"}},
            "learner.precision = 'bf16': cannot be used with algorithm.networks",
        ),
        ({"learner": {"device": "cuda"}}, "learner.device = 'cuda': cannot be used with algorithm.networks"),
        (
            {"algorithm": {"grad_norm_of": "parameter"}},
            "algorithm.grad_norm_of = 'parameter': must be network",
        ),
    ],
)
def test_what_cannot_be_combined_is_refused(changes, line):
    with pytest.raises(BadInput, match=line):
        config(**changes)


def test_the_example_trains_and_its_page_shows_it_only_where_it_was_imported(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(Path(__file__).parents[1])
    sizes = ["--rollout.num-envs", "4", "--learner.batch-size", "32", "--pacing.learning-starts", "64"]
    lengths = ["--pacing.total-env-steps", "400", "--pacing.evaluation-interval-env-steps", "0"]
    networks = [
        "--algorithm.networks",
        "examples/custom_network.py:layers",
        "--run-dir",
        str(tmp_path / "run"),
    ]
    assert main(["train", "--num-workers", "0", "--json", *networks, *sizes, *lengths]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["updates"] > 0
    assert summary["networks"] == "examples/custom_network.py:layers"
    assert report_data([tmp_path / "run"])["replay"]["worlds"]
    replays._record.cache_clear()
    monkeypatch.setattr(layouts, "_LOADED", set())  # as in another process
    shown = report_data([tmp_path / "run"])["replay"]
    assert not shown["worlds"]
    assert "a page does not import networks that a file names" in shown["reason"]
