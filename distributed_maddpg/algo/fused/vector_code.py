"""Products and other loops over vectors, as LLVM code: numba does not keep sums in registers.

Matrices are given by address, because tiles are parts of larger arrays. Products use explicit vectors and
fused multiply-adds: each sum is one chain in a fixed order, so its bits depend neither on the processor's
registers nor on how the work is split.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from distributed_maddpg.compilation import compiled

LANES = 16
"""Floats in a vector; LLVM splits it where the registers are shorter."""
_FLOAT, _INT32, _INT64, _VOID = ir.FloatType(), ir.IntType(32), ir.IntType(64), ir.VoidType()
_VECTOR = ir.VectorType(_FLOAT, LANES)


def is_supported() -> bool:
    """Return whether the system has `usleep` and `clock_gettime`, and the processor fused multiply-add."""
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    has_fma = not is_x86 or bool(llvmlite.binding.get_host_cpu_features().get("fma"))
    return has_fma and platform.system() in ("Linux", "Darwin")


def _block_shapes() -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Return (vectors, rows) of blocks whose sums stay in registers, the largest first.

    Of AVX-512's 32 registers 24 hold sums; elsewhere a vector takes two or more of 16.
    """
    if llvmlite.binding.get_host_cpu_features().get("avx512f"):
        return ((4, (6, 4, 2, 1)), (2, (12, 4, 2, 1)), (1, (12, 4, 2, 1)))
    return ((1, (6, 4, 2, 1)),)


def _constant(value: int) -> ir.Constant:
    return ir.Constant(_INT64, value)


def _load(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type = _VECTOR) -> ir.Value:
    value = builder.load(builder.inttoptr(address, kind.as_pointer()))
    value.align = 4
    return value


def _store(builder: ir.IRBuilder, value: ir.Value, address: ir.Value) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer())).align = 4


