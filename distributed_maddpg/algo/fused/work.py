"""What each thread does: take the next task, wait for what it needs, do it."""

from __future__ import annotations

import numpy as np

from distributed_maddpg.algo.fused.critics import (
    ACTOR_VALUE,
    CRITIC_LOSS,
    INFORMATION,
    MEAN_VALUE,
    REGULARISER,
    add_critic_tile,
)
from distributed_maddpg.algo.fused.instructions import (
    FLUSH_TO_ZERO,
    doubles_at,
    fetch_and_add,
    fill,
    floats_at,
    integers_at,
    load_counter,
    nanoseconds,
    set_float_control,
    sleep,
)
from distributed_maddpg.algo.fused.noise import threefry
from distributed_maddpg.algo.fused.optimiser import (
    average_gradients,
    gradient_of,
    make_step,
    move_target,
    pack_online,
    sum_groups,
)
from distributed_maddpg.algo.fused.plan import (
    CRITICS_PART,
    POLICIES_PART,
    ROWS_PART,
    STEPS_PART,
    TILE,
    WAITING_PART,
    Agent,
    DoubleArray,
    Networks,
    Plan,
    Task,
    WordArray,
)
from distributed_maddpg.algo.fused.policies import add_policy_tile
from distributed_maddpg.algo.fused.rows import prepare_tile
from distributed_maddpg.compilation import compiled_for_threads, compiled_part

_ZERO = np.float32(0.0)
_LOOKS, _SPIN_NS, _SLEEP_US = 100, 50_000, np.int32(20)
"""Looks at a counter between two at the clock, nanoseconds before a thread sleeps, and how long it does."""
PARTIAL = 5
"""Sums of a group."""


@compiled_for_threads
def begin(plans: Plan, networks: Networks, seed: WordArray, updates: int, keys: WordArray) -> None:
    """Prepare a call: write all parameters in panels, and set the `keys [K, 2]` of its random numbers."""
    plan = plans[0]
    for update in range(keys.shape[0]):
        number = np.uint64(updates + update)
        low, high = np.uint32(number & np.uint64(0xFFFFFFFF)), np.uint32(number >> np.uint64(32))
        keys[update, 0], keys[update, 1] = threefry(seed[0], seed[1], low, high)
    for kind in range(1 + plan.critics):
        for number in range(plan.agents):
            pack_online(networks[kind], plan, number)
            move_target(networks[kind], number, _ZERO)


@compiled_for_threads
def work(plans: Plan, agents: Agent, networks: Networks, tasks: Task, thread: int) -> None:
    """Take part in the updates of a call until none of their tasks is left.

    Tasks are taken in order, and each waits only for earlier ones. So one thread does all of them, several
    never wait for each other in a circle, and every sum has the same order.
    """
    plan, policies, critics, task = plans[0], networks[0], networks[1:], tasks[thread]
    per_stage = plan.agents * plan.groups
    per_update = plan.row_groups + 2 * per_stage
    last = per_update * plan.updates
    task.since = nanoseconds()
    float_control = set_float_control(FLUSH_TO_ZERO, FLUSH_TO_ZERO)
    while True:
        number = fetch_and_add(plan.next_task, 1)
        if number >= last:
            break
        place = number % per_update - plan.row_groups
        task.update, task.group, task.agent = number // per_update, place % plan.groups, place // plan.groups
        if place < 0:
            task.group = place + plan.row_groups
            _prepare(plan, agents, policies, task)
        elif place < per_stage:
            _improve_critics(plan, agents, critics, task)
        elif integers_at(plan.policies_due, plan.updates)[task.update]:
            task.agent -= plan.agents
            _improve_policy(plan, agents, policies, critics, task)
    set_float_control(FLUSH_TO_ZERO, float_control)


@compiled_part
def _end_part(task: Task, part: int) -> None:
    """Add the time since the last part's end to a part."""
    now = nanoseconds()
    task.spent[part] += now - task.since
    task.since = now


@compiled_part
def _wait(task: Task, counter: int, value: int) -> None:
    """Return once a counter has reached a value.

    After a while the thread sleeps, because the one that it waits for may need its core.
    """
    if load_counter(counter) >= value:
        return
    while load_counter(counter) < value:
        for _ in range(_LOOKS):
            if load_counter(counter) >= value:
                break
        if nanoseconds() - task.since > _SPIN_NS:
            sleep(_SLEEP_US)
    _end_part(task, WAITING_PART)


@compiled_part
def _tiles(plan: Plan, group: int, groups: int) -> tuple[int, int]:
    """Return the first tile of one of some groups and the first one after it."""
    tiles = (plan.batch + TILE - 1) // TILE
    return group * tiles // groups, (group + 1) * tiles // groups


@compiled_part
def _set_tile(plan: Plan, task: Task, tile: int) -> None:
    task.first = tile * TILE
    task.height = min(TILE, plan.batch - task.first)


@compiled_part
def _partial_sums(plan: Plan, number: int, group: int) -> DoubleArray:
    return doubles_at(plan.partial + 8 * PARTIAL * (number * plan.groups + group), PARTIAL)


@compiled_part
def _total(plan: Plan, number: int, place: int) -> float:
    """Return the sum of one of the partial sums over the groups."""
    total = 0.0
    for group in range(plan.groups):
        total += _partial_sums(plan, number, group)[place]
    return total


@compiled_part
def _prepare(plan: Plan, agents: Agent, policies: Networks, task: Task) -> None:
    if task.update > 0:
        _wait(task, plan.agents_done + 8 * (task.update - 1), plan.agents)
    begin, end = _tiles(plan, task.group, plan.row_groups)
    for tile in range(begin, end):
        _set_tile(plan, task, tile)
        prepare_tile(plan, agents, policies, task)
    _end_part(task, ROWS_PART)
    fetch_and_add(plan.prepared + 8 * (task.update * plan.row_groups + task.group), 1)


