"""What a run reports: accumulation over an iteration, result keys, and the files they go to (floor F3).

Keys follow RLlib, so that dashboards and Tune metrics carry over; docs/metrics.md explains each.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import logging
import math
import os
import secrets
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from distributed_maddpg.types import Arrays, EnvSpec, EpisodeReport, LearnerReport, RolloutReport, taken

FloatVector = npt.NDArray[np.float64]
_WINDOW_EPISODES = 1000
"""Training returns are means over at most so many of the newest episodes, as RLlib smooths its own."""
_ROLLOUT_TIMERS = ("busy_s", "blocked_push_s", "blocked_weights_s", "blocked_pacing_s")
_LEARNER_TIMERS = ("busy_s", "blocked_replay_s", "blocked_pacing_s")
_LOG = logging.getLogger("distributed_maddpg")


@dataclass
class IterationLog:
    """Collects what the stages report between two results of `train()`."""

    spec: EnvSpec
    num_workers: int
    episodes_total: int = 0
    quarantined_total: int = 0
    _episodes: deque[EpisodeReport] = field(default_factory=deque)
    _window: int = 0
    _rollout_s: FloatVector = field(default_factory=lambda: np.zeros(len(_ROLLOUT_TIMERS)))
    _learner_s: FloatVector = field(default_factory=lambda: np.zeros(len(_LEARNER_TIMERS)))
    _behind: list[tuple[int, int]] = field(default_factory=list)

    def add_rollout(self, report: RolloutReport, latest_version: int) -> None:
        """Note a worker's fragment, collected while the newest weights were `latest_version`."""
        self._rollout_s += [getattr(report, name) for name in _ROLLOUT_TIMERS]
        self.quarantined_total += len(report.quarantined)
        for line in report.quarantined:
            _LOG.warning("rollout worker %d: %s", report.worker, line)
        self.episodes_total += len(report.episodes.lengths)
        self._behind.append((report.worker, max(0, latest_version - report.weights_version)))
        if len(report.episodes.lengths):
            self._episodes.append(report.episodes)
            self._window += len(report.episodes.lengths)
            while self._window - len(self._episodes[0].lengths) >= _WINDOW_EPISODES:
                self._window -= len(self._episodes.popleft().lengths)

    def add_learner(self, report: LearnerReport) -> None:
        """Note a call of the learner."""
        self._learner_s += [getattr(report, name) for name in _LEARNER_TIMERS]

    def result(
        self, counters: Mapping[str, Any], learner: Mapping[str, npt.NDArray[np.float64]]
    ) -> dict[str, Any]:
        """Return the iteration so far as a nested result."""
        agents = self.spec.agents
        episodes = EpisodeReport.concatenate(list(self._episodes), self.spec.num_agents)
        return {
            **counters,
            "env_runners": self._env_runners(episodes),
            "learners": {
                agent: {name: float(values[index]) for name, values in learner.items()}
                for index, agent in enumerate(agents)
            },
            "weights": self._weights(),
            "timers": self._timers(),
            "fault_tolerance": {
                **counters.get("fault_tolerance", {}),
                "num_quarantined_blocks": self.quarantined_total,
            },
        }

    def next_iteration(self) -> None:
        """Start anew what is counted per iteration."""
        self._rollout_s[:], self._learner_s[:], self._behind = 0.0, 0.0, []

    def get_state(self) -> Arrays:
        """Return the iteration so far and the window of episodes."""
        episodes = EpisodeReport.concatenate(list(self._episodes), self.spec.num_agents)
        return {
            "totals": np.array((self.episodes_total, self.quarantined_total), np.int64),
            "rollout_s": self._rollout_s.copy(),
            "learner_s": self._learner_s.copy(),
            "behind": np.array(self._behind, np.int64).reshape(-1, 2),
            "reports": np.array([len(report.lengths) for report in self._episodes], np.int64),
            "returns": episodes.returns,
            "lengths": episodes.lengths,
            "final_distances": episodes.final_distances,
        }

    def set_state(self, state: Arrays) -> None:
        """Go on from what `get_state` returned.

        Raises:
            ValueError: if it does not fit.
        """
        agents = self.spec.num_agents
        reports, totals = taken(state, "reports", (None,), np.int64), taken(state, "totals", (2,), np.int64)
        behind = taken(state, "behind", (None, 2), np.int64)
        known = len(state.get("lengths", ()))
        if (reports < 1).any() or (reports > known).any() or (totals < 0).any() or (behind < 0).any():
            raise ValueError("reports, totals or behind hold numbers that count nothing")
        ends = np.cumsum(reports)
        episodes = int(ends[-1]) if len(ends) else 0
        returns = taken(state, "returns", (episodes, agents), np.float64)
        lengths = taken(state, "lengths", (episodes,), np.int64)
        if (lengths < 1).any():
            raise ValueError("lengths holds numbers that no episode has")
        distances = taken(state, "final_distances", (episodes, agents, None), np.float32)
        columns = (np.split(array, ends[:-1]) for array in (returns, lengths, distances))
        self._episodes = deque(map(EpisodeReport, *columns)) if len(ends) else deque()
        self._window = episodes
        self.episodes_total, self.quarantined_total = totals.tolist()
        self._rollout_s = taken(state, "rollout_s", self._rollout_s.shape, np.float64)
        self._learner_s = taken(state, "learner_s", self._learner_s.shape, np.float64)
        self._behind = [(worker, lag) for worker, lag in behind.tolist()]

    def _env_runners(self, episodes: EpisodeReport) -> dict[str, Any]:
        returns = episodes.returns
        known = len(returns) > 0
        means = returns.mean(axis=0) if known else np.full(self.spec.num_agents, math.nan)
        totals = returns.sum(axis=1) if known else np.array([math.nan])
        return {
            "episode_return_mean": float(totals.mean()),
            "episode_return_min": float(totals.min()),
            "episode_return_max": float(totals.max()),
            "episode_len_mean": float(episodes.lengths.mean()) if known else math.nan,
            "agent_episode_returns_mean": dict(zip(self.spec.agents, means.tolist(), strict=True)),
            "num_episodes_lifetime": self.episodes_total,
        }

    def _weights(self) -> dict[str, Any]:
        everyone = [lag for _, lag in self._behind]
        by_worker: dict[int, list[int]] = {}
        for worker, lag in self._behind:
            by_worker.setdefault(worker, []).append(lag)
        return {
            "versions_behind_mean": _mean(everyone),
            "versions_behind_max": max(everyone, default=0),
            "versions_behind": {
                f"worker_{worker}": _mean(by_worker.get(worker, []))
                for worker in range(max(1, self.num_workers))
            },
        }

    def _timers(self) -> dict[str, float]:
        """Seconds of the iteration by stage; the workers' are means over workers."""
        rollout_s = self._rollout_s / max(1, self.num_workers)
        return {
            **{f"rollout_{name}": float(s) for name, s in zip(_ROLLOUT_TIMERS, rollout_s, strict=True)},
            **{f"learner_{name}": float(s) for name, s in zip(_LEARNER_TIMERS, self._learner_s, strict=True)},
        }


