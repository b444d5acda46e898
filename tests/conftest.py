"""Shared by all tests: no token files in the developer's home, and one small Ray cluster per session."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # loopback only; must come before Ray is imported
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault(
    "RAY_worker_niceness", "0"
)  # at Ray's 15, starting processes takes ages on a busy machine


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Start Ray once for all tests that need it; it takes four seconds."""
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=256 * 2**20,
    )
    yield
    ray.shutdown()
