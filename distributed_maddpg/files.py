"""Opening, reading, parsing and replacing files that may be damaged or hostile."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import re
import shutil
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distributed_maddpg.errors import BadInput

_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")
LOCK = ".lock"
"""The file that the process of a run holds locked in its folder."""
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
# Errors of kernels and file systems that cannot exchange two names.
_CANNOT_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM}


def open_regular(path: str | Path, folder: int | None = None, follow: bool = True) -> int:
    """Open a regular file for reading and return its descriptor, without blocking on a pipe or a device.

    Args:
        path: of the file; relative to `folder` if given.
        folder: descriptor of a folder.
        follow: whether the last part of the path may be a symbolic link.

    Raises:
        OSError: if it cannot be opened or is not a regular file.
    """
    # Checked before, as opening a device can have effects, and after, as the file may have been replaced.
    _require_regular(os.stat(path, dir_fd=folder, follow_symlinks=follow), path)
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    descriptor = os.open(path, flags, dir_fd=folder)
    try:
        _require_regular(os.fstat(descriptor), path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _require_regular(status: os.stat_result, path: str | Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def read_bytes(descriptor: int, max_bytes: int) -> bytes:
    """Return the content of an open file.

    Raises:
        OSError: if it holds more than `max_bytes` bytes.
    """
    size = os.fstat(descriptor).st_size
    if size > max_bytes:
        raise OSError(errno.EFBIG, f"larger than {max_bytes} bytes")
    with open(descriptor, "rb", closefd=False) as file:
        file.seek(0)
        data = file.read(size + 1)
    if len(data) != size:
        raise OSError(errno.EIO, "changed while it was read")
    return data


def read_small(path: str | Path, max_bytes: int) -> bytes:
    """Return the content of a regular file.

    Raises:
        OSError: if it cannot be read, or holds more than `max_bytes` bytes.
    """
    descriptor = open_regular(path)
    try:
        return read_bytes(descriptor, max_bytes)
    finally:
        os.close(descriptor)


def parse_json(data: bytes) -> Any:
    """Parse strict JSON: no duplicate keys, no NaN, no number too large for a float.

    Raises:
        ValueError: saying what is wrong.
    """
    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_refuse_duplicates,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"duplicate key {twice!r}")
    return values


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON number")


def _finite_float(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is too large")
    return number


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_folder(draft: Path, folder: Path) -> None:
    """Replace `folder` by `draft`, which lies in the same parent, and delete the old content.

    Where the system can exchange two names, `folder` exists at every moment. Elsewhere the old one is first
    renamed to `<draft's stem>.old`, and renamed back if the second rename fails.

    Raises:
        OSError: if that fails; `folder` is then unchanged.
    """
    if not folder.exists():
        draft.rename(folder)
        sync(folder.parent)
        return
    old = draft
    if not _exchange(draft, folder):
        old = draft.with_suffix(".old")
        folder.rename(old)
        try:
            draft.rename(folder)
        except OSError:
            old.rename(folder)
            raise
    sync(folder.parent)  # before anything is deleted, so that the new name survives a power failure
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names atomically; return whether this system can."""
    # Missing on macOS and with musl.
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    rename.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(other))


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a small file atomically: to a temporary name, synced, then renamed; text in UTF-8."""
    draft = path.with_name(f".{path.name}.tmp")
    try:
        with draft.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())  # otherwise a power failure could leave an empty file
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; what was written there replaces `path` unless the body raises."""
    draft = path.with_name(f".{path.name}.tmp")
    try:
        yield draft
        sync(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def writing_to(field: str, value: str | Path) -> Iterator[None]:
    """Name a file that cannot be written, such as on a full disk, as the value of `field`."""
    try:
        yield
    except OSError as error:
        raise BadInput(
            field, str(value), f"cannot be written ({error.strerror}); name another file"
        ) from None


def writable_file(field: str, value: str | Path) -> Path:
    """Return the path of a file of this machine that can be written, or replaced.

    Raises:
        BadInput: naming it as the value of `field`, if it is a folder, or lies in none that can be written.
    """
    path = local_path(field, value)
    folder = path.parent
    if path.is_dir():
        raise BadInput(field, str(path), "is a folder; name a file")
    if not folder.is_dir():
        raise BadInput(field, str(path), f"lies in no folder; create {str(folder)!r}, or name another file")
    if not os.access(folder, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise BadInput(field, str(path), "cannot be written to; name another file")
    if path.exists() and not path.is_file():
        raise BadInput(field, str(path), "is not a regular file; name another")
    return path


def local_path(field: str, value: str | Path) -> Path:
    """Return a path of this machine, which need not exist.

    Raises:
        BadInput: naming it as the value of `field`, if it is empty or a URL, holds a control character, leads
            through a file, or is too long.
    """
    text = str(value)
    if not text or "://" in text or _CONTROL_CHARACTER.search(text):
        raise BadInput(field, text, "must be a path of this machine, without control characters")
    try:
        os.lstat(text)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise BadInput(field, text, f"cannot be used ({error.strerror}); name another") from None
    return Path(text)


def make_folder(folder: Path, field: str) -> None:
    """Create a folder where it does not exist.

    Raises:
        BadInput: naming it as the value of `field`, if it is a file, or cannot be created or written to.
    """
    try:
        local_path(field, folder).mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise BadInput(field, str(folder), "is a file; name a folder") from None
    except OSError as error:
        raise BadInput(field, str(folder), f"cannot be created ({error.strerror})") from None
    if not os.access(folder, os.W_OK):
        raise BadInput(field, str(folder), "cannot be written to; name another folder")


def is_locked(folder: Path) -> bool:
    """Return whether a process is training in a folder, as far as locks of its file system tell."""
    try:
        descriptor = open_regular(folder / LOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)  # which releases the lock
    return False
