import itertools
import json
import os
import tracemalloc

import numpy as np
import pytest

from distributed_maddpg.checkpoint import tensors
from distributed_maddpg.checkpoint.folder import load_checkpoint, save_checkpoint
from distributed_maddpg.errors import CheckpointError
from distributed_maddpg.types import StoredTransitions
from tests.checkpoint.samples import ROWS, assert_equal, assert_one_line, make, reseal


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


@pytest.mark.parametrize(
    ("replay", "message"),
    [
        (StoredTransitions(9, 8, iter([ROWS])), "replay rows announced: 8, received: 7"),
        (StoredTransitions(9, 3, iter([ROWS])), "replay rows announced: 3, received: 7"),
        (StoredTransitions(9, 2, iter(())), "replay rows announced: 2, received: 0"),
        (StoredTransitions(9, 9, iter([ROWS, ROWS[:2, :4]])), r"float32 \[n, width\], not float32 \(2, 4\)"),
        (StoredTransitions(9, 7, iter([ROWS.astype(np.float64)])), "not float64"),
        (StoredTransitions(9, 5, iter(ROWS[:1])), r"not float32 \(5,\)"),
        (StoredTransitions(6, 7, iter([ROWS])), "replay: 7 rows of only 6 ever inserted"),
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
        save_checkpoint(tmp_path / "x", make(replay=StoredTransitions(10, 10, chunks)))
    assert next(given) == 2


def test_rows_pass_through_in_little_memory(tmp_path):
    chunk = np.ones((10_000, 50), np.float32)
    count = 30  # 60 MB
    total = count * len(chunk)
    chunks = (chunk * number for number in range(count))
    tracemalloc.start()
    try:
        save_checkpoint(tmp_path / "x", make(replay=StoredTransitions(total, total, chunks)))
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
