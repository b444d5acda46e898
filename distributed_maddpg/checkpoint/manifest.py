"""The manifest of a checkpoint: what it must hold, and how it is checked."""

from __future__ import annotations

import functools
import platform
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.config.sections import Section
from distributed_maddpg.errors import CheckpointUnavailable, one_line
from distributed_maddpg.files import parse_json

FORMAT_VERSION = 3
MANIFEST, STATE, REPLAY = "manifest.json", "state.safetensors", "replay.safetensors"
TABLES = ("metrics.csv", "returns.csv")
FILES = (STATE, REPLAY, *TABLES)
ALL_FILES = {MANIFEST, *FILES}
MAX_MANIFEST_BYTES = 2**18
MAX_BYTES = {STATE: 4 * 2**30, REPLAY: 2**63, **dict.fromkeys(TABLES, 256 * 2**20)}
"""The replay buffer may be as large as it is: its rows never lie in memory together."""
_PACKAGES = ("distributed-maddpg", "torch", "ray", "numpy", "mpe2", "pettingzoo")


def _require_counts(**counts: int) -> None:
    for name, value in counts.items():
        if not 0 <= value < 2**63:
            raise ValueError(f"{name} must be a count, not {value}")


@dataclass(frozen=True)
class FileEntry(Section):
    """What the manifest says of another file."""

    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        """Check the size."""
        _require_counts(size_bytes=self.size_bytes)


@dataclass(frozen=True)
class Counters(Section):
    """Environment steps and updates of the run so far."""

    env_steps: int
    updates: int

    def __post_init__(self) -> None:
        """Check the counts."""
        _require_counts(env_steps=self.env_steps, updates=self.updates)


@dataclass(frozen=True)
class ReplayCounts(Section):
    """Transitions that the replay buffer held, and how many had ever been inserted."""

    inserted: int
    num_rows: int

    def __post_init__(self) -> None:
        """Check the counts."""
        _require_counts(inserted=self.inserted, num_rows=self.num_rows)
        if self.num_rows > self.inserted:
            raise ValueError(f"{self.num_rows} rows of only {self.inserted} ever inserted")


@dataclass(frozen=True)
class Manifest(Section):
    """The content of `manifest.json`."""

    format_version: int
    config: dict[str, Any]
    agents: tuple[str, ...]
    counters: Counters
    replay: ReplayCounts | None
    files: dict[str, FileEntry]
    packages: dict[str, str]

    def __post_init__(self) -> None:
        """Check the names of the files: only those of this package are ever opened."""
        needed = {STATE, REPLAY} if self.replay else {STATE}
        if not needed <= self.files.keys() <= needed | set(TABLES):
            needs = ", ".join(sorted(needed))
            raise ValueError(f"files must be {needs} and tables, not {_short(sorted(self.files))}")

    @functools.cached_property
    def settings(self) -> MADDPGConfig:
        """The run's settings.

        Raises:
            BadInput: for an unknown setting or one out of range.
            ValueError: if a section is missing, which would get its defaults silently.
        """
        settings = MADDPGConfig.from_dict(self.config)
        if missing := settings.to_dict().keys() - self.config.keys():
            raise ValueError(f"the configuration lacks {', '.join(sorted(missing))}")
        return settings


def parse_manifest(data: bytes) -> Manifest:
    """Parse a manifest and check every part.

    Raises:
        ValueError: naming the part that is wrong.
        CheckpointUnavailable: if its format is of another version.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise ValueError(f"larger than {MAX_MANIFEST_BYTES} bytes")
    try:
        values = parse_json(data)  # pydantic would take a key twice, and NaN
    except ValueError as error:
        raise ValueError(f"is not valid JSON ({error})") from None
    if not isinstance(values, dict):
        raise ValueError("does not hold a JSON object")
    version = values.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise CheckpointUnavailable(f"format version {_short(version)}, this package reads {FORMAT_VERSION}")

    from pydantic import ValidationError  # noqa: PLC0415 (as in _parser)

    try:
        manifest: Manifest = _parser().validate_json(data, strict=True)
    except ValidationError as error:
        raise ValueError(_first_problem(error)) from None
    _ = manifest.settings  # checked now, not at the first use
    return manifest


@functools.cache
def _parser() -> Any:
    # Imported here: whatever saves checkpoints loads this module, and pydantic takes 0.1 s.
    from pydantic import TypeAdapter  # noqa: PLC0415

    return TypeAdapter(Manifest)


def _first_problem(validation_error: Any) -> str:
    """Return pydantic's first error as one line: the part, what is wrong, its value."""
    problem = validation_error.errors(include_url=False)[0]
    kind, place = problem["type"], one_line(".".join(map(str, problem["loc"])), 200)
    if kind == "json_invalid":  # such as half a surrogate pair, which Python's parser takes
        return f"is not valid JSON ({problem['ctx']['error']})"
    if kind == "value_error":  # raised by a class above
        return ": ".join(filter(None, [place, str(problem["ctx"]["error"])]))
    value = "" if kind == "missing" else f", not {_short(problem['input'])}"
    return f"{place}: {problem['msg'].lower()}{value}"


def _short(value: Any) -> str:
    return one_line(repr(value), 200)


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # run from a source folder, or a learner's machine without Ray
    return versions
