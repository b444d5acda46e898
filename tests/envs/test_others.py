"""Environments of other people: PettingZoo's classic games, butterfly and sisl, and SuperSuit's wrappers.

Those that need further packages run with `pip install -e ".[dev,environments]"`, and are skipped otherwise.
"""

import numpy as np
import pytest

from distributed_maddpg.envs import make_vector_env
from distributed_maddpg.envs.pettingzoo import PettingZooVectorEnv
from tests.support.serial_runs import run_all, start, tiny

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ZOMBIES = "pettingzoo.butterfly.knights_archers_zombies_v11"


def trained(env_id, **kwargs):
    """Return a runner after 240 env steps, 21 updates and an evaluation."""
    runner = start(tiny(env_id, kwargs=kwargs, pacing={"evaluation_interval_env_steps": 0}))
    results = run_all(runner)
    assert results[-1]["num_updates_lifetime"] == 21
    assert all(np.isfinite(array).all() for array in runner.learner_state(0).values())
    runner.evaluate(2, seed=1, run=0)
    return runner


@pytest.mark.parametrize("game", ["connect_four_v3", "tictactoe_v3"])
def test_classic_games_are_learned_without_an_illegal_move(game, capfd):
    runner = trained(f"pettingzoo.classic.{game}")
    assert "llegal move" not in "".join(capfd.readouterr())  # PettingZoo's warning of one
    rows, spec = runner._runs[0].replay.ring.read_from(0)[0], runner._runs[0].worker._spec
    layout = spec.transitions
    assert all(spec.masked)
    own, other = (rows[:, columns] for columns in layout.obs)
    pieces = own.sum(axis=1)
    assert (pieces == other.sum(axis=1)).all()  # both see every piece
    assert (rows[:, layout.acting].argmax(axis=1) == pieces % 2).all()
    assert (rows[:, layout.acting].sum(axis=1) == 1).all()
    after = np.maximum(*(rows[:, columns].sum(axis=1) for columns in layout.next_obs))
    assert (after == pieces + 1).all()


def test_a_game_in_which_both_choose_before_either_sees_is_learned():
    runner = trained("pettingzoo.classic.rps_v2")
    assert not any(runner._runs[0].worker._spec.masked)


def test_agents_that_die_are_learned_from_while_they_live():
    env = make_vector_env(ZOMBIES, 2, 0, max_zombies=30, spawn_delay=1)
    actions = [np.zeros(2, np.int64)] * 4
    env.reset()
    seen = [env.step(actions) and env.roster().present.sum(axis=1).tolist() for _ in range(200)]
    assert {count for step in seen for count in step} >= {2, 3, 4}  # of four
    trained(ZOMBIES)


def test_pursuers_are_learned():
    trained("pettingzoo.sisl.pursuit_v5", max_cycles=10, n_pursuers=3)


def test_wrappers_of_supersuit_are_learned():
    supersuit = pytest.importorskip("supersuit")
    from pettingzoo.sisl import pursuit_v5

    def stacked():
        return supersuit.frame_stack_v2(pursuit_v5.parallel_env(n_pursuers=2), 3)

    def immortal():
        from pettingzoo.butterfly import knights_archers_zombies_v11

        return supersuit.black_death_v3(knights_archers_zombies_v11.parallel_env())

    for factory in (stacked, immortal):
        env = PettingZooVectorEnv(factory, 2, 0)
        env.reset()
        for _ in range(20):
            env.step([np.zeros(2, np.int64)] * env.spec.num_agents)
        assert env.roster().present.all()


def test_walkers_of_box2d_are_learned():
    pytest.importorskip("Box2D")
    trained("pettingzoo.sisl.multiwalker_v9")
