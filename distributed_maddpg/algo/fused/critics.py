"""The second stage of an update: the gradients of one agent's critics."""

from __future__ import annotations

import numpy as np

from distributed_maddpg.algo.fused.heads import row_at
from distributed_maddpg.algo.fused.instructions import fill, load
from distributed_maddpg.algo.fused.perceptrons import add_gradients, backward, forward, set_outputs
from distributed_maddpg.algo.fused.plan import NO, ONE, TILE, Agent, DoubleArray, Networks, Plan, Task
from distributed_maddpg.compilation import compiled_part

_ZERO, _TWO = np.float32(0.0), np.float32(2.0)
CRITIC_LOSS, MEAN_VALUE, ACTOR_VALUE, REGULARISER, INFORMATION = (np.int64(place) for place in range(5))
"""Places in a group's `partial` sums."""


@compiled_part
def add_critic_tile(plan: Plan, agent: Agent, critics: Networks, task: Task, partial: DoubleArray) -> None:
    """Add the gradients of the TD error of an agent's critics (eq. 6) in one tile."""
    own, values = task.critic, task.critic.outputs
    own.height, own.num_inputs, own.num_outputs = task.height, plan.joint, ONE
    own.inputs, own.inputs_row = plan.next_joint_rows + 4 * task.first * plan.joint, plan.joint
    for which in range(plan.critics - 1, -1, -1):
        net = critics[which]
        own.panels = net.target_panels + 4 * task.agent * net.panels_size
        own.outputs = task.other_values if which else values
        forward(net, own)
        set_outputs(net, own)
    _set_targets(plan, agent, task)
    own.inputs, own.inputs_row = plan.rows + 4 * task.first * plan.width, plan.width
    for which in range(plan.critics):
        net = critics[which]
        own.panels = net.panels + 4 * task.agent * net.panels_size
        own.sums = net.sums + 4 * (task.agent * plan.groups + task.group) * net.sums_size
        forward(net, own)
        set_outputs(net, own)
        loss, total = _set_gradient(plan, task)
        if which == 0:
            partial[CRITIC_LOSS] += loss
            partial[MEAN_VALUE] += total
        backward(net, own, plan.zeros)
        add_gradients(net, own, plan.ones)


@compiled_part
def _set_targets(plan: Plan, agent: Agent, task: Task) -> None:
    """Set the targets y = r + discount * Q'(x', a')."""
    lower = plan.critics > 1 and agent.twin
    values, others, targets = (
        row_at(task.critic.outputs, NO),
        row_at(task.other_values, NO),
        row_at(task.targets, NO),
    )
    for t in range(task.height):
        value = values[t]
        if lower and not others[t] >= value:
            value = others[t]
        row = plan.rows + 4 * (task.first + t) * plan.width
        targets[t] = load(row + 4 * agent.reward) + load(row + 4 * agent.discount) * value


@compiled_part
def _set_gradient(plan: Plan, task: Task) -> tuple[float, float]:
    """Set the gradient of the mean squared TD error; return the sums of squares and of values."""
    values, targets = row_at(task.critic.outputs, NO), row_at(task.targets, NO)
    gradient, scale = row_at(task.critic.outputs_grad, NO), _TWO / np.float32(plan.batch)
    loss, total = 0.0, 0.0
    for t in range(task.height):
        error = values[t] - targets[t]
        gradient[t] = error * scale
        loss += np.float64(error) * np.float64(error)
        total += np.float64(values[t])
    fill(task.critic.outputs_grad + 4 * task.height, TILE - task.height, _ZERO)
    return loss, total
