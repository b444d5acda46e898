import importlib
import pickle

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple
from pettingzoo import AECEnv
from pettingzoo.utils import BaseParallelWrapper, OrderEnforcingWrapper

from distributed_maddpg.envs.base import VectorEnv
from distributed_maddpg.envs.pettingzoo import PettingZooVectorEnv
from distributed_maddpg.errors import BadInput, EnvironmentFailed
from tests.support.coming import TurnsEnv
from tests.support.counting import CountingEnv
from tests.support.failing import FailingEnv


def counting(num_envs=2, seed=0, cls=CountingEnv, **kwargs):
    return PettingZooVectorEnv(lambda: cls(**kwargs), num_envs, seed, "counting")


def zeros(env):
    return [
        np.zeros((env.num_envs, size), np.float32)
        if kind == "continuous"
        else np.zeros(env.num_envs, np.int64)
        for size, kind in zip(env.action_sizes, env.action_types, strict=True)
    ]


def random_actions(env, generator):
    return [
        generator.random((env.num_envs, size), np.float32)
        if kind == "continuous"
        else generator.integers(size, size=env.num_envs)
        for size, kind in zip(env.action_sizes, env.action_types, strict=True)
    ]


def flat(result):
    return np.concatenate([np.ravel(part) for part in (*result.obs, *result[1:4], *result.final_obs)])


def test_the_adapter_is_a_vector_environment_with_the_environments_own_sizes():
    env = counting(num_agents=3)
    assert isinstance(env, VectorEnv)
    assert env.agents == ("counter_0", "counter_1", "counter_2")
    assert env.observation_sizes == (1, 2, 3)
    assert env.spec.action_types == ("discrete",) * 3
    assert (env.action_sizes, env.action_type, env.final_distances()) == ((3, 3, 3), "discrete", None)


def test_every_value_is_of_the_right_step_and_episode():
    env = counting(max_cycles=3)
    obs = env.reset()
    assert [array.tolist() for array in obs] == [[[0], [0]], [[1e6, 1e6], [1e6, 1e6]]]
    first, second, third, fourth = (env.step(zeros(env)) for _ in range(4))
    assert first.obs[0].tolist() == first.final_obs[0].tolist() == [[1], [1]]
    assert first.rewards.tolist() == [[1, 1], [1, 1]]
    assert second.truncated.tolist() == [False, False]
    assert third.final_obs[1].tolist() == [[1e6 + 3] * 2] * 2
    assert third.obs[1].tolist() == [[1e6 + 1000] * 2] * 2
    assert fourth.obs[0].tolist() == [[1001], [1001]]
    assert all(array.dtype == np.float32 for array in (*third.obs, *third.final_obs, third.rewards))


@pytest.mark.parametrize("terminate", [True, False])
def test_termination_and_truncation_are_kept_apart(terminate):
    env = counting(max_cycles=2, terminate=terminate)
    env.reset()
    env.step(zeros(env))
    result = env.step(zeros(env))
    assert result.terminated.tolist() == [[terminate] * 2] * 2
    assert result.truncated.tolist() == [not terminate] * 2
    assert result.obs[0].tolist() == [[1000], [1000]]
    assert result.terminated.dtype == result.truncated.dtype == np.bool_


def test_actions_reach_the_environment_scaled_and_clipped():
    env = counting(continuous=True, bounds=(-2.0, 3.0))
    env.reset()
    env.step([np.array([[0, 1], [0.5, np.inf]], np.float32), np.array([[-7, 0.2], [1, 1]], np.float32)])
    taken = [copy.last_actions for copy in env.envs]
    assert taken[0]["counter_0"].tolist() == [-2, 3]
    assert taken[1]["counter_0"].tolist() == [0.5, 3]
    assert taken[0]["counter_1"].tolist() == [-2, -1]


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([np.full((2, 2), np.nan)] * 2, "action of counter_0 in copy 0 is NaN"),
        ([np.zeros((2, 2))], "got 1 action arrays for 2 agents"),
        ([np.zeros((2, 2)), np.zeros((2, 3))], r"actions of counter_1 have shape \(2, 3\)"),
    ],
)
def test_refused_actions_step_nothing(actions, message):
    env = counting(continuous=True)
    env.reset()
    with pytest.raises(ValueError, match=message):
        env.step(actions)
    assert [copy.t for copy in env.envs] == [0, 0]
    assert env.get_state()["episode_step"].tolist() == [0, 0]


