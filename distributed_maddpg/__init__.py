"""Distributed MADDPG: rollout workers, a central replay buffer and one learner, on Ray or in one process.

The public names are imported at first use, so that importing a part of the package loads neither torch nor
Ray unless that part needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from distributed_maddpg._version import __version__

if TYPE_CHECKING:
    from distributed_maddpg.config import MADDPGConfig
    from distributed_maddpg.run.callbacks import Callbacks
    from distributed_maddpg.trainer import MADDPG

__all__ = ["MADDPG", "Callbacks", "MADDPGConfig", "__version__"]

_PUBLIC_MODULES = {
    "Callbacks": "distributed_maddpg.run.callbacks",
    "MADDPG": "distributed_maddpg.trainer",
    "MADDPGConfig": "distributed_maddpg.config",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module (PEP 562)."""
    if name in _PUBLIC_MODULES:
        return getattr(import_module(_PUBLIC_MODULES[name]), name)
    if name == "notebook":
        return import_module("distributed_maddpg.notebook")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
