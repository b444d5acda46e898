"""The default recipe learns: good agents reach the goal, which untrained ones do not."""

from __future__ import annotations

import pytest

from distributed_maddpg import MADDPG, MADDPGConfig


@pytest.mark.slow
def test_a_fifth_of_the_default_run_teaches_the_good_agents_the_goal() -> None:
    changes = {
        "num_workers": 0,
        "pacing": {"total_env_steps": 200_000, "evaluation_interval_env_steps": 0},
    }
    config = MADDPGConfig.from_dict(changes, MADDPGConfig.preset("default"))
    with MADDPG(config) as algo:
        untrained = algo.evaluate(1000, seed=1)["success"]
        while not algo.finished:
            algo.train()
        trained = algo.evaluate(1000, seed=1)["success"]
    assert untrained["agents"] < 30  # measured 18
    assert trained["agents"] >= 80  # measured 85 to 94 over four seeds
    assert trained["adversary"] > untrained["adversary"] + 15  # it learns too
