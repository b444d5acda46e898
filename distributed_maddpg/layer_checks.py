"""Tries a user's layers before anything starts: sizes, finite numbers, and that numpy and torch agree."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from distributed_maddpg.config import AlgorithmConfig
from distributed_maddpg.errors import BadInput, reason
from distributed_maddpg.layouts import SETTING, LayeredLayout, NetworkGroup, critics, policies
from distributed_maddpg.types import EnvSpec, FloatArray

_ROWS = 5
_TOLERANCE = 1e-3
"""Largest difference, beside the largest output, of what should be the same up to rounding."""


def check_layers(algorithm: AlgorithmConfig, spec: EnvSpec) -> None:
    """Refuse layers that policies cannot act with.

    Raises:
        BadInput: naming the network and what is wrong.
    """
    for network, group in _groups(algorithm, spec):
        with _named(algorithm.networks, network), np.errstate(all="ignore"):
            _check_initial(group)
            flat, x = _example(group)
            out = group.forward(np, flat, x)
            shape = (len(group.members), _ROWS, group.output_size)
            if out.shape != shape or not np.isfinite(out).all():
                raise _WrongError(
                    f"give outputs {out.shape} that should be {shape}, all of them finite numbers"
                )
            alone = [group.forward(np, flat[i : i + 1], x[i : i + 1]) for i in range(len(flat))]
            _check_equal(out, np.concatenate(alone), "in a stack of networks and alone")
            rows = [group.forward(np, flat, x[:, row : row + 1]) for row in range(_ROWS)]
            _check_equal(out, np.concatenate(rows, axis=1), "of a row alone and among others")


def check_layers_learn(algorithm: AlgorithmConfig, spec: EnvSpec) -> None:
    """Refuse layers whose outputs in torch are others than in numpy, or that have no finite gradient.

    Raises:
        BadInput: naming the network and what is wrong.
    """
    import torch  # noqa: PLC0415 - only training needs it, which takes seconds to load

    for network, group in _groups(algorithm, spec):
        with _named(algorithm.networks, network):
            flat, x = _example(group)
            parameters = torch.from_numpy(flat).requires_grad_()
            out = group.forward(torch, parameters, torch.from_numpy(x))
            _check_equal(group.forward(np, flat, x), out.detach().numpy(), "in numpy and in torch")
            (grad,) = torch.autograd.grad(out.square().sum(), parameters)
            if not grad.isfinite().all():
                raise _WrongError("have a gradient that is not finite")


class _WrongError(Exception):
    """What is wrong with the layers of a network, to follow "its layers"."""


@contextmanager
def _named(name: str, network: str) -> Iterator[None]:
    try:
        yield
    except _WrongError as error:
        raise BadInput(SETTING, name, f"its layers {network} {error}") from None
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        raise BadInput(SETTING, name, f"its layers {network} fail ({reason(error)})") from error


def _groups(algorithm: AlgorithmConfig, spec: EnvSpec) -> Iterator[tuple[str, NetworkGroup]]:
    for role, layout in (("policy", policies(algorithm, spec)), ("critic", critics(algorithm, spec))):
        assert isinstance(layout, LayeredLayout)
        for group in layout.groups:
            yield f"for a {role} of {group.input_size} inputs and {group.output_size} outputs", group


def _example(group: NetworkGroup) -> tuple[FloatArray, FloatArray]:
    """Return initial parameters `[G, P]` and inputs `[G, B, n]`."""
    rng, members = np.random.default_rng(0), len(group.members)
    alone = NetworkGroup(tuple(range(members)), group.layers, group.input_size, group.output_size)
    x = rng.normal(size=(members, _ROWS, group.input_size)).astype(np.float32)
    return LayeredLayout((alone,)).initial_parameters(rng), x


def _check_initial(group: NetworkGroup) -> None:
    for layer, size in zip(group.layers, group.sizes, strict=True):
        first, again = (layer.initial(size, np.random.default_rng(0)) for _ in range(2))
        found = [tuple(np.shape(values)) for values in first]
        expected = [tuple(shape) for shape in layer.shapes(size)]
        kind = type(layer).__name__
        if found != expected:
            raise _WrongError(
                f"have initial parameters of shapes {found} in {kind}, whose shapes are {expected}"
            )
        if not all(map(np.array_equal, first, again)):  # NaN is not equal to itself
            raise _WrongError(f"have other initial parameters the second time in {kind}; draw from rng alone")


def _check_equal(one: FloatArray, other: FloatArray, when: str) -> None:
    """Refuse outputs that differ by more than rounding."""
    if np.abs(one - other).max(initial=0.0) > _TOLERANCE * (1.0 + np.abs(one).max(initial=0.0)):
        raise _WrongError(f"give other outputs {when}")
