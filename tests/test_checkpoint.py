import json
import os

import numpy as np
import pytest

from distributed_maddpg import checkpoint as module
from distributed_maddpg.checkpoint import Checkpoint, load_checkpoint, newest_checkpoint, save_checkpoint
from distributed_maddpg.config import AlgorithmConfig, LearnerConfig, MADDPGConfig
from distributed_maddpg.errors import CheckpointError
from distributed_maddpg.learner import Learner
from distributed_maddpg.metrics import digest
from distributed_maddpg.types import EnvSpec
from tests.envs.target import target_config

SPEC = EnvSpec(("red_0", "blue_0"), (3, 2), (2, 3), ("continuous", "discrete"))
STATE = {
    "policy": np.arange(6, dtype=np.float32).reshape(2, 3),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "generator": np.arange(5, dtype=np.uint8),
    "updates": np.array(12, np.int64),
}


def make(env_steps=40, config=None):
    return Checkpoint(config or MADDPGConfig.preset("notebook"), ("red_0", "blue_0"), env_steps, 12, STATE)


@pytest.fixture
def saved(tmp_path):
    return save_checkpoint(tmp_path / "step_40", make())


def test_a_round_trip_is_exact(saved):
    loaded = load_checkpoint(saved)
    assert (loaded.config, loaded.agents) == (MADDPGConfig.preset("notebook"), ("red_0", "blue_0"))
    assert (loaded.env_steps, loaded.updates) == (40, 12)
    assert set(loaded.learner) == set(STATE)
    for name, array in STATE.items():
        assert loaded.learner[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded.learner[name], array)


def test_the_configuration_of_any_environment_comes_back(tmp_path):
    saved = save_checkpoint(tmp_path / "x", make(config=target_config()))
    assert load_checkpoint(saved).config == target_config()


def test_nothing_is_pickled_and_nothing_else_is_left(saved):
    assert sorted(os.listdir(saved)) == ["learner.safetensors", "manifest.json"]
    assert os.listdir(saved.parent) == ["step_40"]
    assert b"PROTO" not in (saved / "learner.safetensors").read_bytes()
    manifest = json.loads((saved / "manifest.json").read_text())
    assert (manifest["format_version"], manifest["counters"]) == (1, {"env_steps": 40, "updates": 12})
    assert manifest["packages"]["numpy"] == np.__version__


def test_saving_again_replaces_the_folder(saved):
    save_checkpoint(saved, make(env_steps=50))
    assert load_checkpoint(saved).env_steps == 50
    assert os.listdir(saved.parent) == ["step_40"]


@pytest.mark.parametrize("failing", ["save_file", "_sync", "_describe"])
def test_a_failing_write_leaves_the_old_checkpoint(saved, failing, monkeypatch):
    def refuse(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, failing, refuse)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(saved, make(env_steps=50))
    monkeypatch.undo()
    assert load_checkpoint(saved).env_steps == 40
    assert os.listdir(saved.parent) == ["step_40"]


def test_a_failing_rename_brings_the_old_checkpoint_back(saved, monkeypatch):
    rename = type(saved).rename

    def refuse(path, target):
        if path.suffix == ".tmp":
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(type(saved), "rename", refuse)
    with pytest.raises(OSError, match="Input/output"):
        save_checkpoint(saved, make(env_steps=50))
    monkeypatch.undo()
    assert load_checkpoint(saved).env_steps == 40
    assert os.listdir(saved.parent) == ["step_40"]


def rewrite(folder, **changes):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest.update(changes)
    path.write_text(json.dumps({key: value for key, value in manifest.items() if value != "drop"}))


def flip_bit(folder):
    path = folder / "learner.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


