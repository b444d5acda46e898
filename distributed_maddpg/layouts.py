"""The networks that the settings ask for, as rows of parameters: perceptrons, or a user's own layers.

Needs no torch: rollout workers compute initial parameters and act.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from distributed_maddpg.config import AlgorithmConfig
from distributed_maddpg.errors import BadInput, reason
from distributed_maddpg.layers import Array, Layer, NetworkFactory, Role, Shape, apply, layer_sizes
from distributed_maddpg.types import (
    EnvSpec,
    FloatArray,
    StackedLayout,
    critic_layout,
    policy_layout,
)
from distributed_maddpg.types import initial_policies as initial_perceptrons
from distributed_maddpg.user_code import load_callable

SETTING = "algorithm.networks"
_LOADED: set[str] = set()
"""Names of the functions that this process has imported."""


@dataclass(frozen=True, eq=False)
class NetworkGroup:
    """Networks with the same layers and sizes, which are computed as one stack."""

    members: tuple[int, ...]
    """Which of the networks of a run."""
    layers: tuple[Layer, ...]
    input_size: int
    output_size: int

    @cached_property
    def sizes(self) -> list[int]:
        """Input size of each layer."""
        return layer_sizes(self.layers, self.input_size)[:-1]

    @cached_property
    def shapes(self) -> list[Shape]:
        """Shape of each parameter."""
        return [
            shape for layer, size in zip(self.layers, self.sizes, strict=True) for shape in layer.shapes(size)
        ]

    @property
    def num_parameters(self) -> int:
        """Numbers of all parameters."""
        return sum(map(math.prod, self.shapes))

    def forward(self, xp: Any, flat: Array, x: Array) -> Array:
        """Return outputs `[G, B, m]` for inputs `[G, B, n]` and flat parameters `[G, P or more]`."""
        parameters, start = [], 0
        for shape in self.shapes:
            stop = start + math.prod(shape)
            parameters.append(flat[:, start:stop].reshape(-1, *shape))
            start = stop
        return apply(self.layers, xp, parameters, x)


@dataclass(frozen=True)
class LayeredLayout:
    """N networks of a user's layers in one flat `[N, P]` array, smaller ones padded with zeros at their end.

    Unlike `StackedLayout` it pads no inputs: networks of equal sizes are a group, which is one stack.
    """

    groups: tuple[NetworkGroup, ...]

    @property
    def num_parameters(self) -> int:
        """P, of the largest."""
        return max(group.num_parameters for group in self.groups)

    @property
    def num_networks(self) -> int:
        """N."""
        return sum(len(group.members) for group in self.groups)

    @property
    def sizes(self) -> tuple[int, int]:
        """The largest input and output size."""
        return max(group.input_size for group in self.groups), self.output_width

    @property
    def output_width(self) -> int:
        """The largest output size."""
        return max(group.output_size for group in self.groups)

    def initial_parameters(self, rng: np.random.Generator) -> FloatArray:
        """Draw initial parameters `[N, P]`, layer after layer and in each network after network."""
        flat = np.zeros((self.num_networks, self.num_parameters), np.float32)
        filled = [0] * self.num_networks
        owners = sorted((network, group) for group in self.groups for network in group.members)
        for depth in range(max(len(group.layers) for group in self.groups)):
            for network, group in owners:
                if depth < len(group.layers):
                    for values in group.layers[depth].initial(group.sizes[depth], rng):
                        stop = filled[network] + values.size
                        flat[network, filled[network] : stop] = values.ravel()
                        filled[network] = stop
        return flat


Layout = StackedLayout | LayeredLayout


def is_loaded(name: str) -> bool:
    """Return whether this process has imported networks already, so that using them runs nothing new."""
    return name in _LOADED


def policies(algorithm: AlgorithmConfig, spec: EnvSpec) -> Layout:
    """Return the layout of the N policies, observations to logits.

    Raises:
        BadInput: if the user's layers cannot be made.
    """
    if not algorithm.networks:
        return policy_layout(spec, algorithm.policy_hidden_sizes)
    return _layered(algorithm.networks, "policy", spec.observation_sizes, spec.action_sizes)


def critics(algorithm: AlgorithmConfig, spec: EnvSpec) -> Layout:
    """Return the layout of the V critics, observations and actions to a value for each of their agents.

    Raises:
        BadInput: as `policies`.
    """
    groups = algorithm.critic_groups(spec)
    if not algorithm.networks:
        return critic_layout(spec, algorithm.critic_hidden_sizes, groups)
    inputs = [
        len(critic_columns(spec, group, own)) for group, own in zip(*_critics(algorithm, spec), strict=True)
    ]
    return _layered(algorithm.networks, "critic", inputs, list(map(len, groups)))


def _critics(
    algorithm: AlgorithmConfig, spec: EnvSpec
) -> tuple[tuple[tuple[int, ...], ...], tuple[bool, ...]]:
    """Return the agents of each critic, and whether it takes their inputs alone."""
    groups, names = algorithm.critic_groups(spec), algorithm.per_agent(spec)
    return groups, tuple(names[group[0]] == "ddpg" for group in groups)


def critic_columns(spec: EnvSpec, group: Sequence[int], decentralised: bool) -> list[int]:
    """Return the columns of the joint observation and action that a critic takes: all, or its agent's."""
    layout = spec.transitions
    if not decentralised:
        return list(range(layout.critic_input.stop))
    [agent] = group
    return [
        column for own in (layout.obs[agent], layout.actions[agent]) for column in range(own.start, own.stop)
    ]


def initial_policies(algorithm: AlgorithmConfig, spec: EnvSpec, seed: int) -> FloatArray:
    """Return the policies `[N, P]` that a learner with this seed starts with; workers compute them too."""
    shared, rule = algorithm.share_policies, algorithm.initial_weights
    if not algorithm.networks:
        return initial_perceptrons(spec, algorithm.policy_hidden_sizes, seed, shared, rule)
    flat = policies(algorithm, spec).initial_parameters(np.random.default_rng(seed))
    for group in spec.homogeneous_groups if shared else ():
        flat[list(group)] = flat[group[0]]
    return flat


def _layered(name: str, role: Role, inputs: Sequence[int], outputs: Sequence[int]) -> LayeredLayout:
    factory: NetworkFactory = load_callable(SETTING, name)
    _LOADED.add(name)
    members: dict[tuple[int, int], list[int]] = {}
    for network, sizes in enumerate(zip(inputs, outputs, strict=True)):
        members.setdefault(sizes, []).append(network)
    return LayeredLayout(
        tuple(
            NetworkGroup(tuple(own), make_layers(name, factory, role, sizes), *sizes)
            for sizes, own in members.items()
        )
    )


def make_layers(name: str, factory: NetworkFactory, role: Role, sizes: tuple[int, int]) -> tuple[Layer, ...]:
    """Return the layers that a user's factory makes for (input size, output size), if they have these sizes.

    Raises:
        BadInput: naming the setting, the network and what is wrong.
    """
    network = f"for a {role} of {sizes[0]} inputs and {sizes[1]} outputs"
    try:
        layers = tuple(factory(role, *sizes))
        wrong = [layer for layer in layers if not isinstance(layer, Layer)]
        found = 0 if wrong else layer_sizes(layers, sizes[0])[-1]
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        raise BadInput(SETTING, name, f"fails {network} ({reason(error)})") from error
    if wrong:
        remedy = f"returns a {type(wrong[0]).__name__} {network}; all must be derived from layers.Layer"
        raise BadInput(SETTING, name, remedy)
    if found != sizes[1]:
        raise BadInput(SETTING, name, f"returns layers with {found} outputs {network}")
    return layers
