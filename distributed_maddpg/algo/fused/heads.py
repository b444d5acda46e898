"""Actions from logits, and their gradients, of one agent on a tile.

All values are `[n, TILE]` at an address: one action after the other, so that the rows of the tile fill the
vectors.
"""

from __future__ import annotations

import numpy as np

from distributed_maddpg.algo.fused.functions import exp, log, sin_of_turns
from distributed_maddpg.algo.fused.instructions import fill, floats_at
from distributed_maddpg.algo.fused.noise import threefry
from distributed_maddpg.algo.fused.plan import NO, ONE, TILE
from distributed_maddpg.compilation import compiled_part
from distributed_maddpg.types import FloatArray

_ZERO, _ONE, _TINY, _LOWEST = np.float32(0.0), np.float32(1.0), np.float32(1e-30), np.float32(-np.inf)
_MINUS_TWO, _QUARTER, _PER_UNIT = np.float32(-2.0), np.float32(0.25), np.float32(2.0**-24)
_SPREAD = np.float32(2.5)
"""Standard deviations at which smoothing noise is clipped."""


@compiled_part
def row_at(values: int, k: int) -> FloatArray:
    """Return row k of values."""
    return floats_at(values + 4 * k * TILE, TILE)


@compiled_part
def fill_uniform(values: int, count: int, key0: np.uint32, key1: np.uint32, row: int, stream: int) -> None:
    """Set `count` rows, or one more, to uniform numbers in [0, 1).

    Args:
        values: address.
        count: rows to fill.
        key0: first word of the update's key.
        key1: second word.
        row: number of the tile's first row in the minibatch.
        stream: number of the first pair of rows, unique in the update.
    """
    for pair in range((count + 1) // 2):
        first, second, number = (
            row_at(values, 2 * pair),
            row_at(values, 2 * pair + 1),
            np.uint32(stream + pair),
        )
        for t in range(TILE):
            a, b = threefry(key0, key1, np.uint32(row + t), number)
            first[t] = np.float32(np.int32(a >> np.uint32(8))) * _PER_UNIT
            second[t] = np.float32(np.int32(b >> np.uint32(8))) * _PER_UNIT


@compiled_part
def to_gumbel(values: int, count: int) -> None:
    """Convert uniform numbers to standard Gumbel noise, as `losses.gumbel_noise` does."""
    own = floats_at(values, count * TILE)
    for k in range(own.size):
        uniform = _TINY if own[k] < _TINY else own[k]
        own[k] = -log(-log(uniform))


@compiled_part
def add_smoothing(actions: int, uniform: int, count: int, deviation: np.float32) -> None:
    """Add clipped normal noise to actions and clip them to [0, 1], see `losses.smoothing_noise`.

    A normal number takes its radius from one of `uniform [2 count, TILE]`, its angle from another (Box and
    Muller 1958).
    """
    own = floats_at(actions, count * TILE)
    radius, angle = floats_at(uniform, own.size), floats_at(uniform + 4 * own.size, own.size)
    limit = _SPREAD * deviation
    for k in range(own.size):
        normal = np.sqrt(_MINUS_TWO * log(_ONE - radius[k])) * sin_of_turns(angle[k] + _QUARTER)
        value = own[k] + min(max(normal * deviation, -limit), limit)
        own[k] = min(max(value, _ZERO), _ONE)


@compiled_part
def sigmoid(logits: int, out: int, count: int) -> None:
    """Set `out` to the sigmoid of logits."""
    given, own = floats_at(logits, count * TILE), floats_at(out, count * TILE)
    for k in range(own.size):
        own[k] = _ONE / (_ONE + exp(-given[k]))


@compiled_part
def add_noise(logits: int, noise: int, out: int, count: int) -> None:
    """Set `out` to the sum of logits and noise."""
    given, added, own = (
        floats_at(logits, count * TILE),
        floats_at(noise, count * TILE),
        floats_at(out, count * TILE),
    )
    for k in range(own.size):
        own[k] = given[k] + added[k]


@compiled_part
def softmax(logits: int, temperature: np.float32, out: int, count: int, scratch: int) -> None:
    """Set `out` to the softmax of logits / temperature; `scratch` is the address of two rows."""
    largest, total = row_at(scratch, NO), row_at(scratch, ONE)
    fill(scratch, TILE, _LOWEST)
    fill(scratch + 4 * TILE, TILE, _ZERO)
    for k in range(count):
        given, own = row_at(logits, k), row_at(out, k)
        for t in range(TILE):
            own[t] = given[t] / temperature
            largest[t] = own[t] if own[t] > largest[t] else largest[t]
    for k in range(count):
        own = row_at(out, k)
        for t in range(TILE):
            own[t] = exp(own[t] - largest[t])
            total[t] += own[t]
    for k in range(count):
        own = row_at(out, k)
        for t in range(TILE):
            own[t] /= total[t]


@compiled_part
def one_hot(values: int, out: int, count: int) -> None:
    """Set `out` to one-hot vectors of the largest values, the first of equal ones."""
    given, own = floats_at(values, count * TILE), floats_at(out, count * TILE)
    for t in range(TILE):
        largest = 0
        for k in range(1, count):
            if given[k * TILE + t] > given[largest * TILE + t]:
                largest = k
        for k in range(count):
            own[k * TILE + t] = _ONE if k == largest else _ZERO


@compiled_part
def through_sigmoid(gradient: int, relaxed: int, count: int) -> None:
    """Convert the gradient of relaxed actions, sigmoids, to that of the logits, in place."""
    own, value = floats_at(gradient, count * TILE), floats_at(relaxed, count * TILE)
    for k in range(own.size):
        own[k] = own[k] * value[k] * (_ONE - value[k])


@compiled_part
def through_softmax(gradient: int, relaxed: int, temperature: np.float32, count: int, scratch: int) -> None:
    """Convert the gradient of relaxed actions, a softmax, to that of the logits, in place."""
    total = row_at(scratch, NO)
    fill(scratch, TILE, _ZERO)
    for k in range(count):
        own, value = row_at(gradient, k), row_at(relaxed, k)
        for t in range(TILE):
            own[t] *= value[t]
            total[t] += own[t]
    for k in range(count):
        own, value = row_at(gradient, k), row_at(relaxed, k)
        for t in range(TILE):
            own[t] = (own[t] - value[t] * total[t]) / temperature
