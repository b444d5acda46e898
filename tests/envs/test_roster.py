"""Agents that come, leave, wait and have action masks, by the step numbers that they observe."""

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from pettingzoo import ParallelEnv

from distributed_maddpg.envs import make_vector_env
from distributed_maddpg.envs.pettingzoo import PettingZooVectorEnv
from distributed_maddpg.errors import BadInput, EnvironmentFailed
from distributed_maddpg.evaluation.scripted import random_policy
from tests.support.coming import ACTIONS, ComingEnv, TurnsEnv

COMES, ENDS = (0, 0, 3), (5, 2, 7)
LAST = max(ENDS)


def coming(num_envs=2, **kwargs):
    return make_vector_env("tests.support.coming:parallel_env", num_envs, 0, **kwargs)


def play(env, steps):
    """Yield the roster before each step, its result, and the roster of its last observations."""
    act, obs = random_policy(env.spec, np.random.default_rng(0), env.roster), env.reset()
    for _ in range(steps):
        before = env.roster()
        result = env.step(act(obs))
        obs = result.obs
        yield before, result, env.final_roster()


def there(t, comes=COMES, ends=ENDS):
    return [a <= t < b for a, b in zip(comes, ends, strict=True)]


def test_everybody_is_there_from_coming_to_end():
    env = coming()
    for step, (before, result, after) in enumerate(play(env, 2 * LAST)):
        t = step % LAST
        assert before.present.tolist() == before.acting.tolist() == [there(t)] * 2
        assert after.acting.tolist() == [there(t + 1)] * 2
        assert result.rewards.tolist() == [[own * (t + 1 + 100.0 * i) for i, own in enumerate(there(t))]] * 2
        over = t + 1 == LAST
        assert result.terminated.tolist() == [[end <= t + 1 for end in ENDS]] * 2
        assert not result.truncated.any()
        for i, own in enumerate(there(t + 1)):
            seen = own or (over and there(t)[i])
            assert result.final_obs[i].tolist() == [[seen * (t + 1 + 1000.0 * i)]] * 2
            now = there(0) if over else there(t + 1)
            value = 1000.0 * i + (0 if over else t + 1)
            assert result.obs[i].tolist() == [[now[i] * value]] * 2


def test_a_truncated_agent_keeps_its_last_observation_for_its_own_value():
    env = coming(1, truncated=(1, 2))
    for step, (_, result, after) in enumerate(play(env, LAST)):
        t = step + 1
        assert result.terminated.tolist() == [[t >= ENDS[0], False, False]]
        assert result.truncated.tolist() == [t == LAST]
        truncated = [False, t == ENDS[1], t == ENDS[2]]
        assert after.acting.tolist() == [[a or b for a, b in zip(there(t), truncated, strict=True)]]
        if t == ENDS[1]:
            assert [array[0, 0] for array in result.final_obs] == [t, 1000 + t, 0]
            assert [array[0, 0] for array in result.obs] == [t, 0, 0]


def test_an_agent_that_comes_again_is_there_again():
    class Again(ComingEnv):
        def step(self, actions):
            result = super().step(actions)
            if self.t == 3:
                self.agents.append("comer_1")
                result[0]["comer_1"] = np.array([1003], np.float32)
            return result

    env = PettingZooVectorEnv(lambda: Again(comes=(0, 0), ends=(6, 2)), 1, 0)
    seen = [before.present[0].tolist() for before, *_ in play(env, 5)]
    assert seen == [[True, True], [True, True], [True, False], [True, True], [True, False]]


def test_agents_that_ended_stay_away_although_the_environment_still_lists_them():
    class Listing(ComingEnv):
        def step(self, actions):
            self.agents = [agent for agent in self.agents if agent in actions]
            result = super().step(actions)
            self.agents = list(self.possible_agents) if self.agents else []
            return result

    env = PettingZooVectorEnv(lambda: Listing(comes=(0, 0), ends=(5, 2)), 1, 0)
    seen = [before.present[0].tolist() for before, *_ in play(env, 6)]
    assert seen == [[True, True]] * 2 + [[True, False]] * 3 + [[True, True]]


