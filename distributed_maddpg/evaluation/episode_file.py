"""Recorded episodes as an `.npz` file, which numpy reads without this package; see docs/episodes.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from distributed_maddpg._version import __version__
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput, TrainingError
from distributed_maddpg.evaluation.recording import Recording
from distributed_maddpg.files import writable_file, written_aside
from distributed_maddpg.types import EpisodeReport

EPISODE_FILE_FORMAT = 1
_TOLERANCE = 1e-3  # of returns: float32 sums in another order


def episode_file(field: str, value: str | Path) -> Path:
    """Return the path of a new file that episodes can be written to, before any is played.

    Raises:
        BadInput: naming the file as the value of `field`, if it cannot be written, exists, or is no `.npz`.
    """
    path = writable_file(field, value)
    if path.suffix != ".npz":
        raise BadInput(field, str(path), "must end with .npz")
    if path.exists():
        raise BadInput(field, str(path), "exists; delete it, or name another file")
    return path


def check_same_episodes(recording: Recording, evaluated: EpisodeReport) -> None:
    """Check that the recorded episodes are those that were evaluated.

    Raises:
        TrainingError: if the environment played others with the same seed.
    """
    first_steps = np.cumsum(recording.lengths) - recording.lengths
    returns = np.add.reduceat(recording.rewards.astype(np.float64), first_steps)
    same = np.array_equal(recording.lengths, evaluated.lengths)
    if not same or not np.allclose(returns, evaluated.returns, _TOLERANCE, _TOLERANCE):
        raise TrainingError(
            "recording: the environment does not play the same episodes again with the same seed, so those "
            "that were evaluated cannot be recorded"
        )


def write_episodes(path: Path, recording: Recording, config: MADDPGConfig, about: dict[str, Any]) -> int:
    """Write recorded episodes atomically; return the file's size in bytes.

    Args:
        path: of the file.
        recording: the episodes.
        config: of the run that played them.
        about: what else to say in `meta`, plain values.
    """
    arrays = _arrays(recording)
    arrays["meta"] = np.array(json.dumps({**_meta(recording, config), **about}))
    with written_aside(path) as draft, draft.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return path.stat().st_size


def _arrays(recording: Recording) -> dict[str, Any]:
    lengths, agents = recording.lengths, recording.spec.agents
    first_step = np.cumsum(lengths) - lengths
    return {
        "lengths": lengths,
        "first_step": first_step,
        "first_frame": first_step + np.arange(len(lengths)),
        "rewards": recording.rewards,
        "terminated": recording.terminated,
        **{f"observations/{name}": obs for name, obs in zip(agents, recording.obs, strict=True)},
        **{f"actions/{name}": actions for name, actions in zip(agents, recording.actions, strict=True)},
        **{f"states/{name}": state for name, state in recording.states.items()},
    }


def _meta(recording: Recording, config: MADDPGConfig) -> dict[str, Any]:
    spec = recording.spec
    return {
        "format": EPISODE_FILE_FORMAT,
        "version": __version__,
        "env": {"id": config.env.id, "kwargs": dict(config.env.kwargs)},
        "agents": list(spec.agents),
        "teams": list(spec.teams),
        "action_types": list(spec.action_types),
    }
