"""Checkpoints: folders of plain files, written atomically.

`manifest.json` holds the format version, the settings, the counters and the checksums of the other files.
Tensors are safetensors; the tables of the run are copied unchanged. Nothing is pickled, so that reading a
checkpoint cannot run code, and everything read is checked first. A folder may also be a URL, see `remote.py`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from distributed_maddpg.checkpoint.manifest import (
    ALL_FILES,
    FILES,
    FORMAT_VERSION,
    MANIFEST,
    MAX_BYTES,
    MAX_MANIFEST_BYTES,
    REPLAY,
    STATE,
    TABLES,
    FileEntry,
    Manifest,
    Measured,
    package_versions,
    parse_manifest,
)
from distributed_maddpg.checkpoint.remote import RemoteFolder, is_url
from distributed_maddpg.checkpoint.tensors import MAX_HEADER_BYTES, read_rows, read_tensors, write_rows
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput, CheckpointError, CheckpointUnavailable
from distributed_maddpg.files import local_path, open_regular, read_bytes, replace_folder, sync
from distributed_maddpg.normalisation import with_normaliser
from distributed_maddpg.types import Arrays, FloatArray, StoredTransitions, checked_array

_PIECE_BYTES = 2**20
_POLICY_PARTS = {"learner/policy", "learner/normaliser"}
_POLICIES_ALONE = "it holds policies alone; resume from a checkpoint step_... of the run"
_MAX_RETRIES = 20
_REMEDY = "name a checkpoint, a run folder or a folder of checkpoints"
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
"""Permanent errors of a file; others are temporary, such as permissions or too many open files."""
_REMOTE_DAMAGE = {errno.ENOENT, errno.EFBIG}
"""Permanent errors behind a URL; any other error may come from the network."""


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint folder."""

    config: MADDPGConfig
    agents: tuple[str, ...]
    env_steps: int
    updates: int
    state: Arrays
    """State of every stage, with names such as "learner/policy" or "worker_0/env/cycle"."""
    replay: StoredTransitions | None = None
    """Rows of the replay buffer, written and read in chunks; None: they were left out."""
    tables: dict[str, str] = field(default_factory=dict)
    """Text of the run's tables when the checkpoint was captured, by name: "metrics.csv", "returns.csv"."""
    path: str = "the checkpoint"
    """Path or URL that it was read from."""
    resume_problem: str = ""
    """Why training cannot be resumed from it; then `state` holds the policies alone. Empty: it can."""
    measured: Measured | None = None
    """The score for which its policies are kept as a run's best; None for any other checkpoint."""

    @property
    def name(self) -> str:
        """Name of its folder: "step_<env steps>", or "best_step_<env steps>" if it is kept for a score."""
        return f"{'best_' if self.measured else ''}step_{self.env_steps}"

    @property
    def policies(self) -> FloatArray:
        """The policies' parameters `[N, P]`, or with `env.normalise` `[N, P + 2 O]`, which act."""
        policies: FloatArray = self.state["learner/policy"]
        if not self.config.env.normalise:
            return policies
        return with_normaliser(policies, self.state["learner/normaliser"])

    def check_resumable(self) -> None:
        """Refuse to resume training from policies alone, or from a checkpoint of an earlier format version.

        Raises:
            CheckpointUnavailable: naming what can be resumed from, or the version of the package that can.
        """
        if self.resume_problem:
            raise CheckpointUnavailable(f"{self.path}: {self.resume_problem}")


