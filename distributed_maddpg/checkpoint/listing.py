"""The checkpoints of a run: listing, deleting and renaming them."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Literal

from distributed_maddpg.checkpoint.folder import is_checkpoint, plain_files
from distributed_maddpg.checkpoint.manifest import ALL_FILES, MANIFEST
from distributed_maddpg.checkpoint.remote import RemoteFolder, is_url
from distributed_maddpg.errors import CheckpointUnavailable

_STEP_NAME = re.compile(r"step_([0-9]{1,18})")
_BEST_NAME = re.compile(r"best_step_([0-9]{1,18})")
_DRAFT_NAME = re.compile(r"\.(.+)\.[0-9a-f]{8}\.(tmp|old)")


def checkpoints_of(folder: str | Path) -> list[str | Path]:
    """Return the checkpoints `step_<digits>` of a folder, sorted by steps, largest first.

    Their content is not read. On a disk checkpoints are written atomically, so that every such folder is one;
    behind a URL it must hold a manifest.

    Raises:
        CheckpointUnavailable: if the folder exists but cannot be listed.
        BadInput: if the URL cannot be opened.
    """
    return _sorted_by_steps(folder, _STEP_NAME)


def best_checkpoints_of(folder: str | Path) -> list[str | Path]:
    """Return the checkpoints `best_step_<digits>` of a folder, which are kept for a score.

    Sorted and with the errors of `checkpoints_of`.
    """
    return _sorted_by_steps(folder, _BEST_NAME)


def _sorted_by_steps(folder: str | Path, pattern: re.Pattern[str]) -> list[str | Path]:
    try:
        steps: dict[str | Path, int] = {}
        for name in _names(folder):
            path = _join(folder, name)
            match = pattern.fullmatch(name)
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


def _join(folder: str | Path, name: str) -> str | Path:
    return f"{str(folder).rstrip('/')}/{name}" if is_url(folder) else Path(folder) / name


def _may_be_checkpoint(path: str | Path) -> bool:
    return MANIFEST in RemoteFolder(str(path)).names() if is_url(path) else Path(path).is_dir()


def remove_old(folder: str | Path, keep: int) -> None:
    """Delete all but the `keep` newest complete checkpoints of a folder, and nothing else.

    Raises:
        ValueError: if `keep` is less than 1.
        OSError: if a checkpoint cannot be deleted.
    """
    if keep < 1:
        raise ValueError(f"keep = {keep}: the newest checkpoint is never deleted")
    found = checkpoints_of(folder)
    complete = found if is_url(folder) else [path for path in found if is_checkpoint(Path(path))]
    for path in complete[keep:]:
        remove_checkpoint(path)


def remove_checkpoint(path: str | Path) -> None:
    """Delete a checkpoint; a folder that holds anything else is left alone.

    Raises:
        OSError: if that fails.
    """
    if is_url(path):
        _remove_remote(str(path))
        return
    local = Path(path)
    if is_checkpoint(local):
        draft = local.with_name(f".{local.name}.{uuid.uuid4().hex[:8]}.tmp")
        local.rename(draft)  # so that a partly deleted one is not taken for a checkpoint
        shutil.rmtree(draft, ignore_errors=True)


def _remove_remote(url: str) -> None:
    remote = RemoteFolder(url)
    names = remote.names()
    if names <= ALL_FILES:
        remote.delete_all(sorted(names, key=lambda name: name != MANIFEST))


def remove_drafts(folder: str | Path) -> None:
    """Delete the temporary folders that interrupted processes left; no process may be writing there.

    An old checkpoint that was renamed to make room for a newer one gets its name back if that is missing.
    """
    if is_url(folder):
        with suppress(OSError):
            _remove_remote_drafts(str(folder))
        return
    for path in Path(folder).glob(".*"):
        match, names = _DRAFT_NAME.fullmatch(path.name), plain_files(path)
        if match is None or names is None or not names <= ALL_FILES:
            continue
        original = path.with_name(match[1])
        if match[2] == "old" and not original.exists() and is_checkpoint(path):
            with suppress(OSError):
                path.rename(original)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _remove_remote_drafts(folder: str) -> None:
    """Delete the files of checkpoints without a manifest, which is uploaded last and deleted first."""
    for name in RemoteFolder(folder).names():
        if not (_STEP_NAME.fullmatch(name) or _BEST_NAME.fullmatch(name)):
            continue
        remote = RemoteFolder(f"{folder.rstrip('/')}/{name}")
        names = remote.names()
        if MANIFEST not in names and names <= ALL_FILES:
            remote.delete_all(names)


def holds_checkpoints(folder: str | Path) -> bool:
    """Return whether a folder or URL holds checkpoints, including those renamed by `set_aside`.

    Raises:
        OSError: if it exists but cannot be listed.
    """
    return any(name.startswith("step_") for name in _names(folder))


def set_aside(path: str | Path, why: Literal["broken", "aside"]) -> None:
    """Rename a checkpoint to "<name>.<why>.<random>", so that it is not resumed from, replaced or deleted.

    Raises:
        OSError: if that fails.
    """
    name = f"{str(path).rstrip('/').rpartition('/')[2]}.{why}.{uuid.uuid4().hex[:8]}"
    if is_url(path):
        RemoteFolder(str(path)).rename(name)
    else:
        Path(path).rename(Path(path).with_name(name))
