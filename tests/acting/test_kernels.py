"""The compiled loops are bit-identical to the numpy expressions they replace."""

import numpy as np
import pytest

from distributed_maddpg.acting import kernels


def numbers(width, seed=0):
    values = np.random.default_rng(seed).normal(0, 30, (3, 50, width)).astype(np.float32)
    values[0, 0] = values[0, 1] = 0.0
    values[1, :10, 0] = np.float32(-1e9)
    return values


def with_nan(values):
    values[2, 3, -1], values[2, 4, 0] = np.nan, np.nan
    return values


def same(a, b):
    return a.dtype == b.dtype == np.float32 and np.array_equal(a, b, equal_nan=True)


@pytest.mark.parametrize("width", [1, 5, 16, 33, 64])
def test_add_bias_and_relu_equals_numpy(width):
    values, bias = with_nan(numbers(width)), numbers(width, seed=1)[:, :1]
    expected = np.maximum(values + bias, 0.0)
    kernels.add_bias_and_relu(values, bias)
    assert same(values, expected)
    assert np.isnan(values).sum() == 2


@pytest.mark.parametrize("width", [1, 2, 5, 7, 8, 40])
def test_subtract_max_equals_numpy(width):
    values = numbers(width)
    expected = values - values.max(axis=2, keepdims=True)
    kernels.subtract_max(values)
    assert same(values, expected)


@pytest.mark.parametrize("width", [1, 2, 5, 7])
def test_normalise_equals_numpy(width):
    values = np.exp(np.clip(with_nan(numbers(width)), -60, 60))
    expected = values / values.sum(axis=2, keepdims=True)
    kernels.normalise(values)
    assert same(values, expected)


@pytest.mark.parametrize("width", [8, 9, 40])
def test_normalise_of_many_columns_equals_numpy_up_to_rounding(width):
    values = np.exp(np.clip(numbers(width), -60, 60))
    expected = values / values.sum(axis=2, keepdims=True)
    kernels.normalise(values)
    np.testing.assert_allclose(values, expected, rtol=2e-6)


@pytest.mark.parametrize("width", [1, 3, 5])
def test_nan_spreads_over_the_row_of_a_softmax_as_in_numpy(width):
    values = with_nan(numbers(width))
    expected = np.exp(values - values.max(axis=2, keepdims=True))
    expected /= expected.sum(axis=2, keepdims=True)
    kernels.subtract_max(values)
    np.exp(values, out=values)
    kernels.normalise(values)
    assert same(values, expected)
    assert np.isnan(values[2, 3:5]).all()
