"""The checkpoints of a run: which there are, which to resume from, and which to delete."""

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


_DRAFT_NAME = re.compile(r"\.(.+)\.[0-9a-f]{8}\.(tmp|old)")


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
            path = _join(folder, name)
            match = _STEP_NAME.fullmatch(name)
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
    complete = [path for path in map(Path, checkpoints_of(folder)) if is_checkpoint(path)]
    for path in complete[keep:]:
        draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        path.rename(draft)  # at once, so that a half deleted one is never taken for a checkpoint
        shutil.rmtree(draft, ignore_errors=True)


def _remove_remote(url: str) -> None:
    remote = RemoteFolder(url)
    names = remote.names()
    if names <= ALL_FILES:
        remote.delete_all(sorted(names, key=lambda name: name != MANIFEST))


def remove_drafts(folder: str | Path) -> None:
    """Delete what interrupted writers left in a folder of checkpoints, which nobody may be writing to.

    A checkpoint that stepped aside for a newer one which then did not come gets its name back.
    """
    if is_url(folder):
        with suppress(OSError):
            _remove_remote_drafts(str(folder))
        return
    for path in Path(folder).glob(".*"):
        match, names = _DRAFT_NAME.fullmatch(path.name), plain_files(path)
        if match is None or names is None or not names <= ALL_FILES:
            continue
        home = path.with_name(match[1])
        if match[2] == "old" and not home.exists() and is_checkpoint(path):
            with suppress(OSError):
                path.rename(home)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _remove_remote_drafts(folder: str) -> None:
    """Delete files of checkpoints whose manifest, which is written last and deleted first, is not there."""
    for name in filter(_STEP_NAME.fullmatch, RemoteFolder(folder).names()):
        remote = RemoteFolder(f"{folder.rstrip('/')}/{name}")
        names = remote.names()
        if MANIFEST not in names and names <= ALL_FILES:
            remote.delete_all(names)


def holds_checkpoints(folder: str | Path) -> bool:
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
