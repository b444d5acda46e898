"""The manifest of a checkpoint: what it must hold, and how it is checked."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata
from typing import Any, NamedTuple

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import CheckpointUnavailable, one_line
from distributed_maddpg.files import parse_json

FORMAT_VERSION = 3


MANIFEST, STATE, REPLAY = "manifest.json", "state.safetensors", "replay.safetensors"


TABLES = ("metrics.csv", "returns.csv")


FILES = (STATE, REPLAY, *TABLES)


ALL_FILES = {MANIFEST, *FILES}


_PACKAGES = ("distributed-maddpg", "torch", "ray", "numpy", "mpe2", "pettingzoo")


_SECTIONS = {"format_version", "config", "agents", "counters", "replay", "files", "packages"}


MAX_MANIFEST_BYTES = 2**18


MAX_BYTES = {STATE: 4 * 2**30, REPLAY: 2**63, **dict.fromkeys(TABLES, 256 * 2**20)}
"""The replay buffer may be as large as it is: its rows never lie in memory together."""


class FileEntry(NamedTuple):
    """What the manifest says of another file."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Manifest:
    """A manifest whose every part has been checked."""

    config: MADDPGConfig
    agents: tuple[str, ...]
    env_steps: int
    updates: int
    replay: tuple[int, int] | None
    """(inserted, num_rows)."""
    files: dict[str, FileEntry]


def parse_manifest(data: bytes) -> Manifest:
    """Parse a manifest and check every part.

    Raises:
        ValueError: saying what is wrong.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise ValueError(f"larger than {MAX_MANIFEST_BYTES} bytes")
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
    return Manifest(
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


def _checked_files(values: dict[str, Any], with_replay: bool) -> dict[str, FileEntry]:
    """Return the entries of all files; only names of our own are ever opened."""
    needed = {STATE, REPLAY} if with_replay else {STATE}
    if not needed <= values.keys() <= needed | set(TABLES):
        raise ValueError(
            f"files must be {', '.join(sorted(needed))} and tables, not {_short(sorted(values))}"
        )
    files = {}
    for name, entry in values.items():
        _require_keys(name, entry, {"sha256", "size_bytes"})
        [sha256] = _require_texts(name, [entry["sha256"]])
        files[name] = FileEntry(sha256, _count(entry["size_bytes"]))
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


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # run from a source folder, or a learner's machine without Ray
    return versions