def test_episode_seeds_are_drawn_per_copy_and_are_safe_integers():
    env = counting(num_envs=3, max_cycles=1)
    env.reset()
    env.step(zeros(env))
    seeds = [copy.seeds for copy in env.envs]
    assert len({seed for row in seeds for seed in row}) == 6
    assert all(type(seed) is int and 0 <= seed < 2**31 for row in seeds for seed in row)
    fewer = counting(num_envs=1, max_cycles=1)
    fewer.reset()
    fewer.step(zeros(fewer))
    assert fewer.envs[0].seeds == seeds[0]
    env.reset(seed=0)
    assert env.envs[0].seeds[2] == seeds[0][0]


class MixedEnv(CountingEnv):
    def observation_space(self, agent):
        return Discrete(9) if agent == "counter_0" else Box(-1, 1, (2, 2))

    def action_space(self, agent):
        return Discrete(4, start=1) if agent == "counter_0" else Box(-1, 1, (1,))

    def _observe(self):
        return {"counter_0": self.t, "counter_1": np.full((2, 2), self.t, np.float32)}


def test_mixed_spaces_work_together():
    env = counting(cls=MixedEnv)
    assert (env.action_type, env.action_sizes, env.observation_sizes) == ("mixed", (4, 1), (9, 4))
    assert env.action_types == ("discrete", "continuous")
    env.reset()
    result = env.step([np.array([0, 3]), np.array([[0], [1]], np.float32)])
    assert [copy.last_actions["counter_0"] for copy in env.envs] == [1, 4]
    assert [copy.last_actions["counter_1"].tolist() for copy in env.envs] == [[-1], [1]]
    assert result.obs[0].argmax(axis=1).tolist() == [1, 1]
    assert result.obs[1].tolist() == [[1] * 4] * 2


def test_state_names_the_actions_since_each_episodes_start():
    env = counting(num_envs=2, max_cycles=4, continuous=True)
    env.reset()
    for value in (0.1, 0.2, 0.3):
        env.step([np.full((2, 2), value, np.float32)] * 2)
    state = env.get_state()
    assert sorted(state) == [
        "actions_counter_0",
        "actions_counter_1",
        "episode_seed",
        "episode_step",
        "generator_state",
    ]
    assert state["episode_step"].tolist() == [3, 3]
    assert state["actions_counter_0"].shape == (2, 3, 2)
    assert state["actions_counter_1"][1, :, 0].tolist() == np.float32([0.1, 0.2, 0.3]).tolist()
    env.step(zeros(env))
    assert env.get_state()["actions_counter_0"].shape == (2, 0, 2)


def assert_round_trip(factory, before, after):
    """Step, save, step; then load into a new environment and find the same steps."""
    env = PettingZooVectorEnv(factory, 2, 3, "env")
    env.reset()
    generator = np.random.default_rng(0)
    for _ in range(before):
        env.step(random_actions(env, generator))
    state, actions = env.get_state(), [random_actions(env, generator) for _ in range(after)]
    expected = [flat(env.step(taken)) for taken in actions]
    other = PettingZooVectorEnv(factory, 2, 99, "env")
    other.set_state(state)
    assert all((other.get_state()[name] == array).all() for name, array in state.items())
    assert all((flat(other.step(t)) == e).all() for t, e in zip(actions, expected, strict=True))
    env.close()
    other.close()


@pytest.mark.parametrize("continuous", [True, False])
@pytest.mark.parametrize("name", ["simple_spread_v3", "simple_tag_v3", "simple_speaker_listener_v4"])
def test_state_round_trip_gives_the_same_future(name, continuous):
    parallel_env = importlib.import_module(f"mpe2.{name}").parallel_env
    assert_round_trip(lambda: parallel_env(max_cycles=9, continuous_actions=continuous), 12, 20)


