"""The compiled environment against MPE2 itself: no difference is tolerated."""

import logging
import tracemalloc

import numpy as np
import pytest
from mpe2 import simple_adversary_v3

from distributed_maddpg.envs import make_vector_env, streams
from distributed_maddpg.envs.base import StepResult, VectorEnv
from distributed_maddpg.errors import BadInput
from distributed_maddpg.seeding import pack_generator

E = 4


def make(num_envs, seed, **kwargs):
    return make_vector_env("simple_adversary", num_envs, seed, backend="vectorized", **kwargs)


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.CRITICAL)  # MPE2 logs every action it clips


def random_actions(env, generator):
    if env.action_type == "discrete":
        return [generator.integers(5, size=env.num_envs) for _ in env.agents]
    actions = generator.uniform(-0.5, 1.5, (len(env.agents), env.num_envs, 5)).astype(np.float32)
    actions[generator.random(actions.shape) < 0.02] = np.inf
    actions[generator.random(actions.shape) < 0.02] = -np.inf
    return list(actions)


def random_state(env, generator):
    """A state far from what a reset draws, in the middle of episodes."""
    state = env.get_state()
    for name in ("agent_positions", "agent_velocities", "landmark_positions"):
        state[name] = generator.normal(0, 2, state[name].shape)
    state["goal_landmark"] = generator.integers(env.options.N, size=env.num_envs)
    state["cycle"] = generator.integers(env.options.max_cycles, size=env.num_envs)
    return state


def mpe2_copy(kwargs, state, e):
    """MPE2's environment in the state of copy e, written here without the package's own adapter."""
    env = simple_adversary_v3.parallel_env(**kwargs)
    env.reset()
    raw = env.unwrapped
    for i, agent in enumerate(raw.world.agents):
        agent.state.p_pos = state["agent_positions"][e, i].copy()
        agent.state.p_vel = state["agent_velocities"][e, i].copy()
        agent.goal_a = raw.world.landmarks[state["goal_landmark"][e]]
    for i, landmark in enumerate(raw.world.landmarks):
        landmark.state.p_pos = state["landmark_positions"][e, i].copy()
    raw.steps = int(state["cycle"][e])
    raw.np_random = streams.unpack(state["generator_state"][e])
    return env


def assert_same_world(raw, state, e):
    assert (state["agent_positions"][e] == [agent.state.p_pos for agent in raw.world.agents]).all()
    assert (state["agent_velocities"][e] == [agent.state.p_vel for agent in raw.world.agents]).all()
    assert (state["landmark_positions"][e] == [mark.state.p_pos for mark in raw.world.landmarks]).all()
    assert raw.world.agents[0].goal_a is raw.world.landmarks[state["goal_landmark"][e]]
    assert (pack_generator(raw.np_random) == state["generator_state"][e]).all()


def assert_same_step(copy, env, result, actions, e):
    """Step MPE2's copy, restart it if it ended, and compare everything with copy e of the result."""
    given = {
        agent: array[e] if array.ndim == 2 else int(array[e])
        for agent, array in zip(env.agents, actions, strict=True)
    }
    final, rewards, terminated, truncated, _ = copy.step(given)
    assert not any(terminated.values())
    assert set(truncated.values()) == {bool(result.truncated[e])}
    obs = copy.reset()[0] if result.truncated[e] else final
    for i, agent in enumerate(env.agents):
        assert result.rewards[e, i] == np.float32(rewards[agent])
        assert (result.final_obs[i][e] == final[agent]).all()
        assert (result.obs[i][e] == obs[agent]).all()
    assert_same_world(copy.unwrapped, env.get_state(), e)


def assert_equals_mpe2(num_steps, **kwargs):
    generator = np.random.default_rng(num_steps)
    env = make(E, 1, **kwargs)
    env.reset()
    env.set_state(random_state(env, generator))
    copies = [mpe2_copy(kwargs, env.get_state(), e) for e in range(E)]
    for _ in range(num_steps):
        actions = random_actions(env, generator)
        result = env.step(actions)
        assert not result.terminated.any()
        for e, copy in enumerate(copies):
            assert_same_step(copy, env, result, actions, e)


