"""How large the object store of a run's own cluster is; apart from what loads Ray."""

from __future__ import annotations

from distributed_maddpg.config import MADDPGConfig

_LEAST_BYTES = 256 * 2**20
_BATCHES, _ROW_BYTES = 16, 1024
"""Minibatches that may be in it at once, and a generous row: one of simple_adversary is 308 bytes."""


def object_store_bytes(config: MADDPGConfig) -> int:
    """Return the size of the object store that a local run asks Ray for."""
    return _LEAST_BYTES + _BATCHES * config.learner.batch_size * _ROW_BYTES