def _broadcast(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    empty = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(empty, value, ir.Constant(_INT32, 0))
    return builder.shuffle_vector(first, empty, ir.Constant(ir.VectorType(_INT32, LANES), [0] * LANES))


def _fma(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.fma.v16f32"), [a, b, c])


def _function(
    module: ir.Module, name: str, kind: ir.FunctionType, write: Callable[[ir.Function], None]
) -> ir.Function:
    """Return a function of the module, which `write` fills when it is first asked for."""
    existing: ir.Function | None = module.globals.get(name)
    if existing is None:
        existing = ir.Function(module, kind, name)
        existing.linkage = "linkonce_odr"
        existing.attributes.add("noinline")
        write(existing)
    return existing


@contextmanager
def _loop(builder: ir.IRBuilder, count: ir.Value, *initial: ir.Value) -> Iterator[tuple[Any, list[Any]]]:
    """Repeat the block `count` (1 or more) times, yielding (values, later).

    `values` start as `initial`; the block appends each one's next value to `later`, which holds the final
    ones after the loop.
    """
    before, body, after = builder.block, builder.append_basic_block("loop"), builder.append_basic_block("end")
    builder.branch(body)
    builder.position_at_end(body)
    step = builder.phi(_INT64)
    values = [builder.phi(value.type) for value in initial]
    later: list[ir.Value] = []
    yield values, later
    following = builder.add(step, _constant(1))
    again = builder.icmp_signed("<", following, count)
    for phi, first, next_one in zip(
        [step, *values], [_constant(0), *initial], [following, *later], strict=True
    ):
        phi.add_incoming(first, before)
        phi.add_incoming(next_one, builder.block)
    builder.cbranch(again, body, after)
    builder.position_at_end(after)


def _write_block(function: ir.Function, rows: int, vectors: int) -> None:
    """Fill the function that computes a block of `rows` x (16 * `vectors`), see `panel_product`."""
    a, a_row, a_column, b, b_row, start, start_row, c, c_row, depth, floor = function.args
    builder = ir.IRBuilder(function.append_basic_block())

    def rows_of(base: ir.Value, stride: ir.Value) -> list[ir.Value]:
        return [builder.add(base, builder.mul(stride, _constant(row))) for row in range(rows)]

    def vectors_at(address: ir.Value) -> list[ir.Value]:
        return [builder.add(address, _constant(4 * LANES * index)) for index in range(vectors)]

    initial = [_load(builder, place) for row in rows_of(start, start_row) for place in vectors_at(row)]
    a_rows = rows_of(_constant(0), a_row)
    with _loop(builder, depth, a, b, *initial) as ((a_now, b_now, *sums), later):
        right = [_load(builder, place) for place in vectors_at(b_now)]
        later += [builder.add(a_now, a_column), builder.add(b_now, b_row)]
        for row, offset in enumerate(a_rows):
            left = _broadcast(builder, _load(builder, builder.add(a_now, offset), _FLOAT))
            for index in range(vectors):
                later.append(_fma(builder, left, right[index], sums[row * vectors + index]))
    lowest, results = _broadcast(builder, floor), iter(later[2:])
    for row in rows_of(c, c_row):
        for place in vectors_at(row):
            value = next(results)
            below = builder.fcmp_ordered("<", value, lowest)  # false for NaN, which stays
            _store(builder, builder.select(below, lowest, value), place)
    builder.ret_void()


def _write_panel(function: ir.Function) -> None:
    """Fill the function that splits a panel into blocks."""
    a, a_row, a_column, b, start, start_row, c, height, width, depth, floor = function.args
    builder = ir.IRBuilder(function.append_basic_block())
    strides = [builder.mul(stride, _constant(4)) for stride in (a_row, a_column, width, start_row)]
    a_row, a_column, b_row, start_row = strides
    block_kind = ir.FunctionType(_VOID, [_INT64] * 10 + [_FLOAT])
    column = _constant(0)
    for vectors, row_counts in _block_shapes():
        columns = builder.udiv(builder.sub(width, column), _constant(LANES * vectors))
        row = _constant(0)
        for rows in row_counts:
            block = _function(
                builder.module,
                f"distributed_maddpg_block_{rows}_{vectors}",
                block_kind,
                functools.partial(_write_block, rows=rows, vectors=vectors),
            )
            blocks = builder.udiv(builder.sub(height, row), _constant(rows))
            with cgutils.for_range(builder, columns) as across, cgutils.for_range(builder, blocks) as down:
                first_row = builder.add(row, builder.mul(down.index, _constant(rows)))
                first = builder.add(column, builder.mul(across.index, _constant(LANES * vectors)))
                offset = builder.mul(first, _constant(4))
                arguments = [
                    builder.add(a, builder.mul(first_row, a_row)),
                    a_row,
                    a_column,
                    builder.add(b, offset),
                    b_row,
                    builder.add(builder.add(start, offset), builder.mul(first_row, start_row)),
                    start_row,
                    builder.add(builder.add(c, offset), builder.mul(first_row, b_row)),
                    b_row,
                    depth,
                    floor,
                ]
                builder.call(block, arguments)
            row = builder.add(row, builder.mul(blocks, _constant(rows)))
        column = builder.add(column, builder.mul(columns, _constant(LANES * vectors)))
    builder.ret_void()


def _write_dot(function: ir.Function) -> None:
    a, b, vectors = function.args
    builder = ir.IRBuilder(function.append_basic_block())
    with _loop(builder, vectors, a, b, ir.Constant(_VECTOR, [0.0] * LANES)) as ((a_now, b_now, sums), later):
        step = _constant(4 * LANES)
        later += [builder.add(a_now, step), builder.add(b_now, step)]
        later.append(_fma(builder, _load(builder, a_now), _load(builder, b_now), sums))
    builder.ret(builder.extract_element(_lane_sums(builder, [later[2]] * LANES), ir.Constant(_INT32, 0)))


def _lane_sums(builder: ir.IRBuilder, values: list[ir.Value]) -> ir.Value:
    """Return the vector of the sums of 16 vectors' lanes, added pairwise in a fixed order."""
    width = LANES
    while width > 1:
        width //= 2
        # Lane l of a pair takes its lanes l and l + width, from the first where l's bit is not set.
        lower = [lane if not lane & width else lane - width + LANES for lane in range(LANES)]
        upper = [lane + width if not lane & width else lane + LANES for lane in range(LANES)]
        values = [
            builder.fadd(*(_shuffle(builder, a, b, mask) for mask in (lower, upper)))
            for a, b in zip(values[: len(values) // 2], values[len(values) // 2 :], strict=True)
        ]
    return values[0]


def _shuffle(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, lanes: list[int]) -> ir.Value:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_INT32, LANES), lanes))


def _write_row_dots(function: ir.Function) -> None:
    a, b, vectors, out = function.args
    builder = ir.IRBuilder(function.append_basic_block())
    step, row = _constant(4 * LANES), builder.mul(vectors, _constant(4 * LANES))
    zeros = [ir.Constant(_VECTOR, [0.0] * LANES)] * LANES
    with _loop(builder, vectors, a, b, *zeros) as ((a_now, b_now, *sums), later):
        right = _load(builder, b_now)
        later += [builder.add(a_now, step), builder.add(b_now, step)]
        for lane, total in enumerate(sums):
            left = _load(builder, builder.add(a_now, builder.mul(row, _constant(lane))))
            later.append(_fma(builder, left, right, total))
    _store(builder, builder.fadd(_load(builder, out), _lane_sums(builder, later[2:])), out)
    builder.ret_void()


def _write_gate(function: ir.Function) -> None:
    values, gates, vectors = function.args
    builder = ir.IRBuilder(function.append_basic_block())
    with _loop(builder, vectors, values, gates) as ((value, gate), later):
        step, zero = _constant(4 * LANES), ir.Constant(_VECTOR, [0.0] * LANES)
        later += [builder.add(value, step), builder.add(gate, step)]
        is_open = builder.fcmp_ordered(">", _load(builder, gate), zero)
        _store(builder, builder.select(is_open, _load(builder, value), zero), value)
    builder.ret_void()


def _write_add(function: ir.Function) -> None:
    sums, values, vectors = function.args
    builder = ir.IRBuilder(function.append_basic_block())
    with _loop(builder, vectors, sums, values) as ((total, value), later):
        step = _constant(4 * LANES)
        later += [builder.add(total, step), builder.add(value, step)]
        _store(builder, builder.fadd(_load(builder, total), _load(builder, value)), total)
    builder.ret_void()


_PREFIX = "distributed_maddpg_"
_I, _F = types.int64, types.float32
_PANEL, _DOT = types.void(*[_I] * 10, _F), _F(_I, _I, _I)
_THREE, _FOUR = types.void(_I, _I, _I), types.void(_I, _I, _I, _I)


def _external(name: str, signature: Any) -> Any:
    """Return the function that `provide` makes known under a name."""
    return types.ExternalFunction(_PREFIX + name, signature)


panel_product = _external("panel_product", _PANEL)
"""(a, a_row, a_column, b, start, start_row, c, height, width, depth, floor): C = max(start + A B, floor).

Addresses are in bytes, strides in floats. C is `[height, width]`, the depth is 1 or more. A has any strides;
the rows of B and C are `width` floats apart, those of `start` `start_row`. The width is a multiple of 16.
"""
add_row_dots = _external("add_row_dots", _FOUR)
"""(a, b, vectors, out): add the scalar products of 16 adjacent rows at `a` with one at `b` to 16 floats.

A row has 16 * `vectors` floats.
"""
dot = _external("dot", _DOT)
"""(a, b, vectors): the scalar product of 16 * `vectors` floats at two addresses."""
gate = _external("gate", _THREE)
"""(values, gates, vectors): set 16 * `vectors` floats to zero where those at `gates` are not positive."""
add_vectors = _external("add_vectors", _THREE)
"""(sums, values, vectors): add 16 * `vectors` floats at `values` to those at `sums`."""

_CODE: dict[str, tuple[Any, Callable[[ir.Function], None]]] = {
    "panel_product": (_PANEL, _write_panel),
    "add_row_dots": (_FOUR, _write_row_dots),
    "dot": (_DOT, _write_dot),
    "gate": (_THREE, _write_gate),
    "add_vectors": (_THREE, _write_add),
}


@intrinsic
def _addresses(typingctx):  # type: ignore[no-untyped-def]
    """Return the addresses of the functions in `_CODE`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        addresses = []
        for name, (kind, write) in _CODE.items():
            inputs = [context.get_value_type(each) for each in kind.args]
            result = _VOID if kind.return_type == types.void else context.get_value_type(kind.return_type)
            function = _function(builder.module, f"code_of_{name}", ir.FunctionType(result, inputs), write)
            addresses.append(builder.ptrtoint(function, _INT64))
        return cgutils.pack_array(builder, addresses)

    return types.UniTuple(types.int64, len(_CODE))(), generate


@compiled
def _compile() -> tuple[int, ...]:
    addresses: tuple[int, ...] = _addresses()
    return addresses


@functools.cache
def provide() -> None:
    """Compile these functions, or load them from the cache, and make them known by name.

    They are not part of what calls them: they would be optimised again with each function on the way up.
    """
    for name, address in zip(_CODE, _compile(), strict=True):
        llvmlite.binding.add_symbol(_PREFIX + name, address)
