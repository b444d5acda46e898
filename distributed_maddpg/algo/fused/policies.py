"""The third stage of an update: the gradients of one agent's policy."""

from __future__ import annotations

import numpy as np

from distributed_maddpg.algo.fused.critics import ACTOR_VALUE, INFORMATION, REGULARISER
from distributed_maddpg.algo.fused.heads import row_at, sigmoid, softmax, through_sigmoid, through_softmax
from distributed_maddpg.algo.fused.instructions import copy, fill, floats_at, integers_at, load, store
from distributed_maddpg.algo.fused.perceptrons import (
    add_dots,
    add_gradients,
    backward,
    forward,
    forward_from_first,
    multiply,
    set_outputs,
    whole_vectors,
)
from distributed_maddpg.algo.fused.plan import (
    ADJACENT,
    NO,
    ONE,
    PANEL,
    SAME,
    TILE,
    Agent,
    DoubleArray,
    IntArray,
    Networks,
    Pass,
    Plan,
    Task,
)
from distributed_maddpg.algo.fused.rows import (
    forbid,
    harden,
    relax,
    scatter,
    set_flags,
    set_logits,
    times_flags,
)
from distributed_maddpg.algo.fused.vector_code import LANES, add_vectors
from distributed_maddpg.compilation import compiled_part

_ZERO, _ONE, _TWO, _NO_FLOOR = np.float32(0.0), np.float32(1.0), np.float32(2.0), np.float32(-np.inf)


@compiled_part
def add_policy_tile(
    plan: Plan, agent: Agent, policies: Networks, critic: Networks, task: Task, partial: DoubleArray
) -> None:
    """Add the gradient of an agent's actor loss (eq. 5 as a loss) in one tile."""
    own, gradient = task.policy, task.policy.outputs_grad
    task.target = NO
    set_logits(plan, agent, policies, task)
    relax(plan, agent, task)
    harden(plan, agent, task)
    set_flags(plan, agent.acting, task)
    if plan.first_layers:
        _set_own_change(plan, agent, task)
    else:
        _set_joint(plan, agent, task)
    partial[ACTOR_VALUE] += _add_values(plan, agent, critic, task)
    _set_action_gradient(agent, critic, task)
    if plan.regularise_actions:
        partial[REGULARISER] += _add_regulariser(plan, task, task.actions, agent.num_actions)
    _to_logits(plan, agent, task, gradient, task.relaxed)
    if not plan.regularise_actions:
        partial[REGULARISER] += _add_regulariser(plan, task, own.outputs, agent.num_actions)
    own.sums = policies.sums + 4 * (task.agent * policies.groups + task.group) * policies.sums_size
    if agent.num_candidates and task.first < plan.information_rows:
        partial[INFORMATION] += _add_information(plan, agent, policies, task)
    _clear_rest(own)
    backward(policies, own, plan.zeros)
    add_gradients(policies, own, plan.ones)


@compiled_part
def _clear_rest(own: Pass) -> None:
    """Set the gradients of rows that the tile does not have to zero."""
    for k in range(own.num_outputs):
        fill(own.outputs_grad + 4 * (k * TILE + own.height), TILE - own.height, _ZERO)


@compiled_part
def _joint_stride(plan: Plan) -> int:
    """Return the floats between the rows of joint observations and actions in which one action is changed."""
    return plan.joint if plan.current_actions else plan.width


@compiled_part
def _joint_row(plan: Plan, row: int) -> int:
    """Return the address of one of these rows."""
    return (plan.joint_rows if plan.current_actions else plan.rows) + 4 * row * _joint_stride(plan)


@compiled_part
def _first_layer(plan: Plan, critic: Networks, task: Task) -> int:
    """Return the address of a tile's first pre-activations of a critic, before an action is changed."""
    tiles = (plan.batch + TILE - 1) // TILE
    return plan.first_layers + 4 * (task.number * tiles * TILE + task.first) * whole_vectors(critic.sizes[1])


@compiled_part
def set_first_layer(plan: Plan, critic: Networks, task: Task) -> None:
    """Set these pre-activations."""
    panels = critic.panels + 4 * task.number * critic.panels_size
    multiply(
        _joint_row(plan, task.first),
        _joint_stride(plan),
        ADJACENT,
        PANEL,
        task.height,
        plan.joint,
        panels + 4 * critic.weights[0],
        plan.joint,
        NO,
        critic.sizes[1],
        panels + 4 * critic.biases[0],
        SAME,
        _first_layer(plan, critic, task),
        _NO_FLOOR,
    )


@compiled_part
def _set_own_change(plan: Plan, agent: Agent, task: Task) -> None:
    """Set the agent's new action minus the one in the joint row."""
    count = agent.num_actions
    scatter(task.actions, count, task.own_change, count, task.height)
    for t in range(task.height):
        old = floats_at(_joint_row(plan, task.first + t) + 4 * agent.actions, count)
        change = floats_at(task.own_change + 4 * t * count, count)
        for k in range(count):
            change[k] -= old[k]


