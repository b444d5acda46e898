import numpy as np
import pytest
from mpe2 import simple_spread_v3

from distributed_maddpg.envs import make_vector_env
from distributed_maddpg.envs.mpe.scenarios import SCENARIOS
from distributed_maddpg.envs.mpe.simple_adversary import AdversaryOptions, SimpleAdversary
from distributed_maddpg.envs.pettingzoo import PettingZooVectorEnv
from distributed_maddpg.errors import BadInput, NotReproducible
from distributed_maddpg.types import PrivatePart


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"N": 0}, "env.kwargs.N = 0: must be a whole number, at least 1"),
        ({"N": 2.0}, "env.kwargs.N = 2.0: must be a whole number, at least 1"),
        ({"N": True}, "env.kwargs.N = True: must be a whole number, at least 1"),
        ({"max_cycles": 0}, "env.kwargs.max_cycles = 0: must be a whole number, at least 1"),
        ({"max_cycles": None}, "env.kwargs.max_cycles = None: must be a whole number, at least 1"),
        (
            {"num_agent_neighbors": 0},
            "env.kwargs.num_agent_neighbors = 0: must be a whole number, at least 1",
        ),
        (
            {"num_landmark_neighbors": -1},
            "env.kwargs.num_landmark_neighbors = -1: must be a whole number, at least 1",
        ),
        ({"continuous_actions": 1}, "env.kwargs.continuous_actions = 1: must be true or false"),
        ({"squared_adversary_reward": 2}, "env.kwargs.squared_adversary_reward = 2: must be true or false"),
        ({"velocity_first": 1}, "env.kwargs.velocity_first = 1: must be true or false"),
        (
            {"max_cycle": 3},
            "env.kwargs.max_cycle = 3: simple_adversary has no such keyword, did you mean 'max_cycles'?",
        ),
    ],
)
def test_options_refuse_with_one_clear_line(kwargs, message):
    with pytest.raises(BadInput) as caught:
        AdversaryOptions.from_kwargs(kwargs)
    assert str(caught.value) == message
    assert caught.value.field == f"env.kwargs.{next(iter(kwargs))}"


def test_a_scenario_without_agents_is_refused():
    with pytest.raises(BadInput, match=r"env\.kwargs\.num_good = 0: there is nobody"):
        make_vector_env("simple_tag", 1, 0, num_good=0, num_adversaries=0)


def test_sizes_follow_the_neighbours():
    assert SimpleAdversary(AdversaryOptions(N=2)).spec.observation_sizes == (8, 10, 10)
    assert SimpleAdversary(AdversaryOptions(N=3, num_agent_neighbors=1)).spec.observation_sizes == (
        8,
        10,
        10,
        10,
    )
    assert SimpleAdversary(AdversaryOptions(N=1, num_landmark_neighbors=4)).spec.observation_sizes == (10, 12)


def test_the_goal_is_private_to_good_agents_and_could_be_any_landmark():
    def parts(**kwargs):
        return SimpleAdversary(AdversaryOptions(**kwargs)).spec.private_parts

    assert parts(N=2) == (None, *[PrivatePart((0, 2), ((2, 4), (4, 6)))] * 2)
    ranked = PrivatePart((0, 2), ((2, 4), (4, 6)), aligned=False)
    assert parts(N=3, num_landmark_neighbors=2) == (None, *[ranked] * 3)
    assert parts(N=2, num_landmark_neighbors=5) == (None, *[ranked] * 2), "the rest are zeros"
    assert parts(N=1) == parts(N=3, num_landmark_neighbors=1) == (), "there is nothing else it could be"


@pytest.mark.parametrize("backend", ["vectorized", "pettingzoo"])
@pytest.mark.parametrize(
    ("name", "owners"), [("simple_adversary", 2), ("simple_push", 1), ("simple_crypto", 1)]
)
def test_the_private_part_is_one_of_its_candidates(name, owners, backend):
    env = make_vector_env(name, 50, 0, backend=backend, max_cycles=9)
    obs, generator, owned = env.reset(), np.random.default_rng(1), 0
    for _ in range(20):  # two episodes end on the way
        for own, part in zip(obs, env.spec.private_parts, strict=True):
            goal, owned = env.get_state()["goal_landmark"], owned + bool(part)
            for choice, (columns, constants) in enumerate(part.choices if part else ()):
                rows = own[goal == choice]
                expected = [[*row[slice(*columns)], *constants] for row in rows]
                assert len(rows) > 9
                np.testing.assert_array_equal(rows[:, slice(*part.columns)], expected)
        actions = [generator.integers(size, size=50) for size in env.action_sizes]
        obs = env.step(actions).obs
    assert owned == 20 * owners


def test_only_opponents_make_a_part_private():
    specs = {name: make_vector_env(name, 1, 0).spec for name in SCENARIOS}
    private = {name for name, spec in specs.items() if any(spec.private_parts)}
    assert private == {"simple_adversary", "simple_crypto", "simple_push"}
    assert specs["simple_push"].private_parts == (
        None,
        PrivatePart((2, 7), ((7, 9), (9, 11)), constants=((0.25, 0.75, 0.25), (0.25, 0.25, 0.75))),
    )
    alice = PrivatePart((0, 4), constants=((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0)))
    assert specs["simple_crypto"].private_parts == (None, None, alice)


def a_state():
    env = make_vector_env("simple_adversary", 2, 0, N=3)
    env.reset()
    return env.get_state()


def changed(name, value, dtype=None):
    state = a_state()
    array = state[name].astype(dtype or state[name].dtype)
    if value is not None:
        array.reshape(-1)[1] = value
    return {**state, name: array}


def test_a_state_from_before_a_scenario_was_compiled_is_told_from_a_damaged_one():
    old = PettingZooVectorEnv(simple_spread_v3.parallel_env, 2, 0)
    old.reset()
    env = make_vector_env("simple_spread", 2, 0)
    with pytest.raises(NotReproducible, match="simple_spread was not compiled yet"):
        env.set_state(old.get_state())
    env.reset()  # continues with new episodes


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({k: v for k, v in a_state().items() if k != "cycle"}, "the state lacks cycle"),
        ({**a_state(), "cycles": np.zeros(2)}, "holds an unknown cycles, did you mean 'cycle'?"),
        (changed("agent_positions", np.nan), "agent_positions holds values that are not finite"),
        (changed("agent_velocities", np.inf), "agent_velocities holds values that are not finite"),
        (changed("landmark_positions", None, np.float32), "landmark_positions has .* float32, expected"),
        ({**a_state(), "agent_positions": np.zeros((2, 3, 2))}, r"expected \(2, 4, 2\) float64"),
        (changed("goal_landmark", 3), "goal_landmark holds values outside 0 to 2"),
        (changed("goal_landmark", None, np.float64), "goal_landmark has .* float64, expected .* int64"),
        (changed("cycle", 25), "cycle holds values outside 0 to 24"),
        (changed("cycle", -1), "cycle holds values outside 0 to 24"),
        (changed("generator_state", None, np.int64), "generator_state has .* int64"),
    ],
)
def test_impossible_states_are_refused_and_leave_the_environment_alone(state, message):
    with pytest.raises(ValueError, match=message):
        SimpleAdversary(AdversaryOptions(N=3)).checked_state(state, 2)
    env = make_vector_env("simple_adversary", 2, 7, N=3)
    env.reset()
    before = env.get_state()
    with pytest.raises(ValueError, match=message):
        env.set_state(state)
    assert all((before[name] == array).all() for name, array in env.get_state().items())
