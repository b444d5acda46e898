"""The rollout worker: steps environments with the policies and packs what happened (floor F3; no torch)."""

from __future__ import annotations

import numpy as np

from distributed_maddpg.acting.joint_policy import JointPolicy
from distributed_maddpg.config import AlgorithmConfig, ExplorationConfig, MADDPGConfig
from distributed_maddpg.envs import make_vector_env
from distributed_maddpg.envs.base import VectorEnv
from distributed_maddpg.envs.episode_log import EpisodeLog
from distributed_maddpg.seeding import generator, integer_seed
from distributed_maddpg.types import EpisodeReport, FloatArray, Weights, initial_policies


class RolloutWorker:
    """E environment copies, the policies that act in them, and the noise they explore with."""

    def __init__(
        self,
        algorithm: AlgorithmConfig,
        exploration: ExplorationConfig,
        env: VectorEnv,
        rng: np.random.Generator,
    ) -> None:
        """Start all episodes of `env`; exploration draws from `rng`."""
        spec = env.spec
        self._env, self._spec = env, spec
        self._policies = JointPolicy(algorithm, spec, env.num_envs)
        self._policies.explore_with(exploration, rng)
        self._log = EpisodeLog(env.num_envs, spec.num_agents)
        self._obs = env.reset()
        self.weights_version = -1
        """Version of the weights it acts with; -1 before the first."""

    def set_weights(self, weights: Weights) -> None:
        """Act with these weights from the next step on."""
        self._policies.set_parameters(weights.policies)
        self.weights_version = weights.version

    def close(self) -> None:
        """Release the environments."""
        self._env.close()

    def collect(self, num_steps: int, env_steps: int) -> tuple[FloatArray, EpisodeReport]:
        """Step every copy `num_steps` times.

        Args:
            num_steps: T vector steps.
            env_steps: environment steps of the whole run so far, for the exploration schedule.

        Returns:
            Packed transitions `[T * E, width]` and the episodes that ended.
        """
        num_envs = self._env.num_envs
        rows = np.empty((num_steps, num_envs, self._spec.transitions.width), np.float32)
        reports = []
        for step in range(num_steps):
            report = self._step(rows[step], env_steps + step * num_envs)
            if report is not None:
                reports.append(report)
        return rows.reshape(num_steps * num_envs, -1), EpisodeReport.concatenate(
            reports, self._spec.num_agents
        )

    def _step(self, rows: FloatArray, env_steps: int) -> EpisodeReport | None:
        """Take one vector step and write its transitions into rows `[E, width]`."""
        flat_actions, env_actions = self._policies.explore(self._obs, env_steps)
        result = self._env.step(env_actions)
        layout = self._spec.transitions
        for agent, (obs, next_obs) in enumerate(zip(self._obs, result.final_obs, strict=True)):
            rows[:, layout.obs[agent]] = obs
            rows[:, layout.next_obs[agent]] = next_obs
        rows[:, layout.actions[0].start : layout.actions[-1].stop] = flat_actions
        rows[:, layout.rewards] = result.rewards
        rows[:, layout.terminated] = result.terminated
        self._obs = result.obs
        ended, report = self._log.step(result, self._env)
        if report is not None:
            self._policies.episodes_ended(ended)
        return report


def make_rollout_worker(config: MADDPGConfig, index: int) -> RolloutWorker:
    """Build worker `index` of a run; it has its own environment copies and streams, and the first weights."""
    env = make_vector_env(
        config.env.id,
        config.rollout.num_envs,
        integer_seed(config.seed, "env", index),
        backend=config.env.backend,
        **config.env.kwargs,
    )
    rng = generator(config.seed, "exploration", index)
    worker = RolloutWorker(config.algorithm, config.exploration, env, rng)
    start = initial_policies(
        env.spec, config.algorithm.policy_hidden_sizes, integer_seed(config.seed, "learner")
    )
    worker.set_weights(Weights(0, 0, start))
    return worker
