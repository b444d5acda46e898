"""Checkpoints of every format version, written by the package of that time (fixtures/record.py)."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from distributed_maddpg import MADDPG, MADDPGConfig
from distributed_maddpg.checkpoint.folder import load_checkpoint, save_checkpoint
from distributed_maddpg.checkpoint.manifest import FORMAT_VERSION, OLDER_FORMATS
from distributed_maddpg.cli import main
from distributed_maddpg.errors import CheckpointError, CheckpointUnavailable
from distributed_maddpg.run.progress import Progress
from distributed_maddpg.run.training import train_run

FIXTURES = Path(__file__).parent / "fixtures"
STATE_FILES = {1: "learner.safetensors", 2: "state.safetensors"}


def recorded(version):
    return json.loads((FIXTURES / f"v{version}" / "recorded.json").read_text())


def folder(version):
    return FIXTURES / f"v{version}" / "step_64"


def observations(version):
    return {
        agent: np.array(values, np.float32) for agent, values in recorded(version)["observations"].items()
    }


@pytest.fixture(params=range(1, FORMAT_VERSION + 1), ids="v{}".format)
def version(request):
    return request.param


@pytest.fixture(params=OLDER_FORMATS, ids="v{}".format)
def older(request):
    return request.param


@pytest.fixture
def run(older, tmp_path):
    """Return the folder of a run whose only checkpoint is of an older version."""
    shutil.copytree(folder(older), tmp_path / "run" / "checkpoints" / "step_64")
    return tmp_path / "run"


def test_every_version_has_a_fixture_and_is_readable():
    assert sorted([*OLDER_FORMATS, FORMAT_VERSION]) == list(range(1, FORMAT_VERSION + 1))
    for version in range(1, FORMAT_VERSION + 1):
        manifest = json.loads((folder(version) / "manifest.json").read_text())
        assert manifest["format_version"] == version
    assert {version: recorded(version)["commit"] for version in OLDER_FORMATS} == {
        version: older.commit for version, older in OLDER_FORMATS.items()
    }


def test_the_policies_of_every_version_act_as_recorded(version):
    algo = MADDPG.from_checkpoint(folder(version))
    assert algo.policy_parameters().shape == (3, 104)
    assert (algo.env_steps, algo.updates) == (64, 13)
    actions = algo.compute_actions(observations(version))
    for agent, values in recorded(version)["actions"].items():
        np.testing.assert_allclose(actions[agent], values, rtol=1e-5)
    noisy = algo.compute_actions(observations(version), explore=True)
    assert not np.allclose(noisy["agent_0"], actions["agent_0"])


def test_every_version_is_evaluated_from_the_command_line(version, capsys):
    evaluation = recorded(version)["evaluation"]
    options = ["--episodes", str(evaluation["episodes"]), "--seed", str(evaluation["seed"]), "--no-matchups"]
    assert main(["evaluate", str(folder(version)), *options, "--json"]) == 0
    returns = json.loads(capsys.readouterr().out)["agent_episode_returns_mean"]
    assert returns == pytest.approx(evaluation["agent_episode_returns_mean"], rel=1e-4)


def test_training_is_resumed_from_the_newest_version(tmp_path, capsys):
    shutil.copytree(folder(FORMAT_VERSION), tmp_path / "checkpoints" / "step_64")
    assert main(["train", "--resume", str(tmp_path), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    expected = recorded(FORMAT_VERSION)["finished"]
    assert {name: summary[name] for name in expected} == expected


@pytest.mark.parametrize("auto", [False, True])
def test_resuming_an_older_version_is_one_line_before_anything_is_started(older, run, auto, capsys):
    options = ["auto", "--run-dir", str(run)] if auto else [str(run)]
    assert main(["train", "--resume", *options]) == 3
    captured = capsys.readouterr()
    line = captured.err.splitlines()[-1]
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert f"step_64: format version {older}: its policies can be evaluated" in line
    assert f"commit {OLDER_FORMATS[older].commit} can (it was written by version 0.1.0)" in line
    assert [path.name for path in run.iterdir()] == ["checkpoints"]
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step_64"]


def test_nothing_else_trains_or_saves_from_an_older_version(older, tmp_path):
    checkpoint = load_checkpoint(folder(older))
    algo = MADDPG.from_loaded_checkpoint(checkpoint)
    for use in (
        algo.train,
        lambda: algo.save(tmp_path / "new"),
        lambda: save_checkpoint(tmp_path / "new", checkpoint),
        lambda: MADDPG.for_seeds(checkpoint.config, 1, [checkpoint]),
        lambda: train_run(checkpoint.config, tmp_path / "new", Progress(), checkpoint),
    ):
        with pytest.raises(CheckpointUnavailable, match=f"format version {older}: its policies"):
            use()
    assert list(tmp_path.iterdir()) == []


def test_an_older_version_may_be_behind_a_url(older):
    algo = MADDPG.from_checkpoint(f"file://{folder(older)}")
    assert algo.compute_actions(observations(older)).keys() == recorded(older)["actions"].keys()


def test_settings_that_do_not_decide_acting_are_not_read_of_older_versions(older):
    config = load_checkpoint(folder(older)).config
    assert config.algorithm.temperature == 0.5
    assert config.exploration == MADDPGConfig().exploration
    assert config.pacing == MADDPGConfig().pacing


def change_config(run, change):
    path = run / "checkpoints" / "step_64" / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest["config"])
    path.write_text(json.dumps(manifest))


def test_a_run_that_learnt_from_its_first_step_is_still_read(run):
    change_config(run, lambda config: config["pacing"].update(learning_starts=0))  # once allowed
    assert load_checkpoint(run / "checkpoints" / "step_64").env_steps == 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config["algorithm"].pop("temperature"), "lacks algorithm.temperature"),
        (
            lambda config: config["algorithm"].pop("policy_hidden_sizes"),
            "lacks algorithm.policy_hidden_sizes",
        ),
        (lambda config: config["env"].pop("kwargs"), "lacks env.kwargs"),
        (lambda config: config.pop("algorithm"), "lacks algorithm"),
        (
            lambda config: config["algorithm"].update(squash="tanh"),
            "algorithm.squash = 'tanh': no such setting",
        ),
        (lambda config: config["env"].update(wind=2), "env.wind = 2: no such setting"),
    ],
)
def test_nothing_that_may_decide_acting_is_guessed(run, change, message):
    change_config(run, change)
    with pytest.raises(CheckpointError, match=r"manifest\.json: ") as error:
        load_checkpoint(run / "checkpoints" / "step_64")
    assert message in str(error.value)


def reseal(path, data):
    path.write_bytes(data)
    manifest = path.with_name("manifest.json")
    values = json.loads(manifest.read_text())
    values["files"][path.name] = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    manifest.write_text(json.dumps(values))


def test_an_older_version_is_verified(older, run):
    path = run / "checkpoints" / "step_64" / STATE_FILES[older]
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=f"{path.name}: does not match the checksum"):
        load_checkpoint(path.parent)
    name = OLDER_FORMATS[older].policy
    tensors = safetensors.numpy.load(data)
    reseal(path, safetensors.numpy.save({**tensors, name: tensors[name].astype(np.float64)}))
    with pytest.raises(CheckpointError, match=f"{path.name}: {name} has shape .* and type float64"):
        load_checkpoint(path.parent)
    del tensors[name]
    reseal(path, safetensors.numpy.save(tensors))
    with pytest.raises(CheckpointError, match=f"{path.name}: the state lacks {name}"):
        load_checkpoint(path.parent)


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, "the policy weights are missing, or not all finite"), (None, "needs float32 policy weights")],
)
def test_policies_of_an_older_version_are_checked(older, run, value, message):
    path = run / "checkpoints" / "step_64" / STATE_FILES[older]
    tensors = safetensors.numpy.load(path.read_bytes())
    name = OLDER_FORMATS[older].policy
    tensors[name] = tensors[name][:, :-1] if value is None else np.full_like(tensors[name], value)
    reseal(path, safetensors.numpy.save(tensors))
    with pytest.raises(CheckpointError, match=message):
        MADDPG.from_checkpoint(path.parent)