def test_an_agent_that_was_always_listed_may_live_again():
    class Reviving(ParallelEnv):
        metadata: dict = {}  # noqa: RUF012 - PettingZoo's own form
        possible_agents = agents = ["stays", "dies"]  # noqa: RUF012

        def observation_space(self, agent):
            return Box(0, 99, (1,))

        def action_space(self, agent):
            return Discrete(2)

        def reset(self, seed=None, options=None):
            self.t = 0
            return dict.fromkeys(self.agents, np.zeros(1)), {}

        def step(self, actions):
            self.t += 1
            given = self.agents if self.t != 4 else ["stays"]
            ends = {agent: agent == "dies" and self.t == 3 for agent in given}
            flags = dict.fromkeys(given, False)
            return dict.fromkeys(given, np.full(1, self.t)), dict.fromkeys(given, 1.0), ends, flags, {}

    env = PettingZooVectorEnv(Reviving, 1, 0)
    seen = [before.present[0].tolist() for before, *_ in play(env, 7)]
    assert seen == [[True, True]] * 3 + [[True, False]] * 2 + [[True, True]] * 2


def test_rewards_of_absent_agents_are_not_theirs():
    class Paying(ComingEnv):
        def step(self, actions):
            observations, _, *rest = super().step(actions)
            return observations, {agent: 1.0 for agent in self.possible_agents}, *rest

    env = PettingZooVectorEnv(lambda: Paying(comes=COMES, ends=ENDS), 1, 0)
    for step, (before, result, _) in enumerate(play(env, LAST)):
        assert result.rewards.tolist() == before.present.tolist() == [there(step)]


@pytest.mark.parametrize("masks", ["observation", "info"])
def test_masks_are_those_of_the_moment(masks):
    env = coming(masks=masks)
    assert env.spec.masked == (True,) * 3
    assert env.observation_sizes == (1, 1, 1)
    for step, (before, _, after) in enumerate(play(env, 2 * LAST)):
        for roster, t in ((before, step % LAST), (after, step % LAST + 1)):
            for i, own in enumerate(there(t)):
                allowed = [not own or k != (t + i) % ACTIONS for k in range(ACTIONS)]
                assert roster.allowed[i].tolist() == [allowed] * 2


def test_the_mask_of_an_agents_last_observation_counts_if_it_was_truncated():
    env = coming(1, masks="info", truncated=(0, 1, 2))
    for step, (_, _, after) in enumerate(play(env, LAST)):
        for i, end in enumerate(ENDS):
            if end == step + 1:
                assert after.allowed[i, 0].tolist() == [k != (end + i) % ACTIONS for k in range(ACTIONS)]


def test_one_agent_with_a_mask_is_enough():
    class Some(ComingEnv):
        def _infos(self, agents):
            return {
                agent: {"action_mask": self.mask(agent)} if agent == "comer_0" else {} for agent in agents
            }

    class Mixed(ComingEnv):
        def observation_space(self, agent):
            space = super().observation_space(agent)
            return space if agent == "comer_0" else space["observation"]

        def _observe(self, agents):
            seen = super()._observe(agents)
            return {a: own if a == "comer_0" else own["observation"] for a, own in seen.items()}

        def _infos(self, agents):
            return {agent: {"action_mask": self.mask(agent)} for agent in agents}

    for make in (lambda: Some(masks="info"), lambda: Mixed(masks="observation")):
        env = PettingZooVectorEnv(make, 1, 0)
        assert env.spec.masked == (True,) * 3
        env.reset()
        own = "info" if make().masks == "info" else "both"
        allowed = env.roster().allowed[:, 0].sum(axis=1).tolist()
        assert allowed == ([2, 3, 3] if own == "info" else [2, 2, 3])  # the third agent comes later


def test_a_mask_that_comes_too_late_is_refused():
    class Late(ComingEnv):
        def _infos(self, agents):
            return {agent: {"action_mask": self.mask(agent)} if self.t > 1 else {} for agent in agents}

    env = PettingZooVectorEnv(lambda: Late(masks=""), 1, 0)
    with pytest.raises(BadInput, match="has an action_mask, but nobody had one at the episode's start"):
        list(play(env, 3))


def test_masks_of_several_choices_may_be_given_choice_by_choice():
    class Choosing(ComingEnv):
        def action_space(self, agent):
            return MultiDiscrete([2, 2])

        def mask(self, agent):
            return (np.array([0, 1]), np.array([1, 1]))

    env = PettingZooVectorEnv(lambda: Choosing(comes=(0,), ends=(9,), masks="info"), 1, 0)
    env.reset()
    assert env.roster().allowed[0, 0].tolist() == [False, False, True, True]


def test_continuous_agents_observe_what_is_called_a_mask():
    assert coming(masks="info", continuous=True).spec.masked == ()
    env = coming(masks="observation", continuous=True)
    assert (env.spec.masked, env.observation_sizes) == ((), (4, 4, 4))


