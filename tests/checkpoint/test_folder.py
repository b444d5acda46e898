import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
import uuid
from pathlib import Path

import fsspec
import numpy as np
import pytest
import safetensors.numpy

from distributed_maddpg import files
from distributed_maddpg.checkpoint import folder as module
from distributed_maddpg.checkpoint import listing, tensors
from distributed_maddpg.checkpoint.folder import Checkpoint, load_checkpoint, save_checkpoint
from distributed_maddpg.checkpoint.listing import checkpoints_of, remove_drafts, remove_old
from distributed_maddpg.config import AlgorithmConfig, LearnerConfig, MADDPGConfig
from distributed_maddpg.errors import BadInput, CheckpointError
from distributed_maddpg.learner import Learner
from distributed_maddpg.metrics import digest
from distributed_maddpg.types import EnvSpec, StoredRows
from tests.envs.target import target_config

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
    return StoredRows(inserted, len(values), iter(np.split(values, np.cumsum(sizes)[:-1])))


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


@pytest.fixture
def saved(tmp_path):
    return save_checkpoint(tmp_path / "step_40", make(replay=rows()))


@pytest.fixture
def url():
    return f"memory://bucket-{uuid.uuid4().hex}/run"


@pytest.fixture(params=["local", "remote"])
def place(request, tmp_path, url):
    """Return a folder for checkpoints, on the disk and behind a URL."""
    return tmp_path / "checkpoints" if request.param == "local" else f"{url}/checkpoints"


def child(place, name):
    return listing._join(place, name)


def test_a_round_trip_is_exact(place):
    path = save_checkpoint(child(place, "step_40"), make(replay=rows()))
    assert path == child(place, "step_40")
    assert_equal(load_checkpoint(path))


def test_a_checkpoint_without_replay_rows_and_tables(place):
    loaded = load_checkpoint(save_checkpoint(child(place, "x"), make(tables={})))
    assert (loaded.replay, loaded.tables) == (None, {})


def test_an_empty_replay_buffer_comes_back_empty(tmp_path):
    loaded = load_checkpoint(save_checkpoint(tmp_path / "x", make(replay=StoredRows(0, 0, iter(())))))
    assert (loaded.replay.inserted, loaded.replay.num_rows, list(loaded.replay.chunks)) == (0, 0, [])


def test_the_configuration_of_any_environment_comes_back(tmp_path):
    saved = save_checkpoint(tmp_path / "x", make(config=target_config()))
    assert load_checkpoint(saved).config == target_config()


def test_nothing_is_pickled_and_nothing_else_is_left(saved):
    assert sorted(os.listdir(saved)) == NAMES
    assert os.listdir(saved.parent) == ["step_40"]
    assert b"PROTO" not in (saved / "state.safetensors").read_bytes()
    manifest = json.loads((saved / "manifest.json").read_text())
    assert (manifest["format_version"], manifest["counters"]) == (3, {"env_steps": 40, "updates": 12})
    assert manifest["replay"] == {"inserted": 9, "num_rows": 7}
    assert manifest["packages"]["numpy"] == np.__version__


def test_the_files_are_what_the_safetensors_library_reads(saved):
    np.testing.assert_array_equal(
        safetensors.numpy.load_file(saved / "replay.safetensors")["rows"], ROWS, strict=True
    )
    assert set(safetensors.numpy.load_file(saved / "state.safetensors")) == set(STATE)


def test_saving_again_replaces_the_checkpoint(place):
    save_checkpoint(child(place, "step_40"), make(replay=rows()))
    path = save_checkpoint(child(place, "step_40"), make(env_steps=50, tables={}))
    loaded = load_checkpoint(path)
    assert (loaded.env_steps, loaded.replay, loaded.tables) == (50, None, {})
    assert checkpoints_of(place) == [path]


def test_saving_again_leaves_nothing_beside(saved):
    save_checkpoint(saved, make(env_steps=50))
    assert os.listdir(saved.parent) == ["step_40"]
    assert sorted(os.listdir(saved)) == ["manifest.json", "metrics.csv", "returns.csv", "state.safetensors"]


@pytest.mark.parametrize("foreign", ["notes.txt", "link", "folder"])
def test_what_is_no_checkpoint_is_never_replaced(saved, foreign):
    if foreign == "link":
        (saved / "metrics.csv").unlink()
        (saved / "metrics.csv").symlink_to(saved / "manifest.json")
    elif foreign == "folder":
        (saved / "metrics.csv").unlink()
        (saved / "metrics.csv").mkdir()
    else:
        (saved / foreign).write_text("mine")
    with pytest.raises(BadInput, match="holds something other than a checkpoint"):
        save_checkpoint(saved, make(env_steps=50))
    remove_old(saved.parent, keep=1)
    assert saved.exists()


