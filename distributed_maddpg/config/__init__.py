"""Every setting, once: its default, type, help text and check; the presets; TOML files."""

from distributed_maddpg.config.sections import (
    AlgorithmConfig,
    EnvArgument,
    EnvConfig,
    EvaluationConfig,
    ExplorationConfig,
    Head,
    LearnerConfig,
    PacingConfig,
    RayConfig,
    ReplayConfig,
    RolloutConfig,
)
from distributed_maddpg.config.settings import MADDPGConfig

__all__ = [
    "AlgorithmConfig",
    "EnvArgument",
    "EnvConfig",
    "EvaluationConfig",
    "ExplorationConfig",
    "Head",
    "LearnerConfig",
    "MADDPGConfig",
    "PacingConfig",
    "RayConfig",
    "ReplayConfig",
    "RolloutConfig",
]
