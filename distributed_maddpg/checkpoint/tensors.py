"""Safetensors files: the state of a run, and replay rows in chunks.

A file is the length of the header (8 bytes, little-endian), the header in JSON, and the data.
"""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from safetensors import numpy as safetensors

from distributed_maddpg.errors import CheckpointError, one_line
from distributed_maddpg.files import parse_json, read_bytes
from distributed_maddpg.types import Arrays, FloatArray

MAX_HEADER_BYTES = 16 * 2**20
"""Enough for the states of 10 000 workers, the most that the settings allow."""
_LENGTH_BYTES, _ALIGNMENT = 8, 8
_CHUNK_BYTES = 2**20


def read_tensors(descriptor: int, max_bytes: int) -> Arrays:
    """Return all tensors of an open file as writable arrays.

    Raises:
        ValueError, TypeError, SafetensorError: saying what is wrong.
        OSError: if it cannot be read, or holds more than `max_bytes`.
    """
    _read_header(descriptor)  # the library accepts headers of 100 MB, and duplicate keys
    views = safetensors.load(read_bytes(descriptor, max_bytes))
    return {name: array.copy() for name, array in views.items()}


def _read_header(descriptor: int) -> tuple[Any, int]:
    """Return the header of an open file, parsed but not checked, and the offset of the data."""
    size = os.fstat(descriptor).st_size
    length = int.from_bytes(os.pread(descriptor, _LENGTH_BYTES, 0), "little")
    if size < _LENGTH_BYTES or length > min(size - _LENGTH_BYTES, MAX_HEADER_BYTES):
        raise ValueError(f"a header of {length} bytes in a file of {size}")
    return parse_json(os.pread(descriptor, length, _LENGTH_BYTES)), _LENGTH_BYTES + length


def write_rows(
    write: Callable[[bytes | memoryview], object], num_rows: int, chunks: Iterable[FloatArray]
) -> None:
    """Write `num_rows` rows as a file with the tensor `rows`, one chunk in memory at a time.

    Args:
        write: called with the next bytes.
        num_rows: number of rows in all chunks.
        chunks: arrays [n, width].

    Raises:
        ValueError: if the chunks do not hold `num_rows` float32 rows of one width.
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


def _rows_entry(num_rows: int, width: int) -> dict[str, Any]:
    size = 4 * num_rows * width
    return {"rows": {"dtype": "F32", "shape": [num_rows, width], "data_offsets": [0, size]}}


def _rows_header(num_rows: int, width: int) -> bytes:
    header = json.dumps(_rows_entry(num_rows, width)).encode()
    header += b" " * (-len(header) % _ALIGNMENT)  # aligns the data for programs that map the file
    return len(header).to_bytes(_LENGTH_BYTES, "little") + header


def read_rows(descriptor: int, num_rows: int, name: str) -> Iterator[FloatArray]:
    """Return an iterator over the chunks [n, width] that `write_rows` wrote; each is read on demand.

    The iterator keeps a descriptor of its own, so that the rows can be read after the checkpoint is replaced
    or deleted.

    Raises:
        ValueError: if the file holds anything else.
    """
    header, start = _read_header(descriptor)
    # The width follows from the file's size, so that the header is only compared, never interpreted.
    width, rest = divmod(os.fstat(descriptor).st_size - start, max(4 * num_rows, 1))
    if rest or header != _rows_entry(num_rows, width) or (num_rows and not width):
        raise ValueError(f"holds {one_line(repr(header), 200)}, not just {num_rows} rows of F32")
    return _Rows(descriptor, start, num_rows, width, name)


class _Rows(Iterator[FloatArray]):
    """Iterator over the rows of an open file; closes it after the last, or when it is garbage collected."""

    def __init__(self, descriptor: int, start: int, num_rows: int, width: int, name: str) -> None:
        self._descriptor, self._name, self._width = os.dup(descriptor), name, width
        self._position, self._stop = start, start + 4 * num_rows * width
        # A generator that is never started does not run its `finally`.
        self._close = weakref.finalize(self, os.close, self._descriptor)

    def __next__(self) -> FloatArray:
        if self._position == self._stop:
            self._close()
            raise StopIteration
        row_bytes = 4 * self._width
        size = min(self._stop - self._position, max(_CHUNK_BYTES // row_bytes, 1) * row_bytes)
        try:
            data = bytearray(os.pread(self._descriptor, size, self._position))  # writable, unlike the bytes
        except OSError as error:
            raise CheckpointError(f"{self._name}: cannot be read ({error.strerror})") from None
        if len(data) != size:
            raise CheckpointError(f"{self._name}: was shortened after it was opened")
        self._position += size
        return np.frombuffer(data, "<f4").reshape(-1, self._width)