def save_checkpoint(folder: str | Path, checkpoint: Checkpoint) -> str | Path:
    """Write a checkpoint to a temporary folder, sync it to disk and rename it into place; return its path.

    An existing checkpoint is replaced; any other folder is refused. For a URL the files are uploaded, the
    manifest last.

    Args:
        folder: a local path, or the URL of a folder.
        checkpoint: what to write; its replay rows are iterated over once.

    Raises:
        BadInput: if the path holds something other than a checkpoint, or the URL cannot be opened.
        CheckpointUnavailable: if it was read from an earlier format version, which is incomplete.
        OSError: if the disk or the remote file system fails; a local folder is left unchanged.
        ValueError: if the result could not be read again, such as fewer replay rows than announced.
    """
    if is_url(folder):
        return _save_remote(str(folder), checkpoint)
    path = local_path("path", folder).resolve()
    if path.exists() and not is_checkpoint(path):
        raise BadInput("path", str(path), "holds something other than a checkpoint; name a new folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    draft.mkdir()
    try:
        _write_files(draft, checkpoint)
        sync(draft)
        replace_folder(draft, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return path


def _save_remote(url: str, checkpoint: Checkpoint) -> str:
    remote = RemoteFolder(url)
    existing = remote.names()
    if existing - ALL_FILES:
        raise BadInput("path", url, "holds something other than a checkpoint; name a new folder")
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as temporary:
        local = Path(temporary)
        _write_files(local, checkpoint)
        # The manifest makes a folder a checkpoint, so it is deleted first and uploaded last.
        for name in sorted(existing, key=lambda name: name != MANIFEST):
            remote.delete(name)
        for name in (*FILES, MANIFEST):
            if (local / name).exists():
                remote.upload(local / name)
    return url


def _write_files(folder: Path, checkpoint: Checkpoint) -> None:
    """Write all files of a checkpoint into an empty folder."""
    checkpoint.check_resumable()
    files: dict[str, FileEntry] = {}
    # safetensors stores the memory of an array as it is; a transposed one would come back wrong.
    arrays = {name: np.asarray(array, order="C") for name, array in checkpoint.state.items()}
    with _new_file(folder / STATE, files) as write:
        data = safetensors.save(arrays)
        if int.from_bytes(data[:8], "little") > MAX_HEADER_BYTES or len(data) > MAX_BYTES[STATE]:
            raise ValueError(
                f"a state of {len(arrays)} arrays, {len(data)} bytes is larger than this package reads"
            )
        write(data)
    replay = checkpoint.replay
    if replay is not None:
        with _new_file(folder / REPLAY, files) as write:
            write_rows(write, replay.num_rows, replay.chunks)
    for name, text in checkpoint.tables.items():
        if name not in TABLES or len(data := text.encode("utf-8")) > MAX_BYTES[name]:
            raise ValueError(f"{name!r} cannot be a table of a checkpoint: unknown name, or too long")
        with _new_file(folder / name, files) as write:
            write(data)
    manifest = {
        "format_version": FORMAT_VERSION,
        "config": checkpoint.config.to_dict(),
        "agents": list(checkpoint.agents),
        "counters": {"env_steps": checkpoint.env_steps, "updates": checkpoint.updates},
        "replay": None if replay is None else {"inserted": replay.inserted, "num_rows": replay.num_rows},
        "files": {name: entry.model_dump() for name, entry in files.items()},
        "packages": package_versions(),
    }
    if checkpoint.measured is not None:
        manifest["measured"] = checkpoint.measured.model_dump()
    text = json.dumps(manifest, indent=2) + "\n"
    parse_manifest(text.encode())
    with _new_file(folder / MANIFEST, files) as write:
        write(text.encode())


@contextmanager
def _new_file(path: Path, files: dict[str, FileEntry]) -> Iterator[Callable[[bytes | memoryview], None]]:
    """Create a file and yield its write function; on exit, sync the file and add its entry to `files`."""
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
    files[path.name] = FileEntry(sha256=checksum.hexdigest(), size_bytes=size)


def load_checkpoint(folder: str | Path, policies_only: bool = False) -> Checkpoint:
    """Verify a checkpoint and read it, except for its replay rows, which are read on demand.

    Of an earlier format version only the policies are read, see `Checkpoint.check_resumable`.

    Args:
        folder: a local path, or the URL of a folder.
        policies_only: read and verify nothing but the policies of a local checkpoint, which takes
            milliseconds, where its transitions may take seconds.

    Raises:
        CheckpointError: if a part is missing, altered or of an unknown format; names the part in one line.
        BadInput: if the URL cannot be opened.
    """
    if is_url(folder):
        return _load_remote(str(folder))
    path = Path(folder)
    for _ in range(_MAX_RETRIES):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            kind = CheckpointError if error.errno in _DAMAGE else CheckpointUnavailable
            reason = f"is not a checkpoint, it cannot be opened ({error.strerror})"
            raise kind(f"{path}: {reason}; {_REMEDY}") from None
        except ValueError as error:  # a NUL in the path
            raise CheckpointError(f"{path}: is not a checkpoint ({error})") from None
        try:
            return _read(descriptor, str(path), policies_only)
        except CheckpointError as error:
            problem = error
            if _still_names(path, descriptor):
                break
        finally:
            os.close(descriptor)
        # Another process replaced the checkpoint while it was read.
    raise problem


def _still_names(path: Path, descriptor: int) -> bool:
    """Return whether a path still names the open folder."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return True


def _load_remote(url: str) -> Checkpoint:
    remote = RemoteFolder(url)
    # Open files outlive the folder: replay rows can still be read after it is deleted.
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as temporary:
        local = Path(temporary)
        with _name_errors(url, MANIFEST, _REMOTE_DAMAGE):
            remote.download(local / MANIFEST, MAX_MANIFEST_BYTES)
            manifest = parse_manifest((local / MANIFEST).read_bytes())
        for name, entry in manifest.files.items():
            with _name_errors(url, name, _REMOTE_DAMAGE):
                remote.download(local / name, min(entry.size_bytes, MAX_BYTES[name]))
        descriptor = os.open(local, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return _read(descriptor, url)
        finally:
            os.close(descriptor)


def _read(folder: int, shown: str, policies_only: bool = False) -> Checkpoint:
    """Read the checkpoint in an open folder; error messages call it `shown`."""
    with _open_file(folder, shown, MANIFEST) as descriptor:
        manifest = parse_manifest(read_bytes(descriptor, MAX_MANIFEST_BYTES))
    run = manifest.settings, manifest.agents, manifest.counters.env_steps, manifest.counters.updates
    with _verified(folder, shown, manifest, manifest.state_file) as descriptor:
        state = read_tensors(descriptor, MAX_BYTES[manifest.state_file])
        if manifest.older:
            policy = checked_array(state, manifest.older.policy, (None, None), np.float32)
            state = {"learner/policy": policy}
            return Checkpoint(*run, state, path=shown, resume_problem=manifest.resume_problem)
    problem = manifest.resume_problem
    if policies_only or state.keys() <= _POLICY_PARTS:
        state = {name: array for name, array in state.items() if name in _POLICY_PARTS}
        problem = problem or _POLICIES_ALONE
        return Checkpoint(*run, state, path=shown, resume_problem=problem, measured=manifest.measured)
    tables = {}
    for name in [table for table in TABLES if table in manifest.files]:
        with _verified(folder, shown, manifest, name) as descriptor:
            tables[name] = read_bytes(descriptor, MAX_BYTES[name]).decode("utf-8")
    replay = None
    if counts := manifest.replay:
        with _verified(folder, shown, manifest, REPLAY) as descriptor:
            rows = read_rows(descriptor, counts.num_rows, f"{shown}/{REPLAY}")
            replay = StoredTransitions(counts.inserted, counts.num_rows, rows)
    return Checkpoint(*run, state, replay, tables, shown, problem, manifest.measured)


@contextmanager
def _verified(folder: int, shown: str, manifest: Manifest, name: str) -> Iterator[int]:
    """Open a file of a folder after comparing its size and checksum with the manifest."""
    with _open_file(folder, shown, name) as descriptor:
        entry, max_bytes, size = manifest.files[name], MAX_BYTES[name], os.fstat(descriptor).st_size
        if size != entry.size_bytes:
            raise ValueError(f"has {size} bytes, {MANIFEST} says {entry.size_bytes}; the file was altered")
        if size > max_bytes:
            raise ValueError(f"has {size} bytes, more than the {max_bytes} this package reads")
        checksum, position = hashlib.sha256(), 0
        while piece := os.pread(descriptor, _PIECE_BYTES, position):
            checksum.update(piece)
            position += len(piece)
        if checksum.hexdigest() != entry.sha256:
            raise ValueError(f"does not match the checksum in {MANIFEST}; the file was altered")
        yield descriptor


@contextmanager
def _open_file(folder: int, shown: str, name: str) -> Iterator[int]:
    """Open a file of a folder; errors become one line that names the file."""
    with _name_errors(shown, name):
        descriptor = open_regular(name, folder, follow=False)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def _remedy(shown: str) -> str:
    """Return what to name instead: commands look for checkpoints in a folder, a call from Python does not."""
    inside = [
        file.parent
        for place in ("", "checkpoints/")
        for file in Path(shown).glob(f"{place}step_*/{MANIFEST}")
    ]
    if not inside:
        return _REMEDY
    return f"name one that it holds, such as {max(inside, key=lambda path: (len(path.name), path.name))}"


@contextmanager
def _name_errors(shown: str, name: str, damage: set[int] = _DAMAGE) -> Iterator[None]:
    """Turn errors into a CheckpointError that names the file."""
    try:
        yield
    except OSError as error:
        kind = CheckpointError if error.errno in damage else CheckpointUnavailable
        if name == MANIFEST and isinstance(error, FileNotFoundError):
            raise kind(f"{shown}: is not a checkpoint, it has no {name}; {_remedy(shown)}") from None
        raise kind(f"{shown}/{name}: cannot be read ({error.strerror})") from None
    except CheckpointUnavailable as error:
        raise CheckpointUnavailable(f"{shown}/{name}: {error}") from None
    except (SafetensorError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{shown}/{name}: {error}") from None


def is_checkpoint(folder: Path) -> bool:
    """Return whether a folder holds the files of a checkpoint and nothing else; only such are deleted."""
    names = plain_files(folder)
    return names is not None and {MANIFEST, STATE} <= names <= ALL_FILES


def plain_files(folder: Path) -> set[str] | None:
    """Return the names in a folder; None if it is a link or holds anything but regular files."""
    try:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            return None
        with os.scandir(folder) as entries:
            found = list(entries)
        regular = all(entry.is_file(follow_symlinks=False) for entry in found)
        return {entry.name for entry in found} if regular else None
    except OSError:
        return None
