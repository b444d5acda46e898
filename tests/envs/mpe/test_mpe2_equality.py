"""Every compiled scenario against MPE2 itself, from random states and with random keywords.

Where only + - * / sqrt are involved no difference is tolerated. Contact forces, fines, circles and lines need
exp, log1p, sin, cos and atan2; on a processor for which numpy brings its own versions of these, a step may
differ by two units in the last place: of the value, or of 1 where the values are differences.
"""

import dataclasses
import logging

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distributed_maddpg.envs import make_vector_env
from distributed_maddpg.envs.mpe.scenarios import SCENARIOS

E, NUM_STEPS = 2, 9
WITH_TRANSCENDENTALS = {
    "simple_formation",
    "simple_line",
    "simple_push",
    "simple_spread",
    "simple_tag",
    "simple_world_comm",
}
MOST = {"N": 8, "num_collectors": 7, "max_cycles": 8}  # others: 3
EXACT = {"goal_landmark", "goal_landmarks", "key_landmark", "cycle", "holding", "treasure_types"}


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.CRITICAL)  # MPE2 logs every action it clips


def keywords(name):
    """All keywords of a scenario but those of rendering, with values that MPE2 can use."""
    options = SCENARIOS[name].options_type
    values = {}
    for field in dataclasses.fields(options):
        whole = st.integers(options.LEAST.get(field.name, 1), MOST.get(field.name, 3))
        kinds = {"int": whole, "int | None": st.none() | whole, "bool": st.booleans()}
        kinds["float"] = st.floats(0, 1)
        if field.type in kinds:
            values[field.name] = kinds[field.type]
    some = st.fixed_dictionaries({}, optional=values)
    if name == "simple_tag":  # MPE2 needs somebody
        return some.filter(lambda kwargs: kwargs.get("num_good", 1) + kwargs.get("num_adversaries", 3) > 0)
    return some


def random_actions(env, generator):
    if env.action_type == "discrete":
        return [generator.integers(size, size=E) for size in env.action_sizes]
    return [generator.uniform(-0.3, 1.3, (E, size)).astype(np.float32) for size in env.action_sizes]


def random_state(state, generator, spread):
    """Positions and velocities that no reset draws: everybody in one place, or all over the plane."""
    centre = generator.normal(0, 0.5, (E, 1, 2))
    for name in ("agent_positions", "landmark_positions"):
        state[name] = centre + generator.normal(0, spread, state[name].shape)
    state["agent_velocities"] = generator.normal(0, 1, state["agent_velocities"].shape)
    if "treasure_alive" in state:  # MPE2 keeps collected treasures far away
        state["landmark_positions"][state["treasure_alive"] == 0] = -999.0
    return state


def assert_equal(ours, mpe2s, exact, what):
    """Compare two arrays; `exact` tolerates no difference, otherwise two units in the last place."""
    assert ours.dtype == mpe2s.dtype, what
    if exact or ours.dtype.kind != "f":
        np.testing.assert_array_equal(ours, mpe2s, err_msg=what)
    else:
        np.testing.assert_array_max_ulp(ours, mpe2s, 2)


def assert_close(ours, mpe2s, what):
    """Compare distances, differences of positions near 1, to two units in the last place of 1."""
    np.testing.assert_allclose(ours, mpe2s, rtol=0, atol=2 * np.finfo(np.float64).eps, err_msg=what)


def assert_same_step(ours, mpe2s, actions, exact):
    a, b = ours.step(actions), mpe2s.step(actions)
    for part in ("terminated", "truncated"):
        assert_equal(getattr(a, part), getattr(b, part), True, part)
    assert_equal(a.rewards, b.rewards, exact, "rewards")
    for name, *observations in zip(ours.agents, a.obs, b.obs, a.final_obs, b.final_obs, strict=True):
        assert_equal(*observations[:2], exact, f"observation of {name}")
        assert_equal(*observations[2:], exact, f"last observation of {name}")
    assert_close(ours.final_measures(), mpe2s.final_measures(), "measures")
    left, right = ours.get_state(), mpe2s.get_state()
    assert left.keys() == right.keys()
    for key in left:
        if key == "measures":
            assert_close(left[key], right[key], key)
        else:
            assert_equal(left[key], right[key], exact or key in EXACT, key)
    return right


@pytest.mark.parametrize("name", SCENARIOS)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), seed=st.integers(0, 2**32), spread=st.sampled_from([0.02, 0.3, 1.5]))
def test_steps_equal_mpe2_with_any_keywords_from_any_state(name, data, seed, spread):
    kwargs = {"max_cycles": 6, **data.draw(keywords(name), label="kwargs")}
    ours, mpe2s = (make_vector_env(name, E, seed, backend=b, **kwargs) for b in ("vectorized", "pettingzoo"))
    exact, generator = name not in WITH_TRANSCENDENTALS, np.random.default_rng(seed)
    for i, (a, b) in enumerate(zip(ours.reset(), mpe2s.reset(), strict=True)):
        assert_equal(a, b, exact, f"first observation of agent {i}")
    for step in range(NUM_STEPS):
        state = assert_same_step(ours, mpe2s, random_actions(ours, generator), exact)
        if step % 3 == 0:
            state = random_state(state, generator, spread)
            mpe2s.set_state(state)
        ours.set_state(state)  # MPE2's own, so that differences do not add up


@pytest.mark.parametrize("name", sorted(set(SCENARIOS) - WITH_TRANSCENDENTALS))
def test_trajectories_without_exponentials_stay_equal(name):
    ours, mpe2s = (make_vector_env(name, E, 3, backend=b, max_cycles=7) for b in ("vectorized", "pettingzoo"))
    generator = np.random.default_rng(0)
    ours.reset()
    mpe2s.reset()
    for _ in range(40):
        assert_same_step(ours, mpe2s, random_actions(ours, generator), exact=True)


@pytest.mark.parametrize("name", ["simple_spread", "simple_tag", "simple_push"])
def test_agents_at_rest_feel_forces_that_moving_ones_do_not(name):
    ours, mpe2s = (make_vector_env(name, E, 3, backend=b) for b in ("vectorized", "pettingzoo"))
    ours.reset()
    mpe2s.reset()
    state, generator = ours.get_state(), np.random.default_rng(0)
    state["agent_positions"] = generator.uniform(-0.3, 0.3, state["agent_positions"].shape)
    state["agent_velocities"][:, 0] = (
        0.0,
        0.4,
    )  # the first agent rests along one axis, the others along both
    ours.set_state(state)
    mpe2s.set_state(state)
    still = [np.zeros(E, np.int64) for _ in ours.agents]
    velocities = assert_same_step(ours, mpe2s, still, exact=False)["agent_velocities"]
    assert ((velocities != 0) & (np.abs(velocities) < 1e-30)).any()