def test_what_is_no_checkpoint_is_never_replaced_behind_a_url(url):
    with fsspec.open(f"{url}/step_1/notes.txt", "w") as file:
        file.write("mine")
    with pytest.raises(BadInput, match="holds something other than a checkpoint"):
        save_checkpoint(f"{url}/step_1", make())


def refuse(*arguments, **options):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    "failing", [(module.safetensors, "save"), (module, "sync"), (module.os, "fsync"), (module, "write_rows")]
)
def test_a_failing_write_leaves_the_old_checkpoint(saved, failing, monkeypatch):
    monkeypatch.setattr(*failing, refuse)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(saved, make(env_steps=50, replay=rows()))
    monkeypatch.undo()
    assert_equal(load_checkpoint(saved))
    assert os.listdir(saved.parent) == ["step_40"]


@pytest.mark.parametrize(
    ("replay", "message"),
    [
        (StoredRows(9, 8, iter([ROWS])), "replay rows announced: 8, received: 7"),
        (StoredRows(9, 3, iter([ROWS])), "replay rows announced: 3, received: 7"),
        (StoredRows(9, 2, iter(())), "replay rows announced: 2, received: 0"),
        (StoredRows(9, 9, iter([ROWS, ROWS[:2, :4]])), r"float32 \[n, width\], not float32 \(2, 4\)"),
        (StoredRows(9, 7, iter([ROWS.astype(np.float64)])), "not float64"),
        (StoredRows(9, 5, iter(ROWS[:1])), r"not float32 \(5,\)"),
        (StoredRows(6, 7, iter([ROWS])), "replay: 7 rows of only 6 ever inserted"),
    ],
)
def test_rows_that_are_not_what_was_announced_leave_the_old_checkpoint(saved, replay, message):
    with pytest.raises(ValueError, match=message):
        save_checkpoint(saved, make(env_steps=50, replay=replay))
    assert_equal(load_checkpoint(saved))
    assert os.listdir(saved.parent) == ["step_40"]


def test_rows_beyond_those_announced_are_not_written(tmp_path):
    given = itertools.count()
    chunks = (ROWS for _ in range(1000) if next(given) >= 0)
    with pytest.raises(ValueError, match="replay rows announced: 10, received: 14"):
        save_checkpoint(tmp_path / "x", make(replay=StoredRows(10, 10, chunks)))
    assert next(given) == 2


@pytest.mark.parametrize("name", ["../evil.csv", "manifest.json", "other.csv"])
def test_tables_have_their_names(tmp_path, name):
    with pytest.raises(ValueError, match="cannot be a table"):
        save_checkpoint(tmp_path / "x", make(tables={name: ""}))
    assert os.listdir(tmp_path) == []


