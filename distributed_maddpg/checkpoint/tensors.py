"""Safetensors files: a header that is checked before anything is loaded, and rows that come and go in chunks.

A file is the header's length (8 bytes, little-endian), the header as JSON, and the numbers.
"""

from __future__ import annotations

import json
import math
import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from distributed_maddpg.errors import CheckpointError
from distributed_maddpg.files import parse_json
from distributed_maddpg.types import FloatArray

MAX_HEADER_BYTES = 16 * 2**20
"""Room for the states of the 10 000 workers a configuration may name."""
_LENGTH_BYTES, _ALIGNMENT, _MAX_AXES, _LARGEST = 8, 8, 32, 2**63
_CHUNK_BYTES = 2**20
_ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8"), 1),
    **dict.fromkeys(("U16", "I16", "F16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
_ROWS = "rows"


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor stands in a file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    """First byte, counted from the file's."""
    stop: int


def read_header(descriptor: int) -> dict[str, StoredTensor]:
    """Return what an open file says it holds, after checking that this is just what the file has room for.

    Raises:
        ValueError: saying what is wrong.
    """
    size = os.fstat(descriptor).st_size
    length = int.from_bytes(os.pread(descriptor, _LENGTH_BYTES, 0), "little")
    if size < _LENGTH_BYTES or length > min(size - _LENGTH_BYTES, MAX_HEADER_BYTES):
        raise ValueError(f"a header of {length} bytes in a file of {size}")
    header = parse_json(os.pread(descriptor, length, _LENGTH_BYTES))
    if not isinstance(header, dict):
        raise ValueError("the header is no JSON object")
    base = _LENGTH_BYTES + length
    tensors = {name: _checked(name, entry, base) for name, entry in header.items()}
    end = base
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if tensor.start != end:
            raise ValueError(f"tensor {name!r} does not begin where the one before it ends")
        end = tensor.stop
    if end != size:
        raise ValueError(f"the tensors end at byte {end}, the file at {size}")
    return tensors


def _checked(name: str, entry: Any, base: int) -> StoredTensor:
    """Return one entry of a header as what it must be."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name!r} lacks its dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise ValueError(f"tensor {name!r} has an unknown dtype")
    if not _are_counts(shape) or len(shape) > _MAX_AXES:
        raise ValueError(f"tensor {name!r} has no valid shape")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise ValueError(f"tensor {name!r} has no valid data_offsets")
    if offsets[1] - offsets[0] != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise ValueError(f"tensor {name!r} takes other bytes than its shape {shape} of {dtype}")
    return StoredTensor(dtype, tuple(shape), base + offsets[0], base + offsets[1])


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < _LARGEST for value in values)


def write_rows(
    write: Callable[[bytes | memoryview], object], num_rows: int, chunks: Iterable[FloatArray]
) -> None:
    """Write `num_rows` rows as the one tensor `rows` of a file, without ever holding more than a chunk.

    Args:
        write: takes the next bytes.
        num_rows: rows of all chunks together.
        chunks: arrays [n, width].

    Raises:
        ValueError: if the chunks are not so many float32 rows of one width.
    """
    width, written = 0, 0
    for chunk in chunks:
        if chunk.ndim != 2 or chunk.dtype != np.float32 or (written and chunk.shape[1] != width):
            raise ValueError(f"replay rows must be float32 [n, width], not {chunk.dtype} {chunk.shape}")
        if not len(chunk):
            continue
        if not written:
            width = chunk.shape[1]
            write(_rows_header(num_rows, width))
        written += len(chunk)
        if written > num_rows:
            break
        write(np.ascontiguousarray(chunk, "<f4").data.cast("B"))
    if written != num_rows:
        raise ValueError(f"replay rows announced: {num_rows}, received: {written}")
    if not num_rows:
        write(_rows_header(0, 0))


def _rows_header(num_rows: int, width: int) -> bytes:
    entry = {"dtype": "F32", "shape": [num_rows, width], "data_offsets": [0, 4 * num_rows * width]}
    header = json.dumps({_ROWS: entry}).encode()
    header += b" " * (-len(header) % _ALIGNMENT)  # so that the numbers are aligned where the file is mapped
    return len(header).to_bytes(_LENGTH_BYTES, "little") + header


def read_rows(descriptor: int, num_rows: int, name: str) -> Iterator[FloatArray]:
    """Return the chunks [n, width] of what `write_rows` wrote, read when they are asked for.

    The iterator keeps the file open for itself, so that the rows outlive a checkpoint that is replaced or
    deleted meanwhile.

    Raises:
        ValueError: if the file holds anything else.
    """
    tensors = read_header(descriptor)
    if tensors.keys() != {_ROWS}:
        raise ValueError("holds other tensors than the replay buffer's rows")
    rows = tensors[_ROWS]
    if rows.dtype != "F32" or len(rows.shape) != 2 or rows.shape[0] != num_rows:
        raise ValueError(f"holds {rows.dtype} {rows.shape}, not {num_rows} rows of F32")
    if num_rows and not rows.shape[1]:
        raise ValueError("holds rows without a width")
    return _Rows(descriptor, rows, name)


class _Rows(Iterator[FloatArray]):
    """The rows of an open file; closes it after the last, or when nobody wants them any more."""

    def __init__(self, descriptor: int, rows: StoredTensor, name: str) -> None:
        self._descriptor, self._name = os.dup(descriptor), name
        self._position, self._stop = rows.start, rows.stop
        self._width = rows.shape[1]
        # A generator would not do: one that nobody begins never reaches its `finally`.
        self._close = weakref.finalize(self, os.close, self._descriptor)

    def __next__(self) -> FloatArray:
        if self._position == self._stop:
            self._close()
            raise StopIteration
        row_bytes = 4 * self._width
        size = min(self._stop - self._position, max(_CHUNK_BYTES // row_bytes, 1) * row_bytes)
        try:
            data = bytearray(
                os.pread(self._descriptor, size, self._position)
            )  # a copy that may be written to
        except OSError as error:
            raise CheckpointError(f"{self._name}: cannot be read ({error.strerror})") from None
        if len(data) != size:
            raise CheckpointError(f"{self._name}: was shortened after it had been opened")
        self._position += size
        return np.frombuffer(data, "<f4").reshape(-1, self._width)
