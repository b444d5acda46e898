"""Training in a notebook: one call that shows its progress in the cell and returns the run.

```python
from distributed_maddpg import notebook

run = notebook.train("default", num_workers=0, pacing={"total_env_steps": 200_000})
run  # as the last line of a cell: its summary, curves and replay
```

Interrupting the cell (■) ends the run with a checkpoint; `run.resume()` goes on from it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distributed_maddpg.checkpoint.folder import Checkpoint, load_checkpoint
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.config.sections import require
from distributed_maddpg.envs import EnvFactory
from distributed_maddpg.errors import BadInput, CheckpointError
from distributed_maddpg.files import local_path, read_small
from distributed_maddpg.layouts import is_loaded
from distributed_maddpg.preflight import (
    check_environment_allowed,
    check_networks_allowed,
    checkpoint_settings,
)
from distributed_maddpg.report.page import report_html
from distributed_maddpg.run.cell_view import progress_here
from distributed_maddpg.run.endings import EndingOptions
from distributed_maddpg.run.folder import checkpoints_folder, newest_checkpoint, read_checkpoint_record
from distributed_maddpg.run.goals import parse_goals
from distributed_maddpg.run.resume import checkpoints_to_resume
from distributed_maddpg.run.status import run_status
from distributed_maddpg.run.status_text import status_rows
from distributed_maddpg.run.training import RunOptions, default_run_dir, train_run
from distributed_maddpg.trainer import MADDPG

_MAX_SUMMARY_BYTES = 2**20
_HEIGHT_PX = 900


def train(
    settings: str | MADDPGConfig = "default",
    *,
    env: EnvFactory | Mapping[str, Any] | None = None,
    run_dir: str | Path = "",
    options: RunOptions | None = None,
    **changes: Any,
) -> Run:
    """Train a new run, show its progress in the cell, and return it, also if the cell is interrupted.

    The first interrupt ends the run with a checkpoint, as the command `train` does with Ctrl-C; a second one
    ends it at once and raises KeyboardInterrupt, after which `latest()` returns the run.

    Args:
        settings: name of a preset, or all settings.
        env: settings of the environment, such as `{"id": "simple_tag"}`; or a callable that makes one
            PettingZoo parallel environment.
        run_dir: folder of the run; default: `runs/<preset>-<date>-<time>`.
        options: how it is saved, and when it ends early.
        **changes: of the settings, by section: `num_workers=0, pacing={"total_env_steps": 200_000}`.

    Raises:
        BadInput: before anything is started.
        TrainingError: if a stage fails; `Run(run_dir).resume()` goes on from the newest checkpoint.
    """
    require(
        isinstance(settings, str | MADDPGConfig), "settings", settings, "must be a preset or MADDPGConfig"
    )
    require(isinstance(options, RunOptions | None), "options", options, "must be RunOptions")
    base = MADDPGConfig.preset(settings) if isinstance(settings, str) else settings
    name = settings if isinstance(settings, str) else "notebook"
    factory, changes = _split_env(env, changes)
    run = Run(run_dir or _unused(default_run_dir(name)), factory)
    run._train(MADDPGConfig.from_dict(changes, base), None, options or RunOptions())
    return run


def latest() -> Run:
    """Return the run that this kernel trained last, also if its cell was interrupted twice.

    Raises:
        BadInput: if it has not trained any.
    """
    if not _LATEST:
        raise BadInput("run", None, "none was trained in this kernel; open one with Run(folder)")
    return _LATEST[-1]


_LATEST: list[Run] = []


class Run:
    """A run in its folder, which a notebook shows as its page: summary, curves and replay.

    Also opens a run that was trained elsewhere: `Run("runs/default-20260101-120000")`.
    """

    def __init__(self, path: str | Path, env: EnvFactory | None = None) -> None:
        """Open the folder of a run; nothing is read yet.

        Args:
            path: the folder.
            env: makes the environment, if training was given a callable.
        """
        self.path = local_path("path", path)
        self._env = env
        self._trained_env = ""
        self._algo: MADDPG | None = None
        self._algo_of: str | Path = ""

    @property
    def summary(self) -> dict[str, Any]:
        """What `summary.json` says: how the run ended, and its evaluation; empty before its end."""
        try:
            summary: dict[str, Any] = json.loads(read_small(self.path / "summary.json", _MAX_SUMMARY_BYTES))
        except FileNotFoundError:
            return {}
        return summary

    @property
    def status(self) -> dict[str, Any]:
        """How the run is doing, as `distributed-maddpg status --json` says."""
        return run_status(self.path)

    @property
    def algo(self) -> MADDPG:
        """The newest checkpoint as a `MADDPG`: to act, to evaluate, or to train on outside of this folder."""
        newest = newest_checkpoint(self.path)
        if self._algo is None or newest != self._algo_of:
            self.stop()
            checkpoint = load_checkpoint(newest)
            self._check_allowed(checkpoint)
            self._algo, self._algo_of = MADDPG.from_loaded_checkpoint(checkpoint, env=self._env), newest
        return self._algo

    def evaluate(self, num_episodes: int = 100, seed: int | None = None) -> dict[str, Any]:
        """Play greedy episodes with the policies of the newest checkpoint; return plain numbers."""
        return self.algo.evaluate(num_episodes, seed)

    def resume(self, *, env: EnvFactory | None = None, env_id: str = "", **changes: Any) -> Run:
        """Go on from the newest checkpoint, show progress in the cell, and return the run.

        Args:
            env: makes the environment, if training was given a callable and this is another kernel.
            env_id: confirms an environment of one's own, in another kernel.
            **changes: of the settings, by section: `pacing={"total_env_steps": 400_000}` trains for longer.

        Raises:
            CheckpointError: if there is no checkpoint to go on from.
            BadInput, TrainingError: as `train` does.
        """
        self.stop()
        self._env, self._trained_env = env or self._env, env_id or self._trained_env
        record = read_checkpoint_record(self.path)
        [checkpoint] = checkpoints_to_resume([checkpoints_folder(self.path)], False, lambda _: None)
        self._check_allowed(checkpoint)
        config = MADDPGConfig.from_dict(changes, checkpoint_settings(checkpoint))
        ending = EndingOptions(parse_goals(record.stop_at))
        self._train(config, checkpoint, RunOptions(record.saving, ending))
        return self

    def stop(self) -> None:
        """End every process of this run that is left in this kernel; training goes on with `resume`."""
        if self._algo is not None:
            self._algo.stop()
            self._algo = None

    def _train(self, config: MADDPGConfig, checkpoint: Checkpoint | None, options: RunOptions) -> None:
        _LATEST[:] = [self]
        self._trained_env = config.env.id
        options = dataclasses.replace(options, env=self._env or options.env)
        train_run(config, self.path, progress_here(), checkpoint, options)

    def _check_allowed(self, checkpoint: Checkpoint) -> None:
        networks = checkpoint.config.algorithm.networks
        confirmed = networks if is_loaded(networks) else ""  # this kernel trained with them
        check_networks_allowed(checkpoint, confirmed)
        if self._env is None:
            check_environment_allowed(checkpoint, self._trained_env, confirmed)

    def __repr__(self) -> str:
        """Return the status as rows of text, where a page cannot be shown."""
        try:
            rows = status_rows(self.status)
        except (BadInput, CheckpointError) as error:
            rows = [("problem", str(error))]
        return "\n".join(f"{name:<15} {text}" for name, text in rows)

    def _repr_html_(self) -> str | None:
        """Return the page of the run as a frame, about 2 MB with Plotly, which the notebook then holds."""
        try:
            page = report_html([self.path])
        except BadInput:
            return None  # the text says what is wrong
        # In a frame of its own the page has neither the notebook's style nor a way to its data.
        inside = page.replace("&", "&amp;").replace('"', "&quot;")
        style = f"width: 100%; height: {_HEIGHT_PX}px; border: 0; resize: vertical"
        return f'<iframe sandbox="allow-scripts" style="{style}" srcdoc="{inside}"></iframe>'


def _unused(path: Path) -> Path:
    """Return the path, or with a number if it exists: a cell may be executed twice a second."""
    numbered = (path.with_name(f"{path.name}-{number}") for number in range(2, 1_000))
    return next(each for each in (path, *numbered) if not each.exists())


def _split_env(
    env: EnvFactory | Mapping[str, Any] | None, changes: dict[str, Any]
) -> tuple[EnvFactory | None, dict[str, Any]]:
    """Return the callable that makes the environment, if it is one, and the changes with its settings."""
    if env is None or callable(env):
        return env, changes
    return None, {**changes, "env": env}
