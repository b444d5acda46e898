"""A training run as a folder: settings, curves, checkpoints, summary and report (floor F5)."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

from distributed_maddpg.checkpoint import load_checkpoint, newest_checkpoint
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput
from distributed_maddpg.metrics import CSVTable, TensorBoardWriter, flatten
from distributed_maddpg.preflight import check_machine
from distributed_maddpg.progress import Progress
from distributed_maddpg.report.animation import record_episodes, write_animation
from distributed_maddpg.report.page import write_report
from distributed_maddpg.trainer import MADDPG, train_together

_MARKER = "config.toml"
_ANIMATED_EPISODES = 6
_TOTALS = ("env_steps", "updates", "env_steps_per_s", "updates_per_s")


def default_run_dir(preset: str) -> Path:
    """Return `runs/<preset>-<date>-<time>`."""
    return Path("runs") / f"{preset}-{datetime.now():%Y%m%d-%H%M%S}"


def check_run_dir(run_dir: Path) -> None:
    """Refuse a folder that already holds a run, or that is no folder.

    Raises:
        BadInput: naming the folder and how to continue the run in it.
    """
    if run_dir.exists() and not run_dir.is_dir():
        raise BadInput("run_dir", str(run_dir), "is a file; name a folder")
    several = sorted(run_dir.glob(f"seed_*/{_MARKER}"))
    if several:
        remedy = f"already holds runs; continue one with --resume {several[0].parent}, or name another"
        raise BadInput("run_dir", str(run_dir), remedy)
    if (run_dir / _MARKER).exists():
        raise BadInput(
            "run_dir",
            str(run_dir),
            f"already holds a run; continue it with --resume {run_dir}, or name another",
        )


def resumed_config(run_dir: Path) -> MADDPGConfig:
    """Return the settings of the newest checkpoint of a run.

    Raises:
        CheckpointError: if the run has no readable checkpoint.
    """
    return load_checkpoint(newest_checkpoint(run_dir)).config


def train_run(config: MADDPGConfig, run_dir: Path, resume: bool, progress: Progress) -> dict[str, Any]:
    """Train to the end, or until interrupted, and leave a complete run folder.

    SIGINT and SIGTERM end the run within moments with a checkpoint; a second one ends it at once.

    Returns:
        The summary that is also in `summary.json`.

    Raises:
        BadInput, CheckpointError: before anything is started.
        TrainingError: if a stage fails; files written so far stay.
    """
    if resume:
        algo = MADDPG.from_checkpoint(newest_checkpoint(run_dir), config)
        check_machine(algo.config, algo.spec)
    else:
        check_run_dir(run_dir)
        algo = MADDPG(config)
    [summary] = _train([algo], [run_dir], progress)
    return summary


def train_seeds(config: MADDPGConfig, num_seeds: int, run_dir: Path, progress: Progress) -> dict[str, Any]:
    """Train runs with the seeds `config.seed` and up side by side; each gets a run folder `seed_<seed>`.

    Returns:
        The summary that is also in `summary.json`: rates over all runs, and each one's own summary.

    Raises:
        BadInput: before anything is started.
        TrainingError: if a stage fails; files written so far stay.
    """
    check_run_dir(run_dir)
    algos = MADDPG.several(config, num_seeds)
    folders = [run_dir / f"seed_{algo.config.seed}" for algo in algos]
    runs = _train(algos, folders, progress)
    summary = {
        "finished": all(run["finished"] for run in runs),
        "interrupted": any(run["interrupted"] for run in runs),
        **{name: runs[0][name] for name in ("training_s", "device", "device_reason")},
        "num_seeds": num_seeds,
        **{name: sum(run[name] for run in runs) for name in _TOTALS},
        "files": {"run_dir": str(run_dir)},
        "runs": runs,
    }
    _write_summary(run_dir, summary)
    return summary


def _train(algos: Sequence[MADDPG], folders: Sequence[Path], progress: Progress) -> list[dict[str, Any]]:
    """Train runs that advance together, each into its folder; return their summaries."""

    def request_stop() -> None:
        for algo in algos:
            algo.request_stop()

    for folder in folders:
        _create(folder)
    files = [_RunFiles(folder) for folder in folders]
    with algos[0]:  # the others end with it
        # Ray sets its own handler of SIGTERM when it starts; ours must come after it.
        with _signals(request_stop, before_start=True):
            folder = folders[0] if len(algos) == 1 else folders[0].parent
            progress.starting(algos[0].config, folder, len(algos))
            algos[0].start()
        started = _Start(time.perf_counter(), algos[0].env_steps, algos[0].updates)
        try:
            with _signals(request_stop), progress:
                _loop(algos, files, progress)
                training_s = time.perf_counter() - started.clock
                return [
                    _finish(algo, own, started, training_s) for algo, own in zip(algos, files, strict=True)
                ]
        finally:
            for own in files:
                own.close()


@dataclass(frozen=True)
class _Start:
    """Where a run, or its continuation, began."""

    clock: float
    env_steps: int
    updates: int


class _RunFiles:
    """The files of a run folder that grow while it runs."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._marked = False
        self._metrics = CSVTable(run_dir / "metrics.csv")
        self._returns = CSVTable(run_dir / "returns.csv")
        self._events = TensorBoardWriter(run_dir)

    def mark(self, config: MADDPGConfig) -> None:
        """Make the folder a run's, once; one that failed to start leaves its name free."""
        if not self._marked:
            self._marked = True
            _write(self.run_dir / _MARKER, config.to_toml())

    def add_result(self, result: dict[str, Any]) -> None:
        own = {key: value for key, value in result.items() if key != "evaluation"}
        self._events.add(own, result["num_env_steps_sampled_lifetime"])
        self._metrics.add(flatten(own))

    def add_evaluation(self, evaluation: dict[str, Any]) -> None:
        """Append the greedy returns per agent, and the success rates where the environment has them."""
        row = {
            "env_steps": evaluation["num_env_steps"],
            "updates": evaluation["num_updates"],
            "episodes": evaluation["episodes"],
            **evaluation["agent_episode_returns_mean"],
            **{f"success_{name}": rate for name, rate in evaluation.get("success", {}).items()},
        }
        self._returns.add(row)
        self._events.add({"evaluation": evaluation}, evaluation["num_env_steps"])

    def to_open(self) -> dict[str, str]:
        """Return what a person may want to open at the end, the report, which comes last, included.

        A run may be interrupted before its first result; then there is nothing to show.
        """
        tables = {"returns": self.run_dir / "returns.csv", "metrics": self.run_dir / "metrics.csv"}
        paths = {kind: str(path) for kind, path in tables.items() if path.exists()}
        return {"report": str(self.run_dir / "report.html"), **paths} if "metrics" in paths else paths

    def checkpoint_dir(self, env_steps: int) -> Path:
        return self.run_dir / "checkpoints" / f"step_{env_steps}"

    def close(self) -> None:
        self._metrics.close()
        self._returns.close()
        self._events.close()


