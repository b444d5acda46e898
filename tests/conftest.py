"""Shared by all tests: one small Ray cluster per process, no token files in one's home, the tiers."""

from __future__ import annotations

import fcntl
import os
import random
import signal
from collections.abc import Iterator

import hypothesis
import pytest

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # loopback only; must come before Ray is imported
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
# At Ray's own 15, starting processes takes ages on a busy machine.
os.environ.setdefault("RAY_worker_niceness", "0")
if "PYTEST_XDIST_WORKER" in os.environ:  # the processes share the cores: threads only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell in a script ignores it for background jobs
    signal.signal(signal.SIGINT, signal.default_int_handler)  # else so would the runs that tests interrupt
os.environ.pop("RAY_ADDRESS", None)  # each process has a cluster of its own, whatever the shell has joined

# Chosen here, before there are several processes, so that all of them have the same.
os.environ.setdefault("KILL_SEED", str(random.SystemRandom().randrange(1, 10**6)))

hypothesis.settings.register_profile("same", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("same")


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Start Ray once in this process for all tests that need it; it takes four seconds."""
    import ray

    from distributed_maddpg.runtime.cluster import suppress_messages_of_lost_processes

    # One process after the other: Ray gives its agents 15 seconds, which several starts at once may exceed.
    with (tmp_path_factory.getbasetemp().parent / "ray.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ray.init(
            address="local",
            num_cpus=4,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=256 * 2**20,
        )
    suppress_messages_of_lost_processes()  # another test may capture what this process prints
    yield
    ray.shutdown()


def pytest_report_header() -> str:
    """Say at which random moments runs are killed; in the environment it gives the same moments again."""
    return f"KILL_SEED={os.environ['KILL_SEED']}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none, and begin with what takes longest."""
    if any(item.get_closest_marker("gpu") for item in items) and not _has_gpu():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))
    items.sort(key=lambda item: not any(map(item.get_closest_marker, ("ray", "processes"))))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
