"""A policy as an ONNX graph, traced by torch, and played by onnxruntime or by ONNX's own evaluator."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distributed_maddpg.acting.exploration import MASKED_LOGIT
from distributed_maddpg.export.policy import AgentPolicy
from distributed_maddpg.types import FloatArray

Play = Callable[[FloatArray, npt.NDArray[np.bool_] | None], tuple[npt.NDArray[Any], FloatArray]]
"""Returns actions and logits for observations and action masks."""

OPSET = 18
"""Of 2022: old enough for runtimes in browsers and on devices, new enough for torch's exporter."""
OBSERVATION, ACTION_MASK, ACTION, LOGITS = "observation", "action_mask", "action", "logits"


class _Graph(torch.nn.Module):
    """What is traced: normalisation, network and action head of one agent."""

    def __init__(self, policy: AgentPolicy) -> None:
        super().__init__()
        observation, action = policy.description["observation"], policy.description["action"]
        self._clip: float | None = observation["clip"]
        self._head, self._temperature = action["head"], action.get("temperature", 1.0)
        for name, array in policy.arrays.items():
            self.register_buffer(name.replace(".", "_"), torch.from_numpy(array))
        self._num_layers = len(policy.weights)

    def forward(self, observation: Tensor, action_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return actions `[B, A]` or `[B]`, and logits `[B, A]`."""
        x = observation
        if self._clip is not None:
            x = (x - self.get_buffer("observation_mean")) * self.get_buffer("observation_scale")
            x = torch.clamp(x, -self._clip, self._clip)
        for layer in range(self._num_layers):
            x = x if layer == 0 else torch.relu(x)
            weight, bias = (self.get_buffer(f"layer_{layer}_{part}") for part in ("weight", "bias"))
            x = torch.nn.functional.linear(x, weight, bias)
        if action_mask is not None:
            x = torch.where(action_mask, x, float(MASKED_LOGIT))
        if self._head == "argmax":
            return torch.argmax(x, dim=1), x
        if self._head == "sigmoid":
            return torch.sigmoid(x), x
        return torch.softmax(x / self._temperature, dim=1), x


def to_onnx(policy: AgentPolicy) -> bytes:
    """Return the policy as an ONNX file, with a batch axis of any length.

    Inputs: observation `[B, O_i]`, and for agents with action masks action_mask `[B, A_i]` bool. Outputs:
    action `[B, A_i]` in [0, 1] or `[B]` int64, and logits `[B, A_i]`, after the mask.
    """
    batch = torch.export.Dim("batch")
    size, width = policy.weights[0][0].shape[1], policy.weights[-1][0].shape[0]
    inputs = {OBSERVATION: torch.zeros(2, size)}
    if policy.masked:
        inputs[ACTION_MASK] = torch.ones(2, width, dtype=torch.bool)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            _Graph(policy),
            kwargs=inputs,
            input_names=list(inputs),
            output_names=[ACTION, LOGITS],
            dynamic_shapes={name: {0: batch} for name in inputs},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    return _described(program.model_proto, policy.description)


def _described(model: Any, description: dict[str, Any]) -> bytes:
    """Return a model with our description for the exporter's notes, which hold paths of this machine."""
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    for part in (*model.graph.initializer, model.graph, model):
        del part.metadata_props[:]
        part.doc_string = ""
    model.doc_string = f"Policy of {description['agent']}, trained by distributed_maddpg"
    entry = model.metadata_props.add()
    entry.key, entry.value = "description", json.dumps(description)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what torch says of its own code and of packages it does not find; the file is checked."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def onnx_player(data: bytes) -> tuple[str, Play]:
    """Return who plays an ONNX file here, and the function: onnxruntime or else ONNX's own evaluator."""
    try:
        import onnxruntime  # noqa: PLC0415 - optional
    except ImportError:
        import onnx  # noqa: PLC0415 - optional as well
        from onnx.reference import ReferenceEvaluator  # noqa: PLC0415

        name, session = "onnx.reference", ReferenceEvaluator(onnx.load_from_string(data))
    else:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # small products: threads only wait for each other
        name = "onnxruntime"
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def play(obs: FloatArray, mask: npt.NDArray[np.bool_] | None) -> tuple[npt.NDArray[Any], FloatArray]:
        inputs: dict[str, npt.NDArray[Any]] = {OBSERVATION: obs}
        if mask is not None:
            inputs[ACTION_MASK] = mask
        action, logits = session.run([ACTION, LOGITS], inputs)
        return action, logits

    return name, play
