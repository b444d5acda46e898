"""Machine instructions and memory accesses that numba has no name for.

Matrices are given as addresses, because tiles are parts of larger arrays.
"""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from distributed_maddpg.compilation import compiled_part

_IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
FLUSH_TO_ZERO = np.int32(0x8040)
"""Bits of x86's float control that treat denormal numbers as zero: such a number takes a hundred cycles."""
_FLOAT, _INT32, _INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)


@intrinsic
def load(typingctx, address):  # type: ignore[no-untyped-def]
    """Return the float32 at an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], _FLOAT.as_pointer()))

    return types.float32(types.int64), generate


@intrinsic
def word_at(typingctx, address):  # type: ignore[no-untyped-def]
    """Return the uint32 at an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], _INT32.as_pointer()))

    return types.uint32(types.int64), generate


@intrinsic
def store(typingctx, address, value):  # type: ignore[no-untyped-def]
    """Store a float32 at an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[1], builder.inttoptr(args[0], _FLOAT.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, types.float32), generate


def _array_at(kind: types.Type) -> Any:
    """Return the function of an address and a length that gives the array there."""

    @intrinsic
    def array_at(typingctx, address, count):  # type: ignore[no-untyped-def]
        array = types.Array(kind, 1, "C")

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            view = context.make_array(array)(context, builder)
            item = context.get_data_type(kind)
            size = context.get_constant(types.intp, context.get_abi_sizeof(item))
            data = builder.inttoptr(args[0], item.as_pointer())
            populate_array(view, data, [args[1]], [size], size, None)
            return view._getvalue()

        return array(types.int64, types.int64), generate

    return array_at


floats_at, integers_at, doubles_at = (_array_at(kind) for kind in (types.float32, types.int64, types.float64))
"""(address, count) -> the float32, int64 or float64 array there."""


@intrinsic
def copy(typingctx, source, count, out):  # type: ignore[no-untyped-def]
    """Copy floats from one address to another; they must not overlap."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, out = (builder.inttoptr(address, _FLOAT.as_pointer()) for address in (args[0], args[2]))
        cgutils.raw_memcpy(builder, out, source, args[1], 4, align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@compiled_part
def fill(out: int, count: int, value: np.float32) -> None:
    """Set floats at an address to a value."""
    values = floats_at(out, count)
    for k in range(count):
        values[k] = value


@intrinsic
def bits_of(typingctx, value):  # type: ignore[no-untyped-def]
    """Return the bits of a float32 as int32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], _INT32)

    return types.int32(types.float32), generate


@intrinsic
def float_of(typingctx, bits):  # type: ignore[no-untyped-def]
    """Return the float32 with the given bits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], _FLOAT)

    return types.float32(types.int32), generate


@intrinsic
def fetch_and_add(typingctx, address, value):  # type: ignore[no-untyped-def]
    """Add to the int64 at an address, in sequentially consistent order; return what it was."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", builder.inttoptr(args[0], _INT64.as_pointer()), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), generate


@intrinsic
def load_counter(typingctx, address):  # type: ignore[no-untyped-def]
    """Return the int64 at an address; what was stored before it was changed is visible afterwards."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(builder.inttoptr(args[0], _INT64.as_pointer()), "acquire", 8)

    return types.int64(types.int64), generate


@intrinsic
def nanoseconds(typingctx):  # type: ignore[no-untyped-def]
    """Return the time of a steady clock (POSIX `clock_gettime`)."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        clock = ir.Constant(_INT32, 6 if platform.system() == "Darwin" else 1)  # CLOCK_MONOTONIC
        place = cgutils.alloca_once(builder, ir.LiteralStructType([_INT64, _INT64]))
        kind = ir.FunctionType(_INT32, [_INT32, place.type])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "clock_gettime"), [clock, place])
        time = builder.load(place)
        seconds, rest = builder.extract_value(time, 0), builder.extract_value(time, 1)
        return builder.add(builder.mul(seconds, ir.Constant(_INT64, 10**9)), rest)

    return types.int64(), generate


@intrinsic
def set_float_control(typingctx, change, value):  # type: ignore[no-untyped-def]
    """Set the bits `change` of x86's control of float arithmetic to those of `value`; return what it was.

    It belongs to the thread. On other processors this does nothing.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not _IS_X86:
            return ir.Constant(_INT32, 0)
        place = cgutils.alloca_once(builder, _INT32)
        address = builder.bitcast(place, ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [address.type])
        for name in ("st", "ld"):
            function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.sse.{name}mxcsr")
            builder.call(function, [address])
            if name == "st":
                before, (bits, new) = builder.load(place), args
                kept = builder.and_(before, builder.not_(bits))
                builder.store(builder.or_(kept, builder.and_(new, bits)), place)
        return before

    return types.int32(types.int32, types.int32), generate


@intrinsic
def finish_reads(typingctx):  # type: ignore[no-untyped-def]
    """Complete all reads before any later one (an acquire fence)."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("acquire")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def sleep(typingctx, microseconds):  # type: ignore[no-untyped-def]
    """Sleep (POSIX `usleep`)."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(_INT32, [_INT32])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "usleep"), args)
        return context.get_dummy_value()

    return types.void(types.int32), generate
