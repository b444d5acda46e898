import math

import numpy as np
import pytest

from distributed_maddpg.acting.exploration import ActionHead, Explorer
from distributed_maddpg.config import ExplorationConfig
from distributed_maddpg.errors import BadInput
from distributed_maddpg.types import EnvSpec

NAMES = ("red_0", "blue_0")
CONTINUOUS = EnvSpec(NAMES, (3, 2), (2, 3), ("continuous",) * 2)
DISCRETE = EnvSpec(NAMES, (3, 2), (2, 3), ("discrete",) * 2)
MANY = 40_000


def make_head(heads=("sigmoid", "sigmoid"), spec=CONTINUOUS, temperature=1.0):
    return ActionHead(spec, heads, temperature)


def explorer(kind, heads=("sigmoid", "sigmoid"), spec=CONTINUOUS, num_envs=MANY, seed=0, **settings):
    config = ExplorationConfig(kind, **settings)
    return Explorer(config, make_head(heads, spec), num_envs, np.random.default_rng(seed))


def zeros(num_envs=MANY):
    return np.zeros((2, num_envs, 3), np.float32)


def normal_tail(z):
    return 0.5 * math.erfc(z / math.sqrt(2))


def test_relaxed_is_the_sigmoid_by_value():
    logits = np.array([[[0.0, math.log(3), 9]], [[-1e4, 1e4, 0]]], np.float32)
    actions = make_head().relaxed(logits)
    np.testing.assert_allclose(actions[0, 0, :2], [0.5, 0.75], rtol=1e-6)
    np.testing.assert_allclose(actions[1, 0], [0, 1, 0.5], atol=1e-6)
    assert actions.dtype == np.float32


def test_relaxed_is_the_softmax_over_an_agents_own_columns():
    logits = np.array([[[0.0, math.log(3), 50.0]], [[1.0, 1.0, 1.0]]], np.float32)
    actions = make_head(("gumbel", "gumbel")).relaxed(logits)
    np.testing.assert_allclose(actions[:, 0], [[0.25, 0.75, 0], [1 / 3] * 3], rtol=1e-6)


def test_the_temperature_divides_the_logits():
    logits = np.array([[[0.0, math.log(3), 0.0]], [[0, 0, 0]]], np.float32)
    actions = make_head(("gumbel", "gumbel"), temperature=0.5).relaxed(logits)
    np.testing.assert_allclose(actions[0, 0, :2], [0.1, 0.9], rtol=1e-6)


def test_heads_may_be_mixed():
    actions = make_head(("gumbel", "sigmoid")).relaxed(zeros(1))
    np.testing.assert_allclose(actions[:, 0], [[0.5, 0.5, 0], [0.5, 0.5, 0.5]])


def test_discrete_actions_are_one_hot_for_the_critic_and_integers_for_the_env():
    actions = np.array([[[0.2, 0.8, 0]], [[0.3, 0.1, 0.6]]], np.float32)
    for_critic, for_env = make_head(("gumbel",) * 2, DISCRETE).to_critic_and_env(actions)
    assert [for_critic[0, 0, :2].tolist(), for_critic[1, 0].tolist()] == [[0, 1], [0, 0, 1]]
    assert [array.tolist() for array in for_env] == [[1], [2]]
    assert all(array.dtype == np.int64 for array in for_env)


def test_continuous_actions_are_unchanged_and_without_padding():
    actions = np.array([[[0.25, 0.75, 9]], [[0.5, 0.125, 1]]], np.float32)
    for_critic, for_env = make_head().to_critic_and_env(actions)
    assert [for_critic[0, 0, :2].tolist(), for_critic[1, 0].tolist()] == [[0.25, 0.75], [0.5, 0.125, 1]]
    assert [array.tolist() for array in for_env] == [[[0.25, 0.75]], [[0.5, 0.125, 1]]]


@pytest.mark.parametrize(
    ("env_steps", "magnitude"), [(0, 1.0), (250, 0.8), (500, 0.6), (1000, 0.2), (10**9, 0.2)]
)
def test_the_magnitude_moves_linearly_from_start_to_end(env_steps, magnitude):
    noise = explorer("gaussian", num_envs=1, start=1.0, end=0.2, decay_env_steps=1000)
    assert noise.magnitude(env_steps) == pytest.approx(magnitude)


