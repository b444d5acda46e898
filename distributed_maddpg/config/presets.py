"""Named settings: the differences from the defaults in sections.py."""

from __future__ import annotations

from typing import Any

_MPE2_KWARGS = {"N": 2, "max_cycles": 25, "continuous_actions": True}
_PAPER_ENV_KWARGS = {**_MPE2_KWARGS, "squared_adversary_reward": True, "velocity_first": True}

# Result of the search in docs/learning.md.
_RECIPE: dict[str, dict[str, Any]] = {
    "rollout": {"num_envs": 32, "fragment_steps": 25},
    "algorithm": {
        "policy_head": "gumbel",
        "share_policies": True,
        "n_step": 3,
        "actor_lr": 0.003,
        "critic_lr": 0.003,
        "lr_end": 0.05,
        "regulariser_weight": 0.01,
    },
    "exploration": {"episode_offset": 1.0},
    "learner": {"batch_size": 512},
}

PRESETS: dict[str, dict[str, Any]] = {
    # The best known recipe; a run takes half a minute to two minutes on two cores.
    "default": {
        **_RECIPE,
        "algorithm": {**_RECIPE["algorithm"], "information_weight": 1.0},
        "env": {"kwargs": _MPE2_KWARGS},
        "pacing": {"env_steps_per_update": 50.0, "evaluation_interval_env_steps": 50_000},
    },
    # The paper's environment, with values averaged over the goals, and as long as --env.kwargs N 4 needs.
    "deception": {
        **_RECIPE,
        "algorithm": {**_RECIPE["algorithm"], "information_weight": 1.0, "private_values": "mean"},
        "env": {"kwargs": _PAPER_ENV_KWARGS},
        "replay": {"capacity": 3_000_000},
        "pacing": {"total_env_steps": 6_000_000, "checkpoint_interval_env_steps": 1_500_000},
    },
    # The settings of the teaching notebook: 5 000 episodes of 40 steps.
    "notebook": {
        "env": {"kwargs": {**_MPE2_KWARGS, "max_cycles": 40, "dynamic_rescaling": True}},
        "algorithm": {
            "policy_head": "sigmoid",
            "max_grad_norm": 0.0,
            "other_actions": "current",
            "regulariser": "actions",
            "random_action_rows": 0.01,
        },
        "exploration": {"kind": "epsilon", "start": 0.01, "end": 0.01},
        "rollout": {"num_envs": 50, "fragment_steps": 2},
        "replay": {"capacity": 100_000},
        "pacing": {
            "total_env_steps": 200_000,
            "learning_starts": 4_000,
            "publish_interval_updates": 1,
            "report_interval_env_steps": 4_000,
            "evaluation_interval_env_steps": 4_000,
            "checkpoint_interval_env_steps": 100_000,
        },
        "evaluation": {"episodes": 100},
    },
    # Lowe et al. 2017 with the choices of the authors' code and environment: 60 000 episodes of 25 steps.
    "paper": {
        "env": {"kwargs": _PAPER_ENV_KWARGS},
        "algorithm": {"policy_head": "gumbel", "initial_weights": "glorot", "grad_norm_of": "parameter"},
        "pacing": {"total_env_steps": 1_500_000, "learning_starts": 25_600},
    },
}