def test_state_round_trip_beyond_the_initial_size_of_the_action_history():
    assert_round_trip(lambda: CountingEnv(max_cycles=90, episode_from_seed=True, continuous=True), 75, 30)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"episode_seed": np.array([0, 2**31])}, "episode_seed holds values outside"),
        ({"episode_step": np.array([0, -1])}, "episode_step holds values outside"),
        ({"actions_counter_0": np.zeros((2, 1))}, r"actions_counter_0 has shape \(2, 1\) and type float64"),
        ({"actions_counter_2": np.zeros(2)}, "unknown actions_counter_2, did you mean 'actions_counter"),
        ({"generator_state": np.zeros((2, 6), np.uint64)}, "no PCG64 generator has"),
    ],
)
def test_impossible_states_are_refused(change, message):
    env = counting()
    env.reset()
    env.step(zeros(env))
    with pytest.raises(ValueError, match=message):
        env.set_state({**env.get_state(), **change})


def test_an_episode_that_ends_during_its_replay_is_not_reproducible():
    long, short = counting(max_cycles=9), counting(max_cycles=2)
    long.reset()
    for _ in range(3):
        long.step(zeros(long))
    with pytest.raises(ValueError, match=r"copy 0 ended .* counting does not honour its seed"):
        short.set_state(long.get_state())


def test_step_and_get_state_before_reset_are_refused():
    env = counting()
    with pytest.raises(RuntimeError, match=r"call reset\(\)"):
        env.step(zeros(env))
    with pytest.raises(RuntimeError, match=r"call reset\(\)"):
        env.get_state()


class LeavingEnv(CountingEnv):
    """Agents do not stay together, in one of several ways."""

    def __init__(self, way, **kwargs):
        super().__init__(**kwargs)
        self.way = way

    def reset(self, seed=None, options=None):
        result = super().reset(seed, options)
        if self.way == "nobody at the start":
            self.agents = []
        return result

    def step(self, actions):
        obs, rewards, terminated, truncated, infos = super().step(actions)
        given = {"no rewards": rewards, "no truncations": truncated, "no observations": obs}
        given.get(self.way, {}).pop("counter_1", None)
        if self.way == "vanishes":
            self.agents = ["counter_0"]
        if self.way == "a stranger joins":
            self.agents = [*self.agents, "guest_0"]
        return obs, rewards, terminated, truncated, infos


@pytest.mark.parametrize(
    ("way", "remedy"),
    [
        ("nobody at the start", "an episode started without agents"),
        ("no rewards", "its step returned no rewards of counter_1"),
        ("no truncations", "its step returned no truncations of counter_1"),
        ("no observations", "its step returned no observation of counter_1"),
        ("vanishes", "counter_1 left its episode without a termination or truncation"),
        ("a stranger joins", "an episode has the agent 'guest_0', which is not in possible_agents"),
    ],
)
def test_agents_that_come_or_leave_without_notice_are_refused(way, remedy):
    env = counting(cls=LeavingEnv, way=way)
    with pytest.raises(BadInput) as caught:
        env.reset()
        env.step(zeros(env))
    assert str(caught.value) == f"env.id = 'counting': {remedy}"


def test_environment_without_agents_is_refused():
    with pytest.raises(BadInput, match="has no possible_agents"):
        PettingZooVectorEnv(object, 1, 0)


@pytest.mark.parametrize(
    ("names", "remedy"),
    [
        ("ab", "the environment has no possible_agents"),
        ([0, 1], "the agent 0 must have a printable name"),
        ([["a"]], "the agent ['a'] must have a printable name"),
        (["", "b"], "the agent '' must have a printable name"),
        (["\ud800", "b"], r"the agent '\ud800' must have a printable name"),
        (["a\nb"], r"the agent 'a\nb' must have a printable name"),
        (["a", "b", "a"], "the name 'a' of an agent is already taken"),
        (["a", "env_steps"], "the name 'env_steps' of an agent is already taken"),
    ],
)
def test_agents_need_names_that_can_be_stored(names, remedy):
    class Named(CountingEnv):
        def __init__(self):
            super().__init__()
            self.possible_agents = names

    with pytest.raises(BadInput) as caught:
        counting(cls=Named)
    assert str(caught.value) == f"env.id = 'counting': {remedy}"


