"""Where an adversary waits that never learns which landmark is the goal.

Every landmark is the goal equally often, and within an episode an agent can reach any point of the square.
The best that such an adversary can do is to wait at the point with the smallest mean distance to the
landmarks, or with as many landmarks as possible within eps.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

DoubleArray = npt.NDArray[np.float64]

_ITERATIONS, _MAX_CHUNK_DISTANCES = 300, 2**22
_SMOOTHING = 1e-9
"""Keeps Weiszfeld's weights finite at a landmark. The landmarks themselves are candidates too."""
_ROUNDING = 1e-9
"""Relative; two circles meet at a point that is at eps from both centres."""


def geometric_medians(landmarks: DoubleArray) -> DoubleArray:
    """Return the point `[n, 2]` with the smallest mean distance to the landmarks `[n, L, 2]`.

    Found by Weiszfeld's iteration (1937). For two landmarks it is any point between them; here the middle.
    """
    return _map_in_chunks(_geometric_medians, landmarks)


def points_near_most(landmarks: DoubleArray, eps: float) -> DoubleArray:
    """Return a point `[n, 2]` that is within eps of as many of the landmarks `[n, L, 2]` as possible.

    Discs of radius eps around the landmarks overlap most at a landmark or where two of their circles meet.
    """
    return _map_in_chunks(lambda chunk: _points_near_most(chunk, eps), landmarks)


def distances_to(landmarks: DoubleArray, points: DoubleArray) -> DoubleArray:
    """Return the distances `[n, L]` of the landmarks `[n, L, 2]` from one point `[n, 2]` per episode."""
    distances: DoubleArray = np.linalg.norm(landmarks - points[:, None], axis=2)
    return distances


def _geometric_medians(landmarks: DoubleArray) -> DoubleArray:
    point: DoubleArray = landmarks.mean(axis=1)
    for _ in range(_ITERATIONS):
        weight = 1.0 / (distances_to(landmarks, point) + _SMOOTHING)[:, :, None]  # [n, L, 1]
        point = (landmarks * weight).sum(axis=1) / weight.sum(axis=1)
    candidates = np.concatenate([point[:, None], landmarks], axis=1)  # [n, 1 + L, 2]
    return _chosen(candidates, -_pairwise_distances(candidates, landmarks).mean(axis=2))


def _points_near_most(landmarks: DoubleArray, eps: float) -> DoubleArray:
    i, j = np.triu_indices(landmarks.shape[1], 1)
    middle = (landmarks[:, i] + landmarks[:, j]) / 2  # [n, pairs, 2]
    half = (landmarks[:, j] - landmarks[:, i]) / 2
    length = np.linalg.norm(half, axis=2, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):  # too far apart, or the same point
        across = np.sqrt(eps**2 - length**2) * half[:, :, ::-1] * [-1.0, 1.0] / length
    crossings = np.nan_to_num(np.concatenate([middle + across, middle - across], axis=1), nan=np.inf)
    points = np.concatenate([landmarks, crossings], axis=1)
    return _chosen(points, (_pairwise_distances(points, landmarks) <= eps * (1 + _ROUNDING)).mean(axis=2))


def _chosen(candidates: DoubleArray, scores: DoubleArray) -> DoubleArray:
    """Return the first candidate `[n, 2]` of `[n, K, 2]` with the highest score of `[n, K]`."""
    chosen: DoubleArray = candidates[np.arange(len(candidates)), scores.argmax(axis=1)]
    return chosen


def _map_in_chunks(function: Callable[[DoubleArray], DoubleArray], landmarks: DoubleArray) -> DoubleArray:
    """Apply `function` to chunks of episodes whose distances between all points fit into memory."""
    rows = max(1, _MAX_CHUNK_DISTANCES // landmarks.shape[1] ** 3)
    chunks = (landmarks[start : start + rows] for start in range(0, len(landmarks), rows))
    return np.concatenate([function(chunk) for chunk in chunks])


def _pairwise_distances(points: DoubleArray, landmarks: DoubleArray) -> DoubleArray:
    """Return the distances `[n, K, L]` of points `[n, K, 2]` from landmarks `[n, L, 2]`."""
    x, y = (points[:, :, None, axis] - landmarks[:, None, :, axis] for axis in (0, 1))
    distances: DoubleArray = np.sqrt(x * x + y * y)  # several times as fast as a norm over an axis of two
    return distances
