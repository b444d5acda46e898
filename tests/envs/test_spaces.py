import logging
import math
from collections import OrderedDict

import numpy as np
import pytest
from gymnasium.spaces import (
    Box,
    Dict,
    Discrete,
    Graph,
    MultiBinary,
    MultiDiscrete,
    OneOf,
    Sequence,
    Text,
    Tuple,
    flatdim,
    flatten,
)

from distributed_maddpg.envs.spaces import action_codec, observation_codec, warn_of_unbounded
from distributed_maddpg.errors import BadInput


def test_box_action_is_scaled_to_its_bounds_shaped_and_cast():
    codec = action_codec("x", "a", Box(np.float32([[-2, 0]]), np.float32([[3, 10]]), dtype=np.float32))
    assert (codec.size, codec.kind) == (2, "continuous")
    decoded = codec.decode(np.array([0.5, 0.25], np.float32))
    assert decoded.tolist() == [[0.5, 2.5]]
    assert decoded.dtype == np.float32
    assert codec.space.contains(codec.decode(np.ones(2, np.float32)))


def test_unit_box_action_passes_unchanged():
    codec = action_codec("x", "a", Box(0, 1, (5,), np.float32))
    actions = np.random.default_rng(0).random((100, 5), dtype=np.float32)
    assert all((codec.decode(action) == action).all() for action in actions)


def test_integer_box_action_is_rounded():
    codec = action_codec("x", "a", Box(0, 255, (3,), np.uint8))
    assert codec.decode(np.array([0.0, 0.499, 1.0], np.float32)).tolist() == [0, 127, 255]


def test_scaled_action_never_passes_a_bound():
    codec = action_codec("x", "a", Box(-0.1, 0.7, (1,), np.float32))
    assert codec.space.contains(codec.decode(np.ones(1, np.float32)))
    assert codec.space.contains(codec.decode(np.zeros(1, np.float32)))


def test_continuous_actions_are_clipped_and_nan_is_refused():
    codec = action_codec("x", "a", Box(0, 1, (2,), np.float32))
    assert codec.checked(np.array([[-1, np.inf], [0.5, 2]]), 2).tolist() == [[0, 1], [0.5, 1]]
    with pytest.raises(ValueError, match="action of a in copy 1 is NaN"):
        codec.checked(np.array([[0, 1], [np.nan, 1]]), 2)
    with pytest.raises(ValueError, match=r"actions of a have shape \(2,\).*expected \(2, 2\) float32"):
        codec.checked(np.zeros(2), 2)


def test_discrete_action_counts_from_the_spaces_start():
    codec = action_codec("x", "a", Discrete(3, start=5))
    assert (codec.size, codec.kind) == (3, "discrete")
    assert [codec.decode(i) for i in range(3)] == [5, 6, 7]
    assert codec.checked(np.array([2, 0], np.int32), 2).tolist() == [2, 0]


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.array([0, 3]), "action of a in copy 1 is 3, expected 0 to 2"),
        (np.array([-1, 0]), "action of a in copy 0 is -1, expected 0 to 2"),
        (np.array([0.0, 1.0]), "float64, expected .* integers"),
        (np.array([0]), r"shape \(1,\)"),
    ],
)
def test_discrete_actions_that_do_not_exist_are_refused(actions, message):
    with pytest.raises(ValueError, match=message):
        action_codec("x", "a", Discrete(3)).checked(actions, 2)


