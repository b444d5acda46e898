"""What each thread does: take the next task, wait for what it needs, do it."""

from __future__ import annotations

import numpy as np

from distributed_maddpg.algo.fused.critics import (
    ACTOR_VALUE,
    CRITIC_LOSS,
    INFORMATION,
    MEAN_VALUE,
    PARTIAL,
    REGULARISER,
    add_critic_tile,
    partial_sums,
)
from distributed_maddpg.algo.fused.instructions import (
    FLUSH_TO_ZERO,
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
    Networks,
    Plan,
    Task,
    WordArray,
)
from distributed_maddpg.algo.fused.policies import add_policy_tile, set_first_layer
from distributed_maddpg.algo.fused.rows import prepare_tile
from distributed_maddpg.compilation import compiled_for_threads, compiled_part

_ZERO = np.float32(0.0)
_LOOKS, _SPIN_NS, _SLEEP_US = 100, 50_000, np.int32(20)
"""Looks at a counter between two at the clock, nanoseconds before a thread sleeps, and how long it does."""


@compiled_for_threads
def begin(plans: Plan, networks: Networks, seed: WordArray, updates: int, keys: WordArray) -> None:
    """Prepare a call: write all parameters in panels, and set the `keys [K, 2]` of its random numbers."""
    plan = plans[0]
    for update in range(keys.shape[0]):
        number = np.uint64(updates + update)
        low, high = np.uint32(number & np.uint64(0xFFFFFFFF)), np.uint32(number >> np.uint64(32))
        keys[update, 0], keys[update, 1] = threefry(seed[0], seed[1], low, high)
    for kind in range(1 + plan.critics):
        for number in range(networks[kind].count):
            pack_online(networks[kind], plan, number)
            move_target(networks[kind], number, _ZERO)


@compiled_for_threads
def work(plans: Plan, agents: Agent, networks: Networks, tasks: Task, thread: int) -> None:
    """Take part in the updates of a call until none of their tasks is left.

    Tasks are taken in order, and each waits only for earlier ones. So one thread does all of them, several
    never wait for each other in a circle, and every sum has the same order.
    """
    plan, policies, critics, task = plans[0], networks[0], networks[1:], tasks[thread]
    of_critics, of_policies = critics[0].count * critics[0].groups, policies.count * policies.groups
    of_values = of_critics if plan.first_layers else 0
    per_update = plan.row_groups + of_critics + of_values + of_policies
    last = per_update * plan.updates
    task.since = nanoseconds()
    float_control = set_float_control(FLUSH_TO_ZERO, FLUSH_TO_ZERO)
    while True:
        number = fetch_and_add(plan.next_task, 1)
        if number >= last:
            break
        task.update, place = number // per_update, number % per_update
        policies_due = integers_at(plan.policies_due, plan.updates)[task.update]
        if place < plan.row_groups:
            task.group = place
            _prepare(plan, agents, policies, task)
            continue
        place -= plan.row_groups
        if place < of_critics + of_values:
            task.group, task.number = place % critics[0].groups, place // critics[0].groups % critics[0].count
            if place < of_critics:
                _improve_critics(plan, agents, critics, task)
            elif policies_due:
                _begin_values(plan, critics[0], task)
        elif policies_due:
            place -= of_critics + of_values
            task.group, task.agent = place % policies.groups, place // policies.groups
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
def _clear_critic_sums(plan: Plan, agents: Agent, critics: Networks, task: Task) -> None:
    for agent in range(plan.agents):
        if agents[agent].critic == task.number:
            _clear_partial_sums(plan, agent, task.group, CRITIC_LOSS, ACTOR_VALUE)
    for which in range(plan.critics):
        _clear_sums(critics[which], task.number, task.group)


@compiled_part
def _clear_partial_sums(plan: Plan, agent: int, group: int, begin: int, end: int) -> None:
    partial = partial_sums(plan, agent, group)
    for place in range(begin, end):
        partial[place] = 0.0


@compiled_part
def _total(plan: Plan, net: Networks, agent: int, place: int) -> float:
    """Return the sum of one of an agent's partial sums over the groups of its network."""
    total = 0.0
    for group in range(net.groups):
        total += partial_sums(plan, agent, group)[place]
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
def _clear_sums(net: Networks, number: int, group: int) -> None:
    fill(net.sums + 4 * (number * net.groups + group) * net.sums_size, net.sums_size, _ZERO)


