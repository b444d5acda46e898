"""Checkpoints: a folder of plain files that appears whole or not at all (floor F3).

`manifest.json` holds format, configuration, counters and the other files' checksums; tensors are safetensors;
the run's tables are copied as they were. Nothing is pickled, so that reading a checkpoint cannot run code,
and nothing that a file says is believed before it is checked. A folder may also be a URL, see `storage.py`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput, CheckpointError, CheckpointUnavailable, one_line
from distributed_maddpg.files import open_regular, parse_json, read_bytes, replace_folder, sync
from distributed_maddpg.storage import RemoteFolder, is_url
from distributed_maddpg.tensors import MOST_HEADER_BYTES, read_header, read_rows, write_rows
from distributed_maddpg.types import Arrays, StoredRows

FORMAT_VERSION = 3
_MANIFEST, _STATE, _REPLAY = "manifest.json", "state.safetensors", "replay.safetensors"
_TABLES = ("metrics.csv", "returns.csv")
_FILES = (_STATE, _REPLAY, *_TABLES)
_OURS = {_MANIFEST, *_FILES}
_PACKAGES = ("distributed-maddpg", "torch", "ray", "numpy", "mpe2", "pettingzoo")
_SECTIONS = {"format_version", "config", "agents", "counters", "replay", "files", "packages"}
_MOST_MANIFEST_BYTES = 2**18
_MOST_BYTES = {_STATE: 4 * 2**30, _REPLAY: 2**63, **dict.fromkeys(_TABLES, 256 * 2**20)}
"""The replay buffer may be as large as it is: its rows never lie in memory together."""
_PIECE_BYTES = 2**20
_STEP = re.compile(r"step_([0-9]{1,18})")
_DRAFT = re.compile(r"\.(.+)\.[0-9a-f]{8}\.(tmp|old)")
_MOST_RETRIES = 20
_REMEDY = "name one, or the folder of a run or of checkpoints"
_DAMAGE = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENXIO,
    errno.EINVAL,
    errno.EFBIG,
    errno.EIO,
    errno.ENAMETOOLONG,
}
"""What is wrong with a file for good; anything else may pass, such as permissions or too many open files."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint folder holds."""

    config: MADDPGConfig
    agents: tuple[str, ...]
    env_steps: int
    updates: int
    state: Arrays
    """Every stage's state, by names such as "learner/policy" or "worker_0/env/cycle"."""
    replay: StoredRows | None = None
    """The replay buffer's rows; written, and read from the file, chunk by chunk."""
    tables: dict[str, str] = field(default_factory=dict)
    """The run's text files at this moment: "metrics.csv", "returns.csv"."""
    path: str = "the checkpoint"
    """Where it was read from."""


class _FileEntry(NamedTuple):
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class _Manifest:
    """A manifest whose every part has been checked."""

    config: MADDPGConfig
    agents: tuple[str, ...]
    env_steps: int
    updates: int
    replay: tuple[int, int] | None
    """(inserted, num_rows)."""
    files: dict[str, _FileEntry]


