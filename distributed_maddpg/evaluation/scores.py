"""Measures of `simple_adversary` episodes, and confidence intervals for any measure.

The measures are functions of `VectorEnv.final_distances`, which other environments, such as `simple_spread`,
do not provide; docs/architecture.md says what a measure of another environment needs.

Distances are `[n, N, L]` float32, of each agent (the adversary first) to each landmark (the goal first).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from distributed_maddpg.types import FloatArray

SUCCESS_EPS = 0.4
"""Distance within which a landmark is reached. An independent replication reproduced the paper's first row
with it."""
EPS_GRID = tuple(round(0.1 * k, 1) for k in range(1, 11))
"""Distances for which success is reported."""
_CONFIDENCE, _RESAMPLES = 0.95, 10_000

Interval = tuple[float, float]
"""Ends of a 95 % confidence interval."""


def success_masks(distances: FloatArray, eps: float) -> dict[str, npt.NDArray[np.bool_]]:
    """Return in which episodes the last frame is a success, a mask `[n]` for each of three kinds.

    `agents`: the closest good agent is within eps of the goal; `adversary`: the adversary is; `coverage`:
    every landmark has a good agent within eps. This is necessary for deception but does not prove it. The
    paper's author confirmed this definition; docs/deviations.md explains the choice of eps.

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
    """Return the `success_masks` in percent of the episodes."""
    masks = success_masks(distances, eps)
    return {name: 100 * int(mask.sum()) / len(mask) for name, mask in masks.items()}


def goal_distances(distances: FloatArray) -> dict[str, FloatArray]:
    """Return the distances that decide `success_masks`, `[n]` each.

    `agents`: from the closest good agent to the goal; `adversary`: from the adversary to the goal;
    `coverage`: the largest distance of a landmark from its closest good agent.
    """
    closest = distances[:, 1:].min(axis=1)  # [n, L]
    return {"agents": closest[:, 0], "adversary": distances[:, 0, 0], "coverage": closest.max(axis=1)}


def proportion_interval(mask: npt.NDArray[np.bool_]) -> Interval:
    """Return the confidence interval of the share of true entries of `mask [n]`, in percent.

    Wilson's score interval (Wilson 1927), which also suits shares near 0 and 1.
    """
    from scipy.stats import binomtest  # noqa: PLC0415 (takes half a second; rollout workers never need it)

    interval = binomtest(int(mask.sum()), len(mask)).proportion_ci(_CONFIDENCE, method="wilson")
    return 100 * float(interval.low), 100 * float(interval.high)


def mean_interval(values: npt.NDArray[np.floating]) -> Interval | None:
    """Return Student's t interval of the mean of independent values `[n]`; None for a single value."""
    from scipy.stats import t  # noqa: PLC0415 (as above)

    count, mean = len(values), float(values.mean(dtype=np.float64))
    if count < 2:
        return None
    half = float(t.ppf(0.5 + _CONFIDENCE / 2, count - 1)) * float(values.std(ddof=1, dtype=np.float64))
    return mean - half / count**0.5, mean + half / count**0.5


def interquartile_mean(values: Sequence[float]) -> float:
    """Return the mean of the middle half of `values [n]`, which is robust to single outlying runs.

    Agarwal et al. 2021 (arXiv:2108.13264). With fewer than four values it is the mean.
    """
    from scipy.stats import trim_mean  # noqa: PLC0415 (as above)

    return float(trim_mean(values, 0.25))


def bootstrap_interval(values: Sequence[float]) -> Interval | None:
    """Return the percentile bootstrap interval of the mean of `values [n]`; None for a single value.

    The random draws are fixed, so that the same values give the same interval.
    """
    from scipy.stats import bootstrap  # noqa: PLC0415 (as above)

    if len(values) < 2:
        return None
    found = bootstrap(
        (values,),
        np.mean,
        n_resamples=_RESAMPLES,
        confidence_level=_CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)
