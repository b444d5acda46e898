"""The manifest of a checkpoint: its parts and their checks.

Rollout workers load neither this module nor pydantic.
"""

from __future__ import annotations

import functools
import platform
from importlib import metadata
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import CheckpointUnavailable, one_line
from distributed_maddpg.files import parse_json

FORMAT_VERSION = 3
MANIFEST, STATE, REPLAY = "manifest.json", "state.safetensors", "replay.safetensors"
TABLES = ("metrics.csv", "returns.csv")
_LEARNER = "learner.safetensors"
FILES = (STATE, REPLAY, *TABLES)
ALL_FILES = {MANIFEST, *FILES}
MAX_MANIFEST_BYTES = 2**18
MAX_BYTES = {
    **dict.fromkeys((STATE, _LEARNER), 4 * 2**30),
    REPLAY: 2**63,  # of any size: its rows never lie in memory together
    **dict.fromkeys(TABLES, 256 * 2**20),
}
_PACKAGES = ("distributed-maddpg", "torch", "ray", "numpy", "mpe2", "pettingzoo")
_ACTING = {
    "seed": (),
    "env": ("id", "backend", "kwargs"),
    "rollout": ("num_envs",),
    "algorithm": ("policy_hidden_sizes", "policy_head", "temperature"),
}
"""Settings that decide actions and the result of an evaluation; a manifest must name them."""


class OlderFormat(NamedTuple):
    """Where an earlier format version keeps the policies, the only part that is read of it."""

    state_file: str
    policy: str
    """Name of their tensor [N, P]."""
    commit: str
    """The last commit of the package that writes this version and resumes training from it."""


OLDER_FORMATS = {
    1: OlderFormat(_LEARNER, "policy", "2ac9bd12f5"),
    2: OlderFormat(STATE, "learner/policy", "aa9b33d341"),
}
"""tests/checkpoint/fixtures/ has a checkpoint of each."""


Count = Annotated[int, Field(ge=0, lt=2**63)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class FileEntry(_Part):
    """Checksum and size of another file."""

    sha256: str
    size_bytes: Count


class Counters(_Part):
    """Environment steps and updates of the run so far."""

    env_steps: Count
    updates: Count


class ReplayCounts(_Part):
    """Rows that the replay buffer held, and how many had been inserted in total."""

    inserted: Count
    num_rows: Count

    @model_validator(mode="after")
    def _check(self) -> ReplayCounts:
        if self.num_rows > self.inserted:
            raise ValueError(f"{self.num_rows} rows of only {self.inserted} ever inserted")
        return self


class Measured(_Part):
    """The score for which policies are kept, see `--keep-best`."""

    name: str
    """As in an evaluation, such as "success.agents"."""
    value: Annotated[float, Field(allow_inf_nan=False)]


class Manifest(_Part):
    """The content of `manifest.json`."""

    format_version: int
    config: dict[str, Any]
    agents: tuple[str, ...]
    counters: Counters
    files: dict[str, FileEntry]
    packages: dict[str, str]
    replay: ReplayCounts | None = None
    measured: Measured | None = None

    @model_validator(mode="after")
    def _check_files(self) -> Manifest:
        """Check the file names: only names of this package are ever opened."""
        needed = {self.state_file, REPLAY} if self.replay else {self.state_file}
        if not needed <= self.files.keys() <= needed | set(TABLES):
            needs = ", ".join(sorted(needed))
            raise ValueError(f"files must be {needs} and tables, not {_short(sorted(self.files))}")
        return self

    @property
    def older(self) -> OlderFormat | None:
        """What is read of an earlier format version; None for the current one."""
        return OLDER_FORMATS.get(self.format_version)

    @property
    def state_file(self) -> str:
        """Name of the file that holds the tensors of the run's state."""
        return self.older.state_file if self.older else STATE

    @property
    def resume_problem(self) -> str:
        """Why training cannot be resumed from the checkpoint; empty if it can."""
        if self.measured is not None:
            return (
                "it holds the policies of an evaluation alone; resume from a checkpoint step_... of the run"
            )
        if self.older is None:
            return ""
        written_by = one_line(self.packages.get("distributed-maddpg", "unknown"), 40)
        return (
            f"format version {self.format_version}: its policies can be evaluated, but this version of the "
            f"package cannot resume training from it; commit {self.older.commit} can "
            f"(it was written by version {written_by})"
        )

    @functools.cached_property
    def settings(self) -> MADDPGConfig:
        """The run's settings; of an earlier format version those that decide acting, the others by default.

        Raises:
            BadInput: for an unknown setting or one out of range.
            ValueError: if a section or a setting that decides acting is missing: it gets no default.
        """
        names = (*_ACTING, "exploration") if self.older else tuple(self.config)
        values = {name: self.config[name] for name in names if name in self.config}
        settings = MADDPGConfig.from_dict(values)
        needed = set(_ACTING if self.older else settings.to_dict())
        missing = [name for name in sorted(needed) if name not in values]
        for section, fields in _ACTING.items():
            missing += [f"{section}.{name}" for name in fields if name not in values.get(section, fields)]
        if missing:
            raise ValueError(f"the configuration lacks {', '.join(missing)}")
        return settings


def parse_manifest(data: bytes) -> Manifest:
    """Parse a manifest and check every part.

    Raises:
        ValueError: naming the part that is wrong.
        CheckpointUnavailable: if its format version is a later one.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise ValueError(f"larger than {MAX_MANIFEST_BYTES} bytes")
    try:
        values = parse_json(data)  # pydantic accepts duplicate keys and NaN
    except ValueError as error:
        raise ValueError(f"is not valid JSON ({error})") from None
    if not isinstance(values, dict):
        raise ValueError("does not hold a JSON object")
    version = values.get("format_version")
    if type(version) is not int or version < 1:
        raise ValueError(f"format version {_short(version)} does not exist; the file was altered")
    if version > FORMAT_VERSION:
        raise CheckpointUnavailable(
            f"format version {_short(version)}, this package reads 1 to {FORMAT_VERSION}; "
            "upgrade distributed-maddpg"
        )

    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        raise ValueError(_first_problem(error)) from None
    _ = manifest.settings  # checked now, not at the first use
    return manifest


def _first_problem(error: ValidationError) -> str:
    """Return pydantic's first error as one line: the part, what is wrong, its value."""
    problem = error.errors(include_url=False)[0]
    kind, place = problem["type"], one_line(".".join(map(str, problem["loc"])), 200)
    if kind == "json_invalid":  # such as half a surrogate pair, which Python's parser accepts
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
            continue  # not installed: a source folder, or a machine without Ray
    return versions
