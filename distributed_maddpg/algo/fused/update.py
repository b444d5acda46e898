"""The fused update of one run, on one or more threads."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from distributed_maddpg.algo.adam import BETA1, BETA2, Adam
from distributed_maddpg.algo.fused.critics import PARTIAL
from distributed_maddpg.algo.fused.plan import AGENT, MAX_LAYERS, NETWORKS, PARTS, PLAN, TASK, TILE
from distributed_maddpg.algo.fused.vector_code import LANES, is_supported, provide
from distributed_maddpg.algo.fused.work import begin, work
from distributed_maddpg.algo.maddpg import INFORMATION_ROWS, MADDPGUpdate
from distributed_maddpg.algo.networks import CriticNetwork, StackedNetworks
from distributed_maddpg.compilation import compile_ahead
from distributed_maddpg.config import AlgorithmConfig, Precision
from distributed_maddpg.types import EnvSpec, FloatArray, RingCounters, StackedLayout

_TASKS_PER_STAGE = 24
"""Aim of the number of tasks of a stage: enough for the threads, few enough for the sums of gradients."""
IntArray = npt.NDArray[np.int64]


def padded(width: int) -> int:
    """Return a width as whole vectors."""
    return -(-width // LANES) * LANES


def groups_of(batch_size: int, num_agents: int) -> int:
    """Return the number of groups of tiles; it must not depend on the number of threads."""
    groups, tiles = 1, -(-batch_size // TILE)
    while 2 * groups * num_agents <= _TASKS_PER_STAGE and 2 * groups <= tiles:
        groups *= 2
    return groups


def reason_against(config: AlgorithmConfig, precision: Precision = "float32") -> str:
    """Return why these settings or this machine need another update; empty if they do not."""
    if config.networks:
        return "autograd differentiates algorithm.networks"
    if precision != "float32":
        return f"the fused update has no {precision}"
    layers = 1 + max(len(config.policy_hidden_sizes), len(config.critic_hidden_sizes))
    if layers > MAX_LAYERS:
        return f"the fused update has at most {MAX_LAYERS - 1} hidden layers"
    if not is_supported():
        return "the fused update needs Linux or macOS and a CPU with fused multiply-add"
    return ""


class FusedUpdate(MADDPGUpdate):
    """`MADDPGUpdate` of one run on a CPU, with the same result up to rounding, but other random numbers."""

    def __init__(
        self,
        config: AlgorithmConfig,
        spec: EnvSpec,
        seed: int,
        max_threads: int = 1,
        pool: Executor | None = None,
    ) -> None:
        """Initialise a run; `pool` runs all threads but one, of several updates in turn."""
        super().__init__(config, spec, torch.device("cpu"), [seed])
        provide()
        self._spec, self._batch_size, self._tasks = spec, 0, np.zeros(0, TASK)
        self._max_threads = self.num_threads = max_threads
        """Threads to use, from 1 to `max_threads`; their number changes no bit of the results."""
        self._pool = pool or ThreadPoolExecutor(max(1, max_threads - 1), "learner")
        _compile()

    def freeze(self, agents: Sequence[bool], policies: torch.Tensor) -> None:
        """Stop updating some agents' policies, see `MADDPGUpdate.freeze`."""
        super().freeze(agents, policies)
        self._batch_size = 0

    def learn(
        self,
        source: FloatArray,
        index: IntArray,
        counters: RingCounters,
        lr_factors: Sequence[float],
        metrics: FloatArray,
    ) -> bool:
        """Make K updates and add their metrics.

        Args:
            source: [capacity, width] rows of a ring.
            index: [K, B] which of them to learn from.
            counters: of the ring; rows that change meanwhile are drawn again.
            lr_factors: [K] factors of the learning rates.
            metrics: [metrics, N] sums, to which those of each update are added.

        Returns:
            Whether all rows could be read. If not, everything that an update changes is undefined.
        """
        if not (updates := len(index)):
            return True
        self._allocate(index.shape[1])
        due = (self.updates_made + np.arange(updates)) % self.policy_delay == 0
        keys, unreadable = np.zeros((updates, 2), np.uint32), np.zeros(1, np.int64)
        row_groups, agents = int(self._plan["row_groups"][0]), self._spec.num_agents
        (_, groups), (critics, critic_groups) = self._networks_table[["count", "groups"]][:2].tolist()
        teams = np.bincount(self._agents["team"], minlength=agents) * groups
        arrays = {
            "source": source,
            "index": index,
            "unreadable": unreadable,
            "policies_due": due.astype(np.int64),
            "keys": keys,
            "steps": self._adam_steps(due, np.asarray(lr_factors)),
            "metrics": metrics,
            "policy_metrics": self._policy_metrics.numpy(),
            "next_task": np.zeros(1, np.int64),
            "prepared": np.zeros(updates * row_groups, np.int64),
            "critics_left": np.full(updates * agents, critic_groups),
            "critics_done": np.zeros(updates * agents, np.int64),
            "values_begun": np.zeros(updates * critics * critic_groups, np.int64),
            "policies_left": np.tile(teams, updates),
            "agents_done": np.zeros(updates, np.int64),
        }
        self._set(**{name: array.ctypes.data for name, array in arrays.items()})
        self._set(updates=updates, capacity=len(source), epoch=counters.drawn_epoch)
        for name in ("epoch", "first", "inserted", "reserved"):
            self._plan[f"ring_{name}"] = getattr(counters, name).ctypes.data
        seed = self.generators[0].initial_seed()  # a saved generator state contains it
        words = np.array([seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF], np.uint32)
        begin(self._plan, self._networks_table, words, self.updates_made, keys)
        given = (self._plan, self._agents, self._networks_table, self._tasks)
        others: list[Future[None]] = []
        try:
            for thread in range(1, self.num_threads):
                others.append(self._pool.submit(work, *given, thread))
            work(*given, 0)
        finally:
            _wait_for_all(others)
        self.updates_made += updates
        return not unreadable[0]

    def _allocate(self, batch_size: int) -> None:
        """Allocate everything that depends on the batch size, if it has changed."""
        if batch_size == self._batch_size:
            return
        self._batch_size = batch_size
        self._kept: list[npt.NDArray[Any]] = []
        """What the records have addresses of."""
        self._plan, self._networks_table = np.zeros(1, PLAN), np.zeros(3, NETWORKS)
        self._set_sizes()
        self._set_settings()
        self._set_networks()
        self._tasks = self._make_tasks()
        self._agents = self._agents_table()

    def pop_time_spent(self) -> dict[str, float]:
        """Return the seconds that all threads spent in each part of the work since the last call."""
        spent = self._tasks["spent"]
        seconds = dict(zip(PARTS, (1e-9 * spent.sum(axis=0)).tolist(), strict=True))
        spent[:] = 0
        return seconds

    def _adam_steps(self, due: npt.NDArray[np.bool_], lr_factors: npt.NDArray[Any]) -> FloatArray:
        """Return the step sizes and roots of the second bias correction; count the steps."""
        steps = np.zeros((len(due), 2, 2), np.float32)
        kinds = (
            (self.policy_optimiser, self._config.actor_lr, due),
            (self.critic_optimiser, self._config.critic_lr, np.ones_like(due)),
        )
        for which, (optimiser, rate, made) in enumerate(kinds):
            count = np.maximum(optimiser.steps.item() + np.cumsum(made), 1)
            steps[:, which, 0] = rate * lr_factors / (1.0 - BETA1**count)
            steps[:, which, 1] = np.sqrt(1.0 - BETA2**count)
        for name, optimiser in self.optimisers.items():
            optimiser.steps += int(due.sum()) if name == "policy_optimiser" else len(due)
        return steps

    def _address(self, array: npt.NDArray[Any]) -> int:
        self._kept.append(array)
        return array.ctypes.data

    def _new(self, *shape: int) -> int:
        return self._address(np.zeros(shape, np.float32))

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            self._plan[name] = value

    def _set_sizes(self) -> None:
        spec, layout, common = self._spec, self._spec.transitions, self._candidates
        batch, joint, critics = self._batch_size, layout.critic_input.stop, self.critic.layout
        partial_groups = groups_of(batch, critics.num_networks)  # at least as many as those of the policies
        self._set(
            agents=spec.num_agents,
            batch=batch,
            width=layout.width,
            joint=joint,
            obs=layout.obs[-1].stop,
            next_obs=layout.next_obs[0].start,
            row_groups=groups_of(batch, 1),  # a multiple of the groups of networks
            partial_groups=partial_groups,
            critics=len(self._critics),
            max_actions=max(spec.action_sizes),
            varying=spec.varying,
            information_rows=max(1, int(INFORMATION_ROWS * batch)) if self._counterfactuals else 0,
            ones=self._address(np.ones(TILE, np.float32)),
            zeros=self._new(
                padded(max(*self._config.policy_hidden_sizes, *self._config.critic_hidden_sizes))
            ),
            rows=self._new(batch, layout.width),
            next_joint_rows=self._new(batch, joint),
            joint_rows=self._new(batch, joint),
            partial=self._address(np.zeros((spec.num_agents, partial_groups, PARTIAL))),
        )
        if self.critic.is_shared:
            tiles, width = -(-batch // TILE), padded(critics.sizes[1])
            self._set(first_layers=self._new(critics.num_networks, tiles * TILE, width))
        if common is not None:
            self._set(
                candidates=common.count,
                private=len(common.columns),
                common_private=self._address(common.columns.numpy()),
                common_candidates=self._address(common.indices.numpy()),
                common_constants=self._address(common.constants.numpy()),
            )

    def _set_settings(self) -> None:
        config = self._config
        self._set(
            temperature=config.temperature,
            straight_through=config.straight_through,
            target_noise=config.target_noise,
            random_rows=config.random_action_rows,
            current_actions=config.other_actions == "current",
            regularise_actions=config.regulariser == "actions",
            regulariser=config.regulariser_weight,
            information_weight=config.information_weight,
            max_norm=config.max_grad_norm,
            norm_per_parameter=config.grad_norm_of == "parameter",
            tau=config.tau,
        )

    def _set_networks(self) -> None:
        kinds: list[tuple[StackedNetworks, StackedNetworks, Adam]] = [
            (self.policy, self.target_policy, self.policy_optimiser),
            *self._critics,
        ]
        for row, (online, target, optimiser) in zip(self._networks_table[: len(kinds)], kinds, strict=True):
            for name, value in _layer_tables(online.layout).items():
                row[name] = value
            count = row["count"] = online.layout.num_networks
            groups = row["groups"] = groups_of(self._batch_size, count)
            panels, sums, inputs = int(row["panels_size"]), int(row["sums_size"]), online.layout.sizes[0]
            mask = np.ones((count, inputs), np.float32)
            private = int(self._plan["private"][0])
            if isinstance(online, CriticNetwork):
                if online.mask is not None:
                    mask = online.mask[:, :, 0].numpy()
                if private:
                    row["private_weights"] = self._new(count, private * padded(online.layout.sizes[1]))
            tensors = {
                "flat": online.flat,
                "grad": online.grad,
                "exp_avg": optimiser.exp_avg,
                "exp_avg_sq": optimiser.exp_avg_sq,
                "target": target.flat,
            }
            for name, tensor in tensors.items():
                row[name] = self._address(tensor.numpy())
            row["mask"] = self._address(np.ascontiguousarray(mask))
            row["panels"], row["target_panels"] = self._new(count, panels), self._new(count, panels)
            row["sums"] = self._new(count, groups, sums)

    def _make_tasks(self) -> npt.NDArray[Any]:
        """Allocate each thread's memory."""
        spec, actions = self._spec, max(self._spec.action_sizes)
        tasks = np.zeros(self._max_threads, TASK)
        policy, critic = (
            TILE * sum(map(padded, net.layout.hidden_sizes)) for net in (self.policy, self.critic)
        )
        first, outputs = TILE * padded(self.critic.layout.sizes[1]), actions * TILE
        values = TILE * self.critic.layout.output_width
        sizes = {
            "relaxed": outputs,
            "actions": outputs,
            "told": outputs,
            "told_grad": outputs,
            "noise": 2 * outputs + 2 * TILE,
            "scratch": 2 * TILE,
            "targets": values,
            "other_values": values,
            "first_layer": first,
            "first_layer_grad": first,
            "joint": TILE * int(self._plan["joint"][0]),
            "own_change": outputs,
            "changes": TILE * max(1, int(self._plan["private"][0])),
            "changed_obs": TILE * max(spec.observation_sizes),
        }
        passes = {
            "policy": (policy, outputs),
            "changed_policy": (policy, outputs),
            "critic": (critic, values),
        }
        for task in tasks:
            for name, size in sizes.items():
                task[name] = self._new(size)
            task["flags"] = self._address(np.ones(TILE, np.float32))
            for name, (hidden, out) in passes.items():
                own = task[name]
                own["hidden"], own["hidden_grad"] = self._new(hidden), self._new(hidden)
                own["outputs"], own["outputs_grad"] = self._new(out), self._new(out)
        return tasks

    def _agents_table(self) -> npt.NDArray[Any]:
        spec, layout, config = self._spec, self._spec.transitions, self._config
        table = np.zeros(spec.num_agents, AGENT)
        parts = config.private_parts(spec)
        columns = zip(table, layout.obs, layout.next_obs, layout.actions, parts, strict=True)
        for number, (row, obs, next_obs, actions, part) in enumerate(columns):
            row["obs"], row["num_obs"], row["next_obs"] = obs.start, obs.stop - obs.start, next_obs.start
            row["actions"], row["num_actions"] = actions.start, actions.stop - actions.start
            row["team"] = number
            row["mean_value"] = part is not None and self._candidates is not None
            if part and config.information_weight:
                constants = [value for _, own in part.choices for value in own]
                row["private"], row["private_size"] = part.columns[0], part.width
                row["num_candidates"] = len(part.choices)
                row["candidates"] = self._address(np.array(part.places(0, row["num_obs"])))
                row["constants"] = self._address(np.array(constants, np.float32))
        numbers = np.arange(spec.num_agents)
        for name, first in (
            ("reward", layout.rewards),
            ("discount", layout.discounts),
            ("present", layout.present),
            ("acting", layout.acting),
            ("next_acting", layout.next_acting),
        ):
            table[name] = first.start + numbers
        table["masked"] = spec.masked or (False,) * spec.num_agents
        table["allowed"] = [columns.start for columns in layout.allowed]
        table["next_allowed"] = [columns.start for columns in layout.next_allowed]
        self._set_agents_properties(table)
        for number, group in enumerate(config.critic_groups(spec)):
            for head, agent in enumerate(group):
                table[["critic", "head", "critic_size"]][agent] = number, head, len(group)
        for rows in self._shared_rows:
            table["team"][rows[0].numpy()] = rows[0, 0].item()
        table["team_size"] = np.bincount(table["team"], minlength=len(table))[table["team"]]
        return table

    def _set_agents_properties(self, table: npt.NDArray[Any]) -> None:
        for name, agents in (
            ("gumbel", self._gumbel_heads),
            ("discrete", self._discrete_agents),
            ("smoothed", self._smoothed_agents),
            ("twin", self._twin_critics),
        ):
            table[name] = agents.agents
        if self._frozen_mask is not None:
            table["frozen"] = self._frozen_mask[:, 0, 0].numpy()


def _wait_for_all(threads: Sequence[Future[None]]) -> None:
    """Return, or raise an interrupt, only when all threads are done: they write to the state."""
    interrupt: KeyboardInterrupt | None = None
    while not all(thread.done() for thread in threads):
        try:
            wait(threads)
        except KeyboardInterrupt as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt


def _layer_tables(layout: StackedLayout) -> dict[str, Any]:
    """Return the fields of `NETWORKS` that follow from a layout."""
    sizes, last = layout.sizes, len(layout.layers) - 1
    weights, biases, transposed, end = [], [], [], 0
    for depth, (_, _, n_in, n_out) in enumerate(layout.layers):
        weights.append(end)
        end += n_out * padded(n_in) if depth == last else n_in * padded(n_out)
        biases.append(end)
        end += padded(n_out)
    sums_size = end
    for depth, (_, _, n_in, n_out) in enumerate(layout.layers):
        transposed.append(end)
        end += n_out * padded(n_in) if 0 < depth < last else 0
    hidden = np.cumsum([0, *(TILE * padded(width) for width in sizes[1:-1])])

    def table(values: Sequence[int]) -> IntArray:
        filled = np.zeros(MAX_LAYERS + 1, np.int64)
        filled[: len(values)] = values
        return filled

    return {
        "layers": len(layout.layers),
        "sizes": table(sizes),
        "flat_weights": table([weight.start for weight, *_ in layout.layers]),
        "weights": table(weights),
        "biases": table(biases),
        "transposed": table(transposed),
        "hidden": table(hidden[:-1].tolist()),
        "num_parameters": layout.num_parameters,
        "panels_size": end,
        "sums_size": sums_size,
    }


def _compile() -> None:
    """Compile the update, which can take half a minute, where a caller expects to wait: not in `learn`."""
    plan, agents, networks, tasks = (np.zeros(1, kind) for kind in (PLAN, AGENT, NETWORKS, TASK))
    words = np.zeros((1, 2), np.uint32)
    compile_ahead(begin, plan, networks, words[0], 0, words)
    compile_ahead(work, plan, agents, networks, tasks, 0)