def test_one_agent_is_always_there():
    env = coming(comes=(0,), ends=(3,))
    env.reset()
    assert not env.spec.varying
    assert env.roster() is env.final_roster() is None
    masked = coming(comes=(0,), ends=(3,), masks="info")
    masked.reset()
    assert masked.roster().present.all()
    assert not masked.spec.varying


@pytest.mark.parametrize("truncated", [(), (1,)])
def test_a_state_brings_back_who_is_there_and_what_is_allowed(truncated):
    env, other = (coming(masks="info", truncated=truncated) for _ in range(2))
    for steps in range(1, LAST):
        for _ in play(env, steps):
            pass
        other.set_state(env.get_state())
        for ours, theirs in zip(env.roster(), other.roster(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("mask", "remedy"),
    [
        (np.zeros(3, np.int8), "allows no action"),
        (np.ones(4, np.int8), "it must have 3 flags"),
        ("all", "it must have 3 flags"),
    ],
)
def test_masks_that_say_nothing_are_refused(mask, remedy):
    class Odd(ComingEnv):
        def mask(self, agent):
            return mask

    env = PettingZooVectorEnv(lambda: Odd(masks="info"), 1, 0)
    with pytest.raises(BadInput, match=remedy):
        env.reset()


ENDS_OF_MOVES = (7, 4, 7)


def test_agents_move_in_turn_and_all_observe_every_move():
    env = make_vector_env("tests.support.coming:turns", 1, 0)
    assert env.spec.varying
    order = [0, 1, 2, 0, 2, 0, 2]  # agent 1 leaves after the fourth move
    for step, (before, result, after) in enumerate(play(env, 14)):
        t = step % 7
        alive = [end > t for end in ENDS_OF_MOVES]
        assert before.present.tolist() == [alive]
        assert before.acting.tolist() == [[i == order[t] for i in range(3)]]
        assert before.allowed[order[t], 0].tolist() == [k == t % 3 for k in range(3)]
        assert result.rewards.tolist() == [[own * (t + 1.0) for own in alive]]
        assert result.terminated.tolist() == [[end <= t + 1 for end in ENDS_OF_MOVES]]
        if t < 6:
            assert after.acting.tolist() == [[i == order[t + 1] for i in range(3)]]
            living = [end > t + 1 for end in ENDS_OF_MOVES]
            assert [array[0, 0] for array in result.final_obs] == [
                own * (t + 1 + 1000 * i) for i, own in enumerate(living)
            ]


def test_the_last_survivor_may_win_in_anothers_last_step():
    class LastWins(TurnsEnv):
        def step(self, action):
            super().step(action)
            if action is None and len(self.agents) == 1:
                self.rewards[self.agents[0]] = 10.0
                self.terminations[self.agents[0]] = True

    env = PettingZooVectorEnv(lambda: LastWins((9, 2, 4)), 1, 0)
    *_, (before, result, _) = play(env, 4)
    assert before.present.tolist() == [[True, False, True]]
    assert result.rewards.tolist() == [[4.0 + 10.0, 0.0, 4.0]]
    assert result.terminated.all()


def test_a_turn_that_nobody_can_take_is_refused():
    class Gone(TurnsEnv):
        def step(self, action):
            super().step(action)
            if self.moves == 4:
                self.agent_selection = "mover_1"  # has left

    env = PettingZooVectorEnv(Gone, 1, 0)
    with pytest.raises(
        EnvironmentFailed, match="agent_selection is 'mover_1', which has left or not come yet"
    ):
        list(play(env, 5))


@pytest.mark.parametrize("nobody", [None, (), []])
def test_an_episode_may_end_without_observations_and_agents(nobody):
    class Empty(ComingEnv):
        def step(self, actions):
            _, *parts = result = super().step(actions)
            if self.agents:
                return result
            self.agents = nobody
            return {}, *parts

    env = PettingZooVectorEnv(lambda: Empty(comes=(0, 0), ends=(3, 3)), 1, 0)
    *_, (_, result, _) = play(env, 3)
    assert result.terminated.all()
    assert [array.tolist() for array in result.final_obs] == [[[0.0]], [[0.0]]]


def test_a_truncated_game_says_who_would_have_moved():
    class Cut(TurnsEnv):
        def step(self, action):
            super().step(action)
            if self.agents and self.moves == 2:
                self.truncations = dict.fromkeys(self.agents, True)

    env = PettingZooVectorEnv(Cut, 1, 0)
    _, (_, result, after) = play(env, 2)
    assert result.truncated.tolist() == [True]
    assert after.acting.tolist() == [[False, False, True]]
