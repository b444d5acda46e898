"""Folders behind URLs, such as s3:// and gs://, through fsspec.

Object stores have no atomic rename: a folder is complete once its manifest exists, which is uploaded last.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from distributed_maddpg.errors import BadInput, one_line
from distributed_maddpg.files import local_path

_PIECE_BYTES = 2**20


def is_url(folder: str | Path) -> bool:
    """Return whether a folder is a URL; a `Path` never is, as it turns `s3://x` into `s3:/x`."""
    return isinstance(folder, str) and "://" in folder


def check_checkpoints_place(field: str, folder: str) -> None:
    """Refuse a place where checkpoints cannot be saved, or would not last.

    Raises:
        BadInput: naming it as the value of `field`.
    """
    if "memory://" in folder:
        raise BadInput(field, folder, "is lost when the process ends; name a folder or another URL")
    if not is_url(folder):
        path = local_path(field, folder)
        if path.exists() and not path.is_dir():
            raise BadInput(field, folder, "is a file; name a folder")
        return
    with suppress(OSError):  # a file system that does not answer now is reported when it is used
        RemoteFolder(folder, field)


class RemoteFolder:
    """One folder behind a URL."""

    def __init__(self, url: str, field: str = "path") -> None:
        """Open the file system of a URL, without accessing the folder itself; errors call the URL `field`.

        Raises:
            BadInput: if the protocol is unknown, or its package is not installed.
            OSError: if the file system cannot be opened.
        """
        from fsspec.core import url_to_fs  # noqa: PLC0415 - takes 0.1 s; local runs do not need it

        try:
            self._system, root = url_to_fs(url)
        except ImportError as error:
            raise BadInput(field, url, _missing_package(error)) from error
        except ValueError as error:
            raise BadInput(field, url, f"cannot be opened ({error})") from error
        except Exception as error:
            raise _as_os_error(error) from error
        self._root = root.rstrip("/")

    def names(self) -> set[str]:
        """Return the names in the folder; none if it does not exist.

        Raises:
            OSError: if the file system does not answer.
        """
        with _raise_os_errors():
            self._system.invalidate_cache()  # fsspec caches listings, but other processes write here too
            try:
                paths = self._system.ls(self._root, detail=False)
            except FileNotFoundError:
                return set()
        return {str(path).rstrip("/").rpartition("/")[2] for path in paths}

    def upload(self, source: Path) -> None:
        """Upload a local file under its own name.

        Raises:
            OSError: if that fails.
        """
        with _raise_os_errors():
            try:
                self._system.put_file(str(source), f"{self._root}/{source.name}")
            except FileNotFoundError:  # not before: in an object store, makedirs may create a bucket
                self._system.makedirs(self._root, exist_ok=True)
                self._system.put_file(str(source), f"{self._root}/{source.name}")

    def download(self, target: Path, max_bytes: int) -> None:
        """Download the file with the name of `target` to that path.

        Raises:
            OSError: if that fails, or the file holds more than `max_bytes` bytes.
        """
        with (
            _raise_os_errors(),
            self._system.open(f"{self._root}/{target.name}", "rb") as source,
            target.open("xb") as copy,
        ):
            left = max_bytes
            while piece := source.read(_PIECE_BYTES):
                left -= len(piece)
                if left < 0:
                    raise OSError(errno.EFBIG, f"larger than {max_bytes} bytes")
                copy.write(piece)

    def rename(self, name: str) -> None:
        """Give the folder another name.

        Raises:
            OSError: if that fails.
        """
        with _raise_os_errors():
            self._system.mv(self._root, f"{self._root.rpartition('/')[0]}/{name}", recursive=True)

    def delete(self, name: str) -> None:
        """Delete a file.

        Raises:
            OSError: if that fails.
        """
        with _raise_os_errors():
            self._system.rm_file(f"{self._root}/{name}")

    def delete_all(self, names: Iterable[str]) -> None:
        """Delete files in order, then the folder if it is empty.

        Raises:
            OSError: if a file cannot be deleted.
        """
        for name in names:
            self.delete(name)
        with suppress(Exception):  # object stores have no folders
            self._system.rmdir(self._root)


@contextmanager
def _raise_os_errors() -> Iterator[None]:
    """Turn any error of a file system into an OSError with a message of one line."""
    try:
        yield
    except Exception as error:
        raise _as_os_error(error) from error


def _as_os_error(error: Exception) -> OSError:
    number = errno.ENOENT if isinstance(error, FileNotFoundError) else getattr(error, "errno", None)
    text = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
    return OSError(number if isinstance(number, int) else errno.EIO, one_line(text, 300))


def _missing_package(error: ImportError) -> str:
    """Return which package to install; fsspec gives its name in the cause of the error."""
    cause: BaseException | None = error
    while cause is not None and not getattr(cause, "name", None):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return f"cannot be opened ({error})"
    package = str(getattr(cause, "name", "")).partition(".")[0]
    return f"needs the package {package}, which is not installed; install it with: pip install {package}"
