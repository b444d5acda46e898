"""Checkpoints: a folder of plain files that appears whole or not at all (floor F3).

`manifest.json` holds format, configuration, counters and the other files' checksums; tensors are safetensors.
Nothing is pickled, so that reading a checkpoint cannot run code.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import uuid
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput, CheckpointError

FORMAT_VERSION = 1
_MANIFEST = "manifest.json"
_LEARNER = "learner.safetensors"
_PACKAGES = ("distributed-maddpg", "torch", "ray", "numpy", "mpe2", "pettingzoo")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint folder holds."""

    config: MADDPGConfig
    agents: tuple[str, ...]
    env_steps: int
    updates: int
    learner: dict[str, npt.NDArray[Any]]
    """State of the learner: weights, targets, optimisers, generator, counters."""


def save_checkpoint(folder: str | Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint folder beside its name, sync it to disk, and rename it into place.

    A checkpoint already there is replaced; anything else is not touched.

    Raises:
        BadInput: if something other than a checkpoint is at that path.
        OSError: if the disk refuses; what was there before stays untouched.
    """
    folder = Path(folder).resolve()
    if folder.exists() and not _is_checkpoint(folder):
        raise BadInput("path", str(folder), "holds something other than a checkpoint; name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    draft.mkdir()
    try:
        # safetensors stores an array's memory as it lies; without this a transposed one comes back wrong.
        arrays = {name: np.asarray(array, order="C") for name, array in checkpoint.learner.items()}
        save_file(arrays, draft / _LEARNER)
        manifest = {
            "format_version": FORMAT_VERSION,
            "config": checkpoint.config.to_dict(),
            "agents": list(checkpoint.agents),
            "counters": {"env_steps": checkpoint.env_steps, "updates": checkpoint.updates},
            "files": {_LEARNER: _describe(draft / _LEARNER)},
            "packages": _package_versions(),
        }
        (draft / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        for path in (draft / _LEARNER, draft / _MANIFEST, draft):
            _sync(path)
        _replace(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    _sync(folder.parent)
    return folder


def load_checkpoint(folder: str | Path) -> Checkpoint:
    """Read and verify a checkpoint folder.

    Raises:
        CheckpointError: if anything is missing, altered, or of another format; one line that names it.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{folder}: format version {version!r}, this package reads {FORMAT_VERSION}")
    path = folder / _LEARNER
    try:
        if _describe(path) != manifest["files"][_LEARNER]:
            raise CheckpointError(f"{path}: does not match the checksum in {_MANIFEST}; the file was altered")
        return Checkpoint(
            config=_complete(manifest["config"]),
            agents=tuple(str(name) for name in manifest["agents"]),
            env_steps=_count(manifest["counters"]["env_steps"]),
            updates=_count(manifest["counters"]["updates"]),
            learner=load_file(path),
        )
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    except (SafetensorError, BadInput, KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{folder}: {type(error).__name__} in its contents ({error})") from None


def _is_checkpoint(folder: Path) -> bool:
    """Return whether a folder holds what we write and nothing else; only such a one may be replaced."""
    return folder.is_dir() and {path.name for path in folder.iterdir()} == {_MANIFEST, _LEARNER}


def newest_checkpoint(run_dir: Path) -> Path:
    """Return the checkpoint of a run with the most environment steps.

    Raises:
        CheckpointError: if the run has none.
    """
    found = {
        int(path.name.removeprefix("step_")): path
        for path in (run_dir / "checkpoints").glob("step_*")
        if path.name.removeprefix("step_").isdigit()
    }
    if not found:
        raise CheckpointError(f"{run_dir}: holds no checkpoint to resume from")
    return found[max(found)]


def _complete(values: Any) -> MADDPGConfig:
    """Return a stored configuration; a section it lacks would silently get its default."""
    config = MADDPGConfig.from_dict(values)
    missing = set(config.to_dict()) - set(values)
    if missing:
        raise ValueError(f"the configuration lacks {', '.join(sorted(missing))}")
    return config


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{value!r} is no count")
    return value


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{folder}: is not a checkpoint, {_MANIFEST}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{folder / _MANIFEST}: is not valid JSON ({error})") from None
    if not isinstance(manifest, dict):
        raise CheckpointError(f"{folder / _MANIFEST}: does not hold a JSON object")
    return manifest


def _describe(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}


def _package_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # run from a source folder, or a learner's machine without Ray
    return versions


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(draft: Path, folder: Path) -> None:
    """Rename `draft` to `folder`; an old folder steps aside first, and comes back if that fails."""
    if not folder.exists():
        draft.rename(folder)
        return
    aside = draft.with_suffix(".old")
    folder.rename(aside)
    try:
        draft.rename(folder)
    except OSError:
        aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)
