"""The folder of a training run: its lock, its tables, and the record of its checkpoints."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from distributed_maddpg.checkpoint.folder import load_checkpoint
from distributed_maddpg.checkpoint.listing import best_checkpoints_of, checkpoints_of, holds_checkpoints
from distributed_maddpg.checkpoint.remote import is_url
from distributed_maddpg.checkpoint.saver import SavingOptions
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput, CheckpointError, CheckpointUnavailable
from distributed_maddpg.files import LOCK, make_folder, parse_json, read_small, write_atomic
from distributed_maddpg.metrics import flatten
from distributed_maddpg.run.tables import CSVTable, EventWriter, TensorBoardWriter
from distributed_maddpg.types import FaultEvent

_CONFIG = "config.toml"
_CHECKPOINT_RECORD = "checkpoints.json"
_ADDED_LATER: dict[str, Any] = {"keep_best": "", "stop_at": [], "reached_at": -1, "reached": {}}
_RECORD_TYPES = {
    **{"folder": str, "replay": bool, "keep": int, "newest": str},
    **{name: type(default) for name, default in _ADDED_LATER.items()},
}
_MAX_BYTES = 2**16
_LOCK_PATIENCE_S = 0.2
"""How long a start waits for the lock, which `is_locked` takes for a moment."""
_METRICS, _RETURNS, _EVENTS = "metrics.csv", "returns.csv", "events.jsonl"
_STARTS = "starts.jsonl"


@dataclass(frozen=True)
class CheckpointRecord:
    """How a run saves its checkpoints, and the newest one; `checkpoints.json`."""

    saving: SavingOptions
    newest: str = ""
    """The latest checkpoint that it saved or resumed from."""
    stop_at: tuple[str, ...] = ()
    """Goals at which the run ends early."""
    reached_at: int = -1
    """Environment steps of the checkpoint with which it ended there."""
    reached: Mapping[str, float] = field(default_factory=dict)
    """The scores that reached the goals."""


def read_checkpoint_record(run_dir: Path) -> CheckpointRecord:
    """Return the record of a run's checkpoints; the defaults if it has none.

    Raises:
        CheckpointUnavailable: if it cannot be read.
    """
    path = run_dir / _CHECKPOINT_RECORD
    try:
        return _parse_record(parse_json(read_small(path, _MAX_BYTES)))
    except FileNotFoundError:
        return CheckpointRecord(SavingOptions())
    except (OSError, ValueError) as error:
        remedy = "repair it, or delete it and name the folder with --checkpoint-dir if it is not the default"
        raise CheckpointUnavailable(f"{path}: cannot be read ({error}); {remedy}") from None


def _parse_record(values: Any) -> CheckpointRecord:
    """Return the record that the file holds; ValueError if a part is missing or of another type."""
    values = {**_ADDED_LATER, **values} if isinstance(values, dict) else {}
    if {k: type(values.get(k)) for k in _RECORD_TYPES} != _RECORD_TYPES:
        expected = ", ".join(f"{name}: {kind.__name__}" for name, kind in _RECORD_TYPES.items())
        raise ValueError(f"it must hold {expected}")
    if not values["folder"].isprintable():
        raise ValueError("the folder's name cannot be printed")
    texts, scores = values["stop_at"], values["reached"]
    if not all(type(text) is str for text in texts) or {*map(type, scores.values())} - {int, float}:
        raise ValueError("stop_at must be texts, and reached numbers")
    saving = SavingOptions(values["folder"], values["replay"], values["keep"], values["keep_best"])
    return CheckpointRecord(saving, values["newest"], tuple(texts), values["reached_at"], scores)


def checkpoints_folder(run_dir: Path) -> str:
    """Return the folder or URL of a run's checkpoints."""
    return read_checkpoint_record(run_dir).saving.folder or str(run_dir / "checkpoints")


def check_checkpoints_present(run_dir: Path, folder: str) -> None:
    """Refuse a folder without checkpoints if the run saved some, as when a disk is not mounted.

    Raises:
        CheckpointUnavailable: naming the newest checkpoint that the run saved.
    """
    newest = read_checkpoint_record(run_dir).newest
    try:
        gone = newest and not holds_checkpoints(folder)
    except OSError as error:
        raise CheckpointUnavailable(f"{folder}: cannot be listed ({error.strerror})") from None
    if gone:
        raise CheckpointUnavailable(
            f"{folder}: holds no checkpoint, but the run saved {newest}; restore it, "
            "name its folder with --checkpoint-dir, or start another run"
        )


