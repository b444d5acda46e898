"""Returns and lengths of running episodes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from distributed_maddpg.envs.base import StepResult, VectorEnv
from distributed_maddpg.types import Arrays, EnvSpec, EpisodeReport, checked_array


class EpisodeLog:
    """Accumulates returns and lengths of running episodes and reports those that ended."""

    def __init__(self, num_envs: int, spec: EnvSpec) -> None:
        """Start `num_envs` episodes at zero."""
        num_agents = spec.num_agents
        self._per_step = np.array([measure.per_step for measure in spec.measures], np.bool_)
        self._returns = np.zeros((num_envs, num_agents))
        self._lengths = np.zeros(num_envs, np.int64)

    def step(self, result: StepResult, env: VectorEnv) -> tuple[npt.NDArray[np.bool_], EpisodeReport | None]:
        """Add one step; return which episodes ended, `[E]`, and their report (None if none ended)."""
        self._returns += result.rewards
        self._lengths += 1
        ended = result.truncated | result.terminated.all(axis=1)
        if not ended.any():
            return ended, None
        distances = env.final_distances()
        report = EpisodeReport(
            self._returns[ended],
            self._lengths[ended],
            np.zeros((int(ended.sum()), self._returns.shape[1], 0), np.float32)
            if distances is None
            else distances[ended],
            self._measures(env, ended),
        )
        self._returns[ended] = 0.0
        self._lengths[ended] = 0
        return ended, report

    def _measures(self, env: VectorEnv, ended: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        """Return the measures `[n, K]` of the episodes that ended; sums over steps become means."""
        steps = np.where(self._per_step, self._lengths[ended][:, None], 1)
        means: npt.NDArray[np.float64] = env.final_measures()[ended] / steps
        return means

    def get_state(self) -> Arrays:
        """Return returns `[E, N]` and lengths `[E]` of the running episodes."""
        return {"returns": self._returns.copy(), "lengths": self._lengths.copy()}

    def set_state(self, state: Arrays) -> None:
        """Continue from what `get_state` returned; ValueError for a wrong shape or type."""
        self._returns = checked_array(state, "returns", self._returns.shape, np.float64)
        lengths = checked_array(state, "lengths", self._lengths.shape, np.int64)
        if (lengths < 0).any():
            raise ValueError("lengths holds negative numbers")
        self._lengths = lengths
