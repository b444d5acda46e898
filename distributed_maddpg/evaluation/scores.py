"""What the distances and returns of episodes say, and how sure that is.

Distances are `[n, N, L]` float32: of each agent (the adversary first) to each landmark (the goal first).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from distributed_maddpg.types import FloatArray

SUCCESS_EPS = 0.4
"""Distance that counts as reached; with it an independent replication found the paper's first row again."""
EPS_GRID = tuple(round(0.1 * k, 1) for k in range(1, 11))
_CONFIDENCE, _RESAMPLES = 0.95, 10_000

Interval = tuple[float, float]
"""Ends of a 95 % confidence interval."""


def success_masks(distances: FloatArray, eps: float) -> dict[str, npt.NDArray[np.bool_]]:
    """Return in which episodes `[n]` who was successful in the last frame.

    `agents`: the closest good agent is within eps of the goal; `adversary`: the adversary is; `coverage`:
    every landmark has a good agent within eps, which is what deception looks like. The definition is the one
    the paper's author confirmed; see docs/deviations.md for eps.

    Args:
        distances: [n, N, L] in the last frame.
        eps: in the environment's units of length.
    """
    reached = distances < eps
    good = reached[:, 1:]
    return {
        "agents": good[:, :, 0].any(axis=1),
        "adversary": reached[:, 0, 0],
        "coverage": np.all(good.any(axis=1), axis=1),
    }


def success_rates(distances: FloatArray, eps: float) -> dict[str, float]:
    """Return `success_masks` as percent of the episodes."""
    return {name: percent(mask) for name, mask in success_masks(distances, eps).items()}


def goal_distances(distances: FloatArray) -> dict[str, FloatArray]:
    """Return how far who is from what counts, `[n]` each.

    `agents`: the closest good agent from the goal; `adversary`: the adversary from the goal; `coverage`: the
    landmark that is worst covered from its closest good agent.
    """
    closest = distances[:, 1:].min(axis=1)  # [n, L]
    return {"agents": closest[:, 0], "adversary": distances[:, 0, 0], "coverage": closest.max(axis=1)}


def percent(mask: npt.NDArray[np.bool_]) -> float:
    """Return the share of true entries in percent."""
    return 100 * int(mask.sum()) / len(mask)


def proportion_interval(mask: npt.NDArray[np.bool_]) -> Interval:
    """Return the confidence interval of a share, in percent (Wilson 1927: fits shares near 0 and 1 too)."""
    from scipy.stats import binomtest  # noqa: PLC0415 (half a second that workers never pay)

    interval = binomtest(int(mask.sum()), len(mask)).proportion_ci(_CONFIDENCE, method="wilson")
    return 100 * float(interval.low), 100 * float(interval.high)


def mean_interval(values: npt.NDArray[np.floating]) -> Interval | None:
    """Return the confidence interval of the mean of independent values `[n]` (Student's t); None for one."""
    from scipy.stats import t  # noqa: PLC0415 (as above)

    count, mean = len(values), float(values.mean(dtype=np.float64))
    if count < 2:
        return None
    half = float(t.ppf(0.5 + _CONFIDENCE / 2, count - 1)) * float(values.std(ddof=1, dtype=np.float64))
    return mean - half / count**0.5, mean + half / count**0.5


def interquartile_mean(values: Sequence[float]) -> float:
    """Return the mean of the middle half of `values [n]`, which single odd runs hardly move.

    Agarwal et al. 2021 (arXiv:2108.13264). Below four values it is the mean.
    """
    from scipy.stats import trim_mean  # noqa: PLC0415 (as above)

    return float(trim_mean(values, 0.25))


def bootstrap_interval(values: Sequence[float]) -> Interval | None:
    """Return the percentile bootstrap's interval of the mean of `values [n]`; None for one.

    Always from the same draws, so that the same values give the same interval.
    """
    from scipy.stats import bootstrap  # noqa: PLC0415 (as above)

    if len(values) < 2:
        return None
    draws = np.random.default_rng(0)
    found = bootstrap(
        (values,),
        np.mean,
        n_resamples=_RESAMPLES,
        confidence_level=_CONFIDENCE,
        method="percentile",
        rng=draws,
    ).confidence_interval
    return float(found.low), float(found.high)