def _mean(values: list[int]) -> float:
    return float(np.mean(values)) if values else 0.0


def flatten(result: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested result with joined keys, as in `env_runners/episode_return_mean`."""
    flat: dict[str, Any] = {}
    for key, value in result.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}/"))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def digest(*arrays: npt.NDArray[Any]) -> str:
    """Return the SHA-256 of the arrays' bytes: equal digests mean bit-identical numbers."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


class CSVTable:
    """A CSV file whose columns are fixed by its first row; every row is in the file when `add` returns."""

    def __init__(self, path: Path, text: str | None = None) -> None:
        """Continue `path` under its own header where it exists, else create it at the first row.

        Args:
            path: the file.
            text: what it held when a checkpoint was made, which takes the place of what it holds now; empty
                where it did not exist.

        Raises:
            OSError: if that text cannot be written, or does not begin with a header.
        """
        self._path = path
        if text:
            write_aside(path, text)
        elif text is not None:
            path.unlink(missing_ok=True)
        self._file: BinaryIO | None = None
        self._size = _whole_lines(path)
        self._unwritten = ""
        self._columns: list[str] = []
        if self._size:
            with path.open(newline="", encoding="utf-8", errors="replace") as file:
                try:
                    self._columns = next(csv.reader(file), [])
                except csv.Error as error:
                    raise OSError(errno.EBADMSG, f"{path.name} has no header: {error}") from None

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one row; a column the first row did not have is left out.

        Raises:
            OSError: if the row cannot be written now; it is kept, and written before the next one.
        """
        if not self._columns:
            self._columns = list(row)
            self._unwritten += _csv_line(self._columns)
        self._unwritten += _csv_line([row.get(column, "") for column in self._columns])
        self.flush()

    def flush(self) -> None:
        """Write the rows that could not be written before.

        Raises:
            OSError: if they still cannot.
        """
        if not self._unwritten:
            return
        if self._file is None:
            self._file = self._path.open("ab", buffering=0)
        data = self._unwritten.encode()
        try:
            self._file.truncate(self._size)  # of a row that was half written when the disk was full
            written = self._file.write(data)
            if written != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self._file.close()
            self._file = None
            raise
        self._size, self._unwritten = self._size + len(data), ""

    def text(self) -> str:
        """Return the whole table, rows that could not be written yet included."""
        written = self._path.read_bytes()[: self._size] if self._size else b""
        return written.decode(errors="replace") + self._unwritten

    def close(self) -> None:
        """Write what is still to be written, and close the file; OSError as `flush`."""
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None


def write_aside(path: Path, text: str) -> None:
    """Write a small file beside its name and rename it into place, so that it is never seen half."""
    draft = path.with_name(f".{path.name}.tmp")
    try:
        with draft.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave the new name with nothing in it
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _whole_lines(path: Path) -> int:
    """Return the bytes up to the end of a file's last whole line; a crash may have cut the one after."""
    return path.read_bytes().rfind(b"\n") + 1 if path.exists() else 0


def _csv_line(values: list[Any]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(values)
    return line.getvalue()


class TensorBoardWriter:
    """Writes every number of a result as a TensorBoard scalar over environment steps."""

    def __init__(self, folder: Path, env_steps: int = 0) -> None:
        """Write to a new event file in `folder`, which is created with the first result.

        Args:
            folder: where to.
            env_steps: of the checkpoint that a run continues from; TensorBoard drops what came after.
        """
        self._folder = folder
        self._continued_from = env_steps
        self._writer: Any = None

    def add(self, result: Mapping[str, Any], env_steps: int) -> None:
        """Write all finite numbers of a nested result.

        Raises:
            OSError: if they cannot be written; the next result goes to another file.
        """
        # Imported here because it costs a second that --help and --version should not pay.
        from tensorboardX.proto.event_pb2 import Event, SessionLog  # noqa: PLC0415
        from tensorboardX.proto.summary_pb2 import Summary  # noqa: PLC0415

        numbers = [
            Summary.Value(tag=key, simple_value=value)
            for key, value in flatten(result).items()
            if isinstance(value, int | float) and math.isfinite(value)
        ]
        try:
            if self._writer is None:
                self._writer = self._open()
                began = SessionLog(status=SessionLog.START)
                self._write(Event(wall_time=time.time(), step=self._continued_from + 1, session_log=began))
            self._write(Event(wall_time=time.time(), step=env_steps, summary=Summary(value=numbers)))
        except OSError:
            self._writer, self._continued_from = None, env_steps  # a cut record hides all that follow it
            raise

    def _open(self) -> Any:
        # Not SummaryWriter: its thread dies of a full disk, and then whoever adds waits for ever.
        from tensorboardX.event_file_writer import EventsWriter  # noqa: PLC0415

        self._folder.mkdir(parents=True, exist_ok=True)
        return EventsWriter(str(self._folder / "events"), f".{secrets.token_hex(4)}")

    def _write(self, event: Any) -> None:
        self._writer.write_event(event)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
