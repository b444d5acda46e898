"""An environment given as a callable reaches the workers and the evaluator without being importable there."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from distributed_maddpg import MADDPG
from distributed_maddpg.errors import BadInput
from tests.support.target import TargetEnv, target_config

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

_SHORT = {"total_env_steps": 960, "learning_starts": 320, "report_interval_env_steps": 480}


def test_a_class_that_no_worker_can_import_trains_evaluates_and_resumes(tmp_path: Path) -> None:
    class Mine(TargetEnv):  # Ray sends it whole, as it does a class of a script or notebook
        pass

    config = target_config(num_workers=1, sync=True, pacing=_SHORT)
    with MADDPG(target_config(pacing=_SHORT), env=Mine) as serial:
        while not serial.finished:
            serial.train()
        expected = serial.weights_digest(), serial.evaluate(5)
    with MADDPG(config, env=Mine) as algo:
        algo.train()
        path = algo.save(tmp_path / "half")
    with MADDPG.from_checkpoint(path, env=Mine) as again:
        while not again.finished:
            again.train()
        assert (again.weights_digest(), again.evaluate(5)) == expected


def test_a_callable_that_cannot_be_sent_is_refused_in_one_line() -> None:
    lock = threading.Lock()

    def make() -> TargetEnv:
        assert not lock.locked()
        return TargetEnv()

    with pytest.raises(BadInput, match=r"env = 'factory:.*make': cannot be sent to Ray workers \(.*lock"):
        MADDPG(target_config(num_workers=1), env=make).train()
