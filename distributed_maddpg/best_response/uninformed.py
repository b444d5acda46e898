"""The best distance and success of an adversary that never learns which landmark is the goal.

Every landmark is the goal equally often, and within an episode an agent can reach any point of the square.
The best that such an adversary can do is to wait at the point with the smallest mean distance to the
landmarks, or with as many landmarks as possible within eps.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

DoubleArray = npt.NDArray[np.float64]

_ITERATIONS, _MAX_CHUNK_DISTANCES = 300, 2**22
_SMOOTHING = 1e-9
"""Keeps Weiszfeld's weights finite at a landmark. The landmarks themselves are candidates too."""


def uninformed_distances(landmarks: DoubleArray) -> DoubleArray:
    """Return the smallest mean distance `[n]` of one point to the landmarks `[n, L, 2]` of each episode.

    It is reached at their geometric median (Weiszfeld 1937). For two landmarks it is half their distance.
    """
    return _map_in_chunks(_geometric_median_distances, landmarks)


def _geometric_median_distances(landmarks: DoubleArray) -> DoubleArray:
    point = landmarks.mean(axis=1, keepdims=True)  # [n, 1, 2]
    for _ in range(_ITERATIONS):
        weight = 1.0 / (_distances_to(landmarks, point) + _SMOOTHING)[:, :, None]  # [n, L, 1]
        point = (landmarks * weight).sum(axis=1, keepdims=True) / weight.sum(axis=1, keepdims=True)
    candidates = np.concatenate([landmarks, point], axis=1)  # [n, L + 1, 2]
    smallest: DoubleArray = _pairwise_distances(candidates, landmarks).mean(axis=2).min(axis=1)
    return smallest


def uninformed_success(landmarks: DoubleArray, eps: float) -> DoubleArray:
    """Return the largest share `[n]` of the landmarks `[n, L, 2]` that lie within eps of one point.

    Discs of radius eps around the landmarks overlap most at a landmark or where two of their circles meet.
    """
    return _map_in_chunks(lambda chunk: _max_shares_within(chunk, eps), landmarks)


def _max_shares_within(landmarks: DoubleArray, eps: float) -> DoubleArray:
    candidates = [landmarks]
    for i, j in itertools.combinations(range(landmarks.shape[1]), 2):
        middle = (landmarks[:, i] + landmarks[:, j]) / 2
        half = (landmarks[:, j] - landmarks[:, i]) / 2
        length = np.linalg.norm(half, axis=1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):  # too far apart, or the same point
            across = np.sqrt(eps**2 - length**2) * half[:, ::-1] * [-1.0, 1.0] / length
        candidates.append(np.nan_to_num(np.stack([middle + across, middle - across], axis=1), nan=np.inf))
    within = _pairwise_distances(np.concatenate(candidates, axis=1), landmarks) <= eps * (1 + 1e-9)
    shares: DoubleArray = within.mean(axis=2).max(axis=1)
    return shares


def centroid_distances(landmarks: DoubleArray) -> DoubleArray:
    """Return the distances `[n, L]` of the landmarks `[n, L, 2]` from their centroid.

    The centroid is the best point where the reward is the squared distance.
    """
    return _distances_to(landmarks, landmarks.mean(axis=1, keepdims=True))


def _map_in_chunks(function: Callable[[DoubleArray], DoubleArray], landmarks: DoubleArray) -> DoubleArray:
    """Apply `function` to chunks of episodes whose distances between all points fit into memory."""
    rows = max(1, _MAX_CHUNK_DISTANCES // landmarks.shape[1] ** 3)
    chunks = (landmarks[start : start + rows] for start in range(0, len(landmarks), rows))
    return np.concatenate([function(chunk) for chunk in chunks])


def _distances_to(landmarks: DoubleArray, point: DoubleArray) -> DoubleArray:
    """Return the distances `[n, L]` of landmarks `[n, L, 2]` from one point `[n, 1, 2]` per episode."""
    distances: DoubleArray = np.linalg.norm(landmarks - point, axis=2)
    return distances


def _pairwise_distances(points: DoubleArray, landmarks: DoubleArray) -> DoubleArray:
    """Return the distances `[n, K, L]` of points `[n, K, 2]` from landmarks `[n, L, 2]`."""
    distances: DoubleArray = np.linalg.norm(points[:, :, None] - landmarks[:, None], axis=3)
    return distances
