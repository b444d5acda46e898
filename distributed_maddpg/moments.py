"""Mean and variance of columns, added up piece by piece; needs only numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

DoubleArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations of C columns."""

    count: npt.NDArray[np.int64]
    """[C] values of each column."""
    mean: DoubleArray
    """[C]"""
    squares: DoubleArray
    """[C] sum of the squared deviations from the mean."""

    @staticmethod
    def none(columns: int) -> Moments:
        """Return the moments of no values."""
        return Moments(np.zeros(columns, np.int64), np.zeros(columns), np.zeros(columns))

    @staticmethod
    def of(values: npt.NDArray[Any], counted: npt.NDArray[np.bool_] | None = None) -> Moments:
        """Return the moments of the columns of values `[n, C]`, those that `counted` marks, or all."""
        doubles = values.astype(np.float64, copy=False)
        if counted is None:
            mean, count = doubles.mean(axis=0), np.full(doubles.shape[1], len(doubles))
            return Moments(count, mean, np.square(doubles - mean).sum(axis=0))
        count = counted.sum(axis=0)
        mean = doubles.sum(axis=0, where=counted) / np.maximum(1, count)
        return Moments(count, mean, np.square(doubles - mean).sum(axis=0, where=counted))

    def merged(self, other: Moments) -> Moments:
        """Return the moments of the values of both (Chan, Golub and LeVeque 1979)."""
        count = self.count + other.count
        difference, share = other.mean - self.mean, other.count / np.maximum(1, count)
        return Moments(
            count,
            self.mean + share * difference,
            self.squares + other.squares + self.count * share * difference**2,
        )

    def columns(self, chosen: npt.NDArray[np.int64]) -> Moments:
        """Return the moments of some columns."""
        return Moments(self.count[chosen], self.mean[chosen], self.squares[chosen])

    @property
    def variance(self) -> DoubleArray:
        """[C], of the values themselves, as `np.var`; 0 without values."""
        variance: DoubleArray = self.squares / np.maximum(1, self.count)
        return variance