@compiled_part
def _clear_sums(plan: Plan, net: Networks, task: Task) -> None:
    fill(net.sums + 4 * (task.agent * plan.groups + task.group) * net.sums_size, net.sums_size, _ZERO)


@compiled_part
def _improve_critics(plan: Plan, agents: Agent, critics: Networks, task: Task) -> None:
    """Add a group's gradients to an agent's critics; after the last group, step them."""
    parts = plan.row_groups // plan.groups
    for part in range(task.group * parts, (task.group + 1) * parts):
        _wait(task, plan.prepared + 8 * (task.update * plan.row_groups + part), 1)
    partial = _partial_sums(plan, task.agent, task.group)
    for place in range(PARTIAL):
        partial[place] = 0.0
    for which in range(plan.critics):
        _clear_sums(plan, critics[which], task)
    begin, end = _tiles(plan, task.group, plan.groups)
    for tile in range(begin, end):
        _set_tile(plan, task, tile)
        add_critic_tile(plan, agents[task.agent], critics, task, partial)
    _end_part(task, CRITICS_PART)
    place = 8 * (task.update * plan.agents + task.agent)
    if fetch_and_add(plan.critics_left + place, -1) > 1:
        return
    _step_critics(plan, critics, task.update, task.agent)
    fetch_and_add(plan.critics_done + place, 1)
    if not integers_at(plan.policies_due, plan.updates)[task.update]:
        _finish_agent(plan, task.update, task.agent)
    _end_part(task, STEPS_PART)


@compiled_part
def _step_critics(plan: Plan, critics: Networks, update: int, number: int) -> None:
    step, metrics = floats_at(plan.steps + 16 * update + 8, 2), floats_at(plan.metrics, 4 * plan.agents)
    for which in range(plan.critics):
        sum_groups(critics[which], plan, number)
        norm = make_step(critics[which], plan, number, step[0], step[1])
        pack_online(critics[which], plan, number)
        if integers_at(plan.policies_due, plan.updates)[update]:
            move_target(critics[which], number, plan.tau)  # its last use in this update is over
        if which == 0:
            metrics[3 * plan.agents + number] += norm
    metrics[number] += np.float32(_total(plan, number, CRITIC_LOSS) / plan.batch)
    metrics[2 * plan.agents + number] += np.float32(_total(plan, number, MEAN_VALUE) / plan.batch)


@compiled_part
def _improve_policy(plan: Plan, agents: Agent, policies: Networks, critics: Networks, task: Task) -> None:
    """Add a group's gradient to an agent's policy; after the last group of its team, step the team's."""
    _wait(task, plan.critics_done + 8 * (task.update * plan.agents + task.agent), 1)
    _clear_sums(plan, policies, task)
    partial = _partial_sums(plan, task.agent, task.group)
    begin, end = _tiles(plan, task.group, plan.groups)
    for tile in range(begin, end):
        _set_tile(plan, task, tile)
        add_policy_tile(plan, agents[task.agent], policies, critics[0], task, partial)
    _end_part(task, POLICIES_PART)
    first = agents[task.agent].team
    if fetch_and_add(plan.policies_left + 8 * (task.update * plan.agents + first), -1) == 1:
        _step_team(plan, agents, policies, first, task.update)
        for member in range(first, plan.agents):
            if agents[member].team == first:
                _finish_agent(plan, task.update, member)
        _end_part(task, STEPS_PART)


@compiled_part
def _step_team(plan: Plan, agents: Agent, policies: Networks, first: int, update: int) -> None:
    """Step the policies of a team; their gradient is the mean over its agents."""
    for member in range(first, plan.agents):
        if agents[member].team == first:
            sum_groups(policies, plan, member)
            if agents[member].frozen:
                fill(gradient_of(policies, plan, member), policies.sums_size, _ZERO)
    if agents[first].team_size > 1:
        average_gradients(policies, plan, agents, first)
    for member in range(first, plan.agents):
        if agents[member].team == first:
            _step_policy(plan, policies, update, member)


@compiled_part
def _step_policy(plan: Plan, policies: Networks, update: int, number: int) -> None:
    step, latest = floats_at(plan.steps + 16 * update, 2), floats_at(plan.policy_metrics, 3 * plan.agents)
    norm = make_step(policies, plan, number, step[0], step[1])
    pack_online(policies, plan, number)
    move_target(policies, number, plan.tau)
    square, value = _total(plan, number, REGULARISER), _total(plan, number, ACTOR_VALUE)
    latest[number] = np.float32((np.float64(plan.regulariser) * square - value) / plan.batch)
    latest[plan.agents + number] = norm
    if plan.information_rows:
        latest[2 * plan.agents + number] = np.float32(
            _total(plan, number, INFORMATION) / plan.information_rows
        )


@compiled_part
def _finish_agent(plan: Plan, update: int, number: int) -> None:
    """Add the latest metrics of an agent's policy, and count the agent."""
    latest, metrics = (
        floats_at(plan.policy_metrics, 3 * plan.agents),
        floats_at(plan.metrics, 6 * plan.agents),
    )
    metrics[plan.agents + number] += latest[number]
    metrics[4 * plan.agents + number] += latest[plan.agents + number]
    if plan.information_rows:
        metrics[5 * plan.agents + number] += latest[2 * plan.agents + number]
    fetch_and_add(plan.agents_done + 8 * update, 1)