@pytest.mark.parametrize("num_agents", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("continuous", [True, False])
def test_step_equals_mpe2_to_the_bit_across_resets(num_agents, continuous):
    assert_equals_mpe2(150, N=num_agents, continuous_actions=continuous, max_cycles=11)


@pytest.mark.parametrize(("near_agents", "near_landmarks"), [(1, None), (None, 2), (2, 1), (5, 6), (3, 3)])
@pytest.mark.parametrize("num_agents", [1, 3, 5])
def test_partial_observations_equal_mpe2(num_agents, near_agents, near_landmarks):
    neighbours = {"num_agent_neighbors": near_agents, "num_landmark_neighbors": near_landmarks}
    assert_equals_mpe2(25, N=num_agents, continuous_actions=True, max_cycles=9, **neighbours)


@pytest.mark.parametrize("continuous", [True, False])
def test_squared_adversary_reward_changes_only_the_adversarys_reward(continuous):
    kwargs = {"N": 3, "continuous_actions": continuous, "max_cycles": 11}
    plain, squared = (
        make(E, 1, **kwargs),
        make(E, 1, **kwargs, squared_adversary_reward=True),
    )
    plain.reset()
    squared.reset()
    generator = np.random.default_rng(0)
    for _ in range(10):
        actions = random_actions(plain, generator)
        expected, result = plain.step(actions), squared.step(actions)
        assert (result.rewards[:, 1:] == expected.rewards[:, 1:]).all()
        for e in range(E):
            raw = mpe2_copy(kwargs, squared.get_state(), e).unwrapped
            loss = raw.scenario.benchmark_data(raw.world.agents[0], raw.world)
            assert result.rewards[e, 0] == np.float32(-loss) != expected.rewards[e, 0]


@pytest.mark.parametrize("continuous", [True, False])
def test_velocity_first_moves_as_openais_mpe_does(continuous):
    env = make(E, 1, N=3, continuous_actions=continuous, max_cycles=30, velocity_first=True)
    env.reset()
    generator = np.random.default_rng(0)
    for _ in range(20):
        before, actions = env.get_state(), random_actions(env, generator)
        env.step(actions)
        after = env.get_state()
        for i, action in enumerate(actions):
            u = np.clip(action, 0, 1) if continuous else np.eye(5)[action]
            force = 5.0 * np.stack([u[:, 2] - u[:, 1], u[:, 4] - u[:, 3]], axis=1)
            # multiagent-particle-envs, core.py, World.integrate_state: damping 0.25, mass 1, dt 0.1
            p_vel = before["agent_velocities"][:, i] * (1 - 0.25) + force / 1.0 * 0.1
            p_pos = before["agent_positions"][:, i] + p_vel * 0.1
            np.testing.assert_allclose(after["agent_velocities"][:, i], p_vel, rtol=0, atol=1e-6)
            np.testing.assert_allclose(after["agent_positions"][:, i], p_pos, rtol=0, atol=1e-6)


def test_defaults_are_mpe2s():
    env, original = make(1, 0), simple_adversary_v3.parallel_env()
    assert env.agents == tuple(original.possible_agents)
    assert env.action_type == "discrete"
    assert env.action_sizes == tuple(original.action_space(agent).n for agent in env.agents)
    assert env.observation_sizes == tuple(original.observation_space(a).shape[0] for a in env.agents)
    assert env.options.max_cycles == original.unwrapped.max_cycles


def test_first_reset_draws_what_mpe2_draws_from_the_same_stream():
    env = make(3, 11, N=3)
    obs = env.reset()
    for e in range(3):
        copy = simple_adversary_v3.parallel_env(N=3)
        copy.unwrapped.np_random = np.random.Generator(
            np.random.PCG64(np.random.SeedSequence(11, spawn_key=(e,)))
        )
        expected = copy.reset()[0]
        assert all((obs[i][e] == expected[agent]).all() for i, agent in enumerate(env.agents))


def test_it_is_a_vector_environment_with_the_sizes_of_two_good_agents():
    env = make(2, 0)
    assert isinstance(env, VectorEnv)
    assert env.spec.observation_sizes == (8, 10, 10)
    assert env.spec.teams == ("adversary", "agent", "agent")


def steps(env, num_steps, seed=0):
    generator = np.random.default_rng(seed)
    return [flat(env.step(random_actions(env, generator))) for _ in range(num_steps)]


def flat(result):
    return np.concatenate([np.ravel(part) for part in (*result.obs, *result[1:4], *result.final_obs)])


def copied(result):
    """Copy a step's result: the environment reuses its arrays."""
    obs, final_obs = (tuple(array.copy() for array in part) for part in (result.obs, result.final_obs))
    return StepResult(obs, *(array.copy() for array in result[1:4]), final_obs)


def test_same_seed_gives_the_same_run_and_another_seed_another():
    runs = []
    for seed in (5, 5, 6):
        env = make(3, seed, continuous_actions=True, max_cycles=4)
        env.reset()
        runs.append(np.stack(steps(env, 10)))
    assert (runs[0] == runs[1]).all()
    assert (runs[0] != runs[2]).any()


def test_copies_differ_and_do_not_depend_on_their_number():
    few, many = make(2, 5, max_cycles=3), make(6, 5, max_cycles=3)
    few_obs, many_obs = few.reset(), many.reset()
    push = [np.ones(6, np.int64)] * 3
    for _ in range(7):
        assert len({row.tobytes() for row in many_obs[0]}) == 6
        assert all((a == b[:2]).all() for a, b in zip(few_obs, many_obs, strict=True))
        few_obs, many_obs = few.step([p[:2] for p in push]).obs, many.step(push).obs


def test_reset_with_seed_restarts_the_streams_and_without_continues_them():
    env = make(2, 5)
    first, second = env.reset(), env.reset()
    assert (first[0] != second[0]).all()
    assert (env.reset(seed=5)[0] == first[0]).all()
    assert (env.reset()[0] == second[0]).all()


@pytest.mark.parametrize("continuous", [True, False])
def test_state_round_trip_gives_the_same_future(continuous):
    env = make(3, 5, N=3, continuous_actions=continuous, max_cycles=6)
    env.reset()
    steps(env, 8)
    state = env.get_state()
    expected = steps(env, 14, seed=1)
    other = make(3, 99, N=3, continuous_actions=continuous, max_cycles=6)
    other.set_state(state)
    assert (np.stack(steps(other, 14, seed=1)) == expected).all()


def test_state_arrays_are_copies_with_the_promised_types():
    env = make(3, 5, N=2)
    env.reset()
    state = env.get_state()
    assert {name: (array.shape, str(array.dtype)) for name, array in state.items()} == {
        "agent_positions": ((3, 3, 2), "float64"),
        "agent_velocities": ((3, 3, 2), "float64"),
        "landmark_positions": ((3, 2, 2), "float64"),
        "goal_landmark": ((3,), "int64"),
        "cycle": ((3,), "int64"),
        "generator_state": ((3, 6), "uint64"),
    }
    kept = {name: array.copy() for name, array in state.items()}
    env.set_state(state)
    steps(env, 3)
    assert all((state[name] == kept[name]).all() for name in state)


def test_final_obs_is_the_old_episodes_and_obs_the_new_ones():
    env = make(2, 5, max_cycles=3)
    env.reset()
    still = [np.zeros(2, np.int64)] * 3
    first, second, last = (copied(env.step(still)) for _ in range(3))
    assert [result.truncated.tolist() for result in (first, second, last)] == [[False] * 2] * 2 + [[True] * 2]
    for i in range(3):
        assert (first.obs[i] == first.final_obs[i]).all()
        assert (last.final_obs[i] == second.obs[i]).all()  # no agent moved
        assert (last.obs[i] != second.obs[i]).any()
    assert env.get_state()["cycle"].tolist() == [0, 0]


def test_copies_out_of_phase_end_one_by_one():
    env = make(3, 5, max_cycles=3)
    env.reset()
    env.set_state({**env.get_state(), "cycle": np.array([0, 2, 1])})
    still = [np.zeros(3, np.int64)] * 3
    ends = [copied(env.step(still)) for _ in range(3)]
    assert [result.truncated.tolist() for result in ends] == [
        [False, True, False],
        [False, False, True],
        [True, False, False],
    ]
    assert (ends[0].obs[1][[0, 2]] == ends[0].final_obs[1][[0, 2]]).all()
    assert (ends[0].obs[1][1] != ends[0].final_obs[1][1]).all()


def test_a_result_is_valid_for_one_more_step():
    env = make(3, 5, continuous_actions=True, max_cycles=4)
    first_obs = env.reset()
    begun = np.concatenate([array.ravel() for array in first_obs])
    generator = np.random.default_rng(0)
    held = env.step(random_actions(env, generator))
    for _ in range(12):
        before = flat(held)
        result = env.step(random_actions(env, generator))
        assert (flat(held) == before).all()
        held = result
    assert (np.concatenate([array.ravel() for array in first_obs]) == begun).all()


def test_refused_actions_leave_earlier_results_unchanged():
    env = make(2, 5, continuous_actions=True)
    env.reset()
    held = [env.step(CONTINUOUS), env.step(CONTINUOUS)]
    before = [flat(result) for result in held]
    with pytest.raises(ValueError, match="NaN"):
        env.step(with_entry(CONTINUOUS, 1, (1, 0), np.nan))
    assert all((flat(result) == old).all() for result, old in zip(held, before, strict=True))


def peak_of_steps(env, actions, num_steps):
    """Bytes allocated at most at a time; numpy's arrays are traced as Python's objects are."""
    tracemalloc.start()
    try:
        for _ in range(num_steps):
            env.step(actions)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("num_envs", [2, 1024])
def test_steps_allocate_no_arrays(num_envs):
    env = make(num_envs, 5, continuous_actions=True, max_cycles=3)
    env.reset()
    actions = list(np.full((3, num_envs, 5), 0.5, np.float32))
    env.step(actions)
    peaks = [peak_of_steps(env, actions, 20) for _ in range(5)]
    assert min(peaks) < 4096  # what other threads allocate counts too, but not always


def test_final_distances_are_of_the_last_frame_goal_first():
    env = make(2, 5, N=3, max_cycles=2)
    env.reset()
    env.set_state({**env.get_state(), "goal_landmark": np.array([2, 0]), "cycle": np.array([1, 0])})
    state = env.get_state()
    env.step([np.zeros(2, np.int64)] * 4)
    apart = state["agent_positions"][:, :, None] - state["landmark_positions"][:, None]  # [E, A, L, 2]
    expected = np.sqrt(np.square(apart).sum(axis=3)).astype(np.float32)
    assert (env.final_distances()[0] == expected[0][:, [2, 0, 1]]).all()
    assert not env.final_distances()[1].any()  # this copy has not ended
    assert env.final_distances().shape == (2, 4, 3)


def test_continuous_actions_of_another_float_type_are_rounded_to_float32():
    results = []
    for dtype in (np.float32, np.float64):
        env = make(2, 5, continuous_actions=True)
        env.reset()
        results.append(flat(env.step([np.full((2, 5), 0.3, dtype) * np.arange(5, dtype=dtype)] * 3)))
    assert np.allclose(results[0], results[1], atol=1e-6)


CONTINUOUS = [np.full((2, 5), 0.5, np.float32) for _ in range(3)]
DISCRETE = [np.zeros(2, np.int64) for _ in range(3)]


def with_entry(actions, i, index, value):
    changed = [array.copy() for array in actions]
    changed[i][index] = value
    return changed


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (CONTINUOUS[:2], "got 2 action arrays for 3 agents"),
        (with_entry(CONTINUOUS, 1, (1, 0), np.nan), "action of agent_0 in copy 1 is NaN"),
        ([*CONTINUOUS[:2], CONTINUOUS[2][:1]], r"agent_1 have shape \(1, 5\).*expected \(2, 5\) float32"),
        ([*CONTINUOUS[:2], CONTINUOUS[2].astype(str)], "actions of agent_1 .* expected"),
        (with_entry(DISCRETE, 2, 1, 5), "action of agent_1 in copy 1 is 5, expected 0 to 4"),
        (with_entry(DISCRETE, 0, 0, -1), "action of adversary_0 in copy 0 is -1"),
        ([DISCRETE[0].astype(float), *DISCRETE[1:]], "adversary_0 have .* float64, expected .* integers"),
        ([DISCRETE[0][:, None], *DISCRETE[1:]], r"adversary_0 have shape \(2, 1\)"),
    ],
)
def test_refused_actions_change_nothing(actions, message):
    continuous = any(array.ndim == 2 and array.shape[1] == 5 for array in actions)
    env = make(2, 5, continuous_actions=continuous)
    env.reset()
    before = env.get_state()
    with pytest.raises(ValueError, match=message):
        env.step(actions)
    assert all((before[name] == array).all() for name, array in env.get_state().items())


def test_step_and_get_state_before_reset_are_refused():
    env = make(2, 5)
    with pytest.raises(RuntimeError, match=r"call reset\(\)"):
        env.step(DISCRETE)
    with pytest.raises(RuntimeError, match=r"call reset\(\)"):
        env.get_state()


def test_render_mode_is_refused():
    with pytest.raises(BadInput, match=r"env\.kwargs\.render_mode = 'human'.*backend = 'pettingzoo'"):
        make(1, 0, render_mode="human")
