import numpy as np
import pytest

from distributed_maddpg.moments import Moments


def test_pieces_merge_to_the_mean_and_variance_of_all_values():
    values = np.random.default_rng(0).normal([1e6, 0.0, -3.0], [1e-2, 50.0, 0.0], (1000, 3))
    moments = Moments.none(3)
    for piece in np.split(values, [1, 10, 400, 999]):
        moments = moments.merged(Moments.of(piece))
    assert moments.count.tolist() == [1000] * 3
    np.testing.assert_allclose(moments.mean, values.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(moments.variance, values.var(axis=0), rtol=1e-8)
    assert moments.variance[2] == 0


def test_no_values_change_nothing():
    some, none = Moments.of(np.array([[1.0], [3.0]])), Moments.none(1)
    for merged in (some.merged(none), none.merged(some)):
        assert [merged.count[0], merged.mean[0], merged.squares[0]] == [2, 2.0, 2.0]
    assert none.merged(none).variance.tolist() == [0.0]


def test_float32_values_are_summed_in_float64():
    moments = Moments.of(np.full((100_000, 1), 0.1, np.float32))
    assert moments.mean[0] == pytest.approx(float(np.float32(0.1)), rel=1e-14)


def test_columns_are_chosen_in_order():
    moments = Moments.of(np.array([[1.0, 5.0, 0.0], [3.0, 5.0, 4.0]]))
    chosen = moments.columns(np.array([2, 0]))
    assert chosen.count.tolist() == [2, 2]
    assert (chosen.mean.tolist(), chosen.variance.tolist()) == ([2.0, 2.0], [4.0, 1.0])


def test_only_values_that_are_marked_count():
    rng = np.random.default_rng(0)
    values, counted = rng.normal(size=(50, 3)), rng.random((50, 3)) < [0.5, 1.0, 0.0]
    moments = Moments.of(values[:20], counted[:20]).merged(Moments.of(values[20:], counted[20:]))
    assert moments.count.tolist() == counted.sum(axis=0).tolist()
    for column in (0, 1):
        own = values[counted[:, column], column]
        assert moments.mean[column] == pytest.approx(own.mean(), rel=1e-12)
        assert moments.variance[column] == pytest.approx(own.var(), rel=1e-12)
    assert [part[2] for part in (moments.count, moments.mean, moments.squares)] == [0, 0, 0]
