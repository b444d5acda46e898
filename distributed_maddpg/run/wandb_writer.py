"""Writes a run to Weights & Biases, whose package is an extra."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput, one_line, reason
from distributed_maddpg.files import parse_json, read_small, write_atomic
from distributed_maddpg.metrics import flatten
from distributed_maddpg.run.tables import finite_numbers

OPTION, NONE = "--wandb", "none"
_RECORD = "wandb.json"
_MAX_BYTES = 2**16
_FINISH_S = 120.0
"""How long the end of a run waits for uploads; W&B by default waits without end."""
_NOT_IN_SUMMARY = {"files", "measures", "wandb"}
_LOG = logging.getLogger("distributed_maddpg")


def check_installed(project: str) -> None:
    """Refuse a project if W&B's package is missing.

    Raises:
        BadInput: saying how to install it.
    """
    found = importlib.util.find_spec("wandb")
    if found is None or found.origin is None:  # W&B names its folder of runs like its package
        remedy = "needs the package wandb: pip install 'distributed-maddpg[wandb]'"
        raise BadInput(OPTION, project, f"{remedy}; or leave the option out ({NONE} for a run that used it)")


def recorded_project(folder: Path) -> str:
    """Return the project that a run's folder says it is written to; empty if to none."""
    return _read_record(folder).get("project", "")


class WandbWriter:
    """A run of W&B; it begins with the writer.

    Whatever W&B raises later is logged once, and nothing more is written: training goes on.
    """

    def __init__(self, folder: Path, project: str, resumed: bool, seed: int | None = None) -> None:
        """Begin a run of W&B, or continue the one that the folder names.

        Entity, group, name, tags and mode are W&B's own environment variables. Without them the name is the
        folder's, and several seeds are a group, named as the folder around them.

        Args:
            folder: of the run, which gets `wandb.json` with the id.
            project: of W&B.
            resumed: whether the run continues from a checkpoint.
            seed: of one of several runs.

        Raises:
            BadInput: if it cannot begin, as without a login.
        """
        check_installed(project)
        import wandb  # noqa: PLC0415 - an extra, and it takes a second

        self._failed = False
        self.problem = ""
        """Why nothing more is written; empty if all was."""
        self._finished = False
        record = _read_record(folder)
        own_id = record["id"] if resumed and record.get("project") == project else None
        if seed is not None and os.environ.get("WANDB_RUN_ID"):
            remedy = "is the id of one run; unset it with several seeds"
            raise BadInput("WANDB_RUN_ID", os.environ["WANDB_RUN_ID"], remedy)
        try:
            self._run: Any = wandb.init(
                project=project,
                id=own_id,
                resume="allow",
                name=_name(folder, seed),
                group=_group(folder, seed),
                dir=os.environ.get("WANDB_DIR") or str(folder.resolve()),
                reinit="create_new",  # a user's own run in this process stays as it is
                settings=wandb.Settings(console="off", finish_timeout=_FINISH_S, finish_timeout_raises=True),
            )
            self._run.define_metric("env_steps")
            self._run.define_metric("*", step_metric="env_steps")
        except Exception as error:
            remedy = "log in with `wandb login`, or write to the run's folder with WANDB_MODE=offline"
            raise BadInput(OPTION, project, f"W&B cannot start ({reason(error)}); {remedy}") from error
        write_atomic(folder / _RECORD, json.dumps({"project": project, "id": self._run.id}) + "\n")

    def add_settings(self, config: MADDPGConfig) -> None:
        """Write the settings as the run's config."""
        self._try(lambda: self._run.config.update(config.to_dict(), allow_val_change=True))

    def add(self, result: Mapping[str, Any], env_steps: int) -> None:
        """Log all finite numbers of a nested result."""
        self._try(lambda: self._run.log({**finite_numbers(result), "env_steps": env_steps}))

    def add_summary(self, summary: Mapping[str, Any]) -> dict[str, str]:
        """Write a run's summary; return where the run is, for that summary itself."""
        own = {name: value for name, value in summary.items() if name not in _NOT_IN_SUMMARY}
        self._try(lambda: self._run.summary.update(flatten(own)))
        self._finished = True
        where = {"project": self._run.project, "id": self._run.id, "folder": str(Path(self._run.dir).parent)}
        return {**where, "problem": self.problem} if self.problem else where

    def close(self) -> None:
        """End the run of W&B, as failed if it got no summary; uploads have two minutes."""
        self._try(lambda: self._run.finish(exit_code=0 if self._finished else 1))

    def _try(self, write: Callable[[], object]) -> None:
        if self.problem:
            return
        try:
            write()
        except Exception as error:  # noqa: BLE001 - W&B raises many kinds; none may end the training
            where = f"`wandb sync {Path(self._run.dir).parent}` uploads what it has"
            self.problem = one_line(f"W&B takes no more of this run ({reason(error)}); {where}")
            _LOG.warning("%s", self.problem)


def _name(folder: Path, seed: int | None) -> str:
    given = os.environ.get("WANDB_NAME")
    if given:
        return given if seed is None else f"{given} seed {seed}"
    return folder.resolve().name


def _group(folder: Path, seed: int | None) -> str | None:
    return None if seed is None or os.environ.get("WANDB_RUN_GROUP") else folder.resolve().parent.name


def _read_record(folder: Path) -> dict[str, str]:
    """Return project and id of the run of W&B in a folder; empty if it has none that can be read."""
    try:
        values = parse_json(read_small(folder / _RECORD, _MAX_BYTES))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        _LOG.warning("%s: cannot be read (%s); a new run of W&B begins", folder / _RECORD, error)
        return {}
    names = ("project", "id")
    if isinstance(values, dict) and all(isinstance(values.get(name), str) for name in names):
        return {name: values[name] for name in names}
    return {}
