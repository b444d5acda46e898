"""Forward and backward passes of one perceptron on a tile: a few rows whose intermediates stay in the cache.

Matrices are stored in panels: up to 64 columns, padded with zeros to a multiple of 16, row after row; then
the next 64 columns. So a row of a panel is a few whole vectors, and a product reads memory in order. The few
outputs of a network are stored as `[outputs, TILE]`.
"""

from __future__ import annotations

import numpy as np

from distributed_maddpg.algo.fused.instructions import copy, fill, floats_at, load, store
from distributed_maddpg.algo.fused.plan import ADJACENT, NO, ONE, PANEL, SAME, TILE, Networks, Pass
from distributed_maddpg.algo.fused.vector_code import LANES, add_row_dots, dot, gate, panel_product
from distributed_maddpg.compilation import compiled_part
from distributed_maddpg.types import FloatArray

_NO_FLOOR, _ZERO = np.float32(-np.inf), np.float32(0.0)


@compiled_part
def whole_vectors(width: int) -> int:
    """Return a width, padded."""
    return (width + LANES - 1) & -LANES


@compiled_part
def panel_width(columns_left: int) -> int:
    """Return the width of the panel that holds the first of these columns."""
    return min(PANEL, whole_vectors(columns_left))


@compiled_part
def multiply(  # noqa: PLR0913 (as every gemm)
    a: int,
    a_row: int,
    a_column: int,
    a_panel: int,
    height: int,
    depth: int,
    b: int,
    b_height: int,
    b_first: int,
    width: int,
    start: int,
    start_height: int,
    c: int,
    floor: np.float32,
) -> None:
    """Compute C = max(start + A B, floor) for a tile C in panels; addresses, and strides in floats.

    Args:
        a: A `[height, depth]`.
        a_row: between its rows; 0: the width of each panel.
        a_column: between its columns, within 64.
        a_panel: between its columns 0, 64, 128, ...
        height: rows of A.
        depth: columns of A.
        b: panels that hold B `[depth, width]`.
        b_height: rows of these panels, `depth` or more.
        b_first: which of them is B's first.
        width: columns of B.
        start: what to start from.
        start_height: rows of its panels; 0 if it is one row.
        c: C.
        floor: the least value.
    """
    for column in range(0, width, PANEL):
        own_width = panel_width(width - column)
        out = c + 4 * column * TILE
        origin = start + 4 * column * max(start_height, 1)
        origin_row = own_width if start_height else 0
        for first in range(0, depth, PANEL):
            count = min(PANEL, depth - first)
            panel_product(
                a + 4 * (first // PANEL) * a_panel,
                a_row if a_row else panel_width(depth - first),
                a_column,
                b + 4 * (column * b_height + (b_first + first) * own_width),
                origin,
                origin_row,
                out,
                height,
                own_width,
                count,
                floor if first + count == depth else _NO_FLOOR,
            )
            origin, origin_row = out, own_width


@compiled_part
def add_transposed_product(  # noqa: PLR0913
    a: int,
    a_row: int,
    a_column: int,
    a_panel: int,
    height: int,
    depth: int,
    b: int,
    width: int,
    c: int,
    c_height: int,
) -> None:
    """Compute C += A^T B for A `[depth, height]`, given as in `multiply`, and a tile B in panels.

    `c_height` is the number of rows of C's panels, `height` or more.
    """
    for column in range(0, width, PANEL):
        own_width = panel_width(width - column)
        for first in range(0, height, PANEL):
            out = c + 4 * (column * c_height + first * own_width)
            panel_product(
                a + 4 * (first // PANEL) * a_panel,
                a_column,
                a_row if a_row else panel_width(height - first),
                b + 4 * column * TILE,
                out,
                own_width,
                out,
                min(PANEL, height - first),
                own_width,
                depth,
                _NO_FLOOR,
            )


@compiled_part
def add_dots(tile: int, width: int, b: int, b_height: int, row: int, out: int) -> None:
    """Add a tile's rows `[TILE, width]` times one row of B `[b_height, width]` to `out [TILE]`."""
    for column in range(0, width, PANEL):
        own_width = panel_width(width - column)
        right = b + 4 * (column * b_height + row * own_width)
        for t in range(0, TILE, LANES):
            left = tile + 4 * (column * TILE + t * own_width)
            add_row_dots(left, right, own_width // LANES, out + 4 * t)


@compiled_part
def forward(net: Networks, own: Pass) -> None:
    """Compute the hidden layers."""
    bias, weight = own.panels + 4 * net.biases[0], own.panels + 4 * net.weights[0]
    multiply(
        own.inputs,
        own.inputs_row,
        ADJACENT,
        PANEL,
        own.height,
        own.num_inputs,
        weight,
        net.sizes[0],
        NO,
        net.sizes[1],
        bias,
        SAME,
        own.hidden,
        _ZERO,
    )
    forward_from_first(net, own)


@compiled_part
def forward_from_first(net: Networks, own: Pass) -> None:
    """Compute the hidden layers after the first one."""
    for layer in range(1, net.layers - 1):
        weight, bias = own.panels + 4 * net.weights[layer], own.panels + 4 * net.biases[layer]
        depth = net.sizes[layer]
        multiply(
            own.hidden + 4 * net.hidden[layer - 1],
            SAME,
            ADJACENT,
            PANEL * TILE,
            own.height,
            depth,
            weight,
            depth,
            NO,
            net.sizes[layer + 1],
            bias,
            SAME,
            own.hidden + 4 * net.hidden[layer],
            _ZERO,
        )


@compiled_part
def set_outputs(net: Networks, own: Pass) -> None:
    """Set the outputs, from the last hidden layer."""
    last = net.layers - 1
    width, height = net.sizes[last], net.sizes[last + 1]
    tile, weight = own.hidden + 4 * net.hidden[last - 1], own.panels + 4 * net.weights[last]
    for k in range(own.num_outputs):
        out = own.outputs + 4 * k * TILE
        fill(out, TILE, load(own.panels + 4 * (net.biases[last] + own.head + k)))
        add_dots(tile, width, weight, height, own.head + k, out)


@compiled_part
def backward(net: Networks, own: Pass, zeros: int) -> None:
    """Backpropagate the outputs' gradients to the pre-activations of all hidden layers, see `PLAN.zeros`."""
    last = net.layers - 1
    for layer in range(last, 0, -1):
        out, width = own.hidden_grad + 4 * net.hidden[layer - 1], net.sizes[layer]
        if layer == last:
            given, row, column, head = own.outputs_grad, ADJACENT, TILE, own.head
            depth, weight = own.num_outputs, net.weights[last]
        else:
            given, row, column, head = own.hidden_grad + 4 * net.hidden[layer], SAME, ADJACENT, NO
            depth, weight = net.sizes[layer + 1], net.transposed[layer]
        multiply(
            given,
            row,
            column,
            PANEL * TILE,
            own.height,
            depth,
            own.panels + 4 * weight,
            net.sizes[layer + 1],
            head,
            width,
            zeros,
            SAME,
            out,
            _NO_FLOOR,
        )
        gate(out, own.hidden + 4 * net.hidden[layer - 1], TILE * whole_vectors(width) // LANES)


@compiled_part
def add_gradients(net: Networks, own: Pass, ones: int) -> None:
    """Add the gradients of all weights and biases to the sums, after `backward`; see `PLAN.ones`.

    The outputs must be the network's first ones.
    """
    last = net.layers - 1
    for layer in range(last):
        n_in, width, grad = net.sizes[layer], net.sizes[layer + 1], own.hidden_grad + 4 * net.hidden[layer]
        weight, bias = own.sums + 4 * net.weights[layer], own.sums + 4 * net.biases[layer]
        add_transposed_product(ones, ADJACENT, SAME, SAME, ONE, own.height, grad, width, bias, ONE)
        given, row, panel, height = own.inputs, own.inputs_row, PANEL, own.num_inputs
        if layer > 0:
            given, row, panel, height = own.hidden + 4 * net.hidden[layer - 1], SAME, PANEL * TILE, n_in
        add_transposed_product(given, row, ADJACENT, panel, height, own.height, grad, width, weight, n_in)
    tile, weight = own.hidden + 4 * net.hidden[last - 1], own.sums + 4 * net.weights[last]
    add_transposed_product(
        own.outputs_grad,
        ADJACENT,
        TILE,
        PANEL * TILE,
        own.num_outputs,
        own.height,
        tile,
        net.sizes[last],
        weight,
        net.sizes[last + 1],
    )
    for k in range(own.num_outputs):
        bias = own.sums + 4 * (net.biases[last] + k)
        store(bias, load(bias) + dot(own.outputs_grad + 4 * k * TILE, ones, TILE // LANES))


@compiled_part
def pack(net: Networks, flat: int, mask: int, panels: int) -> None:
    """Write the flat parameters of a network as panels; the inputs' weights are multiplied by the mask.

    All arguments but `net` are addresses.
    """
    last = net.layers - 1
    for layer in range(last + 1):
        n_in, n_out = net.sizes[layer], net.sizes[layer + 1]
        weight = flat + 4 * net.flat_weights[layer]
        copy(weight + 4 * n_in * n_out, n_out, panels + 4 * net.biases[layer])
        if layer == last:
            _pack_columns(weight, n_in, n_out, panels + 4 * net.weights[layer])
            continue
        _pack_rows(weight, n_in, n_out, panels + 4 * net.weights[layer])
        if layer > 0:
            _pack_columns(weight, n_in, n_out, panels + 4 * net.transposed[layer])
    mask_rows(net, mask, panels + 4 * net.weights[0])


@compiled_part
def _pack_rows(matrix: int, height: int, width: int, panels: int) -> None:
    """Write a matrix in panels."""
    for column in range(0, width, PANEL):
        own_width, count = panel_width(width - column), min(PANEL, width - column)
        for row in range(height):
            copy(matrix + 4 * (row * width + column), count, panels + 4 * (column * height + row * own_width))


@compiled_part
def _pack_columns(matrix: int, width: int, height: int, panels: int) -> None:
    """Write the transpose of a matrix `[width, height]` in panels."""
    for column in range(0, width, PANEL):
        own_width, count = panel_width(width - column), min(PANEL, width - column)
        for row in range(height):
            out = floats_at(panels + 4 * (column * height + row * own_width), count)
            given = floats_at(matrix + 4 * (column * height + row), count * height)
            for k in range(count):
                out[k] = given[k * height]


@compiled_part
def mask_rows(net: Networks, mask: int, panels: int) -> None:
    """Set the rows of inputs that are not used to zero, in the first layer's weights or gradient."""
    height, width = net.sizes[0], net.sizes[1]
    used = floats_at(mask, height)
    for row in range(height):
        if used[row] == _ZERO:
            for column in range(0, width, PANEL):
                own_width = panel_width(width - column)
                fill(panels + 4 * (column * height + row * own_width), own_width, _ZERO)


@compiled_part
def unpack_gradient(net: Networks, given: int, scales: FloatArray, flat: int) -> None:
    """Write a gradient in panels, times the factor of each weight and bias `scales [2 L]`, as a flat one."""
    last = net.layers - 1
    for layer in range(last + 1):
        n_in, n_out = net.sizes[layer], net.sizes[layer + 1]
        weight, source = flat + 4 * net.flat_weights[layer], given + 4 * net.weights[layer]
        if layer < last:
            _unpack_rows(source, n_in, n_out, scales[2 * layer], weight)
        else:
            _unpack_columns(source, n_in, n_out, scales[2 * layer], weight)
        bias = weight + 4 * n_in * n_out
        _scale(given + 4 * net.biases[layer], n_out, scales[2 * layer + 1], bias)


@compiled_part
def _scale(source: int, count: int, factor: np.float32, out: int) -> None:
    values, result = floats_at(source, count), floats_at(out, count)
    for k in range(count):
        result[k] = factor * values[k]


@compiled_part
def _unpack_rows(panels: int, height: int, width: int, factor: np.float32, matrix: int) -> None:
    for column in range(0, width, PANEL):
        own_width, count = panel_width(width - column), min(PANEL, width - column)
        for row in range(height):
            source = panels + 4 * (column * height + row * own_width)
            _scale(source, count, factor, matrix + 4 * (row * width + column))


@compiled_part
def _unpack_columns(panels: int, width: int, height: int, factor: np.float32, matrix: int) -> None:
    for column in range(0, width, PANEL):
        own_width, count = panel_width(width - column), min(PANEL, width - column)
        for row in range(height):
            given = floats_at(panels + 4 * (column * height + row * own_width), count)
            out = floats_at(matrix + 4 * (column * height + row), count * height)
            for k in range(count):
                out[k * height] = factor * given[k]
