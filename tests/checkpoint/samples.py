"""Checkpoints and damage that several tests use."""

import hashlib
import json

import numpy as np

from distributed_maddpg.checkpoint.folder import Checkpoint
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.types import EnvSpec, StoredTransitions

SPEC = EnvSpec(("red_0", "blue_0"), (3, 2), (2, 3), ("continuous", "discrete"))
STATE = {
    "learner/policy": np.arange(6, dtype=np.float32).reshape(2, 3),
    "learner/transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "learner/generator": np.arange(5, dtype=np.uint8),
    "learner/updates": np.array(12, np.int64),
    "worker_0/env/done": np.array([True, False]),
    "worker_0/empty": np.zeros((0, 4)),
}
ROWS = np.arange(35, dtype=np.float32).reshape(7, 5)
TABLES = {"metrics.csv": "a,b\r\n1,2\r\n", "returns.csv": "é\n"}
NAMES = ["manifest.json", "metrics.csv", "replay.safetensors", "returns.csv", "state.safetensors"]


def rows(inserted=9, sizes=(3, 0, 4), values=ROWS):
    return StoredTransitions(inserted, len(values), iter(np.split(values, np.cumsum(sizes)[:-1])))


def make(env_steps=40, config=None, replay=None, tables=TABLES):
    config = config or MADDPGConfig.preset("notebook")
    return Checkpoint(config, ("red_0", "blue_0"), env_steps, 12, STATE, replay, tables)


def assert_equal(loaded, env_steps=40):
    assert (loaded.config, loaded.agents) == (MADDPGConfig.preset("notebook"), ("red_0", "blue_0"))
    assert (loaded.env_steps, loaded.updates, loaded.tables) == (env_steps, 12, TABLES)
    assert set(loaded.state) == set(STATE)
    for name, array in STATE.items():
        assert loaded.state[name].dtype == array.dtype
        assert loaded.state[name].flags.writeable
        np.testing.assert_array_equal(loaded.state[name], array)
    assert (loaded.replay.inserted, loaded.replay.num_rows) == (9, 7)
    np.testing.assert_array_equal(np.concatenate(list(loaded.replay.chunks)), ROWS)


def refuse(*arguments, **options):
    raise OSError(28, "No space left on device")


def rewrite(folder, **changes):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest.update(changes)
    path.write_text(json.dumps({key: value for key, value in manifest.items() if value != "drop"}))


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def reseal(path, data):
    """Replace a file, and what the manifest says of it."""
    path.write_bytes(data)
    entries = manifest_of(path.parent)["files"]
    entries[path.name] = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    rewrite(path.parent, files=entries)


def assert_one_line(text):
    assert text.isprintable()
    assert len(text) <= 2000