DAMAGE = {
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "is not a checkpoint"),
    "no tensors": (lambda f: (f / "learner.safetensors").unlink(), "learner.safetensors: cannot be read"),
    "truncated tensors": (lambda f: truncate(f / "learner.safetensors"), "does not match the checksum"),
    "flipped bit": (flip_bit, "does not match the checksum"),
    "truncated manifest": (lambda f: truncate(f / "manifest.json"), "is not valid JSON"),
    "empty manifest": (lambda f: (f / "manifest.json").write_text(""), "is not valid JSON"),
    "binary manifest": (lambda f: (f / "manifest.json").write_bytes(b"\xff\xfe"), "is not valid JSON"),
    "deep manifest": (lambda f: (f / "manifest.json").write_text("[" * 100_000), "is not valid JSON"),
    "list manifest": (lambda f: (f / "manifest.json").write_text("[]"), "does not hold a JSON object"),
    "newer format": (lambda f: rewrite(f, format_version=2), "format version 2, this package reads 1"),
    "no format": (lambda f: rewrite(f, format_version="drop"), "format version None"),
    "unknown setting": (lambda f: rewrite(f, config={"sed": 1}), "sed = 1: no such setting"),
    "bad setting": (lambda f: rewrite(f, config={"seed": -1}), "seed = -1"),
    "half a configuration": (lambda f: rewrite(f, config={"seed": 1}), "the configuration lacks algorithm"),
    "no configuration": (lambda f: rewrite(f, config="drop"), "KeyError"),
    "odd configuration": (lambda f: rewrite(f, config=3), "TypeError"),
    "no counters": (lambda f: rewrite(f, counters={}), "KeyError"),
    "endless counters": (lambda f: rewrite(f, counters={"env_steps": 1e400, "updates": 1}), "is no count"),
    "negative counters": (lambda f: rewrite(f, counters={"env_steps": -5, "updates": 1}), "-5 is no count"),
    "odd counters": (lambda f: rewrite(f, counters={"env_steps": "x", "updates": 1}), "ValueError"),
    "no files": (lambda f: rewrite(f, files={}), "KeyError"),
    "odd files": (lambda f: rewrite(f, files=[]), "TypeError"),
    "odd agents": (lambda f: rewrite(f, agents=None), "TypeError"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_every_kind_of_damage_is_one_line_that_names_the_place(saved, kind):
    damage, message = DAMAGE[kind]
    damage(saved)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(saved)
    assert message in str(error.value)
    assert str(saved) in str(error.value)
    assert "\n" not in str(error.value)


def test_tensors_that_are_no_safetensors_are_refused(saved):
    path = saved / "learner.safetensors"
    path.write_bytes(b"not tensors at all")
    rewrite(saved, files={path.name: module._describe(path)})
    with pytest.raises(CheckpointError, match="SafetensorError"):
        load_checkpoint(saved)


def test_no_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"is not a checkpoint, manifest\.json: No such file"):
        load_checkpoint(tmp_path / "nothing")


def test_the_newest_checkpoint_has_the_most_steps(tmp_path):
    for name in ("step_900", "step_10000", "step_x", ".step_99999.abc.tmp"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert newest_checkpoint(tmp_path).name == "step_10000"


def test_a_run_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        newest_checkpoint(tmp_path)


def learner():
    config = AlgorithmConfig(policy_hidden_sizes=(8,), critic_hidden_sizes=(8,))
    return Learner(config, LearnerConfig(device="cpu"), SPEC, seeds=[1])


def batches(seed, count=3):
    rng = np.random.default_rng(seed)
    return rng.random((count, 16, SPEC.transitions.width), dtype=np.float32)


def test_a_restored_learner_goes_on_as_if_nothing_had_happened(tmp_path):
    uninterrupted = learner()
    uninterrupted.learn([batches(0)])
    uninterrupted.publish()
    state = uninterrupted.get_state()
    saved = save_checkpoint(tmp_path / "x", Checkpoint(MADDPGConfig(), SPEC.agents, 0, 3, state))
    restored = learner()
    restored.set_state(load_checkpoint(saved).learner)
    for each in (uninterrupted, restored):
        each.learn([batches(1)])
        each.publish()
    old, new = uninterrupted.get_state(), restored.get_state()
    assert old.keys() == new.keys()
    assert all(digest(old[name]) == digest(new[name]) for name in old)
    assert (restored.updates, restored.weights_version) == (6, 2)
