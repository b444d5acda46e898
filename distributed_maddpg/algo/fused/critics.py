"""The second stage of an update: the gradients of one critic, or of its two."""

from __future__ import annotations

import numpy as np

from distributed_maddpg.algo.fused.heads import row_at
from distributed_maddpg.algo.fused.instructions import doubles_at, fill, load
from distributed_maddpg.algo.fused.perceptrons import add_gradients, backward, forward, set_outputs
from distributed_maddpg.algo.fused.plan import NO, TILE, Agent, DoubleArray, Networks, Plan, Task
from distributed_maddpg.algo.fused.rows import set_flags
from distributed_maddpg.compilation import compiled_part

_ZERO, _TWO = np.float32(0.0), np.float32(2.0)
CRITIC_LOSS, MEAN_VALUE, ACTOR_VALUE, REGULARISER, INFORMATION = (np.int64(place) for place in range(5))
"""Places in a group's `partial` sums."""
PARTIAL = np.int64(5)
"""Sums of a group."""


@compiled_part
def partial_sums(plan: Plan, agent: int, group: int) -> DoubleArray:
    """Return the sums over a group's rows of an agent."""
    return doubles_at(plan.partial + 8 * PARTIAL * (agent * plan.partial_groups + group), PARTIAL)


@compiled_part
def add_critic_tile(plan: Plan, agents: Agent, critics: Networks, task: Task) -> None:
    """Add the gradients of the TD errors (eq. 6) of the agents of one critic, or of its two, in one tile."""
    own, values = task.critic, task.critic.outputs
    own.height, own.num_inputs, own.num_outputs, own.head = task.height, plan.joint, NO, NO
    for number in range(plan.agents):
        own.num_outputs += agents[number].critic == task.number
    own.inputs, own.inputs_row = plan.next_joint_rows + 4 * task.first * plan.joint, plan.joint
    for which in range(plan.critics - 1, -1, -1):
        net = critics[which]
        own.panels = net.target_panels + 4 * task.number * net.panels_size
        own.outputs = task.other_values if which else values
        forward(net, own)
        set_outputs(net, own)
    for number in range(plan.agents):
        if agents[number].critic == task.number:
            _set_targets(plan, agents[number], task)
    own.inputs, own.inputs_row = plan.rows + 4 * task.first * plan.width, plan.width
    for which in range(plan.critics):
        net = critics[which]
        own.panels = net.panels + 4 * task.number * net.panels_size
        own.sums = net.sums + 4 * (task.number * net.groups + task.group) * net.sums_size
        forward(net, own)
        set_outputs(net, own)
        _set_gradients(plan, agents, task, which)
        backward(net, own, plan.zeros)
        add_gradients(net, own, plan.ones)


@compiled_part
def _set_targets(plan: Plan, agent: Agent, task: Task) -> None:
    """Set an agent's targets y = r + discount * Q'(x', a')."""
    lower = plan.critics > 1 and agent.twin
    values, others, targets = (
        row_at(task.critic.outputs, agent.head),
        row_at(task.other_values, agent.head),
        row_at(task.targets, agent.head),
    )
    for t in range(task.height):
        value = values[t]
        if lower and not others[t] >= value:
            value = others[t]
        row = plan.rows + 4 * (task.first + t) * plan.width
        targets[t] = load(row + 4 * agent.reward) + load(row + 4 * agent.discount) * value


@compiled_part
def _set_gradients(plan: Plan, agents: Agent, task: Task, which: int) -> None:
    """Set the gradients of the agents' TD errors; sum their losses and values, of the first critic."""
    for number in range(plan.agents):
        if agents[number].critic == task.number:
            loss, total = _set_gradient(plan, agents[number], task)
            if which == 0:
                partial = partial_sums(plan, number, task.group)
                partial[CRITIC_LOSS] += loss
                partial[MEAN_VALUE] += total


@compiled_part
def _set_gradient(plan: Plan, agent: Agent, task: Task) -> tuple[float, float]:
    """Set the gradient of an agent's mean squared TD error; return the sums of squares and of values.

    The loss of a critic is the mean of those of its agents.
    """
    values, targets = row_at(task.critic.outputs, agent.head), row_at(task.targets, agent.head)
    gradient = row_at(task.critic.outputs_grad, agent.head)
    scale = _TWO / np.float32(plan.batch * agent.critic_size)
    set_flags(plan, agent.present, task)
    loss, total, present = 0.0, 0.0, row_at(task.flags, NO)
    for t in range(task.height):
        error = (values[t] - targets[t]) * present[t]
        gradient[t] = error * scale
        loss += np.float64(error) * np.float64(error)
        total += np.float64(values[t] * present[t])
    fill(task.critic.outputs_grad + 4 * (agent.head * TILE + task.height), TILE - task.height, _ZERO)
    return loss, total
