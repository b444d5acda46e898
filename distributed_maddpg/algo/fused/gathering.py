"""Copies rows from a ring whose writer may overwrite them meanwhile, see `replay/ring.py`."""

from __future__ import annotations

import numpy as np

from distributed_maddpg.algo.fused.instructions import (
    copy,
    fetch_and_add,
    finish_reads,
    integers_at,
    load_counter,
    sleep,
    word_at,
)
from distributed_maddpg.algo.fused.noise import REDRAW, threefry
from distributed_maddpg.algo.fused.plan import Plan, Task
from distributed_maddpg.compilation import compiled_part

_MAX_REDRAWS, _ATTEMPTS_AT_ONCE, _SLEEP_US = 10_000, 100, np.int32(20)


@compiled_part
def gather(plan: Plan, task: Task) -> None:
    """Copy the drawn rows of a tile; those that are being overwritten are drawn again."""
    index = integers_at(plan.index + 8 * (task.update * plan.batch + task.first), task.height)
    inserted = load_counter(plan.ring_inserted)
    for t in range(task.height):
        copy(plan.source + 4 * index[t] * plan.width, plan.width, _row_at(plan, task, t))
    finish_reads()
    if load_counter(plan.ring_reserved) > inserted or load_counter(plan.ring_epoch) != plan.epoch:
        for t in range(task.height):
            _gather_whole(plan, task, t, index[t])


@compiled_part
def _row_at(plan: Plan, task: Task, t: int) -> int:
    return plan.rows + 4 * (task.first + t) * plan.width


@compiled_part
def _gather_whole(plan: Plan, task: Task, t: int, place: int) -> None:
    """Copy the row at a place, or others at random, until one is whole."""
    for attempt in range(_MAX_REDRAWS):
        epoch, inserted = load_counter(plan.ring_epoch), load_counter(plan.ring_inserted)
        oldest = max(load_counter(plan.ring_first), inserted - plan.capacity)
        if attempt > 0 and inserted > oldest:
            place = (oldest + _random(plan, task, t, attempt) % (inserted - oldest)) % plan.capacity
        copy(plan.source + 4 * place * plan.width, plan.width, _row_at(plan, task, t))
        finish_reads()
        # Read `reserved` before the epoch: a writer that lowers it changes the epoch first.
        written = load_counter(plan.ring_reserved) - inserted
        is_whole = (place - inserted) % plan.capacity >= written
        is_stored = (place - oldest) % plan.capacity < inserted - oldest
        if is_whole and is_stored and epoch % 2 == 0 and load_counter(plan.ring_epoch) == epoch:
            return
        if attempt % _ATTEMPTS_AT_ONCE == _ATTEMPTS_AT_ONCE - 1:
            sleep(_SLEEP_US)  # the writer may need the core
    fetch_and_add(plan.unreadable, 1)


@compiled_part
def _random(plan: Plan, task: Task, t: int, attempt: int) -> int:
    """Return 62 random bits, another number for each attempt."""
    key0, key1 = word_at(plan.keys + 8 * task.update), word_at(plan.keys + 8 * task.update + 4)
    stream = REDRAW * plan.agents * (plan.max_actions + 1) + attempt
    high, low = threefry(key0, key1, np.uint32(task.first + t), np.uint32(stream))
    return (np.int64(high) << 30) ^ np.int64(low)