def test_an_aec_environment_whose_agents_act_at_once_gives_the_same_steps():
    module = importlib.import_module("mpe2.simple_spread_v3")
    turns, parallel = (
        PettingZooVectorEnv(lambda make=make: make(max_cycles=3), 2, 7)
        for make in (module.env, module.parallel_env)
    )
    assert turns.spec == parallel.spec
    generator = np.random.default_rng(0)
    assert all((a == b).all() for a, b in zip(turns.reset(), parallel.reset(), strict=True))
    for _ in range(7):  # over the ends of two episodes
        actions = random_actions(turns, generator)
        assert (flat(turns.step(actions)) == flat(parallel.step(actions))).all()
    assert_round_trip(lambda: module.env(max_cycles=4), 6, 6)


def test_copies_of_one_aec_environment_are_refused():
    env = importlib.import_module("mpe2.simple_spread_v3").env()
    with pytest.raises(BadInput, match="returns the same environment twice"):
        PettingZooVectorEnv(lambda: env, 2, 0)


@pytest.mark.parametrize(
    "attributes", [{}, {"metadata": None}, {"metadata": {}}, {"metadata": {"is_parallelizable": False}}]
)
@pytest.mark.parametrize("wrap", [lambda env: env, OrderEnforcingWrapper])
def test_agents_take_turns_unless_an_environment_says_that_they_act_at_once(attributes, wrap):
    env = PettingZooVectorEnv(lambda: wrap(type("Turns", (TurnsEnv,), attributes)()), 1, 0)
    env.reset()
    assert env.roster().acting.tolist() == [[True, False, False]]


def test_a_turn_based_environment_without_agents_is_refused():
    with pytest.raises(BadInput, match="the environment has no possible_agents"):
        PettingZooVectorEnv(AECEnv, 1, 0)


def test_all_copies_must_be_alike_and_none_twice():
    copies = [CountingEnv(num_agents=2), CountingEnv(num_agents=2), CountingEnv(num_agents=3)]
    assert PettingZooVectorEnv(iter(copies).__next__, 2, 0).num_envs == 2
    with pytest.raises(BadInput, match="makes copies with different agents or spaces"):
        PettingZooVectorEnv(iter(copies).__next__, 3, 0)
    bounds = [CountingEnv(continuous=True), CountingEnv(continuous=True, bounds=(0, 2))]
    with pytest.raises(BadInput, match="makes copies with different agents or spaces"):
        PettingZooVectorEnv(iter(bounds).__next__, 2, 0)
    with pytest.raises(BadInput, match="returns the same environment twice; make a new one in each call"):
        PettingZooVectorEnv(lambda: copies[0], 2, 0)


class ShortEnv(CountingEnv):
    """Returns only the first parts of what the API prescribes."""

    def __init__(self, of_reset, of_step):
        super().__init__()
        self.of_reset, self.of_step = of_reset, of_step

    def reset(self, seed=None, options=None):
        result = super().reset(seed, options)
        return result[: self.of_reset] if self.of_reset else result[0]

    def step(self, actions):
        return super().step(actions)[: self.of_step] if self.of_step else None


@pytest.mark.parametrize(
    ("of_reset", "of_step", "remedy"),
    [
        (0, 5, "its reset must return (observations, infos)"),
        (1, 5, "its reset must return (observations, infos)"),
        (2, 4, "its step must return (observations, rewards, terminations, truncations, infos)"),
        (2, 0, "its step must return (observations, rewards, terminations, truncations, infos)"),
    ],
)
def test_results_of_an_older_api_are_refused(of_reset, of_step, remedy):
    env = counting(cls=ShortEnv, of_reset=of_reset, of_step=of_step)
    with pytest.raises(BadInput) as caught:
        env.reset()
        env.step(zeros(env))
    assert str(caught.value) == f"env.id = 'counting': {remedy}"


class ArrayEnv(CountingEnv):
    """Gives rewards and ends in another form."""

    def __init__(self, reward=lambda value: value, flag=lambda value: value, **kwargs):
        super().__init__(**kwargs)
        self.forms = reward, flag, flag

    def step(self, actions):
        obs, *parts, infos = super().step(actions)
        changed = [
            {agent: form(value) for agent, value in part.items()}
            for form, part in zip(self.forms, parts, strict=True)
        ]
        return obs, *changed, infos


