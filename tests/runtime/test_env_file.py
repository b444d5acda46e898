"""An environment in a file is found by its relative path in the processes of a Ray cluster."""

from __future__ import annotations

import pytest

from distributed_maddpg.envs import make_vector_env

ray = pytest.importorskip("ray")

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def _agents(env_id: str) -> tuple[str, ...]:
    return make_vector_env(env_id, 1, 0, num_agents=3).agents


@pytest.mark.parametrize("path", ["tests/support/counting.py", "./tests/support/counting.py:CountingEnv"])
def test_a_relative_path_is_one_from_the_drivers_working_directory(path: str) -> None:
    found = ray.get(ray.remote(_agents).remote(path), timeout=120)
    assert found == _agents(path) == ("counter_0", "counter_1", "counter_2")