def test_without_decay_the_magnitude_is_the_end():
    assert explorer("gaussian", num_envs=1, start=1.0, end=0.3).magnitude(0) == 0.3


@pytest.mark.parametrize("kind", ["auto", "gaussian", "ou"])
def test_no_magnitude_means_greedy_actions(kind):
    noise = explorer(kind, num_envs=3, start=0.0, end=0.0)
    logits = np.random.default_rng(1).normal(size=(2, 3, 3)).astype(np.float32)
    np.testing.assert_array_equal(noise.actions(logits, 0), make_head().relaxed(logits))


def test_none_adds_nothing_to_either_head():
    logits = np.random.default_rng(1).normal(size=(2, 3, 3)).astype(np.float32)
    for heads in (("sigmoid", "sigmoid"), ("gumbel", "sigmoid"), ("gumbel", "gumbel")):
        noise = explorer("none", heads, num_envs=3)
        np.testing.assert_array_equal(noise.actions(logits, 0), make_head(heads).relaxed(logits))


@pytest.mark.parametrize(("kind", "magnitude"), [("auto", 0.1 / 0.3), ("gaussian", 0.1)])
def test_gaussian_noise_has_the_asked_spread_and_is_independent(kind, magnitude):
    actions = explorer(kind, start=magnitude, end=magnitude).actions(zeros(), 0).reshape(2, -1, 3)
    own = np.concatenate([actions[0, :, :2], actions[1]], axis=1)  # [E, 5]
    np.testing.assert_allclose(own.mean(axis=0), 0.5, atol=0.003)
    np.testing.assert_allclose(own.std(axis=0), 0.1, atol=0.002)
    np.testing.assert_allclose(np.corrcoef(own.T), np.eye(5), atol=0.03)


def test_noisy_actions_are_clipped_to_the_unit_interval():
    actions = explorer("gaussian", start=1.0, end=1.0).actions(zeros(), 0)[1]
    assert (actions.min(), actions.max()) == (0.0, 1.0)
    assert (actions == 0.0).mean() == pytest.approx(normal_tail(0.5), abs=0.01)
    assert (actions == 1.0).mean() == pytest.approx(normal_tail(0.5), abs=0.01)


def test_gumbel_noise_makes_the_largest_entry_a_sample_of_the_softmax():
    logits = zeros()
    logits[1] = np.log(np.array([0.2, 0.3, 0.5], np.float32))
    for kind in ("auto", "gumbel"):
        noise = explorer(kind, ("gumbel", "gumbel"), DISCRETE)
        chosen = noise.actions(logits, 0)[1].argmax(axis=1)
        np.testing.assert_allclose(np.bincount(chosen) / MANY, [0.2, 0.3, 0.5], atol=0.01)


def test_the_gumbel_factor_scales_the_noise():
    logits = zeros()
    logits[0, :, 1] = math.log(3)  # with half the noise it counts as log 9
    noise = explorer("gumbel", ("gumbel", "gumbel"), DISCRETE, start=0.5, end=0.5)
    assert noise.actions(logits, 0)[0].argmax(axis=1).mean() == pytest.approx(0.9, abs=0.01)


def test_a_noise_reaches_only_the_heads_it_is_for():
    for kind, noisy in (("gaussian", 1), ("ou", 1), ("gumbel", 0), ("auto", None)):
        actions = explorer(kind, ("gumbel", "sigmoid"), num_envs=50).actions(zeros(50), 0)
        changed = [actions[agent, :, :2].std() > 0 for agent in range(2)]
        assert changed == [noisy != 1, noisy != 0]


def test_ornstein_uhlenbeck_noise_is_the_discrete_walk():
    theta, sigma = 0.4, 0.05
    noise = explorer("ou", start=sigma, end=sigma, ou_theta=theta)
    walk = [noise.actions(zeros(), 0)[1, :, 0] - 0.5 for _ in range(30)]
    assert walk[0].std() == pytest.approx(sigma, rel=0.03)
    assert walk[-1].std() == pytest.approx(sigma / math.sqrt(1 - (1 - theta) ** 2), rel=0.03)
    assert np.corrcoef(walk[-2], walk[-1])[0, 1] == pytest.approx(1 - theta, abs=0.02)
    assert np.corrcoef(walk[-4], walk[-1])[0, 1] == pytest.approx((1 - theta) ** 3, abs=0.02)


