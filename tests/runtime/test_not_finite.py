"""Numbers that are not finite, in another process: the driver hears of them, and by their name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import Diverged, TrainingError

ray = pytest.importorskip("ray")
from tests.support.processes import go_on  # noqa: E402

pytestmark = pytest.mark.ray

_FAULTY = "tests.support.faulty:parallel_env"


def _faulty(settings: Callable[..., MADDPGConfig], **fault: Any) -> MADDPGConfig:
    env = {"id": _FAULTY, "kwargs": {"continuous": True, "max_cycles": 6, **fault}}
    return settings(env=env, num_workers=2)


@pytest.mark.parametrize("sync", [False, True])
def test_the_driver_counts_and_tells_what_workers_dropped(
    make_runner: Callable[..., Any], endless: Callable[..., MADDPGConfig], caplog: Any, sync: bool
) -> None:
    config = MADDPGConfig.from_dict({"sync": sync}, _faulty(endless, part="reward", at=3))
    runner = make_runner(config)
    runner.run(lambda: runner.pacer.env_steps >= 640)
    [result] = runner.results()
    while result["fault_tolerance"]["num_quarantined_blocks"] < 2:
        runner.run(lambda: False)
        [result] = runner.results()
    told = sorted(message for message in caplog.messages if "dropped" in message)
    where = "reward of counter_0 in copy 0 is nan at vector step 3"
    assert told == [f"rollout worker {index}: dropped 24 env steps: {where}" for index in range(2)]


def test_an_environment_that_stays_broken_ends_the_run(
    make_runner: Callable[..., Any], endless: Callable[..., MADDPGConfig]
) -> None:
    runner = make_runner(_faulty(endless, part="next observation", at=3, for_ever=True))
    with pytest.raises(
        TrainingError, match=r"^environment: 5 fragments in a row were not finite, the last: next "
    ):
        go_on(lambda: runner.run(lambda: False))


@pytest.mark.parametrize("sync", [False, True])
def test_a_diverged_learner_arrives_as_such_and_its_state_can_still_be_had(
    make_runner: Callable[..., Any], endless: Callable[..., MADDPGConfig], sync: bool
) -> None:
    runner = make_runner(endless(sync=sync))
    while runner.pacer.updates < 8:
        runner.run(lambda: False)

    def spoil(actor: Any) -> None:
        [update] = actor._learner._stacks
        update._config = replace(update._config, actor_lr=1e14, critic_lr=1e14)

    ray.get(runner._processes.learner.__ray_call__.remote(spoil), timeout=300)
    with pytest.raises(Diverged, match=r"^learner: \w+ of .* stopped being finite between updates \d+ and "):
        go_on(lambda: runner.run(lambda: False))
    state = runner.learner_state(0)
    assert all(np.isfinite(array).all() for array in state.values())
    assert state["updates"] == runner.pacer.updates > 0
