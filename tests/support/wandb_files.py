"""Reads the files that W&B writes offline.

They are logs of LevelDB (github.com/google/leveldb, doc/log_format.md) behind seven bytes of W&B's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

_BLOCK, _HEADER = 32_768, 7
_FULL_OR_LAST = (1, 4)


def wandb_files(folder: Path) -> list[Path]:
    """Return the files of the runs below a folder, oldest first."""
    return sorted(folder.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns)


def records(path: Path) -> Iterator[Record]:
    """Yield the records of a file."""
    data, at, parts = path.read_bytes(), _HEADER, b""
    assert data[:4] == b":W&B"
    while at < len(data):
        if _BLOCK - at % _BLOCK < _HEADER:  # the rest of a block is padding
            at += _BLOCK - at % _BLOCK
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + _HEADER : at + _HEADER + length]
        at += _HEADER + length
        if kind in _FULL_OR_LAST:
            yield Record.FromString(parts)
            parts = b""


def history(path: Path) -> list[dict[str, Any]]:
    """Return what was logged, without W&B's own keys."""
    return [
        {_key(item): json.loads(item.value_json) for item in record.history.item if _key(item)[0] != "_"}
        for record in records(path)
        if record.HasField("history")
    ]


def config(path: Path) -> dict[str, Any]:
    """Return the config of the run."""
    found: dict[str, Any] = {}
    for record in records(path):
        of_run = record.run.config if record.HasField("run") else record.config
        found |= {_key(item): json.loads(item.value_json) for item in of_run.update}
    return found


def summary(path: Path) -> dict[str, Any]:
    """Return the summary of the run."""
    found: dict[str, Any] = {}
    for record in records(path):
        found |= {_key(item): json.loads(item.value_json) for item in record.summary.update}
    return found


def _key(item: Any) -> str:
    return item.key or "/".join(item.nested_key)