@pytest.mark.parametrize(
    ("space", "reason"),
    [
        (Text(3), "only Box, and Discrete, MultiDiscrete, MultiBinary, or Dict or Tuple of these, are"),
        (Tuple([Discrete(2), Text(3)]), "only Box, and Discrete, MultiDiscrete, MultiBinary, or Dict"),
        (Tuple([Discrete(2), Box(0, 1, (1,))]), "a Box inside a Dict or Tuple is not supported"),
        (Dict({"x": Tuple([Box(0, 1, (1,))])}), "a Box inside a Dict or Tuple is not supported"),
        (MultiBinary(11), "which has 2048 combinations; at most 1024 can be acted in as one Discrete"),
        (MultiDiscrete([1025]), "which has 1025 combinations"),
        (MultiBinary(20_000), r"which has over 10\^9 combinations"),
        (Tuple([]), "which has size 0"),
        (Box(0, 1, (0,)), "which has size 0"),
    ],
)
def test_action_spaces_no_policy_can_act_in_are_refused(space, reason):
    with pytest.raises(BadInput, match=reason) as caught:
        action_codec("some.env", "pilot_0", space)
    assert str(caught.value).startswith(f"env.id = 'some.env': pilot_0 acts in {space}")


def test_observations_are_flattened_or_one_hot():
    image = observation_codec("x", "a", Box(0, 255, (2, 2), np.uint8))
    row = np.empty(4, np.float32)
    image.encode(np.array([[1, 2], [3, 255]], np.uint8), row)
    assert (image.size, row.tolist()) == (4, [1, 2, 3, 255])
    choice = observation_codec("x", "a", Discrete(4, start=-1))
    choice.encode(1, row)
    assert (choice.size, row.tolist()) == (4, [0, 0, 1, 0])


@pytest.mark.parametrize(
    ("space", "observation"),
    [
        (Box(-1, 1, (3,)), 0.5),
        (Box(-1, 1, (3,)), [0.5]),
        (Box(-1, 1, (3,)), [0.5] * 4),
        (Box(-1, 1, (3,)), ["1", "2", "3"]),
        (Box(-1, 1, (3,)), [1j, 1j, 1j]),
        (Box(-1, 1, (1,)), None),
        (Box(-1, 1, (2,)), [0.5, [0.5, 0.5]]),
        (MultiDiscrete([2, 2]), [0, [1, 1]]),
        (Discrete(3), -1),
        (Discrete(3), 3),
        (Discrete(3), 1.7),
        (Discrete(3), [1, 2]),
        (Discrete(3, start=5), 4),
    ],
)
def test_observations_that_are_not_in_the_space_are_refused(space, observation):
    codec = observation_codec("some.env", "pilot_0", space)
    with pytest.raises(BadInput) as caught:
        codec.encode(observation, np.empty(codec.size, np.float32))
    remedy = f"pilot_0 observed {observation!r}, which is not in its observation space {space}"
    assert str(caught.value) == f"env.id = 'some.env': {remedy}"


def test_lists_flags_and_arrays_of_one_number_are_observations_too():
    row = np.empty(3, np.float32)
    observation_codec("x", "a", Box(0, 1, (3,))).encode([True, 0, 0.5], row)
    assert row.tolist() == [1, 0, 0.5]
    for index in (1, 1.0, np.array([1])):
        observation_codec("x", "a", Discrete(3)).encode(index, row)
        assert row.tolist() == [0, 1, 0]


def test_an_observation_space_without_values_is_refused():
    with pytest.raises(BadInput, match=r"'some.env': pilot_0 observes Box.*, which has size 0"):
        observation_codec("some.env", "pilot_0", Box(0, 1, (0,)))


