"""Roots for the tests over Ray: small, and closed again even when a test fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.preflight import check
from tests.support.target import CALM, target_config


@pytest.fixture
def make_runner(ray_cluster: None) -> Iterator[Callable[..., Any]]:
    """Return a function that starts a RayRunner on the session's cluster."""
    from distributed_maddpg.runtime.driver import RayRunner

    runners: list[RayRunner] = []

    def make(config: MADDPGConfig) -> RayRunner:
        runner = RayRunner([config], check(config))
        runners.append(runner)
        return runner

    yield make
    for runner in runners:
        runner.close()


@pytest.fixture
def endless() -> Callable[..., MADDPGConfig]:
    """Return settings of a run that does not end by itself and is in no hurry; changes are laid over them."""

    def settings(**changes: Any) -> MADDPGConfig:
        base = target_config(
            num_workers=1,
            env=CALM,
            pacing={"total_env_steps": 10**9, "report_interval_env_steps": 64, "learning_starts": 320},
            ray={"timeout_s": 60.0},
        )
        return MADDPGConfig.from_dict(changes, base)

    return settings
