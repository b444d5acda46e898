"""The end of an agent's update: sum its gradients, clip them, step Adam, move the target networks."""

from __future__ import annotations

import numpy as np

from distributed_maddpg.algo.fused.instructions import copy, floats_at, integers_at
from distributed_maddpg.algo.fused.perceptrons import (
    mask_rows,
    pack,
    panel_width,
    unpack_gradient,
    whole_vectors,
)
from distributed_maddpg.algo.fused.plan import MAX_LAYERS, PANEL, Agent, Networks, Plan
from distributed_maddpg.algo.fused.vector_code import LANES, add_vectors, dot
from distributed_maddpg.compilation import compiled_part
from distributed_maddpg.types import FloatArray

_BETA1, _BETA2, _EPSILON = np.float32(0.9), np.float32(0.999), np.float32(1e-8)
_ONE, _ZERO, _SMALL = np.float32(1.0), np.float32(0.0), np.float32(1e-6)


@compiled_part
def gradient_of(net: Networks, number: int) -> int:
    """Return the address of the first group's gradient of a network."""
    return net.sums + 4 * number * net.groups * net.sums_size


@compiled_part
def sum_groups(net: Networks, number: int) -> None:
    """Add the gradients of all groups to the first one's, in their order."""
    total = gradient_of(net, number)
    for group in range(1, net.groups):
        add_vectors(total, total + 4 * group * net.sums_size, net.sums_size // LANES)


@compiled_part
def average_gradients(net: Networks, plan: Plan, agents: Agent, first: int) -> None:
    """Replace the gradients of the agents that share the policy of agent `first` by their mean."""
    total, count = (
        floats_at(gradient_of(net, first), net.sums_size),
        np.float32(agents[first].team_size),
    )
    for number in range(first + 1, plan.agents):
        if agents[number].team == first:
            own = floats_at(gradient_of(net, number), net.sums_size)
            for k in range(total.size):
                total[k] += own[k]
    for k in range(total.size):
        total[k] /= count
    for number in range(first + 1, plan.agents):
        if agents[number].team == first:
            copy(gradient_of(net, first), net.sums_size, gradient_of(net, number))


@compiled_part
def make_step(net: Networks, plan: Plan, number: int, step: np.float32, root: np.float32) -> np.float32:
    """Clip a network's gradient and step Adam; return the gradient's norm before clipping."""
    gradient, place, count = (
        gradient_of(net, number),
        4 * number * net.num_parameters,
        net.num_parameters,
    )
    mask_rows(net, net.mask + 4 * number * net.sizes[0], gradient + 4 * net.weights[0])
    scales = np.empty(2 * MAX_LAYERS, np.float32)
    norm = _set_norms(net, gradient, scales)
    _set_scales(plan, scales, norm)
    unpack_gradient(net, gradient, scales, net.grad + place)
    values, grad = floats_at(net.flat + place, count), floats_at(net.grad + place, count)
    mean, square = floats_at(net.exp_avg + place, count), floats_at(net.exp_avg_sq + place, count)
    _step_adam(values, grad, mean, square, step, root)
    return norm


@compiled_part
def _set_norms(net: Networks, gradient: int, norms: FloatArray) -> np.float32:
    """Set the norms of all weights and biases; return that of all together."""
    total = _ZERO
    for layer in range(net.layers):
        end = net.sums_size if layer == net.layers - 1 else net.weights[layer + 1]
        weight, bias = gradient + 4 * net.weights[layer], gradient + 4 * net.biases[layer]
        weight_square = dot(weight, weight, (net.biases[layer] - net.weights[layer]) // LANES)
        bias_square = dot(bias, bias, (end - net.biases[layer]) // LANES)
        norms[2 * layer], norms[2 * layer + 1] = np.sqrt(weight_square), np.sqrt(bias_square)
        total += weight_square + bias_square
    return np.sqrt(total)


@compiled_part
def _set_scales(plan: Plan, norms: FloatArray, norm: np.float32) -> None:
    """Replace norms by the factors that clip the gradient."""
    for k in range(norms.size):
        own = norms[k] if plan.norm_per_parameter else norm
        factor = plan.max_norm / (own + _SMALL)
        norms[k] = factor if plan.max_norm > _ZERO and not factor > _ONE else _ONE


@compiled_part
def _step_adam(
    values: FloatArray,
    grad: FloatArray,
    mean: FloatArray,
    square: FloatArray,
    step: np.float32,
    root: np.float32,
) -> None:
    for k in range(values.size):
        mean[k] = _BETA1 * mean[k] + (_ONE - _BETA1) * grad[k]
        square[k] = _BETA2 * square[k] + (_ONE - _BETA2) * grad[k] * grad[k]
        values[k] -= step * mean[k] / (np.sqrt(square[k]) / root + _EPSILON)


@compiled_part
def move_target(net: Networks, number: int, tau: np.float32) -> None:
    """Move a target network towards the online one."""
    place = 4 * number * net.num_parameters
    values, target = (
        floats_at(net.flat + place, net.num_parameters),
        floats_at(net.target + place, net.num_parameters),
    )
    for k in range(values.size):
        target[k] += tau * (values[k] - target[k])
    mask = net.mask + 4 * number * net.sizes[0]
    pack(net, net.target + place, mask, net.target_panels + 4 * number * net.panels_size)


@compiled_part
def pack_online(net: Networks, plan: Plan, number: int) -> None:
    """Write a network's parameters in panels, and, of a critic, the first weights of private columns."""
    panels = net.panels + 4 * number * net.panels_size
    pack(net, net.flat + 4 * number * net.num_parameters, net.mask + 4 * number * net.sizes[0], panels)
    if not net.private_weights:
        return
    height, width, private = net.sizes[0], net.sizes[1], integers_at(plan.common_private, plan.private)
    own = net.private_weights + 4 * number * plan.private * whole_vectors(width)
    for column in range(0, width, PANEL):
        own_width = panel_width(width - column)
        for row in range(plan.private):
            source = panels + 4 * (net.weights[0] + column * height + private[row] * own_width)
            out = own + 4 * (column * plan.private + row * own_width)
            copy(source, own_width, out)
