"""The first stage of an update: gather the minibatch's rows, and let the policies act on them."""

from __future__ import annotations

import numpy as np

from distributed_maddpg.algo.fused.gathering import gather
from distributed_maddpg.algo.fused.heads import (
    add_noise,
    add_smoothing,
    fill_uniform,
    one_hot,
    row_at,
    sigmoid,
    softmax,
    to_gumbel,
)
from distributed_maddpg.algo.fused.instructions import copy, load, store, word_at
from distributed_maddpg.algo.fused.noise import (
    ACTIONS,
    HEAD,
    ROWS,
    TARGET_ACTIONS,
    TARGET_HEAD,
    TARGET_NOISE,
    TARGET_ROWS,
)
from distributed_maddpg.algo.fused.perceptrons import forward, set_outputs
from distributed_maddpg.algo.fused.plan import NO, ONE, TILE, YES, Agent, Networks, Plan, Task
from distributed_maddpg.compilation import compiled_part
from distributed_maddpg.types import FloatArray

_ZERO, _MASKED = np.float32(0.0), np.float32(-1e9)


@compiled_part
def prepare_tile(plan: Plan, agents: Agent, policies: Networks, task: Task) -> None:
    """Gather a tile's rows and set the joint inputs of the target critics and, if needed, the critics."""
    gather(plan, task)
    for t in range(task.height):
        place = task.first + t
        row, joint = plan.rows + 4 * place * plan.width, 4 * place * plan.joint
        copy(row + 4 * plan.next_obs, plan.obs, plan.next_joint_rows + joint)
        if plan.current_actions:
            copy(row, plan.obs, plan.joint_rows + joint)
    for number in range(plan.agents):
        task.agent = number
        task.target = YES
        _act(plan, agents[number], policies, task)
        task.target = NO
        if plan.current_actions:
            _act(plan, agents[number], policies, task)


@compiled_part
def _act(plan: Plan, agent: Agent, policies: Networks, task: Task) -> None:
    """Write an agent's actions in a joint input: for the target critics, or for the others' actor losses."""
    count, actions = agent.num_actions, task.actions
    set_logits(plan, agent, policies, task)
    relax(plan, agent, task)
    harden(plan, agent, task)
    if task.target and agent.smoothed:
        draw(plan, task, TARGET_NOISE, 2 * count, task.noise)
        add_smoothing(actions, task.noise, count, plan.target_noise)
    if plan.random_rows > _ZERO:
        _replace_rows(plan, agent, task)
    if plan.varying:
        set_flags(plan, agent.next_acting if task.target else agent.acting, task)
        for k in range(count):
            times_flags(row_at(actions, k), task)
    joint = plan.next_joint_rows if task.target else plan.joint_rows
    scatter(actions, count, joint + 4 * (task.first * plan.joint + agent.actions), plan.joint, task.height)


@compiled_part
def set_flags(plan: Plan, column: int, task: Task) -> None:
    """Set a tile's flags to a column of its rows; all are 1 if no agent is ever absent."""
    if plan.varying:
        for t in range(task.height):
            flag = load(plan.rows + 4 * ((task.first + t) * plan.width + column))
            store(task.flags + 4 * t, flag)


@compiled_part
def times_flags(values: FloatArray, task: Task) -> None:
    """Multiply the values `[TILE]` of a tile's rows by their flags."""
    flags = row_at(task.flags, NO)
    for t in range(TILE):
        values[t] *= flags[t]


@compiled_part
def scatter(values: int, count: int, out: int, stride: int, height: int) -> None:
    """Write values `[count, TILE]` as columns of rows `stride` apart."""
    for k in range(count):
        own = row_at(values, k)
        for t in range(height):
            store(out + 4 * (t * stride + k), own[t])


@compiled_part
def set_logits(plan: Plan, agent: Agent, policies: Networks, task: Task) -> None:
    """Compute the logits of a policy, or of its target network for next observations."""
    own, obs = task.policy, agent.next_obs if task.target else agent.obs
    panels = policies.target_panels if task.target else policies.panels
    own.panels = panels + 4 * task.agent * policies.panels_size
    own.height = task.height
    own.inputs, own.inputs_row = plan.rows + 4 * (task.first * plan.width + obs), plan.width
    own.num_inputs, own.num_outputs = agent.num_obs, agent.num_actions
    forward(policies, own)
    set_outputs(policies, own)


@compiled_part
def draw(plan: Plan, task: Task, use: int, count: int, values: int) -> None:
    """Set `count` rows of values to uniform numbers for one use by an agent."""
    key0, key1 = word_at(plan.keys + 8 * task.update), word_at(plan.keys + 8 * task.update + 4)
    stream = (use * plan.agents + task.agent) * (plan.max_actions + 1)
    fill_uniform(values, count, key0, key1, task.first, stream)


@compiled_part
def relax(plan: Plan, agent: Agent, task: Task) -> None:
    """Set the relaxed actions of logits: their sigmoid, or their softmax with new Gumbel noise."""
    logits, count = task.policy.outputs, agent.num_actions
    if not agent.gumbel:
        sigmoid(logits, task.relaxed, count)
        return
    if agent.frozen:
        copy(logits, count * TILE, task.relaxed)
    else:
        draw(plan, task, TARGET_HEAD if task.target else HEAD, count, task.noise)
        to_gumbel(task.noise, count)
        add_noise(logits, task.noise, task.relaxed, count)
    forbid(plan, agent, task, task.relaxed)
    softmax(task.relaxed, plan.temperature, task.relaxed, count, task.scratch)


@compiled_part
def forbid(plan: Plan, agent: Agent, task: Task, values: int) -> None:
    """Set values `[A, TILE]` of actions that a tile's rows do not allow to -1e9."""
    if not agent.masked:
        return
    column = agent.next_allowed if task.target else agent.allowed
    for t in range(task.height):
        row = plan.rows + 4 * ((task.first + t) * plan.width + column)
        for k in range(agent.num_actions):
            if load(row + 4 * k) == _ZERO:
                store(values + 4 * (k * TILE + t), _MASKED)


@compiled_part
def harden(plan: Plan, agent: Agent, task: Task) -> None:
    """Set the actions: the relaxed ones, or one-hot vectors of the largest if they are discrete."""
    if agent.discrete and (task.target or plan.straight_through):
        one_hot(task.relaxed, task.actions, agent.num_actions)
    else:
        copy(task.relaxed, agent.num_actions * TILE, task.actions)


@compiled_part
def _replace_rows(plan: Plan, agent: Agent, task: Task) -> None:
    """Replace actions in random rows by uniform ones."""
    draw(plan, task, TARGET_ROWS if task.target else ROWS, ONE, task.scratch)
    draw(plan, task, TARGET_ACTIONS if task.target else ACTIONS, agent.num_actions, task.noise)
    if agent.discrete:
        forbid(plan, agent, task, task.noise)
        one_hot(task.noise, task.noise, agent.num_actions)
    draws = row_at(task.scratch, NO)
    for k in range(agent.num_actions):
        own, other = row_at(task.actions, k), row_at(task.noise, k)
        for t in range(TILE):
            own[t] = other[t] if draws[t] < plan.random_rows else own[t]
