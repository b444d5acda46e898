import os
import time

import pytest

from distributed_maddpg.errors import TrainingError
from distributed_maddpg.runtime.tasks import in_parallel

pytestmark = pytest.mark.ray


def work(value, seconds=0.0):
    time.sleep(seconds)
    if value < 0:
        raise ValueError(f"{value} is negative")
    return value * value, os.getpid()


def test_results_come_by_name_from_other_processes(ray_cluster):
    found = dict(in_parallel(work, {f"of {n}": (n,) for n in range(5)}, "", 60.0))
    assert {name: result[0] for name, result in found.items()} == {f"of {n}": n * n for n in range(5)}
    assert os.getpid() not in {result[1] for result in found.values()}


def test_whoever_ends_first_comes_first(ray_cluster):
    names = [name for name, _ in in_parallel(work, {"slow": (1, 3.0), "fast": (2, 0.0)}, "", 60.0)]
    assert names == ["fast", "slow"]


def test_a_failure_names_the_piece(ray_cluster):
    with pytest.raises(TrainingError, match="the odd one failed: ValueError: -1 is negative"):
        list(in_parallel(work, {"the odd one": (-1,)}, "", 60.0))


def test_a_piece_that_never_ends_is_given_up(ray_cluster):
    started = time.monotonic()
    with pytest.raises(TrainingError, match="the endless one did not answer within 2 s"):
        list(in_parallel(work, {"the endless one": (1, 600.0)}, "", 2.0))
    assert time.monotonic() - started < 60