def test_the_walk_of_ended_copies_starts_at_zero_again():
    noise = explorer("ou", start=0.05, end=0.0, decay_env_steps=1)
    noise.actions(zeros(), 0)
    noise.reset(np.arange(MANY) % 2 == 0)
    walk = noise.actions(zeros(), 1)[1, :, 0] - 0.5  # magnitude 0: what is left is the old walk
    assert not walk[::2].any()
    assert walk[1::2].std() == pytest.approx(0.85 * 0.05, rel=0.03)


def test_epsilon_replaces_all_agents_of_a_copy_together_by_uniform_actions():
    actions = explorer("epsilon", start=0.25, end=0.25).actions(zeros(), 0)
    random = (actions[0, :, :2] != 0.5).all(axis=1)
    assert random.mean() == pytest.approx(0.25, abs=0.01)
    assert ((actions[1] != 0.5).all(axis=1) == random).all()
    shares = np.histogram(actions[1, random], bins=4, range=(0, 1))[0] / (3 * random.sum())
    np.testing.assert_allclose(shares, 0.25, atol=0.015)


def test_epsilon_chooses_uniformly_among_an_agents_own_discrete_actions():
    logits = zeros()
    logits[..., 0] = 30.0
    made = make_head(("gumbel", "gumbel"), DISCRETE)
    noise = Explorer(ExplorationConfig("epsilon", 1.0, 1.0), made, MANY, np.random.default_rng(0))
    first, second = made.to_critic_and_env(noise.actions(logits, 0))[1]
    np.testing.assert_allclose(np.bincount(first) / MANY, [1 / 2] * 2, atol=0.01)
    np.testing.assert_allclose(np.bincount(second) / MANY, [1 / 3] * 3, atol=0.01)


@pytest.mark.parametrize(
    ("kind", "heads", "needed"),
    [
        ("gaussian", ("gumbel", "gumbel"), "sigmoid"),
        ("ou", ("gumbel", "gumbel"), "sigmoid"),
        ("gumbel", ("sigmoid", "sigmoid"), "gumbel"),
    ],
)
def test_noise_that_fits_no_policy_head_is_refused(kind, heads, needed):
    with pytest.raises(BadInput, match=f"exploration.kind = '{kind}': needs a {needed} policy head"):
        explorer(kind, heads, num_envs=1)


@pytest.mark.parametrize("kind", ["gaussian", "ou", "epsilon", "auto"])
def test_noise_repeats_with_its_seed(kind):
    first, again, other = (explorer(kind, seed=s, num_envs=4).actions(zeros(4), 0) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_an_offset_is_constant_within_an_episode_and_redrawn_after_it():
    explore = explorer("none", num_envs=2000, episode_offset=0.5)
    first = explore.actions(zeros(2000), 0)
    logits = np.log(first / (1 - first))
    assert logits[0, :, :2].std() == pytest.approx(0.5, rel=0.05)
    assert (explore.actions(zeros(2000), 1) == first).all()
    ended = np.arange(2000) < 500
    explore.reset(ended)
    second = explore.actions(zeros(2000), 2)
    assert (second[:, 500:] == first[:, 500:]).all()
    assert (second[:, :500] != first[:, :500]).all()


def test_offsets_continue_from_a_state():
    one, two = (explorer("none", num_envs=4, seed=seed, episode_offset=1.0) for seed in (0, 1))
    two.set_state(one.get_state())
    for _ in range(2):
        assert (one.actions(zeros(4), 0) == two.actions(zeros(4), 0)).all()
        one.reset(np.ones(4, bool)), two.reset(np.ones(4, bool))
    state = one.get_state()
    state["offset"][0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        two.set_state(state)


@pytest.mark.parametrize("kind", ["epsilon", "gaussian", "ou", "gumbel"])
def test_greedy_agents_get_no_noise_of_any_kind(kind):
    head = "gumbel" if kind == "gumbel" else "sigmoid"
    config = ExplorationConfig(kind, start=1.0, end=1.0, episode_offset=1.0)
    explore = Explorer(config, make_head((head, head)), 50, np.random.default_rng(0), (True, False))
    actions, greedy = explore.actions(zeros(50), 0), make_head((head, head)).relaxed(zeros(50))
    assert (actions[0] == greedy[0]).all()
    assert (actions[1, :, :2] != greedy[1, :, :2]).all()