def test_a_system_that_cannot_exchange_names_replaces_by_two_renames(saved, monkeypatch):
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    save_checkpoint(saved, make(env_steps=50))
    assert load_checkpoint(saved).env_steps == 50
    assert os.listdir(saved.parent) == ["step_40"]


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2")
def test_this_system_exchanges_names(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert files._exchange(tmp_path / "a", tmp_path / "b")
    assert os.listdir(tmp_path / "a") == ["b"]
    with pytest.raises(OSError, match="No such file"):
        files._exchange(tmp_path / "a", tmp_path / "c")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_every_file_and_both_folders_are_synced_in_time(saved, monkeypatch):
    synced = []
    monkeypatch.setattr(
        module.os, "fsync", lambda descriptor: synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
    )
    replace = module.replace_folder
    monkeypatch.setattr(module, "replace_folder", lambda *two: (synced.append("replace"), replace(*two)))
    save_checkpoint(saved, make(replay=rows()))
    draft = synced[-3]
    assert sorted(synced[:-3]) == [draft / name for name in NAMES]
    assert draft.name.startswith(".step_40.")
    assert synced[-2:] == ["replace", saved.parent]


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2")
def test_replacing_never_takes_the_name_away(saved, monkeypatch):
    monkeypatch.setattr(type(saved), "rename", refuse)
    save_checkpoint(saved, make(env_steps=50))
    assert load_checkpoint(saved).env_steps == 50


def test_a_failing_rename_brings_the_old_checkpoint_back(saved, monkeypatch):
    rename = type(saved).rename

    def refuse_draft(path, target):
        if path.suffix == ".tmp":
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    monkeypatch.setattr(type(saved), "rename", refuse_draft)
    with pytest.raises(OSError, match="Input/output"):
        save_checkpoint(saved, make(env_steps=50))
    monkeypatch.undo()
    assert_equal(load_checkpoint(saved))
    assert os.listdir(saved.parent) == ["step_40"]


REPLACING = """
import sys
import numpy as np
from pathlib import Path
from distributed_maddpg.checkpoint.folder import Checkpoint, save_checkpoint
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.types import StoredRows
for number in range(1, 10**9):
    chunks = iter([np.full((100, 8), number, np.float32)] * 3)
    state = {"x": np.full(1000, number, np.int64)}
    rows, tables = StoredRows(300, 300, chunks), {"metrics.csv": str(number)}
    checkpoint = Checkpoint(MADDPGConfig(), ("a",), number, number, state, rows, tables)
    save_checkpoint(Path(sys.argv[1]) / "step_1", checkpoint)
    print(number, flush=True)
"""


def assert_whole(folder):
    loaded = load_checkpoint(folder / "step_1")
    assert (loaded.state["x"] == loaded.env_steps).all()
    assert (np.concatenate(list(loaded.replay.chunks)) == loaded.env_steps).all()
    assert loaded.tables == {"metrics.csv": str(loaded.env_steps)}
    return loaded.env_steps


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2")
@pytest.mark.parametrize("kills", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_a_writer_killed_at_any_moment_leaves_a_whole_checkpoint(tmp_path, kills):
    moments = random.Random(kills)
    for _ in range(kills):
        command = [sys.executable, "-c", REPLACING, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            try:
                assert writer.stdout.readline()
                end = time.monotonic() + moments.uniform(0.0, 0.5)
                seen = [assert_whole(tmp_path)]
                while time.monotonic() < end:  # the reader finds one at every moment, too
                    seen.append(assert_whole(tmp_path))
            finally:
                writer.send_signal(signal.SIGKILL)
        assert seen == sorted(seen)
        assert assert_whole(tmp_path) >= seen[-1]
    remove_drafts(tmp_path)
    assert os.listdir(tmp_path) == ["step_1"]


def test_rows_pass_through_in_little_memory(tmp_path):
    chunk = np.ones((10_000, 50), np.float32)
    count = 30  # 60 MB
    total = count * len(chunk)
    chunks = (chunk * number for number in range(count))
    tracemalloc.start()
    try:
        save_checkpoint(tmp_path / "x", make(replay=StoredRows(total, total, chunks)))
        loaded = load_checkpoint(tmp_path / "x").replay
        sums = [float(piece[:, 0].sum(dtype=np.float64)) for piece in loaded.chunks]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * 2**20
    assert len(sums) > 30
    assert sum(sums) == sum(range(count)) * len(chunk)


def test_rows_can_be_written_to_and_outlive_their_checkpoint(saved):
    loaded = load_checkpoint(saved)
    save_checkpoint(saved, make(env_steps=50))
    pieces = list(loaded.replay.chunks)
    pieces[0][0, 0] = 3.0
    np.testing.assert_array_equal(np.concatenate(pieces)[1:], ROWS[1:])


def test_rows_come_in_pieces(saved, monkeypatch):
    monkeypatch.setattr(tensors, "_CHUNK_BYTES", 50)
    pieces = list(load_checkpoint(saved).replay.chunks)
    assert [len(piece) for piece in pieces] == [2, 2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(pieces), ROWS)


def test_rows_that_nobody_reads_close_their_file(saved):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        load_checkpoint(saved)
    kept = load_checkpoint(saved)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    list(kept.replay.chunks)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_shortened_while_its_rows_are_read_is_one_line(saved):
    loaded = load_checkpoint(saved)
    os.truncate(saved / "replay.safetensors", 100)
    with pytest.raises(CheckpointError, match=r"replay\.safetensors: was shortened"):
        list(loaded.replay.chunks)


def rewrite(folder, **changes):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest.update(changes)
    path.write_text(json.dumps({key: value for key, value in manifest.items() if value != "drop"}))


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def rename_file(folder, old, new):
    entries = manifest_of(folder)["files"]
    entries[new] = entries.pop(old)
    rewrite(folder, files=entries)


def flip_bit(folder):
    path = folder / "state.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def grow(folder):
    with (folder / "metrics.csv").open("a") as file:
        file.write("3,4\n")


def link_out(folder):
    outside = folder.parent / "outside"
    (folder / "state.safetensors").rename(outside)
    (folder / "state.safetensors").symlink_to(outside)


def make_fifo(path):
    path.unlink()
    os.mkfifo(path)


def make_folder(path):
    path.unlink()
    path.mkdir()


def with_size(folder, size):
    entries = manifest_of(folder)["files"]
    entries["state.safetensors"]["size_bytes"] = size
    rewrite(folder, files=entries)


def write_manifest(text):
    def write(folder):
        (folder / "manifest.json").write_text(text)

    return write


def older_format(folder):
    rewrite(folder, format_version=1, replay="drop")


COUNTS = {"env_steps": 1, "updates": 1}
DAMAGE = {
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "is not a checkpoint, it has no manifest.json"),
    "no tensors": (
        lambda f: (f / "state.safetensors").unlink(),
        "state.safetensors: cannot be read (No such",
    ),
    "no rows": (lambda f: (f / "replay.safetensors").unlink(), "replay.safetensors: cannot be read"),
    "no table": (lambda f: (f / "metrics.csv").unlink(), "metrics.csv: cannot be read"),
    "truncated tensors": (lambda f: truncate(f / "state.safetensors"), "state.safetensors: has "),
    "truncated rows": (lambda f: truncate(f / "replay.safetensors"), "replay.safetensors: has "),
    "longer table": (grow, "metrics.csv: has "),
    "flipped bit": (flip_bit, "state.safetensors: does not match the checksum"),
    "link out": (link_out, "state.safetensors: cannot be read (not a regular file)"),
    "pipe": (lambda f: make_fifo(f / "replay.safetensors"), "cannot be read (not a regular file)"),
    "manifest pipe": (lambda f: make_fifo(f / "manifest.json"), "cannot be read (not a regular file)"),
    "folder": (lambda f: make_folder(f / "metrics.csv"), "cannot be read (not a regular file)"),
    "truncated manifest": (lambda f: truncate(f / "manifest.json"), "is not valid JSON"),
    "empty manifest": (write_manifest(""), "is not valid JSON"),
    "binary manifest": (lambda f: (f / "manifest.json").write_bytes(b"\xff\xfe"), "is not valid JSON"),
    "UTF-16": (lambda f: (f / "manifest.json").write_bytes("{}".encode("utf-16")), "is not valid JSON"),
    "deep manifest": (write_manifest("[" * 100_000), "is not valid JSON (nested too deeply)"),
    "huge manifest": (lambda f: os.truncate(f / "manifest.json", 2**40), "larger than 262144 bytes"),
    "key twice": (write_manifest('{"a": 1, "a": 2}'), "duplicate key 'a'"),
    "no number": (write_manifest('{"a": NaN}'), "NaN is not a JSON number"),
    "infinity": (write_manifest('{"a": -Infinity}'), "-Infinity is not a JSON number"),
    "large float": (write_manifest('{"a": 1e999}'), "1e999 is too large"),
    "large integer": (write_manifest('{"a": ' + "9" * 5000 + "}"), "is not valid JSON (Exceeds the limit"),
    "list manifest": (write_manifest("[]"), "does not hold a JSON object"),
    "older format": (older_format, "files must be learner.safetensors and tables, not ['metrics.csv'"),
    "newer format": (
        lambda f: rewrite(f, format_version=4),
        "format version 4, this package reads 1 to 3; upgrade",
    ),
    "no format": (lambda f: rewrite(f, format_version="drop"), "format version None"),
    "float format": (lambda f: rewrite(f, format_version=3.0), "format version 3.0"),
    "bool format": (lambda f: rewrite(f, format_version=True), "format version True"),
    "unknown setting": (lambda f: rewrite(f, config={"sed": 1}), "sed = 1: no such setting"),
    "bad setting": (lambda f: rewrite(f, config={"seed": -1}), "seed = -1"),
    "half a configuration": (lambda f: rewrite(f, config={"seed": 1}), "the configuration lacks algorithm"),
    "no configuration": (lambda f: rewrite(f, config="drop"), "config: field required"),
    "odd configuration": (lambda f: rewrite(f, config=3), "config: input should be an object, not 3"),
    "unknown section": (lambda f: rewrite(f, more=3), "more: extra inputs are not permitted, not 3"),
    "no counters": (lambda f: rewrite(f, counters={}), "counters.env_steps: field required"),
    "endless counters": (
        lambda f: rewrite(f, counters={**COUNTS, "updates": 10**400}),
        "counters.updates: input should be less than 9223372036854775808, not 1000",
    ),
    "negative counters": (
        lambda f: rewrite(f, counters={**COUNTS, "env_steps": -5}),
        "counters.env_steps: input should be greater than or equal to 0, not -5",
    ),
    "odd counters": (
        lambda f: rewrite(f, counters={**COUNTS, "env_steps": "x"}),
        "counters.env_steps: input should be a valid integer, not 'x'",
    ),
    "bool counters": (
        lambda f: rewrite(f, counters={**COUNTS, "updates": True}),
        "counters.updates: input should be a valid integer, not True",
    ),
    "no files": (lambda f: rewrite(f, files={}), "files must be replay.safetensors, state.safetensors"),
    "odd files": (lambda f: rewrite(f, files=[]), "files: input should be an object, not []"),
    "odd file": (
        lambda f: rewrite(f, files={n: 3 for n in manifest_of(f)["files"]}),
        "safetensors: input should be an object",
    ),
    "file above": (lambda f: rename_file(f, "metrics.csv", "../metrics.csv"), "files must be"),
    "file from the root": (lambda f: rename_file(f, "metrics.csv", "/etc/passwd"), "files must be"),
    "unknown file": (lambda f: rename_file(f, "metrics.csv", "metrics.txt"), "files must be"),
    "negative size": (
        lambda f: with_size(f, -1),
        "size_bytes: input should be greater than or equal to 0, not -1",
    ),
    "float size": (lambda f: with_size(f, 1.0), "size_bytes: input should be a valid integer, not 1.0"),
    "rows without replay": (lambda f: rewrite(f, replay=None), "files must be state.safetensors and tables"),
    "odd replay": (lambda f: rewrite(f, replay=[1, 2]), "replay: input should be an object"),
    "more rows than ever": (lambda f: rewrite(f, replay={"inserted": 3, "num_rows": 7}), "7 rows of only 3"),
    "other rows": (lambda f: rewrite(f, replay={"inserted": 9, "num_rows": 6}), "not just 6 rows of F32"),
    "odd agents": (lambda f: rewrite(f, agents=None), "agents: input should be a valid array, not None"),
    "numbered agents": (
        lambda f: rewrite(f, agents=["a", 3]),
        "agents.1: input should be a valid string, not 3",
    ),
    "odd packages": (lambda f: rewrite(f, packages=[]), "packages: input should be an object, not []"),
    "newlines": (lambda f: rewrite(f, agents="\n\r\x1b[2J\u2028"), r"agents: input should be a valid array"),
    "half a surrogate pair": (
        lambda f: rewrite(f, agents=["\ud800"]),
        "is not valid JSON (unexpected end of",
    ),
}


def assert_one_line(text):
    assert text.isprintable()
    assert len(text) <= 2000


@pytest.mark.parametrize("kind", DAMAGE)
def test_every_kind_of_damage_is_one_line_that_names_the_place(saved, kind):
    damage, message = DAMAGE[kind]
    damage(saved)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(saved)
    assert message in str(error.value)
    assert str(saved) in str(error.value)
    assert_one_line(str(error.value))


REACHED_BEHIND_A_URL = [
    "key twice",
    "older format",
    "flipped bit",
    "truncated rows",
    "longer table",
    "UTF-16",
]


@pytest.mark.parametrize("kind", REACHED_BEHIND_A_URL)
def test_damage_behind_a_url_is_one_line_that_names_the_url(saved, kind, url):
    damage, message = DAMAGE[kind]
    damage(saved)
    message = {"metrics.csv: has ": "metrics.csv: cannot be read (larger than"}.get(message, message)
    for path in saved.iterdir():
        fsspec.filesystem("memory").put_file(str(path), f"{url}/{path.name}")
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(url)
    assert message in str(error.value)
    assert str(error.value).startswith(url)
    assert_one_line(str(error.value))


def reseal(path, data):
    """Replace a file, and what the manifest says of it."""
    path.write_bytes(data)
    entries = manifest_of(path.parent)["files"]
    entries[path.name] = {"sha256": module.hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    rewrite(path.parent, files=entries)


def tensor_file(header, body=b"\0" * 24):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def tensor(dtype="F32", shape=(2, 3), offsets=(0, 24)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


TENSORS = {
    "no tensors": (b"not tensors at all", "a header of"),
    "too short": (b"\1\0", "a header of 1 bytes in a file of 2"),
    "a header of gigabytes": ((2**62).to_bytes(8, "little") + b"{}", "a header of 4611686018427387904 bytes"),
    "no JSON": (tensor_file(b"{x"), "Expecting property name"),
    "a list": (tensor_file([1]), "invalid type: sequence"),
    "deep": (tensor_file(b'{"a":' + b"[" * 50_000), "nested too deeply"),
    "twice": (tensor_file(b'{"a": 1, "a": 2}'), "duplicate key 'a'"),
    "no entry": (tensor_file({"a": 3}), "invalid type: integer `3`"),
    "metadata": (tensor_file({"__metadata__": {"a": "b"}}), "file not fully covered"),
    "unknown dtype": (tensor_file({"a": tensor("F8_E5M2")}), "invalid shape, data type, or offset"),
    "odd dtype": (tensor_file({"a": tensor(["F32"])}), "expected string or map"),
    "negative shape": (tensor_file({"a": tensor(shape=(-2, -3))}), "integer `-2`, expected usize"),
    "bool shape": (tensor_file({"a": tensor(shape=(True, 6))}), "boolean `true`, expected usize"),
    "many axes": (tensor_file({"a": tensor(shape=(1,) * 33)}), "invalid shape, data type, or offset"),
    "overflow": (
        tensor_file({"a": tensor(shape=(2**62, 16))}),
        "overflow computing buffer size",
    ),
    "empty but huge": (
        tensor_file({"a": tensor(shape=(0, 2**62, 9), offsets=(0, 0))}, b""),
        "array is too big",
    ),
    "huge shape": (tensor_file({"a": tensor(shape=(2**64,))}), "expected usize"),
    "odd offsets": (tensor_file({"a": tensor(offsets=(0, 24, 48))}), "invalid length 3, expected 2"),
    "backwards": (tensor_file({"a": tensor(offsets=(24, 0))}), "invalid offset for tensor `a`"),
    "gap": (tensor_file({"a": tensor(offsets=(4, 28))}, b"\0" * 28), "invalid offset for tensor `a`"),
    "overlap": (tensor_file({"a": tensor(), "b": tensor()}), "invalid offset for tensor"),
    "too long": (tensor_file({"a": tensor()}, b"\0" * 25), "file not fully covered"),
    "too little": (tensor_file({"a": tensor()}, b"\0" * 23), "file not fully covered"),
}


@pytest.mark.parametrize("name", ["state.safetensors", "replay.safetensors"])
@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_with_the_right_checksum_are_still_checked(saved, kind, name):
    data, message = TENSORS[kind]
    reseal(saved / name, data)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(saved)
    assert str(error.value).startswith(f"{saved}/{name}: ")
    assert message in str(error.value) or (
        name == "replay.safetensors" and "not just 7 rows" in str(error.value)
    )
    assert_one_line(str(error.value))


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ({"a": tensor(shape=(7, 5), offsets=(0, 140))}, 140),
        (
            {"rows": tensor(shape=(7, 5), offsets=(0, 140)), "more": tensor(shape=(0,), offsets=(140, 140))},
            140,
        ),
        ({"rows": tensor("I32", (7, 5), (0, 140))}, 140),
        ({"rows": tensor(shape=(35,), offsets=(0, 140))}, 140),
        ({"rows": tensor(shape=(5, 7), offsets=(0, 140))}, 140),
        ({"rows": tensor(shape=(7, 5), offsets=(4, 144))}, 144),
        ({"rows": tensor(shape=(7, 5), offsets=(0, 140))}, 168),
        ({"rows": tensor(shape=(7, 0), offsets=(0, 0))}, 0),
        ([], 140),
    ],
)
def test_rows_are_one_tensor_of_float32(saved, header, body):
    reseal(saved / "replay.safetensors", tensor_file(header, b"\0" * body))
    with pytest.raises(CheckpointError, match=r"replay\.safetensors: holds .*, not just 7 rows of F32"):
        load_checkpoint(saved)


def test_a_table_that_is_no_text_is_refused(saved):
    reseal(saved / "metrics.csv", b"\xff\xff")
    with pytest.raises(CheckpointError, match=r"metrics\.csv: 'utf-8' codec"):
        load_checkpoint(saved)


def test_a_table_that_is_too_large_is_refused_unread(saved, monkeypatch):
    monkeypatch.setitem(module.MAX_BYTES, "metrics.csv", 5)
    with pytest.raises(CheckpointError, match=r"metrics\.csv: has 10 bytes, more than the 5"):
        load_checkpoint(saved)


def test_no_folder_is_no_checkpoint(tmp_path, url):
    with pytest.raises(CheckpointError, match=r"is not a checkpoint, it cannot be opened \(No such file"):
        load_checkpoint(tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot be opened \(Not a directory"):
        load_checkpoint(tmp_path / "file")
    with pytest.raises(CheckpointError, match=r"memory://.*: is not a checkpoint, it has no manifest\.json"):
        load_checkpoint(url)


def test_a_checkpoint_is_found_through_a_link(saved, tmp_path):
    (tmp_path / "latest").symlink_to(saved)
    assert_equal(load_checkpoint(tmp_path / "latest"))


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    for act in (load_checkpoint, lambda url: save_checkpoint(url, make()), checkpoints_of):
        with pytest.raises(BadInput, match="needs the package s3fs, which is not installed") as error:
            act("s3://bucket/step_1")
        assert_one_line(str(error.value))


def test_an_unknown_protocol_is_bad_input():
    with pytest.raises(BadInput, match=r"path = 'nonsense://x': .*Protocol not known"):
        load_checkpoint("nonsense://x")


def test_a_file_system_that_fails_is_one_line(url, monkeypatch):
    save_checkpoint(url, make())

    def fail(*arguments, **options):
        raise RuntimeError("403\nForbidden")

    system = fsspec.filesystem("memory")
    monkeypatch.setattr(type(system), "_open", fail)
    monkeypatch.setattr(type(system), "ls", fail)
    for act in (load_checkpoint, checkpoints_of):
        with pytest.raises(CheckpointError, match=r"RuntimeError: 403\\nForbidden") as error:
            act(url)
        assert_one_line(str(error.value))
    with pytest.raises(OSError, match="RuntimeError: 403"):
        save_checkpoint(url, make())


@pytest.mark.parametrize("failing", range(5))
def test_an_interrupted_upload_leaves_no_checkpoint_but_its_place(url, monkeypatch, failing):
    path = save_checkpoint(f"{url}/step_1", make(replay=rows()))
    system = type(fsspec.filesystem("memory"))
    put, count = system.put_file, itertools.count()

    def fail(self, *arguments, **options):
        if next(count) == failing:
            raise ConnectionError("lost")
        return put(self, *arguments, **options)

    monkeypatch.setattr(system, "put_file", fail)
    with pytest.raises(OSError, match="lost"):
        save_checkpoint(path, make(env_steps=50, replay=rows()))
    monkeypatch.undo()
    assert checkpoints_of(url) == []
    assert load_checkpoint(save_checkpoint(path, make(env_steps=60))).env_steps == 60


def test_a_folder_by_url_on_this_machine(tmp_path):
    path = save_checkpoint(f"file://{tmp_path}/deep/step_3", make(replay=rows()))
    assert_equal(load_checkpoint(path))
    assert checkpoints_of(f"file://{tmp_path}/deep") == [path]


def test_checkpoints_are_listed_by_their_steps(tmp_path):
    odd = ["step_x", "step_", "step_²", f"step_{'9' * 4000}"[:200], ".step_99999.0123abcd.tmp", "step_1x"]
    for name in ("step_900", "step_10000", *odd):
        (tmp_path / name).mkdir()
    (tmp_path / "step_20000").touch()
    assert [path.name for path in checkpoints_of(tmp_path)] == ["step_10000", "step_900"]


def test_checkpoints_behind_a_url_are_listed_by_their_steps(url):
    for steps in (900, 10000):
        save_checkpoint(f"{url}/step_{steps}", make(env_steps=steps))
    for folder in (url, f"{url}/"):
        assert checkpoints_of(folder) == [f"{url}/step_10000", f"{url}/step_900"]


def damage(path):
    if isinstance(path, Path):
        truncate(path / "state.safetensors")
    else:
        fsspec.filesystem("memory").pipe_file(f"{path}/state.safetensors", b"nothing")


def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"file: cannot be listed \(Not a directory\)"):
        checkpoints_of(tmp_path / "file")


def test_old_checkpoints_are_deleted(place):
    paths = [save_checkpoint(child(place, f"step_{n}"), make(env_steps=n)) for n in (5, 10, 200, 40)]
    remove_old(place, keep=2)
    assert checkpoints_of(place) == [paths[2], paths[3]]
    remove_old(place, keep=2)
    assert len(checkpoints_of(place)) == 2
    with pytest.raises(ValueError, match="keep = 0"):
        remove_old(place, keep=0)


def test_only_complete_checkpoints_are_counted_and_deleted(tmp_path):
    for steps in (1, 2, 3):
        save_checkpoint(tmp_path / f"step_{steps}", make(env_steps=steps))
    outside = save_checkpoint(tmp_path / "elsewhere" / "step_0", make())
    (tmp_path / "step_0").symlink_to(outside)
    (tmp_path / "step_9").mkdir()
    (tmp_path / "step_9" / "thesis.txt").touch()
    (tmp_path / "step_1" / "notes.txt").touch()
    (tmp_path / "mine").mkdir()
    remove_old(tmp_path, keep=1)
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "mine", "step_0", "step_1", "step_3", "step_9"]
    assert (outside / "manifest.json").exists()


def test_a_half_deleted_checkpoint_is_none(tmp_path, monkeypatch):
    for steps in (1, 2):
        save_checkpoint(tmp_path / f"step_{steps}", make(env_steps=steps))
    monkeypatch.setattr(module.shutil, "rmtree", lambda *arguments, **options: None)
    remove_old(tmp_path, keep=1)
    monkeypatch.undo()
    assert checkpoints_of(tmp_path) == [tmp_path / "step_2"]
    remove_drafts(tmp_path)
    assert os.listdir(tmp_path) == ["step_2"]


def test_drafts_are_deleted_and_nothing_else(tmp_path):
    save_checkpoint(tmp_path / "step_1", make())
    save_checkpoint(tmp_path / ".step_1.0123abcd.tmp", make())
    (tmp_path / ".step_2.0123abce.tmp").mkdir()
    kept = [".step_1.0123abc.tmp", ".step_1.0123abcg.tmp", ".git", ".step_1.tmp", "step_1.0123abcd.tmp"]
    for name in kept:
        (tmp_path / name).mkdir()
    (tmp_path / ".step_5.0123abcd.tmp").mkdir()
    (tmp_path / ".step_5.0123abcd.tmp" / "mine.txt").touch()
    (tmp_path / ".step_6.0123abcd.tmp").symlink_to(tmp_path / "step_1")
    remove_drafts(tmp_path)
    remove_drafts(tmp_path / "nothing")
    assert sorted(os.listdir(tmp_path)) == sorted(
        [*kept, "step_1", ".step_5.0123abcd.tmp", ".step_6.0123abcd.tmp"]
    )
    assert len(os.listdir(tmp_path / "step_1")) == 4


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_drafts_behind_a_url_are_deleted_and_nothing_else(scheme, url, tmp_path):
    folder = url if scheme == "memory" else f"file://{tmp_path}/run"
    for steps in (1, 2, 3, 4):
        save_checkpoint(f"{folder}/step_{steps}", make(env_steps=steps, replay=rows()))
    system, root = fsspec.core.url_to_fs(folder)
    for steps in (2, 3):
        system.rm_file(f"{root}/step_{steps}/manifest.json")
    system.touch(f"{root}/step_3/mine.txt")
    remove_drafts(folder)
    remove_drafts(f"{folder}/nothing")
    assert sorted(path.rpartition("/")[2] for path in system.ls(root, detail=False)) == [
        "step_1",
        "step_3",
        "step_4",
    ]
    remove_old(folder, keep=1)
    assert not system.exists(f"{root}/step_1") and system.exists(f"{root}/step_3/state.safetensors")
    assert checkpoints_of(folder) == [f"{folder}/step_4"]


def test_a_checkpoint_that_stepped_aside_gets_its_name_back(tmp_path):
    save_checkpoint(tmp_path / "step_1", make())
    (tmp_path / "step_1").rename(tmp_path / ".step_1.0123abcd.old")
    save_checkpoint(tmp_path / ".step_2.0123abcd.old", make())
    save_checkpoint(tmp_path / "step_2", make(env_steps=41))
    remove_drafts(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["step_1", "step_2"]
    assert load_checkpoint(tmp_path / "step_2").env_steps == 41


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
    restored.set_state(load_checkpoint(saved).state)
    for each in (uninterrupted, restored):
        each.learn([batches(1)])
        each.publish()
    old, new = uninterrupted.get_state(), restored.get_state()
    assert old.keys() == new.keys()
    assert all(digest(old[name]) == digest(new[name]) for name in old)
    assert (restored.updates, restored.weights_version) == (6, 2)
