"""The bytes of a policy in each format."""

from __future__ import annotations

import importlib.util
import io
import json
from typing import Any, Literal

import numpy as np
from safetensors import numpy as safetensors

from distributed_maddpg.errors import BadInput
from distributed_maddpg.export.policy import AgentPolicy

Format = Literal["onnx", "npz", "safetensors"]
_ONNX_PACKAGES = ("onnx", "onnxscript")


def check_available(name: Format) -> None:
    """Refuse a format whose packages are not installed.

    Raises:
        BadInput: naming them.
    """
    missing = [each for each in _ONNX_PACKAGES if importlib.util.find_spec(each) is None]
    if name == "onnx" and missing:
        remedy = f"needs {' and '.join(missing)}; pip install 'distributed-maddpg[onnx]'"
        raise BadInput("--format", name, remedy)


def encode(policy: AgentPolicy, name: Format) -> bytes:
    """Return a policy as the content of a file; the same policy gives the same bytes."""
    if name == "onnx":
        from distributed_maddpg.export.onnx_graph import to_onnx  # noqa: PLC0415 - loads torch

        return to_onnx(policy)
    description = json.dumps(policy.description)
    if name == "safetensors":
        data: bytes = safetensors.save(dict(policy.arrays), metadata={"description": description})
        return data
    file = io.BytesIO()
    arrays: dict[str, Any] = {"description": np.array(description), **policy.arrays}
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()