def _create(run_dir: Path) -> None:
    try:
        (run_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput("run_dir", str(run_dir), f"cannot be created ({error.strerror})") from None
    if not os.access(run_dir, os.W_OK):
        raise BadInput("run_dir", str(run_dir), "cannot be written to; name another folder")


def _loop(algos: Sequence[MADDPG], files: Sequence[_RunFiles], progress: Progress) -> None:
    first = algos[0]
    while not (first.finished or first.stop_requested):
        results = train_together(algos)
        for algo, own, result in zip(algos, files, results, strict=True):
            own.mark(algo.config)
            own.add_result(result)
            for evaluation in algo.evaluations:
                own.add_evaluation(evaluation)
        progress.show(results[0])
        if first.checkpoint_due() and not first.finished:
            for algo, own in zip(algos, files, strict=True):
                algo.save(own.checkpoint_dir(algo.env_steps))


def _finish(algo: MADDPG, files: _RunFiles, start: _Start, training_s: float) -> dict[str, Any]:
    """Save the last checkpoint, evaluate it unless interrupted, and write summary and report."""
    files.mark(algo.config)
    checkpoint = algo.save(files.checkpoint_dir(algo.env_steps))
    summary: dict[str, Any] = {
        "finished": algo.finished,
        "interrupted": algo.stop_requested,
        "env_steps": algo.env_steps,
        "updates": algo.updates,
        "training_s": training_s,
        "env_steps_per_s": (algo.env_steps - start.env_steps) / training_s,
        "updates_per_s": (algo.updates - start.updates) / training_s,
        "weights_digest": algo.weights_digest(),
        "device": algo.device,
        "device_reason": algo.device_reason,
    }
    if not algo.stop_requested:
        card = algo.evaluate(algo.config.evaluation.final_episodes)
        files.add_evaluation({"num_env_steps": algo.env_steps, "num_updates": algo.updates, **card})
        summary["evaluation"] = card
        _animate(algo, files.run_dir / "episodes.gif")
    summary["files"] = {"run_dir": str(files.run_dir), "checkpoint": checkpoint, **files.to_open()}
    _write_summary(files.run_dir, summary)
    if "report" in summary["files"]:
        write_report(files.run_dir)
    return summary


def _write_summary(folder: Path, summary: dict[str, Any]) -> None:
    _write(folder / "summary.json", json.dumps(summary, indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.tmp")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def _animate(algo: MADDPG, path: Path) -> None:
    """Leave a moving picture of some greedy episodes, where the environment can be drawn."""
    frames = record_episodes(algo.config, algo.policy_parameters(), _ANIMATED_EPISODES, algo.config.seed)
    if frames:
        write_animation(frames, path)


@contextmanager
def _signals(request_stop: Callable[[], None], before_start: bool = False) -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into a request to stop, and the second into an immediate end.

    Before the stages are up there is nothing to save, so that the first one already ends the run.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals belong to the main thread; an embedding program keeps its own
        return
    seen = before_start

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        if seen:
            raise KeyboardInterrupt
        seen = True
        request_stop()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
