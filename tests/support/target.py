"""A parallel environment with a known best policy, which a few seconds of training must find.

By name: `tests.support.target:parallel_env`.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from pettingzoo import ParallelEnv

from distributed_maddpg.config import MADDPGConfig

IDLE_RETURN = -3 * 0.6**2 / 12
"""Expected return of an agent whose action is always 0.5: minus the variance of x, three times."""
_WIDTHS = {"even_0": 1, "odd_0": 2}


class TargetEnv(ParallelEnv):
    """Each agent sees fresh numbers x in [0.2, 0.8] and earns minus the mean square of (action - (1 - x)).

    The best return is 0, reached by action = 1 - x; the best constant action, 0.5, gives -0.03 a step and so
    `IDLE_RETURN` an episode. Agents differ in width: even_0 has one number, odd_0 two. Episodes are truncated
    after three steps.

    Args:
        max_cycles: steps of an episode.
        pause_s: what a step takes besides; a run that is only to be there then leaves the cores to others.
    """

    metadata: dict[str, Any] = {"name": "target", "render_modes": []}  # noqa: RUF012 - PettingZoo's own form
    render_mode = None

    def __init__(self, max_cycles: int = 3, pause_s: float = 0.0) -> None:
        self.possible_agents = list(_WIDTHS)
        self.agents: list[str] = []
        self.max_cycles, self.pause_s, self.t = max_cycles, pause_s, 0
        self._rng = np.random.default_rng(0)
        self._seen: dict[str, Any] = {}

    def observation_space(self, agent: str) -> Any:
        return Box(0.0, 1.0, (_WIDTHS[agent],), np.float32)

    def action_space(self, agent: str) -> Any:
        return Box(0.0, 1.0, (_WIDTHS[agent],), np.float32)

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        self._rng = np.random.default_rng(seed)
        self.t, self.agents = 0, list(self.possible_agents)
        return self._look(), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> tuple[Any, Any, Any, Any, Any]:
        time.sleep(self.pause_s)
        agents = self.possible_agents
        rewards = {
            agent: -float(np.mean((actions[agent] - (1.0 - self._seen[agent])) ** 2)) for agent in agents
        }
        self.t += 1
        ended = self.t >= self.max_cycles
        if ended:
            self.agents = []
        infos: dict[str, Any] = {agent: {} for agent in agents}
        return self._look(), rewards, dict.fromkeys(agents, False), dict.fromkeys(agents, ended), infos

    def close(self) -> None:
        pass

    def _look(self) -> dict[str, Any]:
        self._seen = {
            agent: self._rng.uniform(0.2, 0.8, width).astype(np.float32) for agent, width in _WIDTHS.items()
        }
        return self._seen


def parallel_env(**kwargs: Any) -> TargetEnv:
    """Make a TargetEnv, as an environment's module does."""
    return TargetEnv(**kwargs)


CALM = {"kwargs": {"pause_s": 0.001}}
"""Settings of an environment that leaves the cores to others: about a thousand env steps/s and worker."""


SHORT_RUN: dict[str, Any] = {
    "rollout": {"num_envs": 4},
    "learner": {"batch_size": 16},
    "pacing": {
        "total_env_steps": 320,
        "learning_starts": 160,
        "env_steps_per_update": 16,
        "report_interval_env_steps": 160,
        "checkpoint_interval_env_steps": 160,
    },
    "evaluation": {"episodes": 2, "final_episodes": 2},
}
"""Settings of a run of two reports, with a checkpoint after each."""


def target_config(**changes: Any) -> MADDPGConfig:
    """Return settings that solve TargetEnv in about two seconds; `changes` are laid over them."""
    base = MADDPGConfig.from_dict(
        {
            "num_workers": 0,
            "env": {"id": "tests.support.target:parallel_env", "kwargs": {}},
            "rollout": {"num_envs": 8, "fragment_steps": 4},
            "algorithm": {
                "policy_head": "sigmoid",
                "policy_hidden_sizes": [32],
                "critic_hidden_sizes": [32, 32],
                "actor_lr": 0.003,
                "critic_lr": 0.003,
                "tau": 0.02,
                "max_grad_norm": 0.0,
                "gamma": 0.5,
                "regulariser_weight": 0.0,
            },
            "exploration": {"kind": "gaussian", "start": 0.5, "end": 0.2, "decay_env_steps": 4_000},
            "replay": {"capacity": 10_000},
            "learner": {"batch_size": 128, "device": "cpu"},
            "pacing": {
                "total_env_steps": 6_400,
                "learning_starts": 320,
                "env_steps_per_update": 8,
                "report_interval_env_steps": 1_600,
                "evaluation_interval_env_steps": 0,
                "checkpoint_interval_env_steps": 0,
            },
            "evaluation": {"episodes": 20, "final_episodes": 20},
        },
        MADDPGConfig.preset("default"),
    )
    return MADDPGConfig.from_dict(changes, base)
