"""The tables of a run, appended to during training: CSV files, TensorBoard events, and what is like those."""

from __future__ import annotations

import csv
import errno
import io
import math
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.files import write_atomic
from distributed_maddpg.metrics import flatten


class CSVTable:
    """A CSV file with the columns of its first row; a row is in the file when `add` returns."""

    def __init__(self, path: Path, text: str | None = None) -> None:
        """Append to `path` under its header if it exists; otherwise create it with the first row.

        Args:
            path: the file.
            text: replaces the content of the file: its text in a checkpoint, empty if it did not exist. None
                keeps the content.

        Raises:
            OSError: if that text cannot be written or has no header.
        """
        self._path = path
        if text:
            write_atomic(path, text)
        elif text is not None:
            path.unlink(missing_ok=True)
        self._file: BinaryIO | None = None
        self._size = _whole_lines(path)
        self._unwritten = ""
        self._columns: list[str] = []
        if self._size:
            with path.open(newline="", encoding="utf-8", errors="replace") as file:
                try:
                    self._columns = next(csv.reader(file), [])
                except csv.Error as error:
                    raise OSError(errno.EBADMSG, f"{path.name} has no header: {error}") from None

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one row; columns that the first row did not have are dropped.

        Raises:
            OSError: if the row cannot be written; it is kept, and written before the next one.
        """
        if not self._columns:
            self._columns = list(row)
            self._unwritten += _csv_line(self._columns)
        self._unwritten += _csv_line([row.get(column, "") for column in self._columns])
        self.flush()

    def flush(self) -> None:
        """Write the rows that could not be written earlier.

        Raises:
            OSError: if they still cannot be written.
        """
        if not self._unwritten:
            return
        if self._file is None:
            self._file = self._path.open("ab", buffering=0)
        data = self._unwritten.encode()
        try:
            self._file.truncate(self._size)  # drops a row that was partly written when the disk was full
            written = self._file.write(data)
            if written != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self._file.close()
            self._file = None
            raise
        self._size, self._unwritten = self._size + len(data), ""

    def text(self) -> str:
        """Return the whole table, including rows not written yet."""
        written = self._path.read_bytes()[: self._size] if self._size else b""
        return written.decode(errors="replace") + self._unwritten

    def close(self) -> None:
        """Write the remaining rows and close the file; raises OSError like `flush`."""
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None


def _whole_lines(path: Path) -> int:
    """Return the size of a file up to its last complete line; a crash may have cut the next one."""
    return path.read_bytes().rfind(b"\n") + 1 if path.exists() else 0


def _csv_line(values: list[Any]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(values)
    return line.getvalue()


class EventWriter(Protocol):
    """Takes a run's numbers over its environment steps: `TensorBoardWriter`, `WandbWriter`."""

    def add_settings(self, config: MADDPGConfig) -> None:
        """Write the settings of the run."""

    def add(self, result: Mapping[str, Any], env_steps: int) -> None:
        """Write all finite numbers of a nested result."""

    def close(self) -> None:
        """Write what is left."""


def finite_numbers(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers of a nested result under keys such as `env_runners/episode_return_mean`."""
    return {
        key: value
        for key, value in flatten(result).items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


class TensorBoardWriter:
    """Writes numbers as TensorBoard scalars over environment steps, and the settings as text and hparams."""

    def __init__(self, folder: Path, env_steps: int = 0) -> None:
        """Prepare a new event file in `folder`, which is created with the first result.

        Args:
            folder: of the event file.
            env_steps: of the checkpoint that the run resumes from; TensorBoard drops later events.
        """
        self._folder = folder
        self._continued_from = env_steps
        self._writer: Any = None

    def add_settings(self, config: MADDPGConfig) -> None:
        """Write the settings, for TensorBoard's tabs Text and HParams.

        Raises:
            OSError: if they cannot be written.
        """
        from tensorboardX.summary import hparams, text  # noqa: PLC0415 - as in `add`

        # Without its first part, an experiment, which would name the metrics: TensorBoard then takes all.
        _, start, _ = hparams({name: _hparam(value) for name, value in flatten(config.to_dict()).items()}, {})
        self._add(text("settings", f"```toml\n{config.to_toml()}```"), self._continued_from)
        self._add(start, self._continued_from)

    def add(self, result: Mapping[str, Any], env_steps: int) -> None:
        """Write all finite numbers of a nested result.

        Raises:
            OSError: if they cannot be written; the next result goes to a new file.
        """
        # Imported here: it takes a second, which --help and --version should not.
        from tensorboardX.proto.summary_pb2 import Summary  # noqa: PLC0415

        values = [Summary.Value(tag=key, simple_value=value) for key, value in finite_numbers(result).items()]
        self._add(Summary(value=values), env_steps)

    def _add(self, summary: Any, env_steps: int) -> None:
        from tensorboardX.proto.event_pb2 import Event, SessionLog  # noqa: PLC0415 - as in `add`

        try:
            if self._writer is None:
                self._writer = self._open()
                began = SessionLog(status=SessionLog.START)
                self._write(Event(wall_time=time.time(), step=self._continued_from + 1, session_log=began))
            self._write(Event(wall_time=time.time(), step=env_steps, summary=summary))
        except OSError:
            # TensorBoard ignores everything after a cut record.
            self._writer, self._continued_from = None, env_steps
            raise

    def _open(self) -> Any:
        # Not SummaryWriter: its thread ends when the disk is full, and later calls block forever.
        from tensorboardX.event_file_writer import EventsWriter  # noqa: PLC0415

        self._folder.mkdir(parents=True, exist_ok=True)
        return EventsWriter(str(self._folder / "events"), f".{secrets.token_hex(4)}")

    def _write(self, event: Any) -> None:
        self._writer.write_event(event)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _hparam(value: Any) -> str | float:
    """Return a setting as TensorBoard holds one: a number, true or false, or text."""
    return value if isinstance(value, bool | int | float) else str(value)
