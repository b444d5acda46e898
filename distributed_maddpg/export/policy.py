"""One agent's policy as other programs need it: a description, and arrays without padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from distributed_maddpg._version import __version__
from distributed_maddpg.config.sections import AlgorithmConfig, require
from distributed_maddpg.envs.spaces import ActionCodec, ContinuousActionCodec
from distributed_maddpg.normalisation import LIMIT
from distributed_maddpg.player import FORMAT
from distributed_maddpg.types import FloatArray, policy_layout

if TYPE_CHECKING:
    from distributed_maddpg.config import Head
    from distributed_maddpg.trainer import MADDPG


@dataclass(frozen=True)
class AgentPolicy:
    """One agent's policy."""

    description: dict[str, Any]
    """What every file says of it, see docs/exports.md; plain JSON."""
    arrays: dict[str, FloatArray]
    """"layer_<i>.weight" `[out, in]` and "layer_<i>.bias" `[out]` of each layer, as torch's Linear has them;
    "observation_mean" and "observation_scale" `[O_i]` if it normalises its observations."""

    @property
    def agent(self) -> str:
        """The agent's name."""
        name: str = self.description["agent"]
        return name

    @property
    def masked(self) -> bool:
        """Whether the agent acts under action masks."""
        return bool(self.description["action"].get("masked", False))

    @property
    def weights(self) -> list[tuple[FloatArray, FloatArray]]:
        """Weight and bias of each layer."""
        layers = range(len(self.description["layers"]))
        return [(self.arrays[f"layer_{i}.weight"], self.arrays[f"layer_{i}.bias"]) for i in layers]


def agent_policies(algo: MADDPG) -> list[AgentPolicy]:
    """Return the current policy of each agent.

    Raises:
        BadInput: if the run has networks of its own.
    """
    refuse_layers(algo.config.algorithm)
    return [_agent_policy(algo, agent, codec) for agent, codec in enumerate(algo.action_codecs())]


def refuse_layers(algorithm: AlgorithmConfig) -> None:
    """Refuse networks of a user's own layers, which the formats cannot describe.

    Raises:
        BadInput: naming them.
    """
    remedy = "layers of one's own cannot be exported; train with algorithm.policy_hidden_sizes instead"
    require(not algorithm.networks, "algorithm.networks", algorithm.networks, remedy)


def _agent_policy(algo: MADDPG, agent: int, codec: ActionCodec) -> AgentPolicy:
    config, spec = algo.config, algo.spec
    masked = bool(spec.masked) and spec.masked[agent]
    arrays = _arrays(algo, agent)
    weights = [array for name, array in arrays.items() if name.endswith(".weight")]
    description = {
        "format": FORMAT,
        "agent": spec.agents[agent],
        "agents": list(spec.agents),
        "environment": {"id": config.env.id, "kwargs": dict(config.env.kwargs)},
        "trained": {
            "env_steps": algo.env_steps,
            "updates": algo.updates,
            "seed": config.seed,
            "distributed_maddpg": __version__,
        },
        "observation": {
            "size": spec.observation_sizes[agent],
            "dtype": "float32",
            "normalised": config.env.normalise,
            "clip": float(LIMIT) if config.env.normalise else None,
        },
        "layers": [[weight.shape[1], weight.shape[0]] for weight in weights],
        "activation": "relu",
        "action": {
            **_action(codec, config.algorithm.heads(spec)[agent], config.algorithm.temperature),
            **({"masked": masked} if codec.kind == "discrete" else {}),
        },
    }
    return AgentPolicy(description, arrays)


def _action(codec: ActionCodec, head: Head, temperature: float) -> dict[str, Any]:
    """Return how an agent's action follows from its logits, and how the environment's follows from that."""
    space = codec.space
    if not isinstance(codec, ContinuousActionCodec):
        nested = space.shape is None  # a Dict or Tuple, whose numbers come one after the other
        return {
            "kind": "discrete",
            "head": "argmax",
            "size": codec.size,
            "shape": [len(codec.choices)] if nested else list(space.shape),
            "dtype": "int64" if nested else str(space.dtype),
            "choices": codec.choices,
            "starts": codec.starts,
        }
    low, high = codec.limits
    return {
        "kind": "continuous",
        **({"head": "sigmoid"} if head == "sigmoid" else {"head": "softmax", "temperature": temperature}),
        "size": codec.size,
        "shape": list(space.shape),
        "dtype": str(space.dtype),
        "low": low.reshape(-1).tolist(),
        "high": high.reshape(-1).tolist(),
    }


def _arrays(algo: MADDPG, agent: int) -> dict[str, FloatArray]:
    """Return an agent's parameters without the padding of the stacked networks."""
    spec = algo.spec
    layout, row = (
        policy_layout(spec, algo.config.algorithm.policy_hidden_sizes),
        algo.policy_parameters()[agent],
    )
    sizes = [spec.observation_sizes[agent], *layout.hidden_sizes, spec.action_sizes[agent]]
    arrays: dict[str, FloatArray] = {}
    for depth, (weight, bias, n_in, n_out) in enumerate(layout.layers):
        own = row[weight].reshape(n_in, n_out)[: sizes[depth], : sizes[depth + 1]]
        arrays[f"layer_{depth}.weight"] = np.ascontiguousarray(own.T)
        arrays[f"layer_{depth}.bias"] = row[bias][: sizes[depth + 1]].copy()
    if algo.config.env.normalise:
        means, scales = np.split(row[layout.num_parameters :], 2)
        arrays["observation_mean"], arrays["observation_scale"] = (
            means[: sizes[0]].copy(),
            scales[: sizes[0]].copy(),
        )
    return arrays
