"""Writes the policies of a run into a folder, one file an agent."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import quote

from distributed_maddpg.config.sections import require
from distributed_maddpg.errors import BadInput
from distributed_maddpg.export.checking import NUM_OBSERVATIONS, difference, expected
from distributed_maddpg.export.formats import Format, check_available, encode
from distributed_maddpg.export.policy import agent_policies
from distributed_maddpg.files import make_folder, write_atomic

if TYPE_CHECKING:
    from distributed_maddpg.trainer import MADDPG


@dataclass(frozen=True)
class ExportedPolicy:
    """The file of one agent."""

    agent: str
    path: str
    size_bytes: int
    description: dict[str, Any]
    """As in the file."""
    largest_difference: float
    """Between what this package computes and what the file gives, on random observations."""
    checked_with: str
    """What played the file."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return asdict(self)


def export_policies(algo: MADDPG, folder: str | Path, format: Format = "npz") -> list[ExportedPolicy]:
    """Write the current policy of each agent to a file of its own, and play each file before it is written.

    Args:
        algo: whose policies, such as from `MADDPG.from_checkpoint`.
        folder: for the files `<agent>.<format>`; created where it does not exist.
        format: onnx, npz or safetensors.

    Raises:
        BadInput: if the format is unknown or its packages are not installed, or if the folder cannot be
            written to or holds such a file already.
        TrainingError: if a file does not give the actions of its policy.
    """
    known = get_args(Format)
    require(format in known, "--format", format, f"must be one of {', '.join(known)}")
    check_available(format)
    policies = agent_policies(algo)
    paths = [Path(folder) / file_name(policy.agent, format) for policy in policies]
    _check_free(Path(folder), paths)
    right = expected(algo, policies, NUM_OBSERVATIONS)
    written = []
    contents = [encode(policy, format) for policy in policies]
    for policy, data, path, own in zip(policies, contents, paths, right, strict=True):
        found, player = difference(policy, data, format, own)
        written.append(ExportedPolicy(policy.agent, str(path), len(data), policy.description, found, player))
    _write(dict(zip(paths, contents, strict=True)))
    return written


def file_name(agent: str, format: Format) -> str:
    """Return the name of an agent's file; characters that a file name cannot hold are escaped as in a URL."""
    name = quote(agent, safe=" ")
    return f"{'%2E' + name[1:] if name.startswith('.') else name}.{format}"


def _check_free(folder: Path, paths: list[Path]) -> None:
    make_folder(folder, "--out")
    for path in paths:
        if path.exists() or path.is_symlink():
            raise BadInput(
                "--out", str(folder), f"holds {path.name} already; name another folder, or delete it"
            )


def _write(files: dict[Path, bytes]) -> None:
    """Write all files or none."""
    written: list[Path] = []
    for path, data in files.items():
        try:
            write_atomic(path, data)
        except OSError as error:
            for other in written:
                other.unlink(missing_ok=True)
            remedy = f"cannot be written ({error.strerror}); name another folder"
            raise BadInput("--out", str(path), remedy) from None
        written.append(path)
