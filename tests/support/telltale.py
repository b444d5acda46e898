"""An environment whose module leaves a trace in the process when it is imported, and when it is made."""

from __future__ import annotations

import os
from typing import Any

from tests.support.target import TargetEnv

os.environ["TELLTALE"] = "imported"


def parallel_env(**kwargs: Any) -> TargetEnv:
    """Make a TargetEnv."""
    os.environ["TELLTALE"] = "made"
    return TargetEnv(**kwargs)
