"""All settings with defaults, types, help texts and checks; presets; TOML files."""

from distributed_maddpg.config.sections import (
    AlgorithmConfig,
    EnvArgument,
    EnvConfig,
    EvaluationConfig,
    ExplorationConfig,
    Head,
    LearnerConfig,
    PacingConfig,
    Precision,
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
    "Precision",
    "RayConfig",
    "ReplayConfig",
    "RolloutConfig",
]
