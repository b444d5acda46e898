"""Vector environments: many copies of one multi-agent environment stepped together."""

from distributed_maddpg.envs.base import StepResult, VectorEnv
from distributed_maddpg.envs.make import env_spec, is_builtin, make_vector_env

__all__ = ["StepResult", "VectorEnv", "env_spec", "is_builtin", "make_vector_env"]
