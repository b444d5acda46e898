"""The rate of one large single-precision matrix product: what a core could do at most."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from threadpoolctl import ThreadpoolController

_SIZE = 1024


def numpy_sgemm() -> Callable[[], int]:
    """Return work for `rates` that multiplies two matrices on one BLAS thread, counted in operations."""
    left = np.random.default_rng(0).standard_normal((_SIZE, _SIZE), dtype=np.float32)
    out = np.empty_like(left)
    blas = ThreadpoolController()

    def multiply() -> int:
        with blas.limit(limits=1, user_api="blas"):
            np.matmul(left, left, out=out)
        return int(2 * _SIZE**3)

    return multiply


def gflops(rates: list[float], flops: int = 1) -> list[float]:
    """Return billions of operations a second from rates of units that cost `flops` each."""
    return [rate * flops / 1e9 for rate in rates]