@compiled_part
def _improve_critics(plan: Plan, agents: Agent, critics: Networks, task: Task) -> None:
    """Add a group's gradients to a critic, or to its two; after the last group, step them."""
    parts = plan.row_groups // critics[0].groups
    for part in range(task.group * parts, (task.group + 1) * parts):
        _wait(task, plan.prepared + 8 * (task.update * plan.row_groups + part), 1)
    _clear_critic_sums(plan, agents, critics, task)
    begin, end = _tiles(plan, task.group, critics[0].groups)
    for tile in range(begin, end):
        _set_tile(plan, task, tile)
        add_critic_tile(plan, agents, critics, task)
    _end_part(task, CRITICS_PART)
    place = 8 * (task.update * plan.agents + task.number)
    if fetch_and_add(plan.critics_left + place, -1) > 1:
        return
    _step_critics(plan, agents, critics, task.update, task.number)
    fetch_and_add(plan.critics_done + place, 1)
    if not integers_at(plan.policies_due, plan.updates)[task.update]:
        for agent in range(plan.agents):
            if agents[agent].critic == task.number:
                _finish_agent(plan, task.update, agent)
    _end_part(task, STEPS_PART)


@compiled_part
def _step_critics(plan: Plan, agents: Agent, critics: Networks, update: int, number: int) -> None:
    step = floats_at(plan.steps + 16 * update + 8, 2)
    for which in range(plan.critics):
        sum_groups(critics[which], number)
        norm = make_step(critics[which], plan, number, step[0], step[1])
        pack_online(critics[which], plan, number)
        if integers_at(plan.policies_due, plan.updates)[update]:
            move_target(critics[which], number, plan.tau)  # its last use in this update is over
        if which == 0:
            _add_critic_metrics(plan, agents, critics[0], number, norm)


@compiled_part
def _add_critic_metrics(plan: Plan, agents: Agent, critic: Networks, number: int, norm: np.float32) -> None:
    metrics = floats_at(plan.metrics, 4 * plan.agents)
    for agent in range(plan.agents):
        if agents[agent].critic == number:
            loss, value = _total(plan, critic, agent, CRITIC_LOSS), _total(plan, critic, agent, MEAN_VALUE)
            metrics[agent] += np.float32(loss / plan.batch)
            metrics[2 * plan.agents + agent] += np.float32(value / plan.batch)
            metrics[3 * plan.agents + agent] += norm


@compiled_part
def _begin_values(plan: Plan, critic: Networks, task: Task) -> None:
    """Compute what the actor losses of a critic's agents have in common, for a group."""
    _wait(task, plan.critics_done + 8 * (task.update * plan.agents + task.number), 1)
    begin, end = _tiles(plan, task.group, critic.groups)
    for tile in range(begin, end):
        _set_tile(plan, task, tile)
        set_first_layer(plan, critic, task)
    _end_part(task, POLICIES_PART)
    place = (task.update * critic.count + task.number) * critic.groups + task.group
    fetch_and_add(plan.values_begun + 8 * place, 1)


@compiled_part
def _wait_for_values(plan: Plan, policies: Networks, critic: Networks, task: Task) -> None:
    """Wait for the critic that a policy is to learn from, in the tiles of its group."""
    _wait(task, plan.critics_done + 8 * (task.update * plan.agents + task.number), 1)
    if not plan.first_layers:
        return
    parts, first = (
        critic.groups // policies.groups,
        (task.update * critic.count + task.number) * critic.groups,
    )
    for part in range(task.group * parts, (task.group + 1) * parts):
        _wait(task, plan.values_begun + 8 * (first + part), 1)


@compiled_part
def _improve_policy(plan: Plan, agents: Agent, policies: Networks, critics: Networks, task: Task) -> None:
    """Add a group's gradient to an agent's policy; after the last group of its team, step the team's."""
    task.number = agents[task.agent].critic
    _wait_for_values(plan, policies, critics[0], task)
    _clear_sums(policies, task.agent, task.group)
    _clear_partial_sums(plan, task.agent, task.group, ACTOR_VALUE, PARTIAL)
    partial = partial_sums(plan, task.agent, task.group)
    begin, end = _tiles(plan, task.group, policies.groups)
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
            sum_groups(policies, member)
            if agents[member].frozen:
                fill(gradient_of(policies, member), policies.sums_size, _ZERO)
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
    square, value = _total(plan, policies, number, REGULARISER), _total(plan, policies, number, ACTOR_VALUE)
    latest[number] = np.float32((np.float64(plan.regulariser) * square - value) / plan.batch)
    latest[plan.agents + number] = norm
    if plan.information_rows:
        latest[2 * plan.agents + number] = np.float32(
            _total(plan, policies, number, INFORMATION) / plan.information_rows
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
