"""Small runs in one process, which take about a second."""

from __future__ import annotations

from typing import Any

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import env_spec
from distributed_maddpg.metrics import digest
from distributed_maddpg.serial import SerialRunner

_TINY = {
    "num_workers": 0,
    "rollout": {"num_envs": 4, "fragment_steps": 2},
    "algorithm": {"policy_hidden_sizes": [8], "critic_hidden_sizes": [8], "policy_head": "auto"},
    "learner": {"batch_size": 16, "device": "cpu"},
    "replay": {"capacity": 1000},
    "pacing": {
        "total_env_steps": 240,
        "learning_starts": 40,
        "env_steps_per_update": 10,
        "publish_interval_updates": 2,
        "report_interval_env_steps": 80,
        "evaluation_interval_env_steps": 80,
    },
    "evaluation": {"episodes": 3},
}
_SIMPLE_ADVERSARY = {"N": 2, "max_cycles": 10, "continuous_actions": True}


def tiny(
    env_id: str = "simple_adversary", kwargs: dict[str, Any] | None = None, **changes: Any
) -> MADDPGConfig:
    """Return the settings of a run of 240 env steps and 21 updates, with `changes`."""
    default = _SIMPLE_ADVERSARY if env_id == "simple_adversary" else {}
    base = MADDPGConfig.from_dict({**_TINY, "env": {"id": env_id, "kwargs": kwargs or default}})
    return MADDPGConfig.from_dict(changes, base)


def start(*configs: MADDPGConfig) -> SerialRunner:
    """Return a runner of one run or of several that differ in their seed."""
    env = configs[0].env
    return SerialRunner(configs, env_spec(env.id, env.backend, env.kwargs))


def run_all(runner: SerialRunner) -> list[dict[str, Any]]:
    """Train to the end; return the results of all iterations."""
    results = []
    while not runner.pacer.finished:
        runner.run(lambda: False)
        results += runner.results()
        runner.next_iteration()
    return results


def learner_digest(runner: SerialRunner, run: int = 0) -> str:
    """Return the digest of the learner's state of a run."""
    return digest(*(array for _, array in sorted(runner.learner_state(run).items())))
