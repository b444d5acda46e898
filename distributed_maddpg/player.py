"""Plays a policy that `distributed-maddpg export --format npz` wrote, with nothing but numpy.

The file can be copied to where a policy is needed: it imports nothing of this package.

    policy = Policy.load("agent_0.npz")
    action = policy.act(observation)  # [O] or [B, O], as the environment gives it
    env.step({"agent_0": policy.to_env(action), ...})
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

FORMAT = "distributed_maddpg.policy/1"
"""First entry of the description that every exported file carries."""
MASKED_LOGIT = np.float32(-1e9)


class Policy:
    """One agent's policy: `description` says what it takes and gives, `arrays` are its parameters."""

    def __init__(self, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Take what a file holds.

        Raises:
            ValueError: if it is not a policy of this format.
        """
        if description.get("format") != FORMAT:
            raise ValueError(f"format {description.get('format')!r}, this player plays {FORMAT!r}")
        for layer, (inputs, outputs) in enumerate(description.get("layers", ())):
            for name, shape in (("weight", (outputs, inputs)), ("bias", (outputs,))):
                array = arrays[f"layer_{layer}.{name}"]
                if array.shape != shape or array.dtype.kind != "f":
                    raise ValueError(f"layer_{layer}.{name} does not have the shape {shape}, or is no float")
        self.description, self.arrays = description, arrays

    @staticmethod
    def load(path: Any) -> Policy:
        """Read an npz file, or an open one; nothing in it is run.

        Raises:
            ValueError, OSError: if it is no such file.
        """
        try:
            # numpy does not close a file that it cannot read.
            opened = contextlib.nullcontext(path) if hasattr(path, "read") else open(path, "rb")
            with opened as source, np.load(source, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files if name != "description"}
                return Policy(json.loads(file["description"].item()), arrays)
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - of other files numpy says that it could load them unsafely
            raise ValueError(
                f"{path} is not a policy that distributed-maddpg export wrote ({error})"
            ) from None

    def logits(self, observation: Any) -> np.ndarray[Any, Any]:
        """Return the network's output `[..., A]` for observations `[..., O]`."""
        x = np.asarray(observation, np.float32)
        about = self.description["observation"]
        if x.shape[-1:] != (about["size"],):
            raise ValueError(f"the observation has shape {x.shape}, expected [..., {about['size']}]")
        if about["normalised"]:
            mean, scale = self.arrays["observation_mean"], self.arrays["observation_scale"]
            x = np.clip((x - mean) * scale, -about["clip"], about["clip"])
        last = len(self.description["layers"]) - 1
        for layer in range(last + 1):
            x = x @ self.arrays[f"layer_{layer}.weight"].T + self.arrays[f"layer_{layer}.bias"]
            x = x if layer == last else np.maximum(x, np.float32(0))
        return x

    def act(self, observation: Any, action_mask: Any = None) -> np.ndarray[Any, Any]:
        """Return greedy actions: continuous ones `[..., A]` in [0, 1], discrete ones `[...]` from 0.

        Args:
            observation: [..., O]
            action_mask: [..., A] nonzero for what a discrete agent may do; None: everything.
        """
        logits, head = self.logits(observation), self.description["action"]["head"]
        if head == "argmax":
            if action_mask is not None:
                logits = np.where(np.asarray(action_mask) != 0, logits, MASKED_LOGIT)
            return np.asarray(logits.argmax(axis=-1))
        if head == "sigmoid":
            return np.asarray(1 / (1 + np.exp(-np.clip(logits, -60, 60))))
        scaled = logits / np.float32(self.description["action"]["temperature"])
        powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=-1, keepdims=True))

    def to_env(self, action: Any) -> np.ndarray[Any, Any]:
        """Return actions of `act` as the environment takes them, `[..., *shape]` with its space's shape."""
        about, chosen = self.description["action"], np.asarray(action)
        dtype, shape = np.dtype(about["dtype"]), tuple(about["shape"])
        if about["kind"] == "discrete":
            digits = np.unravel_index(chosen, about["choices"])
            values = np.stack(
                [start + digit for start, digit in zip(about["starts"], digits, strict=True)], -1
            )
            return np.reshape(values.astype(dtype), chosen.shape + shape)
        low, high = np.array(about["low"]), np.array(about["high"])
        scaled = low + chosen.astype(np.float64) * (high - low)
        scaled = np.clip(np.rint(scaled) if dtype.kind in "iu" else scaled, low, high)
        return np.reshape(scaled.astype(dtype), chosen.shape[:-1] + shape)