SPACES = [
    Box(-1, 1, (2, 3), np.float64),
    Box(0, 255, (2, 2), np.uint8),
    Box(0, 1, (), np.float32),
    Discrete(4, start=-2),
    MultiDiscrete([2, 3], start=[5, -1]),
    MultiDiscrete([[2, 3], [1, 4]]),
    MultiBinary(3),
    MultiBinary([2, 2]),
    Dict({"b": Discrete(3), "a": Box(0, 1, (2,))}),
    Dict(OrderedDict([("z", MultiBinary(2)), ("a", Discrete(2))])),
    Tuple([Discrete(2), Dict({"deep": Tuple([MultiDiscrete([2, 2]), Box(0, 9, (1,), np.int64)])})]),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_observations_are_flattened_as_gymnasium_does(space):
    codec = observation_codec("x", "a", space)
    assert codec.size == flatdim(space)
    space.seed(0)
    row = np.full(codec.size, 7, np.float32)
    for _ in range(20):
        sample = space.sample()
        codec.encode(sample, row)
        assert row.tolist() == flatten(space, sample).astype(np.float32).tolist()


def test_parts_of_nested_observations_are_in_the_spaces_order():
    space = Dict(OrderedDict([("z", MultiDiscrete([2, 3])), ("a", Tuple([Box(0, 9, (1,)), Discrete(2)]))]))
    row = np.empty(8, np.float32)
    observation_codec("x", "a", space).encode({"a": ([5], 1), "z": [1, 2]}, row)
    assert row.tolist() == [0, 1, 0, 0, 1, 5, 0, 1]


NESTED = Dict({"x": Tuple([Discrete(2), MultiDiscrete([2, 3])])})


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        ({"x": (0, [0, 3])}, "pilot_0['x'][1] observed [0, 3], which is not in its observation space Multi"),
        ({"x": (0, [0, math.nan])}, "pilot_0['x'][1] observed [0, nan], which is not in"),
        ({"x": (0, [0, 1, 1])}, "pilot_0['x'][1] observed [0, 1, 1], which is not in"),
        ({"x": (0,)}, "pilot_0['x'] observed (0,), which is not in its observation space Tuple"),
        (
            {"y": (0, [0, 0])},
            "pilot_0 observed {'y': (0, [0, 0])}, which is not in its observation space Dict",
        ),
        ({"x": (0, [0, 0]), "y": 1}, "pilot_0 observed {'x': (0, [0, 0]), 'y': 1}, which is not in"),
        ([0, 0], "pilot_0 observed [0, 0], which is not in its observation space Dict"),
    ],
)
def test_nested_observations_that_are_not_in_the_space_are_refused(observation, message):
    codec = observation_codec("some.env", "pilot_0", NESTED)
    with pytest.raises(BadInput) as caught:
        codec.encode(observation, np.empty(codec.size, np.float32))
    assert str(caught.value).startswith(f"env.id = 'some.env': {message}")


@pytest.mark.parametrize(
    ("space", "agent"),
    [
        (Text(5), "pilot_0"),
        (Graph(Box(0, 1, (2,)), None), "pilot_0"),
        (Sequence(Discrete(2)), "pilot_0"),
        (OneOf([Discrete(2), Box(0, 1, (1,))]), "pilot_0"),
        (Dict({"x": Sequence(Discrete(2))}), "pilot_0['x']"),
    ],
    ids=lambda s: type(s).__name__,
)
def test_observation_spaces_without_a_fixed_size_are_refused_by_name(space, agent):
    with pytest.raises(BadInput) as caught:
        observation_codec("some.env", "pilot_0", space)
    inner = space["x"] if isinstance(space, Dict) else space
    assert str(caught.value) == (
        f"env.id = 'some.env': {agent} observes {inner}; only Box, Discrete, MultiDiscrete, MultiBinary, and "
        "Dict or Tuple of these are supported"
    )


@pytest.mark.parametrize(
    ("space", "size", "first", "last"),
    [
        (MultiDiscrete([2, 3]), 6, "array([0, 0])", "array([1, 2])"),
        (MultiDiscrete([2, 3], start=[5, -1]), 6, "array([ 5, -1])", "array([6, 1])"),
        (
            MultiDiscrete([[2, 3]], dtype=np.int8),
            6,
            "array([[0, 0]], dtype=int8)",
            "array([[1, 2]], dtype=int8)",
        ),
        (MultiBinary([1, 2]), 4, "array([[0, 0]], dtype=int8)", "array([[1, 1]], dtype=int8)"),
        (Tuple([Discrete(2, start=3), MultiBinary(1)]), 4, "(np.int64(3), array([0], dtype=int8))", None),
        (
            Dict({"b": Discrete(3), "a": Tuple([Discrete(2)])}),
            6,
            "{'a': (np.int64(0),), 'b': np.int64(0)}",
            None,
        ),
        (MultiBinary(10), 1024, None, None),
    ],
    ids=str,
)
def test_combinations_are_one_discrete_action_each(space, size, first, last):
    codec = action_codec("x", "a", space)
    assert (codec.size, codec.kind) == (size, "discrete")
    assert codec.checked(np.array([size - 1, 0]), 2).tolist() == [size - 1, 0]
    with pytest.raises(ValueError, match=f"action of a in copy 0 is {size}, expected 0 to {size - 1}"):
        codec.checked(np.array([size]), 1)
    decoded = [codec.decode(np.int64(action)) for action in range(size)]
    assert all(space.contains(action) for action in decoded)
    assert len({str(action) for action in decoded}) == size
    assert first is None or repr(decoded[0]) == first
    assert last is None or repr(decoded[-1]) == last


