"""Random numbers by counting: each one is a function of the run's seed, the update and its place.

So threads need no order among themselves, and nothing but the number of the update must be saved to continue
a stream. The function is Threefry-2x32 with 20 rounds (Salmon et al. 2011, "Parallel random numbers: as easy
as 1, 2, 3", doi:10.1145/2063384.2063405).
"""

from __future__ import annotations

import numpy as np

from distributed_maddpg.compilation import compiled_part

TARGET_HEAD, TARGET_NOISE, TARGET_ROWS, TARGET_ACTIONS, HEAD, ROWS, ACTIONS, REDRAW = (
    np.int64(use) for use in range(8)
)
"""What random numbers are for: heads of the target policies, smoothing noise, which target actions are
replaced, by what, the same for the policies, and rows that are drawn again."""
_PARITY = np.uint32(0x1BD11BDA)


@compiled_part
def _rotate(x: np.uint32, distance: int) -> np.uint32:
    return np.uint32(np.uint32(x << np.uint32(distance)) | np.uint32(x >> np.uint32(32 - distance)))


@compiled_part
def _four_rounds(x0: np.uint32, x1: np.uint32, a: int, b: int, c: int, d: int) -> tuple[np.uint32, np.uint32]:
    x0 = np.uint32(x0 + x1)
    x1 = np.uint32(_rotate(x1, a) ^ x0)
    x0 = np.uint32(x0 + x1)
    x1 = np.uint32(_rotate(x1, b) ^ x0)
    x0 = np.uint32(x0 + x1)
    x1 = np.uint32(_rotate(x1, c) ^ x0)
    x0 = np.uint32(x0 + x1)
    x1 = np.uint32(_rotate(x1, d) ^ x0)
    return x0, x1


@compiled_part
def threefry(key0: np.uint32, key1: np.uint32, x0: np.uint32, x1: np.uint32) -> tuple[np.uint32, np.uint32]:
    """Return the two random words of a key and a counter."""
    key2 = np.uint32(key0 ^ key1 ^ _PARITY)
    x0, x1 = np.uint32(x0 + key0), np.uint32(x1 + key1)
    x0, x1 = _four_rounds(x0, x1, 13, 15, 26, 6)
    x0, x1 = np.uint32(x0 + key1), np.uint32(x1 + key2 + np.uint32(1))
    x0, x1 = _four_rounds(x0, x1, 17, 29, 16, 24)
    x0, x1 = np.uint32(x0 + key2), np.uint32(x1 + key0 + np.uint32(2))
    x0, x1 = _four_rounds(x0, x1, 13, 15, 26, 6)
    x0, x1 = np.uint32(x0 + key0), np.uint32(x1 + key1 + np.uint32(3))
    x0, x1 = _four_rounds(x0, x1, 17, 29, 16, 24)
    x0, x1 = np.uint32(x0 + key1), np.uint32(x1 + key2 + np.uint32(4))
    x0, x1 = _four_rounds(x0, x1, 13, 15, 26, 6)
    return np.uint32(x0 + key2), np.uint32(x1 + key0 + np.uint32(5))
