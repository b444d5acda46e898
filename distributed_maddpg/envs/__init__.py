"""Vector environments: E copies of one multi-agent environment, stepped together."""

from distributed_maddpg.envs.base import StepResult, VectorEnv
from distributed_maddpg.envs.make import (
    EnvFactory,
    action_codecs,
    env_spec,
    factory_id,
    is_builtin,
    is_compiled,
    is_factory_id,
    make_vector_env,
    parallel_env,
)

__all__ = [
    "EnvFactory",
    "StepResult",
    "VectorEnv",
    "action_codecs",
    "env_spec",
    "factory_id",
    "is_builtin",
    "is_compiled",
    "is_factory_id",
    "make_vector_env",
    "parallel_env",
]
