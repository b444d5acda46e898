"""Whatever fails, the run ends soon with one line that names it, and nothing of it stays behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from distributed_maddpg import MADDPG, MADDPGConfig
from distributed_maddpg.errors import BadInput, TrainingError
from tests.envs.target import target_config

ray = pytest.importorskip("ray")
from tests.runtime.processes import gone, pid  # noqa: E402

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

_FAILING = "tests.runtime.failing:parallel_env"


def _failing(timeout_s: float = 60.0, **kwargs: Any) -> MADDPGConfig:
    return MADDPGConfig.from_dict(
        {
            "num_workers": 2,
            "env": {"id": _FAILING, "kwargs": kwargs},
            "algorithm": {"policy_head": "auto"},
            "exploration": {"kind": "auto"},
            "ray": {"timeout_s": timeout_s},
        },
        target_config(),
    )


def _until_it_fails(root: Any) -> str:
    with pytest.raises(TrainingError) as raised:
        while True:
            root.run(lambda: False)
    return str(raised.value)


def test_an_environment_that_raises_at_once_ends_the_run_in_one_line() -> None:
    with pytest.raises(TrainingError) as raised, MADDPG(_failing(fail_at=0)) as algo:
        algo.train()
    message = str(raised.value)
    assert message.startswith("rollout worker 0 died: ") and "RuntimeError: boom at step 0" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("victim", "name"),
    [("worker", "rollout worker 1"), ("learner", "learner"), ("replay", "replay buffer")],
)
def test_a_killed_process_ends_the_run_by_name(
    make_root: Callable[..., Any], endless: Callable[..., MADDPGConfig], victim: str, name: str
) -> None:
    root = make_root(endless(num_workers=2))
    processes = root._processes
    actors = {"worker": processes.workers[1], "learner": processes.learner, "replay": processes.replay}
    pids = [pid(actor) for actor in (*processes.workers, processes.learner, processes.replay)]
    root.run(lambda: False)
    os.kill(pid(actors[victim]), signal.SIGKILL)
    started = time.monotonic()
    message = _until_it_fails(root)
    assert message.startswith(f"{name} died: ") and "\n" not in message
    assert time.monotonic() - started < 10
    root.close()
    assert gone(pids, within_s=5)


@pytest.mark.parametrize(("victim", "name"), [("worker", "rollout worker 0"), ("replay", "replay buffer")])
def test_a_silent_process_ends_the_run_by_name(
    make_root: Callable[..., Any], endless: Callable[..., MADDPGConfig], victim: str, name: str
) -> None:
    root = make_root(endless(num_workers=1))
    object.__setattr__(root._config.ray, "timeout_s", 4.0)  # after the start, which may take longer
    processes = root._processes
    stopped = pid(processes.workers[0] if victim == "worker" else processes.replay)
    pids = [pid(actor) for actor in (*processes.workers, processes.learner, processes.replay)]
    for actor in (*processes.workers, processes.learner):
        ray.get(actor.__ray_call__.remote(lambda self: setattr(self, "_timeout_s", 2.0)))
    root.run(lambda: False)
    os.kill(stopped, signal.SIGSTOP)
    try:
        started = time.monotonic()
        message = _until_it_fails(root)
        assert message.startswith(f"{name} did not answer within ray.timeout_s")
        assert time.monotonic() - started < 12
        root.close()
        assert gone(pids, within_s=10)
    finally:
        if not gone([stopped], within_s=0.1):
            os.kill(stopped, signal.SIGCONT)


@pytest.mark.slow
def test_a_process_that_does_not_start_in_time_is_named_and_ended() -> None:
    silent = pytest.raises(
        TrainingError, match=r"rollout worker 0 did not answer within ray.timeout_s = 10 s"
    )
    with silent, MADDPG(_failing(timeout_s=10.0, fail_at=0, how="sleep")) as algo:
        algo.train()
    deadline = time.monotonic() + 10
    while ray.available_resources().get("CPU") != 4.0 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ray.available_resources().get("CPU") == 4.0, "their CPUs are free again"


def test_more_workers_than_cpus_are_refused() -> None:
    with pytest.raises(BadInput, match=r"num_workers = 4: with the learner needs 5 CPUs, the cluster has 4"):
        MADDPG(target_config(num_workers=4)).start()