@pytest.mark.parametrize(
    ("space", "starts"),
    [
        (Discrete(4, start=-2), [-2]),
        (MultiDiscrete([2, 3], start=[5, 7]), [5, 7]),
        (MultiBinary(3), [0, 0, 0]),
        (Tuple([Discrete(2, start=1), Dict({"b": MultiBinary(2), "a": Discrete(2, start=3)})]), [1, 3, 0, 0]),
    ],
)
def test_choices_have_first_values(space, starts):
    codec = action_codec("x", "a", space)
    assert (codec.starts, len(codec.choices)) == (starts, len(starts))


def test_actions_of_combinations_count_up_with_the_last_choice_first():
    codec = action_codec("x", "a", MultiDiscrete([2, 3], start=[0, 7]))
    assert [codec.decode(action).tolist() for action in range(4)] == [[0, 7], [0, 8], [0, 9], [1, 7]]


INF, MAX = np.inf, np.finfo(np.float32).max


@pytest.mark.parametrize(
    ("space", "at_0", "at_half", "at_1"),
    [
        (Box(-INF, INF, (1,)), [-1], [0], [1]),
        (Box(-MAX, MAX, (1,)), [-1], [0], [1]),
        (Box(-INF, INF, (1,), np.float64), [-1], [0], [1]),
        (Box(5, INF, (1,)), [5], [6], [7]),
        (Box(-INF, 5, (1,)), [3], [4], [5]),
        (
            Box(np.float32([-INF, 0, -4, -INF]), np.float32([INF, INF, 4, 9])),
            [-1, 0, -4, 7],
            None,
            [1, 2, 4, 9],
        ),
        (Box(-INF, INF, (1,), np.int32), [-1], [0], [1]),
        (Box(3, 4, (1,)), [3], [3.5], [4]),
    ],
    ids=str,
)
def test_actions_without_a_bound_are_within_two_of_the_other(space, at_0, at_half, at_1):
    codec = action_codec("x", "a", space)
    for value, expected in ((0, at_0), (0.5, at_half), (1, at_1)):
        decoded = codec.decode(np.full(codec.size, value, np.float32))
        assert expected is None or decoded.tolist() == expected
        assert space.contains(decoded)


def test_limits_of_actions_without_bounds_are_told_of_once_for_each_environment(caplog):
    free, half = Box(-INF, INF, (3,)), Box(np.float32([0, -INF]), np.float32([INF, INF]))
    spaces = {"a_0": free, "a_1": free, "b_0": half, "c_0": Box(0, 1, (2,)), "d_0": Discrete(2)}
    codecs = [action_codec("some.env", agent, space) for agent, space in spaces.items()]
    for _ in range(3):
        warn_of_unbounded("some.env", codecs)
    warn_of_unbounded("bounded.env", codecs[3:])
    [record] = caplog.records
    assert (record.levelno, record.name) == (logging.WARNING, "distributed_maddpg.envs.spaces")
    assert record.getMessage() == (
        "some.env has actions without bounds, so they stay within limits: a_0, a_1 in [-1, 1]; "
        "b_0 in [0, 2], [-1, 1]"
    )