@pytest.mark.parametrize("num_agents", [1, 2])
@pytest.mark.parametrize("terminate", [True, False])
@pytest.mark.parametrize("form", [np.asarray, np.atleast_1d, np.atleast_2d, lambda value: [value]])
def test_rewards_and_ends_may_be_arrays_of_one_value(form, terminate, num_agents):
    env = counting(
        cls=ArrayEnv, reward=form, flag=form, terminate=terminate, max_cycles=2, num_agents=num_agents
    )
    env.reset()
    first, second = env.step(zeros(env)), env.step(zeros(env))
    assert first.rewards.tolist() == [[1] * num_agents] * 2
    assert second.rewards.tolist() == [[2] * num_agents] * 2
    assert not first.terminated.any()
    assert second.terminated.tolist() == [[terminate] * num_agents] * 2
    assert (first.truncated.tolist(), second.truncated.tolist()) == ([False] * 2, [not terminate] * 2)
    assert second.obs[0].tolist() == [[1000]] * 2


def test_episodes_whose_ends_are_arrays_are_restored():
    def flag(value):
        return np.array([value])

    assert_round_trip(lambda: ArrayEnv(flag=flag, max_cycles=4, episode_from_seed=True), 7, 9)


@pytest.mark.parametrize(
    ("forms", "remedy"),
    [
        (
            {"reward": lambda value: [value, 0.5]},
            "counter_0 got the reward [1.0, 0.5]; it must be one number",
        ),
        (
            {"reward": lambda _: [1, [2, 3]]},
            "counter_0 got the reward [1, [2, 3]]; it must be one number",
        ),
        ({"reward": lambda _: None}, "counter_0 got the reward None; it must be one number"),
        (
            {"flag": lambda _: np.array([True, False])},
            "counter_0 got the termination or truncation array([ True, False]); it must be true or false",
        ),
        (
            {"flag": lambda _: "False"},
            "counter_0 got the termination or truncation 'False'; it must be true or false",
        ),
    ],
)
def test_rewards_and_ends_of_several_values_are_refused(forms, remedy):
    env = counting(cls=ArrayEnv, **forms)
    env.reset()
    with pytest.raises(BadInput) as caught:
        env.step(zeros(env))
    assert str(caught.value) == f"env.id = 'counting': {remedy}"


class ResetReturns(CountingEnv):
    def __init__(self, result, **kwargs):
        super().__init__(**kwargs)
        self.result = result

    def reset(self, seed=None, options=None):
        return self.result(*super().reset(seed, options))


@pytest.mark.parametrize(
    ("result", "remedy"),
    [
        (lambda obs, _: obs, "its reset must return (observations, infos)"),
        (
            lambda obs, infos: (list(obs.values()), infos),
            "its reset must return (observations, infos), each a dict with a value for each agent",
        ),
        (
            lambda obs, infos: ({"counter_0": obs["counter_0"]}, infos),
            "its reset returned no observation of counter_1",
        ),
    ],
)
def test_a_reset_without_every_observation_and_infos_is_refused(result, remedy):
    with pytest.raises(BadInput) as caught:
        counting(cls=ResetReturns, result=result).reset()
    assert str(caught.value) == f"env.id = 'counting': {remedy}"


class StepReturns(CountingEnv):
    def step(self, actions):
        obs, rewards, *rest = super().step(actions)
        return obs, list(rewards.values()), *rest


def test_a_step_whose_parts_are_not_by_agent_is_refused():
    env = counting(cls=StepReturns)
    env.reset()
    remedy = r"its step must return \(observations, .*\), each a dict with a value for each agent$"
    with pytest.raises(BadInput, match=remedy):
        env.step(zeros(env))


class UnseededEnv(CountingEnv):
    def reset(self):
        return super().reset()


class UnseededWithOptions(CountingEnv):
    def reset(self, options=None):
        return super().reset()


class TypeErrorInReset(CountingEnv):
    def reset(self, seed=None, options=None):
        raise TypeError("make_map() got an unexpected keyword argument 'seed'")


