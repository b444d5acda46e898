import os

import fsspec
import pytest

from distributed_maddpg.checkpoint.folder import load_checkpoint
from distributed_maddpg.errors import CheckpointError
from tests.checkpoint.samples import assert_one_line, manifest_of, rewrite, truncate


def rename_file(folder, old, new):
    entries = manifest_of(folder)["files"]
    entries[new] = entries.pop(old)
    rewrite(folder, files=entries)


def flip_bit(folder):
    path = folder / "state.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)


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
    **{
        f"format {version!r}": (
            lambda f, version=version: rewrite(f, format_version=version),
            f"format version {version!r} does not exist; the file was altered",
        )
        for version in (0, -1, "3")
    },
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