def newest_checkpoint(place: str | Path) -> str | Path:
    """Return the checkpoint with the most steps of a run, a folder or a URL; or `place` if it is one itself.

    Raises:
        CheckpointError: if the run has none, or the folder holds runs or cannot be listed.
    """
    if is_url(place):
        found = checkpoints_of(place)
        return found[0] if found else place
    if Path(place).is_file():
        raise CheckpointError(f"{place}: is a file; name the folder of a checkpoint or of a run")
    is_run = (Path(place) / _CONFIG).is_file()
    found = checkpoints_of(checkpoints_folder(Path(place)) if is_run else place)
    if is_run and not found:
        raise CheckpointError(f"{place}: this run has no checkpoint yet")
    if not found and (runs := sorted(Path(place).glob(f"*/{_CONFIG}"))):
        raise CheckpointError(f"{place}: holds runs; name one of them, such as {runs[0].parent}")
    return found[0] if found else place


def _best_itself(place: str | Path, is_run: bool) -> str | Path:
    """Return a place that is a best checkpoint and holds none."""
    name = str(place).rstrip("/").rpartition("/")[2]
    if name.startswith("best_step_") and load_checkpoint(place).measured:
        return place
    seeds = [] if is_run or is_url(place) else sorted(Path(place).glob(f"*/{_CONFIG}"))
    if seeds:
        raise CheckpointError(f"{place}: holds runs; name one of them, such as {seeds[0].parent}")
    raise CheckpointError(f"{place}: holds no best checkpoint; train with --keep-best keeps one")


def best_checkpoint(place: str | Path) -> str | Path:
    """Return the checkpoint that `--keep-best` kept, of a run, a folder or a URL; `place` if it is that one.

    Raises:
        CheckpointError: if there is none, or several for different scores, or the folder holds runs.
    """
    is_run = not is_url(place) and (Path(place) / _CONFIG).is_file()
    folder = checkpoints_folder(Path(place)) if is_run else place
    found: dict[str, str | Path] = {}
    for path in best_checkpoints_of(folder):  # newest first: each was better than the one before
        measured = load_checkpoint(path).measured
        found.setdefault(measured.name if measured else "", path)
    if not found:
        return _best_itself(place, is_run)
    if len(found) > 1:
        several = ", ".join(f"{path} ({name})" for name, path in found.items())
        raise CheckpointError(f"{place}: holds several best checkpoints; name one of them: {several}")
    return next(iter(found.values()))


def check_unused(run_dir: Path) -> None:
    """Refuse a folder that already holds a run.

    Raises:
        BadInput: naming the folder and how to resume the run in it.
    """
    check_not_multi_seed(run_dir)
    if (run_dir / _CONFIG).exists():
        raise BadInput(
            "--run-dir",
            str(run_dir),
            f"already holds a run; resume it with --resume {run_dir}, or name another",
        )


def check_no_checkpoints(folder: str) -> None:
    """Refuse a folder for a new run's checkpoints that holds those of another: they would be replaced.

    Raises:
        BadInput: naming the folder.
    """
    if folder and (checkpoints_of(folder) or best_checkpoints_of(folder)):
        remedy = "already holds checkpoints; name another folder, or resume their run with --resume"
        raise BadInput("--checkpoint-dir", folder, remedy)


def check_not_multi_seed(run_dir: Path) -> None:
    """Refuse the folder of a multi-seed run for a single run.

    Raises:
        BadInput: naming the folder and how to resume the runs in it.
    """
    several = sorted(run_dir.glob(f"seed_*/{_CONFIG}"))
    if several:
        remedy = f"already holds runs; resume one with --resume {several[0].parent}, or name another"
        raise BadInput("--run-dir", str(run_dir), remedy)