def save_checkpoint(folder: str | Path, checkpoint: Checkpoint) -> str | Path:
    """Write a checkpoint beside its name, sync it to disk, and rename it into place; return where it is.

    A checkpoint already there is replaced; anything else is not touched. To a URL the files are copied, the
    manifest last.

    Args:
        folder: a local path, or the URL of a folder.
        checkpoint: its replay rows are gone through once.

    Raises:
        BadInput: if something other than a checkpoint is at that path, or nothing here can open the URL.
        OSError: if the disk or the remote file system refuses; a local folder stays as it was.
        ValueError: if the checkpoint is not what could be read again, such as fewer replay rows than it says.
    """
    if is_url(folder):
        return _save_remote(str(folder), checkpoint)
    path = Path(folder).resolve()
    if path.exists() and not _is_checkpoint(path):
        raise BadInput("path", str(path), "holds something other than a checkpoint; name a new folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    draft.mkdir()
    try:
        _write(draft, checkpoint)
        sync(draft)
        replace_folder(draft, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return path


def _save_remote(url: str, checkpoint: Checkpoint) -> str:
    remote = RemoteFolder(url)
    there = remote.names()
    if there - _OURS:
        raise BadInput("path", url, "holds something other than a checkpoint; name a new folder")
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as temporary:
        local = Path(temporary)
        _write(local, checkpoint)
        # A folder without manifest is no checkpoint: the old one ends with it, the new one begins with it.
        for name in sorted(there, key=lambda name: name != _MANIFEST):
            remote.delete(name)
        for name in (*_FILES, _MANIFEST):
            if (local / name).exists():
                remote.upload(local / name)
    return url


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    """Write all files of a checkpoint into an empty folder."""
    files: dict[str, _FileEntry] = {}
    # safetensors stores an array's memory as it lies; without this a transposed one comes back wrong.
    arrays = {name: np.asarray(array, order="C") for name, array in checkpoint.state.items()}
    with _new_file(folder / _STATE, files) as write:
        data = safetensors.save(arrays)
        if int.from_bytes(data[:8], "little") > MOST_HEADER_BYTES or len(data) > _MOST_BYTES[_STATE]:
            raise ValueError(f"a state of {len(arrays)} arrays, {len(data)} bytes could not be read again")
        write(data)
    replay = checkpoint.replay
    if replay is not None:
        with _new_file(folder / _REPLAY, files) as write:
            write_rows(write, replay.num_rows, replay.chunks)
    for name, text in checkpoint.tables.items():
        if name not in _TABLES or len(data := text.encode("utf-8")) > _MOST_BYTES[name]:
            raise ValueError(f"{name!r} cannot be a table of a checkpoint, or not one so long")
        with _new_file(folder / name, files) as write:
            write(data)
    manifest = {
        "format_version": FORMAT_VERSION,
        "config": checkpoint.config.to_dict(),
        "agents": list(checkpoint.agents),
        "counters": {"env_steps": checkpoint.env_steps, "updates": checkpoint.updates},
        "replay": None if replay is None else {"inserted": replay.inserted, "num_rows": replay.num_rows},
        "files": {name: entry._asdict() for name, entry in files.items()},
        "packages": _package_versions(),
    }
    text = json.dumps(manifest, indent=2) + "\n"
    _checked_manifest(text.encode())
    with _new_file(folder / _MANIFEST, files) as write:
        write(text.encode())


@contextmanager
def _new_file(path: Path, files: dict[str, _FileEntry]) -> Iterator[Callable[[bytes | memoryview], None]]:
    """Create a file and yield what writes to it; at the end it is on disk, and described in `files`."""
    checksum, size = hashlib.sha256(), 0

    def write(data: bytes | memoryview) -> None:
        nonlocal size
        file.write(data)
        checksum.update(data)
        size += len(data)

    with path.open("xb") as file:
        yield write
        file.flush()
        os.fsync(file.fileno())
    files[path.name] = _FileEntry(checksum.hexdigest(), size)


def load_checkpoint(folder: str | Path) -> Checkpoint:
    """Read and verify a checkpoint, but for its replay rows: these are verified now, and read when wanted.

    Args:
        folder: a local path, or the URL of a folder.

    Raises:
        CheckpointError: if anything is missing, altered, or of another format; one line that names it.
        BadInput: if nothing here can open the URL.
    """
    if is_url(folder):
        return _load_remote(str(folder))
    path = Path(folder)
    for _ in range(_MOST_RETRIES):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            line = f"{path}: is not a checkpoint, it cannot be opened ({error.strerror}); {_REMEDY}"
            raise _unread(line, error) from None
        except ValueError as error:  # a NUL in the path
            raise CheckpointError(f"{path}: is not a checkpoint ({error})") from None
        try:
            return _read(descriptor, str(path))
        except CheckpointError as error:
            problem = error
            if _is_still(path, descriptor):
                break
        finally:
            os.close(descriptor)
        # Another process put a newer one there and deleted the one we had begun to read.
    raise problem


def _is_still(path: Path, descriptor: int) -> bool:
    """Return whether a path still names the open folder."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return True


def _load_remote(url: str) -> Checkpoint:
    remote = RemoteFolder(url)
    # Open files outlive the folder, so that the replay rows can still be read when it is gone.
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as temporary:
        local = Path(temporary)
        name, most = _MANIFEST, _MOST_MANIFEST_BYTES
        try:
            remote.download(local / name, most)
            with _naming(url, name):
                manifest = _checked_manifest((local / name).read_bytes())
            for name, entry in manifest.files.items():
                remote.download(local / name, min(entry.size_bytes, _MOST_BYTES[name]))
        except FileNotFoundError:
            raise CheckpointError(f"{url}: is not a checkpoint, it has no {name}; {_REMEDY}") from None
        except OSError as error:  # whatever is wrong with the network looks like that
            kind = CheckpointError if error.errno == errno.EFBIG else CheckpointUnavailable
            raise kind(f"{url}/{name}: cannot be read ({error.strerror})") from None
        descriptor = os.open(local, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return _read(descriptor, url)
        finally:
            os.close(descriptor)


def _read(folder: int, shown: str) -> Checkpoint:
    """Read the checkpoint in an open folder, which messages call `shown`."""
    with _opened(folder, shown, _MANIFEST) as descriptor:
        manifest = _checked_manifest(read_bytes(descriptor, _MOST_MANIFEST_BYTES))
    with _opened(folder, shown, _STATE) as descriptor:
        _verify(descriptor, manifest, _STATE)
        read_header(descriptor)
        views = safetensors.load(read_bytes(descriptor, _MOST_BYTES[_STATE]))
        state = {key: array.copy() for key, array in views.items()}  # the views cannot be written to
    tables = {}
    for name in [table for table in _TABLES if table in manifest.files]:
        with _opened(folder, shown, name) as descriptor:
            _verify(descriptor, manifest, name)
            tables[name] = read_bytes(descriptor, _MOST_BYTES[name]).decode("utf-8")
    replay = None
    if manifest.replay is not None:
        inserted, num_rows = manifest.replay
        with _opened(folder, shown, _REPLAY) as descriptor:
            _verify(descriptor, manifest, _REPLAY)
            rows = read_rows(descriptor, num_rows, f"{shown}/{_REPLAY}")
            replay = StoredRows(inserted, num_rows, rows)
    counters = manifest.env_steps, manifest.updates
    return Checkpoint(manifest.config, manifest.agents, *counters, state, replay, tables, shown)


def _unread(line: str, error: OSError) -> CheckpointError:
    """Return the error for a file that the disk did not give: for good, or perhaps only now."""
    return CheckpointError(line) if error.errno in _DAMAGE else CheckpointUnavailable(line)


@contextmanager
def _opened(folder: int, shown: str, name: str) -> Iterator[int]:
    """Open a file of a folder, and make one line of whatever is wrong with it."""
    with _naming(shown, name):
        descriptor = open_regular(name, folder, follow=False)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


@contextmanager
def _naming(shown: str, name: str) -> Iterator[None]:
    """Name the file in every complaint about it."""
    try:
        yield
    except OSError as error:
        if name == _MANIFEST and isinstance(error, FileNotFoundError):
            line = f"{shown}: is not a checkpoint, {name}: {error.strerror}; {_REMEDY}"
            raise CheckpointError(line) from None
        raise _unread(f"{shown}/{name}: cannot be read ({error.strerror})", error) from None
    except CheckpointUnavailable as error:
        raise CheckpointUnavailable(f"{shown}/{name}: {error}") from None
    except (SafetensorError, BadInput, KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{shown}/{name}: {error}") from None


def _verify(descriptor: int, manifest: _Manifest, name: str) -> None:
    """Compare an open file with what the manifest says of it, piece by piece."""
    entry, most, size = manifest.files[name], _MOST_BYTES[name], os.fstat(descriptor).st_size
    if size != entry.size_bytes:
        raise ValueError(f"has {size} bytes, {_MANIFEST} says {entry.size_bytes}; the file was altered")
    if size > most:
        raise ValueError(f"has {size} bytes, more than the {most} this package reads")
    checksum, position = hashlib.sha256(), 0
    while piece := os.pread(descriptor, _PIECE_BYTES, position):
        checksum.update(piece)
        position += len(piece)
    if checksum.hexdigest() != entry.sha256:
        raise ValueError(f"does not match the checksum in {_MANIFEST}; the file was altered")


def _checked_manifest(data: bytes) -> _Manifest:
    """Parse a manifest and check every part.

    Raises:
        ValueError: saying what is wrong.
    """
    if len(data) > _MOST_MANIFEST_BYTES:
        raise ValueError(f"larger than {_MOST_MANIFEST_BYTES} bytes")
    try:
        values = parse_json(data)
    except ValueError as error:
        raise ValueError(f"is not valid JSON ({error})") from None
    if not isinstance(values, dict):
        raise ValueError("does not hold a JSON object")
    version = values.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise CheckpointUnavailable(f"format version {_short(version)}, this package reads {FORMAT_VERSION}")
    _require_keys("the manifest", values, _SECTIONS)
    counters = _require_keys("counters", values["counters"], {"env_steps", "updates"})
    _require_texts("packages", list(_require_table("packages", values["packages"]).values()))
    replay = _checked_replay(values["replay"])
    return _Manifest(
        config=_complete(_require_table("config", values["config"])),
        agents=tuple(_require_texts("agents", values["agents"])),
        env_steps=_count(counters["env_steps"]),
        updates=_count(counters["updates"]),
        replay=replay,
        files=_checked_files(_require_table("files", values["files"]), replay is not None),
    )


def _checked_replay(values: Any) -> tuple[int, int] | None:
    if values is None:
        return None
    _require_keys("replay", values, {"inserted", "num_rows"})
    inserted, num_rows = _count(values["inserted"]), _count(values["num_rows"])
    if num_rows > inserted:
        raise ValueError(f"replay has {num_rows} rows of only {inserted} ever inserted")
    return inserted, num_rows


def _checked_files(values: dict[str, Any], with_replay: bool) -> dict[str, _FileEntry]:
    """Return the entries of all files; only names of our own are ever opened."""
    needed = {_STATE, _REPLAY} if with_replay else {_STATE}
    if not needed <= values.keys() <= needed | set(_TABLES):
        raise ValueError(
            f"files must be {', '.join(sorted(needed))} and tables, not {_short(sorted(values))}"
        )
    files = {}
    for name, entry in values.items():
        _require_keys(name, entry, {"sha256", "size_bytes"})
        [sha256] = _require_texts(name, [entry["sha256"]])
        files[name] = _FileEntry(sha256, _count(entry["size_bytes"]))
    return files


def _require_table(name: str, values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ValueError(f"{name} must be a table, not {_short(values)}")
    return values


def _require_keys(name: str, values: Any, keys: set[str]) -> dict[str, Any]:
    if _require_table(name, values).keys() != keys:
        raise ValueError(f"{name} must have {', '.join(sorted(keys))}, not {_short(sorted(values))}")
    return _require_table(name, values)


def _require_texts(name: str, values: Any) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{name} must be texts, not {_short(values)}")
    return values


def _short(value: Any) -> str:
    return one_line(repr(value), 200)


def _complete(values: dict[str, Any]) -> MADDPGConfig:
    """Return a stored configuration; a section it lacks would silently get its default."""
    config = MADDPGConfig.from_dict(values)
    missing = set(config.to_dict()) - set(values)
    if missing:
        raise ValueError(f"the configuration lacks {', '.join(sorted(missing))}")
    return config


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{_short(value)} is no count")
    return value


def _package_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # run from a source folder, or a learner's machine without Ray
    return versions


def _is_checkpoint(folder: Path) -> bool:
    """Return whether a folder holds what we write and nothing else; only such are replaced or deleted."""
    names = _plain_files(folder)
    return names is not None and {_MANIFEST, _STATE} <= names <= _OURS


def _plain_files(folder: Path) -> set[str] | None:
    """Return the names in a real folder; None if it is none, or holds anything but regular files."""
    try:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            return None
        with os.scandir(folder) as entries:
            found = list(entries)
        return {entry.name for entry in found} if all(map(_is_regular, found)) else None
    except OSError:
        return None


def _is_regular(entry: os.DirEntry[str]) -> bool:
    return entry.is_file(follow_symlinks=False)


def checkpoints_of(folder: str | Path) -> list[str | Path]:
    """Return the checkpoints `step_<digits>` of a folder, the one with the most steps first.

    Their content is not looked at. On a disk a checkpoint appears whole, so that every such folder is one;
    behind a URL it takes a manifest.

    Raises:
        CheckpointError: if the folder is there but cannot be listed.
        BadInput: if nothing here can open the URL.
    """
    try:
        steps: dict[str | Path, int] = {}
        for name in _names(folder):
            path = _child(folder, name)
            match = _STEP.fullmatch(name)
            if match and _may_be_checkpoint(path):
                steps[path] = int(match[1])
    except OSError as error:
        raise CheckpointUnavailable(f"{folder}: cannot be listed ({error.strerror})") from None
    return sorted(steps, key=lambda path: (steps[path], str(path)), reverse=True)


def _names(folder: str | Path) -> set[str]:
    if is_url(folder):
        return RemoteFolder(str(folder)).names()
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()


def _child(folder: str | Path, name: str) -> str | Path:
    return f"{str(folder).rstrip('/')}/{name}" if is_url(folder) else Path(folder) / name


def _may_be_checkpoint(path: str | Path) -> bool:
    return _MANIFEST in RemoteFolder(str(path)).names() if is_url(path) else Path(path).is_dir()


def remove_old(folder: str | Path, keep: int) -> None:
    """Delete all but the `keep` newest complete checkpoints of a folder; nothing else is ever touched.

    Raises:
        ValueError: if none is to be kept.
        OSError: if a checkpoint cannot be deleted; then it is still one, or none any more.
    """
    if keep < 1:
        raise ValueError(f"keep = {keep}: the newest checkpoint is never deleted")
    if is_url(folder):
        for path in checkpoints_of(folder)[keep:]:
            _remove_remote(str(path))
        return
    complete = [path for path in map(Path, checkpoints_of(folder)) if _is_checkpoint(path)]
    for path in complete[keep:]:
        draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        path.rename(draft)  # at once, so that a half deleted one is never taken for a checkpoint
        shutil.rmtree(draft, ignore_errors=True)


def _remove_remote(url: str) -> None:
    remote = RemoteFolder(url)
    names = remote.names()
    if names <= _OURS:
        remote.delete_all(sorted(names, key=lambda name: name != _MANIFEST))


def remove_drafts(folder: str | Path) -> None:
    """Delete what interrupted writers left in a folder of checkpoints, which nobody may be writing to.

    A checkpoint that stepped aside for a newer one which then did not come gets its name back.
    """
    if is_url(folder):
        with suppress(OSError):
            _remove_remote_drafts(str(folder))
        return
    for path in Path(folder).glob(".*"):
        match, names = _DRAFT.fullmatch(path.name), _plain_files(path)
        if match is None or names is None or not names <= _OURS:
            continue
        home = path.with_name(match[1])
        if match[2] == "old" and not home.exists() and _is_checkpoint(path):
            with suppress(OSError):
                path.rename(home)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _remove_remote_drafts(folder: str) -> None:
    """Delete files of checkpoints whose manifest, which is written last and deleted first, is not there."""
    for name in filter(_STEP.fullmatch, RemoteFolder(folder).names()):
        remote = RemoteFolder(f"{folder.rstrip('/')}/{name}")
        names = remote.names()
        if _MANIFEST not in names and names <= _OURS:
            remote.delete_all(names)


def holds_any(folder: str | Path) -> bool:
    """Return whether a folder or URL holds checkpoints, or some that were set aside.

    Raises:
        OSError: if it is there but cannot be listed.
    """
    return any(name.startswith("step_") for name in _names(folder))


def set_aside(path: str | Path, why: Literal["broken", "aside"]) -> None:
    """Rename a checkpoint to "<name>.<why>...", so that nobody goes on from it, replaces it or deletes it.

    Raises:
        OSError: if that fails.
    """
    name = f"{str(path).rstrip('/').rpartition('/')[2]}.{why}.{uuid.uuid4().hex[:8]}"
    if is_url(path):
        RemoteFolder(str(path)).rename(name)
    else:
        Path(path).rename(Path(path).with_name(name))
