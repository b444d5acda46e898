"""The default recipe learns: deception, and the other scenarios of MPE2."""

from __future__ import annotations

import pytest

from distributed_maddpg import MADDPG, MADDPGConfig
from distributed_maddpg.evaluation.matchups import evaluate_matchups

# Env steps, and what each team must gain in return over random players: all teams replaced by these where
# they work together, the team alone where they compete. About half of what was measured.
COOPERATIVE = ("mpe2.simple_spread_v3", "mpe2.simple_speaker_listener_v4")
MARGINS = {
    "mpe2.simple_spread_v3": (60_000, {"agent": 2.0}),
    "mpe2.simple_speaker_listener_v4": (60_000, {"speaker": 12.0, "listener": 12.0}),
    "mpe2.simple_tag_v3": (120_000, {"adversary": 8.0, "agent": 3.0}),
    "mpe2.simple_push_v3": (60_000, {"adversary": 1.0, "agent": 8.0}),
}


def trained(**changes: object) -> MADDPG:
    config = MADDPGConfig.from_dict({"num_workers": 0, **changes}, MADDPGConfig.preset("default"))
    algo = MADDPG(config)
    while not algo.finished:
        algo.train()
    return algo


@pytest.mark.slow
def test_a_third_of_the_default_run_teaches_the_good_agents_the_goal() -> None:
    pacing = {"total_env_steps": 300_000, "evaluation_interval_env_steps": 0}
    with trained(pacing=pacing) as algo:
        rates = algo.evaluate(1000, seed=1)["success"]
    assert rates["agents"] >= 85  # untrained 18
    assert rates["adversary"] >= 25  # untrained 9: it learns too


@pytest.mark.slow
@pytest.mark.parametrize("env_id", MARGINS)
def test_other_scenarios_learn_with_the_default_recipe(env_id: str) -> None:
    env_steps, margins = MARGINS[env_id]
    pacing = {"total_env_steps": env_steps, "learning_starts": 5_000, "evaluation_interval_env_steps": 0}
    with trained(env={"id": env_id, "kwargs": {"max_cycles": 25}}, pacing=pacing) as algo:
        rows = evaluate_matchups(algo.config, algo.policy_parameters(), 200, 1)
    means = {
        tuple(row["players"].values()): dict(
            zip(algo.spec.teams, row["agent_episode_returns_mean"].values(), strict=True)
        )
        for row in rows
    }
    gains = {}
    for team in margins:
        replaced = margins if env_id in COOPERATIVE else (team,)
        without = tuple("random" if own in replaced else "trained" for own in margins)
        gains[team] = means[("trained",) * len(margins)][team] - means[without][team]
    assert all(gains[team] > margin for team, margin in margins.items()), gains