@pytest.mark.parametrize("wrap", [lambda env: env, BaseParallelWrapper])
@pytest.mark.parametrize("cls", [UnseededEnv, UnseededWithOptions])
def test_a_reset_without_a_seed_is_refused_with_what_to_write(cls, wrap):
    env = PettingZooVectorEnv(lambda: wrap(cls()), 2, 0, "counting")
    with pytest.raises(BadInput) as caught:
        env.reset()
    remedy = "its reset needs a seed: def reset(self, seed=None, options=None)"
    assert str(caught.value) == f"env.id = 'counting': {remedy}"


def test_another_error_of_a_reset_is_not_taken_for_a_missing_seed():
    with pytest.raises(Exception, match=r"make_map\(\) got an unexpected") as caught:
        counting(cls=TypeErrorInReset).reset()
    assert not isinstance(caught.value, BadInput)


class NestedEnv(CountingEnv):
    """Observes the step as choice and as number; acts in combinations."""

    def observation_space(self, agent):
        return Dict({"step": Discrete(9), "value": Box(0, 2.0**24, (1,), np.float64)})

    def action_space(self, agent):
        return Tuple([Discrete(2, start=1), MultiDiscrete([2, 3])])

    def _observe(self):
        return {agent: {"step": self.t, "value": obs[:1]} for agent, obs in super()._observe().items()}


def test_nested_spaces_keep_every_value_at_its_step():
    env = counting(cls=NestedEnv, max_cycles=3)
    assert (env.observation_sizes, env.action_sizes, env.action_type) == ((10, 10), (12, 12), "discrete")
    obs = env.reset()
    assert (obs[0][0].argmax(), obs[1][0].tolist()) == (0, [1] + [0] * 8 + [1e6])
    for t in (1, 2, 3):
        result = env.step([np.array([11, 0]), np.array([4, 7])])
        assert result.final_obs[0][:, :9].argmax(axis=1).tolist() == [t, t]
        assert result.final_obs[1][:, 9].tolist() == [1e6 + t] * 2
    assert result.obs[1][:, 9].tolist() == [1e6 + 1000] * 2
    taken = [copy.last_actions for copy in env.envs]
    assert repr(taken[0]["counter_0"]) == "(np.int64(2), array([1, 2]))"
    assert repr(taken[1]["counter_1"]) == "(np.int64(2), array([0, 1]))"
    assert_round_trip(lambda: NestedEnv(max_cycles=4, episode_from_seed=True), 6, 6)


def test_actions_without_bounds_reach_the_environment_within_limits(caplog):
    env = counting(continuous=True, bounds=(-np.inf, np.inf))
    counting(continuous=True, bounds=(-np.inf, np.inf))
    env.reset()
    env.step([np.array([[0, 1], [0.5, 2]], np.float32)] * 2)
    assert [copy.last_actions["counter_1"].tolist() for copy in env.envs] == [[-1, 1], [0, 1]]
    assert caplog.text.count("counter_0, counter_1 in [-1, 1]") == 1


def raised_by(call):
    with pytest.raises(EnvironmentFailed) as caught:
        call()
    assert type(caught.value.__cause__) is RuntimeError
    assert caught.value.__cause__.__traceback__.tb_next.tb_frame.f_code.co_name in ("step", "reset")
    again = pickle.loads(pickle.dumps(caught.value))  # as Ray sends it
    assert (type(again), str(again)) == (EnvironmentFailed, str(caught.value))
    return str(again)


def test_an_error_names_its_copy_and_the_step_of_its_episode():
    copies = iter([CountingEnv(max_cycles=3), FailingEnv(fail_at=5, max_cycles=3)])
    env = PettingZooVectorEnv(lambda: next(copies), 2, 0)
    env.reset()
    for _ in range(4):
        env.step(zeros(env))
    line = raised_by(lambda: env.step(zeros(env)))
    assert line == "RuntimeError: boom at step 5, in copy 1 at step 2 of its episode"
    line = raised_by(PettingZooVectorEnv(FailingEnv, 1, 0).reset)
    assert line == "RuntimeError: boom at step 0, in copy 0 when it was reset"