class RunFolder:
    """The folder of a run, locked for this process until `close`."""

    def __init__(self, path: Path) -> None:
        """Create the folder if it does not exist, and lock it.

        Raises:
            BadInput: if it cannot be created or written to, or another process is using it.
        """
        self.path = path
        make_folder(path, "--run-dir")
        self._lock = _lock_folder(path, "--run-dir")
        self._checkpoints_lock: TextIO | None = None
        self._config_written = False
        self._problem = ""
        self._metrics: CSVTable
        self._returns: CSVTable
        self._event_writers: list[EventWriter] = []
        self._open_tables: tuple[CSVTable, ...] = ()

    def open_tables(self, tables: Mapping[str, str] | None, env_steps: int, extended: bool = False) -> None:
        """Open the tables, restored to their content at a checkpoint, or empty.

        Args:
            tables: text of each table in the checkpoint, by file name; later rows are dropped. A table
                that is missing here is appended to. None: there is no checkpoint.
            env_steps: environment steps of the checkpoint.
            extended: whether more steps are configured than the checkpoint has. The run may then have
                finished there, and the row of that final evaluation is kept.

        Raises:
            BadInput: if a table cannot be written, or is not a CSV file.
            CheckpointError: if that is the checkpoint's.
        """
        restored = bool(tables)
        if tables is None and read_checkpoint_record(self.path).newest:
            self._rename_tables()  # those of a run whose checkpoints cannot be used; a new run starts
        self._record_start(env_steps, anew=tables is None)
        tables = {_METRICS: "", _RETURNS: ""} if tables is None else dict(tables)
        try:
            if extended and _RETURNS in tables:
                tables[_RETURNS] += _evaluation_at(self.path / _RETURNS, tables[_RETURNS], env_steps)
            self._metrics = CSVTable(self.path / _METRICS, tables.get(_METRICS))
            self._returns = CSVTable(self.path / _RETURNS, tables.get(_RETURNS))
        except OSError as error:
            if restored and error.errno == errno.EBADMSG:
                raise CheckpointError(f"the checkpoint cannot be resumed from ({error.strerror})") from None
            raise BadInput("--run-dir", str(self.path), f"cannot be used ({error.strerror})") from None
        self._open_tables = (self._metrics, self._returns)
        self.add_event_writer(TensorBoardWriter(self.path, env_steps))

    def add_event_writer(self, writer: EventWriter) -> None:
        """Let another writer take the settings, results and evaluations, too."""
        self._event_writers.append(writer)

    def _record_start(self, env_steps: int, anew: bool) -> None:
        """Note in `starts.jsonl` when this process began, and at how many env steps."""
        line = json.dumps({"time": time.time(), "env_steps": env_steps}) + "\n"
        if anew:
            self._try_write(lambda: write_atomic(self.path / _STARTS, line))
        else:
            self._try_write(lambda: _append_text(self.path / _STARTS, line))

    def record_checkpoint(self, record: CheckpointRecord) -> None:
        """Write `checkpoints.json`, and lock the checkpoints' folder if it lies elsewhere.

        Raises:
            BadInput: if that folder cannot be used, or another process is using it.
        """
        saving = record.saving
        local = saving.folder.removeprefix("file://")
        if self._checkpoints_lock is None and local and not is_url(local):
            try:
                Path(local).mkdir(parents=True, exist_ok=True)
            except (OSError, ValueError) as error:
                raise BadInput("--checkpoint-dir", saving.folder, f"cannot be used ({error})") from None
            self._checkpoints_lock = _lock_folder(Path(local), "--checkpoint-dir")
        folder = saving.folder if is_url(saving.folder) or not local else str(Path(local).resolve())
        values = dataclasses.asdict(record)
        text = json.dumps({**values.pop("saving"), "folder": folder, **values}, indent=1) + "\n"
        self._try_write(lambda: write_atomic(self.path / _CHECKPOINT_RECORD, text))

    def write_config(self, config: MADDPGConfig) -> None:
        """Write `config.toml` once, which marks the folder as a run's; not if the run fails to start."""
        if not self._config_written:
            self._try_write(lambda: write_atomic(self.path / _CONFIG, config.to_toml()))
            self._config_written = (self.path / _CONFIG).exists()
            for writer in self._event_writers if self._config_written else ():
                self._try_write(partial(writer.add_settings, config))

    def add_result(self, result: dict[str, Any]) -> None:
        """Append the result of an iteration to `metrics.csv` and the events."""
        own = {key: value for key, value in result.items() if key != "evaluation"}
        self._try_write(lambda: self._metrics.add(flatten(own)))
        self._add_event(own, result["num_env_steps_sampled_lifetime"])

    def add_evaluation(self, evaluation: dict[str, Any]) -> None:
        """Append an evaluation: greedy returns per agent, success rates and measures if there are any."""
        row = {
            "env_steps": evaluation["num_env_steps"],
            "updates": evaluation["num_updates"],
            "episodes": evaluation["episodes"],
            **evaluation["agent_episode_returns_mean"],
            **{f"success_{name}": rate for name, rate in evaluation.get("success", {}).items()},
            **{f"measure_{name}": value for name, value in evaluation.get("measures", {}).items()},
        }
        self._try_write(self._metrics.flush)
        self._try_write(lambda: self._returns.add(row))
        self._add_event({"evaluation": evaluation}, evaluation["num_env_steps"])

    def _add_event(self, numbers: dict[str, Any], env_steps: int) -> None:
        for writer in self._event_writers:
            self._try_write(partial(writer.add, numbers, env_steps))

    def add_events(self, events: Sequence[FaultEvent]) -> None:
        """Append failures and recoveries of processes to `events.jsonl`, one JSON object per line."""
        if events:
            lines = "".join(json.dumps(dataclasses.asdict(event)) + "\n" for event in events)
            self._try_write(lambda: _append_text(self.path / _EVENTS, lines))

    def tables(self) -> dict[str, str]:
        """Return the text of each table for a checkpoint; one that cannot be read is left out."""
        tables = {}
        for name, table in ((_METRICS, self._metrics), (_RETURNS, self._returns)):
            try:
                tables[name] = table.text()
            except OSError as error:
                self._problem = f"{self.path / name}: cannot be read ({error.strerror or error})"
        return tables

    def pop_problem(self) -> str:
        """Return why a file could not be written since the last call; empty if all were written."""
        problem, self._problem = self._problem, ""
        return problem

    def output_files(self) -> dict[str, str]:
        """Return the files for display, by kind, including the report, which is written last.

        A run that was interrupted before its first result has none.
        """
        tables = {"returns": self.path / _RETURNS, "metrics": self.path / _METRICS}
        paths = {kind: str(path) for kind, path in tables.items() if path.exists()}
        return {"report": str(self.path / "report.html"), **paths} if "metrics" in paths else paths

    def close(self) -> None:
        """Close the files and release the locks."""
        for table in self._open_tables:
            self._try_write(table.close)
        for writer in self._event_writers:
            self._try_write(writer.close)
        self._lock.close()
        if self._checkpoints_lock is not None:
            self._checkpoints_lock.close()

    def _rename_tables(self) -> None:
        for name in (_METRICS, _RETURNS):
            with suppress(OSError):
                (self.path / name).rename(self.path / f"{name}.aside.{uuid.uuid4().hex[:8]}")

    def _try_write(self, write: Callable[[], object]) -> None:
        """Write; store an error for `pop_problem`, because a full disk must not end the training."""
        try:
            write()
        except OSError as error:
            self._problem = f"{self.path}: cannot be written to ({error.strerror or error})"


def _evaluation_at(path: Path, kept: str, env_steps: int) -> str:
    """Return the line after the text `kept` in a table if it is an evaluation at these steps."""
    text = path.read_bytes().decode("utf-8", "replace") if path.exists() else ""
    line, end, _ = text.removeprefix(kept).partition("\n")
    follows = kept and text.startswith(kept) and line.startswith(f"{env_steps},")
    return line + end if follows and end else ""


def _append_text(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def _lock_folder(folder: Path, option: str) -> TextIO:
    """Return an open lock file; the system releases the lock when this process ends.

    Raises:
        BadInput: naming the option, if the folder cannot be written to or another process holds the lock.
    """
    try:
        file = (folder / LOCK).open("a+")
    except OSError as error:
        raise BadInput(option, str(folder), f"cannot be written to ({error.strerror})") from None
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() > deadline:
                file.close()
                remedy = "another process is training in it; wait until it ends, or name another folder"
                raise BadInput(option, str(folder), remedy) from None
            time.sleep(_LOCK_PATIENCE_S / 10)
        except OSError:
            return file  # the file system has no locks