@compiled_part
def _set_joint(plan: Plan, agent: Agent, task: Task) -> None:
    """Set the critic's inputs: the joint observation and action with the agent's new one."""
    for t in range(task.height):
        copy(_joint_row(plan, task.first + t), plan.joint, task.joint + 4 * t * plan.joint)
    scatter(task.actions, agent.num_actions, task.joint + 4 * agent.actions, plan.joint, task.height)


@compiled_part
def _add_values(plan: Plan, agent: Agent, critic: Networks, task: Task) -> float:
    """Backpropagate minus the mean value to the first pre-activations; return the sum of values."""
    own = task.critic
    own.panels = critic.panels + 4 * task.number * critic.panels_size
    own.height, own.num_outputs, own.head = task.height, ONE, agent.head
    inputs, width = (plan.candidates if agent.mean_value else 1), critic.sizes[1]
    fill(own.outputs_grad, TILE, -_ONE / np.float32(inputs * plan.batch))
    times_flags(row_at(own.outputs_grad, NO), task)
    size = TILE * whole_vectors(width)
    if not agent.mean_value:
        _set_changed_first_layer(plan, agent, critic, task, own.hidden, _ZERO)
        forward_from_first(critic, own)
        total = _backward(plan, critic, task)
        copy(own.hidden_grad, size, task.first_layer_grad)
        return total
    private = critic.private_weights + 4 * task.number * plan.private * whole_vectors(width)
    _set_changed_first_layer(plan, agent, critic, task, task.first_layer, _NO_FLOOR)
    fill(task.first_layer_grad, size, _ZERO)
    total = 0.0
    for candidate in range(plan.candidates):
        _set_changes(plan, task, candidate)
        multiply(
            task.changes,
            plan.private,
            ADJACENT,
            PANEL,
            task.height,
            plan.private,
            private,
            plan.private,
            NO,
            width,
            task.first_layer,
            TILE,
            own.hidden,
            _ZERO,
        )
        forward_from_first(critic, own)
        total += _backward(plan, critic, task)
        add_vectors(task.first_layer_grad, own.hidden_grad, size // LANES)
    return total / inputs


@compiled_part
def _set_changed_first_layer(
    plan: Plan, agent: Agent, critic: Networks, task: Task, out: int, floor: np.float32
) -> None:
    """Set a critic's first layer for the joint input with the agent's new action.

    If agents share critics, the change of that action is added to what was computed for all of a critic's.
    """
    weight, bias = task.critic.panels + 4 * critic.weights[0], task.critic.panels + 4 * critic.biases[0]
    given, depth, first, start, start_height = task.joint, plan.joint, NO, bias, SAME
    if plan.first_layers:
        given, depth, first = task.own_change, agent.num_actions, agent.actions
        start, start_height = _first_layer(plan, critic, task), TILE
    multiply(
        given,
        depth,
        ADJACENT,
        PANEL,
        task.height,
        depth,
        weight,
        plan.joint,
        first,
        critic.sizes[1],
        start,
        start_height,
        out,
        floor,
    )


@compiled_part
def _backward(plan: Plan, critic: Networks, task: Task) -> float:
    """Backpropagate through a critic whose hidden layers are set; return the sum of values."""
    own = task.critic
    set_outputs(critic, own)
    backward(critic, own, plan.zeros)
    values, acting, total = row_at(own.outputs, NO), row_at(task.flags, NO), 0.0
    for t in range(own.height):
        total += np.float64(values[t] * acting[t])
    return total


@compiled_part
def _set_action_gradient(agent: Agent, critic: Networks, task: Task) -> None:
    """Set the gradient of the agent's action, from that of the critic's first pre-activation."""
    weight = task.critic.panels + 4 * critic.weights[0]
    fill(task.policy.outputs_grad, agent.num_actions * TILE, _ZERO)
    for k in range(agent.num_actions):
        out = task.policy.outputs_grad + 4 * k * TILE
        add_dots(task.first_layer_grad, critic.sizes[1], weight, critic.sizes[0], agent.actions + k, out)


@compiled_part
def _set_changes(plan: Plan, task: Task, candidate: int) -> None:
    """Set candidate minus private columns `[TILE, W]`."""
    private = integers_at(plan.common_private, plan.private)
    others = integers_at(plan.common_candidates + 8 * candidate * plan.private, plan.private)
    for t in range(task.height):
        row, out = _joint_row(plan, task.first + t), task.changes + 4 * t * plan.private
        for k in range(plan.private):
            other = _number(row, others[k], plan.joint, plan.common_constants)
            store(out + 4 * k, other - load(row + 4 * private[k]))


@compiled_part
def _number(row: int, place: int, size: int, constants: int) -> np.float32:
    """Return the number at a place of a row of this size, behind which the constants stand."""
    value: np.float32 = load(row + 4 * place) if place < size else load(constants + 4 * (place - size))
    return value


@compiled_part
def _to_logits(plan: Plan, agent: Agent, task: Task, gradient: int, relaxed: int) -> None:
    """Convert the gradient of relaxed actions to that of the logits, in place."""
    if agent.gumbel:
        through_softmax(gradient, relaxed, plan.temperature, agent.num_actions, task.scratch)
    else:
        through_sigmoid(gradient, relaxed, agent.num_actions)


@compiled_part
def _add_regulariser(plan: Plan, task: Task, values: int, count: int) -> float:
    """Add the gradient of the weighted mean square of values; return the sum of squares per action."""
    scale, total = _TWO * plan.regulariser / np.float32(plan.batch * count), 0.0
    acting = row_at(task.flags, NO)
    for k in range(count):
        own, given = row_at(task.policy.outputs_grad, k), row_at(values, k)
        for t in range(task.height):
            value = given[t] * acting[t]
            own[t] += scale * value
            total += np.float64(value) * np.float64(value)
    return total / count


@compiled_part
def _add_information(plan: Plan, agent: Agent, policies: Networks, task: Task) -> float:
    """Add the gradient of information regularisation; return the sum of squared distances.

    The policy acts on observations with another candidate in the private part, too.
    """
    own, told, told_grad = task.changed_policy, task.told, task.told_grad
    own.panels, own.sums = task.policy.panels, task.policy.sums
    own.height = min(task.height, plan.information_rows - task.first)
    own.inputs, own.inputs_row = task.changed_obs, agent.num_obs
    own.num_inputs, own.num_outputs = agent.num_obs, agent.num_actions
    _set_changed_obs(plan, agent, task)
    forward(policies, own)
    set_outputs(policies, own)
    _act_without_noise(plan, agent, task, task.policy.outputs, told)
    _act_without_noise(plan, agent, task, own.outputs, own.outputs)
    square, scale = 0.0, _TWO * plan.information_weight / np.float32(plan.information_rows)
    acting = row_at(task.flags, NO)
    for k in range(agent.num_actions):
        a, b = row_at(told, k), row_at(own.outputs, k)
        grad, opposite = row_at(told_grad, k), row_at(own.outputs_grad, k)
        for t in range(own.height):
            difference = (a[t] - b[t]) * acting[t]
            square += np.float64(difference) * np.float64(difference)
            grad[t] = scale * difference
            opposite[t] = -grad[t]
    _to_logits(plan, agent, task, told_grad, told)
    _to_logits(plan, agent, task, own.outputs_grad, own.outputs)
    for k in range(agent.num_actions):
        grad, sum = row_at(told_grad, k), row_at(task.policy.outputs_grad, k)
        for t in range(own.height):
            sum[t] += grad[t]
    _clear_rest(own)
    backward(policies, own, plan.zeros)
    add_gradients(policies, own, plan.ones)
    return square


@compiled_part
def _act_without_noise(plan: Plan, agent: Agent, task: Task, logits: int, out: int) -> None:
    if agent.gumbel:
        copy(logits, agent.num_actions * TILE, out)
        forbid(plan, agent, task, out)
        softmax(out, plan.temperature, out, agent.num_actions, task.scratch)
    else:
        sigmoid(logits, out, agent.num_actions)


@compiled_part
def _set_changed_obs(plan: Plan, agent: Agent, task: Task) -> None:
    """Set observations with another candidate, see `information.Counterfactuals`."""
    count, size = agent.num_candidates, agent.private_size
    candidates = integers_at(agent.candidates, count * size)
    for t in range(task.changed_policy.height):
        row = task.first + t
        source, out = plan.rows + 4 * (row * plan.width + agent.obs), task.changed_obs + 4 * t * agent.num_obs
        copy(source, agent.num_obs, out)
        nearest = _nearest(agent, source, candidates)
        other = (nearest + 1 + row % (count - 1)) % count
        for k in range(size):
            place = candidates[other * size + k]
            store(out + 4 * (agent.private + k), _number(source, place, agent.num_obs, agent.constants))


@compiled_part
def _nearest(agent: Agent, obs: int, candidates: IntArray) -> int:
    """Return the first of the candidates that are nearest to the private part of an observation."""
    nearest, least = 0, np.float32(np.inf)
    for candidate in range(agent.num_candidates):
        distance = _ZERO
        for k in range(agent.private_size):
            place = candidates[candidate * agent.private_size + k]
            other = _number(obs, place, agent.num_obs, agent.constants)
            apart = other - load(obs + 4 * (agent.private + k))
            distance += apart * apart
        if distance < least:
            nearest, least = candidate, distance
    return nearest
