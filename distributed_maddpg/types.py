"""Types shared by the whole package: specs, layouts and reports; needs only numpy.

Shape letters of the docstrings: `B` batch rows, `E` environment copies, `T` steps, `N` agents,
`O_i` and `A_i` observation and action width of agent i, `O` and `A` the largest of these, `L` landmarks,
`J` width of the joint observation and action, `P` parameters of one network, `H` hidden units, `S` runs
(seeds), `M` = S * N networks, `V` critics of a run, `n` rows or episodes, `K` any other count, named where it
is used. Exception: `envs/mpe` uses MPE2's letters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from distributed_maddpg.moments import Moments

FloatArray = npt.NDArray[np.float32]
Arrays = dict[str, npt.NDArray[Any]]
"""Named arrays: the state of a stage."""
ActionType = Literal["continuous", "discrete"]
InitialWeights = Literal["torch", "glorot"]

MPE2_MODULES: Mapping[str, str] = {
    "simple": "mpe2.simple_v3",
    "simple_adversary": "mpe2.simple_adversary_v3",
    "simple_crypto": "mpe2.simple_crypto_v3",
    "simple_formation": "mpe2.simple_formation_v1",
    "simple_line": "mpe2.simple_line_v1",
    "simple_push": "mpe2.simple_push_v3",
    "simple_reference": "mpe2.simple_reference_v3",
    "simple_speaker_listener": "mpe2.simple_speaker_listener_v4",
    "simple_spread": "mpe2.simple_spread_v3",
    "simple_tag": "mpe2.simple_tag_v3",
    "simple_world_comm": "mpe2.simple_world_comm_v3",
    "collect_treasure": "mpe2.collect_treasure_v1",
}
"""MPE2's modules by the `env.id` of the scenarios that `envs/mpe` has compiled."""

METRICS = ("critic_loss", "actor_loss", "q_mean", "critic_grad_norm", "actor_grad_norm")
"""Metrics of an update, per agent. "information" follows if information regularisation is on."""


@dataclass(frozen=True)
class PrivatePart:
    """The part of an observation that opponents should not learn, and what else could stand there.

    The private columns repeat one of the candidates, except where an observation leaves the true one out.
    Columns are given as (start, stop). A candidate is some of the observation's columns, constants, or both:
    then its constants follow its columns.
    """

    # Read by pydantic, never changed.
    __pydantic_config__ = {"extra": "forbid", "use_attribute_docstrings": True}  # noqa: RUF012
    columns: tuple[int, int]
    """The private columns of the observation."""
    candidates: tuple[tuple[int, int], ...] = ()
    """The columns of each value that could stand there, the true one among them; empty if none has any."""
    aligned: bool = True
    """Whether candidate k is the same thing for every agent that observes it."""
    constants: tuple[tuple[float, ...], ...] = ()
    """The constants of each candidate, such as a colour; empty if none has any."""

    @property
    def width(self) -> int:
        """W, the number of private columns."""
        return self.columns[1] - self.columns[0]

    @property
    def choices(self) -> tuple[tuple[tuple[int, int], tuple[float, ...]], ...]:
        """(columns, constants) of each candidate; (0, 0) are no columns."""
        count = len(self.candidates) or len(self.constants)
        columns, constants = self.candidates or ((0, 0),) * count, self.constants or ((),) * count
        return tuple(zip(columns, constants, strict=True))

    def places(self, first: int, behind: int) -> list[list[int]]:
        """Return where the numbers of each candidate stand, `[C][W]`, in a row.

        Args:
            first: where the observation begins in the row.
            behind: where the constants of all candidates follow in it.
        """
        places = []
        for (start, stop), constants in self.choices:
            columns = range(first + start, first + stop)
            places.append([*columns, *range(behind, behind + len(constants))])
            behind += len(constants)
        return places


@dataclass(frozen=True)
class Measure:
    """What an episode is judged by beside its returns."""

    name: str
    """As in reports and columns, lower case with underscores."""
    text: str
    """One line for a reader."""
    per_step: bool = False
    """Whether an environment adds up a value per step, of which the mean is reported."""


@dataclass(frozen=True)
class EnvSpec:
    """Agents, sizes and action types of an environment; all that the stages need without its code."""

    agents: tuple[str, ...]
    observation_sizes: tuple[int, ...]
    action_sizes: tuple[int, ...]
    action_types: tuple[ActionType, ...]
    private_parts: tuple[PrivatePart | None, ...] = ()
    """Of each agent's observation; empty if no agent has one."""
    measures: tuple[Measure, ...] = ()
    """What `VectorEnv.final_measures` returns."""
    varying: bool = False
    """Whether some steps may be without some of the agents, see `Roster`."""
    masked: tuple[bool, ...] = ()
    """Which agents have action masks, see `Roster`; empty if none has."""

    @property
    def num_agents(self) -> int:
        """N."""
        return len(self.agents)

    @cached_property
    def teams(self) -> tuple[str, ...]:
        """Team of each agent: its name without the trailing number, by PettingZoo's convention."""
        return tuple(re.sub(r"_\d+$", "", name) for name in self.agents)

    @cached_property
    def homogeneous_groups(self) -> tuple[tuple[int, ...], ...]:
        """Groups of two or more agents of one team with the same observation size, action size and type."""
        sizes = (self.observation_sizes, self.action_sizes, self.action_types)
        kinds = list(zip(self.teams, *sizes, strict=True))
        groups = [tuple(i for i, own in enumerate(kinds) if own == kind) for kind in dict.fromkeys(kinds)]
        return tuple(group for group in groups if len(group) > 1)

    @cached_property
    def transitions(self) -> TransitionLayout:
        """The columns of each part of a transition in a packed row."""
        return TransitionLayout(self.observation_sizes, self.action_sizes, self.varying, self.masked)


def canonical_env_id(env_id: str) -> str:
    """Return the id of a scenario for MPE2's names of it, "mpe2.simple_tag_v3" or "simple_tag_v3"."""
    for name, module in MPE2_MODULES.items():
        if env_id in (module, module.removeprefix("mpe2.")):
            return name
    return env_id


def _slices(sizes: tuple[int, ...], start: int) -> tuple[slice, ...]:
    ends = list(accumulate(sizes, initial=start))
    return tuple(slice(a, b) for a, b in pairwise(ends))


@dataclass(frozen=True)
class TransitionLayout:
    """The columns of a transition as one float32 row: obs | actions | rewards | next_obs | discounts.

    If agents may be absent or have action masks, these follow as ones and zeros: next_acting | next_allowed |
    present | acting | allowed.

    Each part holds the agents in order. Actions are stored as the critic takes them: the continuous vector,
    or a one-hot vector for discrete actions. The joint observation and action comes first, so that the
    critic's input is a view. With n-step returns the rewards are sums over several steps, and `next_obs` is
    the observation after the last of them. For `simple_adversary` with two good agents a row has
    28 + 15 + 3 + 28 + 3 = 77 columns.
    """

    observation_sizes: tuple[int, ...]
    action_sizes: tuple[int, ...]
    varying: bool = False
    masked: tuple[bool, ...] = ()

    @cached_property
    def obs(self) -> tuple[slice, ...]:
        """Columns of each agent's observation."""
        return _slices(self.observation_sizes, 0)

    @cached_property
    def actions(self) -> tuple[slice, ...]:
        """Columns of each agent's action."""
        return _slices(self.action_sizes, self.obs[-1].stop)

    @cached_property
    def critic_input(self) -> slice:
        """Columns of the joint observation and action, which the critic takes (J columns)."""
        return slice(0, self.actions[-1].stop)

    @cached_property
    def rewards(self) -> slice:
        """Columns of the N rewards."""
        return slice(self.critic_input.stop, self.critic_input.stop + len(self.action_sizes))

    @cached_property
    def next_obs(self) -> tuple[slice, ...]:
        """Columns of each agent's next observation."""
        return _slices(self.observation_sizes, self.rewards.stop)

    @cached_property
    def discounts(self) -> slice:
        """Columns of the N discounts of the values of `next_obs`: 0 where the agent terminated."""
        return self._flags(self.next_obs[-1].stop, True)

    @cached_property
    def next_acting(self) -> slice:
        """Columns of whether each agent acts on `next_obs`; none if all agents always do."""
        return self._flags(self.discounts.stop, self.varying)

    @cached_property
    def next_allowed(self) -> tuple[slice, ...]:
        """Columns of each agent's action mask at `next_obs`; none for agents without masks."""
        return _slices(self._mask_sizes, self.next_acting.stop)

    @cached_property
    def present(self) -> slice:
        """Columns of whether each agent was in the episode; none if all agents always are."""
        return self._flags(self.next_allowed[-1].stop, self.varying)

    @cached_property
    def acting(self) -> slice:
        """Columns of whether each agent acted on `obs`; none if all agents always do."""
        return self._flags(self.present.stop, self.varying)

    @cached_property
    def allowed(self) -> tuple[slice, ...]:
        """Columns of each agent's action mask at `obs`; none for agents without masks."""
        return _slices(self._mask_sizes, self.acting.stop)

    @cached_property
    def width(self) -> int:
        """Number of columns."""
        stop: int = self.allowed[-1].stop
        return stop

    def with_flags(self, rows: FloatArray) -> FloatArray:
        """Return rows `[n, width]`; ones stand for flags that earlier versions did not store.

        These refused agents that came late or left early, so all were there.

        Raises:
            ValueError: if the environment has action masks, which they did not know.
        """
        missing = self.width - self.discounts.stop
        if not missing or rows.shape[1:] != (self.discounts.stop,):
            return rows
        if any(self.masked):
            raise ValueError("its transitions are stored without action masks; start a new run")
        return np.pad(rows, ((0, 0), (0, missing)), constant_values=1.0)

    @property
    def _mask_sizes(self) -> tuple[int, ...]:
        masked = self.masked or (False,) * len(self.action_sizes)
        return tuple(own * size for own, size in zip(masked, self.action_sizes, strict=True))

    def _flags(self, start: int, there: bool) -> slice:
        return slice(start, start + there * len(self.action_sizes))


@dataclass(frozen=True)
class StackedLayout:
    """The columns of the layers of N stacked networks in one flat `[N, P]` array.

    Inputs and outputs are padded to the widest agent. `input_widths[i]` is agent i's input width without
    padding, which sets the scale of its initial weights. The torch networks and the workers' numpy inference
    share the layout, so that weights are sent as one array.
    """

    input_widths: tuple[int, ...]
    hidden_sizes: tuple[int, ...]
    output_width: int

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Layer widths from padded input to output."""
        return (max(self.input_widths), *self.hidden_sizes, self.output_width)

    @cached_property
    def layers(self) -> tuple[tuple[slice, slice, int, int], ...]:
        """(weight columns, bias columns, inputs, outputs) of each layer."""
        layers: list[tuple[slice, slice, int, int]] = []
        offset = 0
        for n_in, n_out in pairwise(self.sizes):
            middle = offset + n_in * n_out
            layers.append((slice(offset, middle), slice(middle, middle + n_out), n_in, n_out))
            offset = middle + n_out
        return tuple(layers)

    @property
    def num_parameters(self) -> int:
        """P."""
        return sum((n_in + 1) * n_out for n_in, n_out in pairwise(self.sizes))

    @property
    def num_networks(self) -> int:
        """N."""
        return len(self.input_widths)

    def initial_parameters(self, rng: np.random.Generator, rule: InitialWeights = "torch") -> FloatArray:
        """Draw initial parameters `[N, P]`, uniform within a bound that depends on a layer's width.

        The inputs of the first layer are counted without padding; weights of padded inputs are zero.

        Args:
            rng: random stream to draw from.
            rule: "torch", the default of `nn.Linear`: within +-1/sqrt(inputs), biases too; "glorot" (Glorot
                and Bengio 2010): within +-sqrt(6 / (inputs + outputs)), biases zero.
        """
        flat = np.zeros((self.num_networks, self.num_parameters), np.float32)
        for depth, (weights, biases, n_in, n_out) in enumerate(self.layers):
            for network, width_in in enumerate(self.input_widths):
                inputs = width_in if depth == 0 else n_in
                bound = 1.0 / math.sqrt(inputs) if rule == "torch" else math.sqrt(6.0 / (inputs + n_out))
                own = slice(weights.start, weights.start + inputs * n_out)
                flat[network, own] = rng.uniform(-bound, bound, inputs * n_out)
                if rule == "torch":
                    flat[network, biases] = rng.uniform(-bound, bound, n_out)
        return flat


def policy_layout(spec: EnvSpec, hidden_sizes: tuple[int, ...]) -> StackedLayout:
    """Return the layout of the N stacked policies, `[N, O] -> [N, A]`."""
    return StackedLayout(spec.observation_sizes, hidden_sizes, max(spec.action_sizes))


def initial_policies(
    spec: EnvSpec,
    hidden_sizes: tuple[int, ...],
    seed: int,
    shared: bool = False,
    rule: InitialWeights = "torch",
) -> FloatArray:
    """Return the policies `[N, P]` that a learner seeded with `seed` starts with.

    Rollout workers compute them too, so that they can act before the learner is running. If `shared`, the
    agents of a homogeneous group start with the same policy. `rule` is that of
    `StackedLayout.initial_parameters`.
    """
    policies = policy_layout(spec, hidden_sizes).initial_parameters(np.random.default_rng(seed), rule)
    for group in spec.homogeneous_groups if shared else ():
        policies[list(group)] = policies[group[0]]
    return policies


def critic_layout(
    spec: EnvSpec, hidden_sizes: tuple[int, ...], groups: tuple[tuple[int, ...], ...] = ()
) -> StackedLayout:
    """Return the layout of the V stacked critics, `[J] -> [V]`, or `[J] -> [V, K]` with K values each.

    Args:
        spec: of the environment.
        hidden_sizes: widths of the hidden layers.
        groups: agents of each critic, at most K; empty: one per agent.
    """
    joint = sum(spec.observation_sizes) + sum(spec.action_sizes)
    if not groups:
        return StackedLayout((joint,) * spec.num_agents, hidden_sizes, 1)
    return StackedLayout((joint,) * len(groups), hidden_sizes, max(map(len, groups)))


@dataclass(frozen=True)
class Weights:
    """One version of the policies, which rollout workers act with."""

    version: int
    """Number of the learner's publications so far; 0 for the initial weights."""
    updates: int
    """Updates that these weights include."""
    policies: FloatArray
    """[N, P] in the layout of `policy_layout`; with `env.normalise` [N, P + 2 O], see `normalisation.py`."""


class Roster(NamedTuple):
    """Who takes part in a step of each copy, and what they may do.

    An agent that is not acting may still be present: it waits for its turn. Its critic learns from the step,
    its policy does not.
    """

    present: npt.NDArray[np.bool_]
    """[E, N] who is in the episode; observations of others are zeros."""
    acting: npt.NDArray[np.bool_]
    """[E, N] whose actions count; those of others are ignored."""
    allowed: npt.NDArray[np.bool_]
    """[N, E, A] action masks: True in the columns of agents without one, False in padding."""


@dataclass(frozen=True)
class EpisodeReport:
    """The n episodes that ended during some steps."""

    returns: npt.NDArray[np.float64]
    """[n, N] undiscounted return of each agent."""
    lengths: npt.NDArray[np.int64]
    """[n] in steps."""
    final_distances: FloatArray
    """[n, N, L] distance of each agent to each landmark in the last frame, goal first; L = 0 if unknown."""
    measures: npt.NDArray[np.float64]
    """[n, K] of `EnvSpec.measures`."""

    def chosen(self, episodes: npt.NDArray[np.bool_]) -> EpisodeReport:
        """Return the report of those episodes only, `[n]`."""
        return EpisodeReport(
            self.returns[episodes],
            self.lengths[episodes],
            self.final_distances[episodes],
            self.measures[episodes],
        )

    @staticmethod
    def empty(num_agents: int) -> EpisodeReport:
        """Return a report without episodes."""
        return EpisodeReport(
            np.zeros((0, num_agents)),
            np.zeros(0, np.int64),
            np.zeros((0, num_agents, 0), np.float32),
            np.zeros((0, 0)),
        )

    @staticmethod
    def concatenate(reports: list[EpisodeReport], num_agents: int) -> EpisodeReport:
        """Join reports in order; reports without episodes are left out."""
        full = [report for report in reports if len(report.lengths)]
        if not full:
            return EpisodeReport.empty(num_agents)
        return EpisodeReport(
            np.concatenate([report.returns for report in full]),
            np.concatenate([report.lengths for report in full]),
            np.concatenate([report.final_distances for report in full]),
            np.concatenate([report.measures for report in full]),
        )


@dataclass(frozen=True)
class RolloutReport:
    """One call of a rollout worker: one or more fragments, without their transitions."""

    worker: int
    env_steps: int
    episodes: EpisodeReport
    weights_version: int
    """Version of the weights that collected them; the oldest, if it changed between fragments."""
    busy_s: float
    """Seconds of acting and stepping."""
    blocked_push_s: float = 0.0
    """Seconds of waiting for the replay buffer to acknowledge transitions."""
    blocked_weights_s: float = 0.0
    """Seconds of fetching newer weights."""
    blocked_pacing_s: float = 0.0
    """Seconds of waiting for the next request."""
    dropped: tuple[str, ...] = ()
    """One line per fragment dropped because it was not finite; `env_steps` does not count these."""
    moments: Moments | None = None
    """Of what the worker observed, if the run normalises."""


@dataclass(frozen=True)
class LearnerReport:
    """One call of the learner."""

    updates: int
    weights_version: int
    """Latest published version."""
    busy_s: float
    """Seconds of updating."""
    blocked_replay_s: float = 0.0
    """Seconds of waiting for minibatches."""
    blocked_pacing_s: float = 0.0
    """Seconds of waiting for the next request."""


@dataclass(frozen=True)
class FaultEvent:
    """A process that was lost or has recovered."""

    time: float
    """Unix time in seconds."""
    process: str
    """Name of the process, such as "rollout worker 1"."""
    kind: str
    """`lost` or `recovered`."""
    message: str
    """What happened, for display."""
    seconds: float = 0.0
    """Seconds from loss to recovery, if it recovered."""


@dataclass(frozen=True)
class RingCounters:
    """What compiled code needs to notice that rows of a ring are overwritten while it reads them."""

    drawn_epoch: int
    """That of the ring when the rows were drawn."""
    epoch: npt.NDArray[np.int64]
    """[1 or more] views of the ring's counters, see `replay/ring.py`, as the following."""
    first: npt.NDArray[np.int64]
    inserted: npt.NDArray[np.int64]
    reserved: npt.NDArray[np.int64]


def join_states(parts: Mapping[str, Arrays]) -> Arrays:
    """Join the states of several parts to one, with names like "part/array"."""
    return {f"{part}/{name}": array for part, state in parts.items() for name, array in state.items()}


def state_part(state: Arrays, part: str) -> Arrays:
    """Return the state of one part of those that `join_states` joined; empty if the part is missing."""
    prefix = f"{part}/"
    return {name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)}


def checked_array(
    state: Arrays, name: str, shape: tuple[int | None, ...], kind: npt.DTypeLike
) -> npt.NDArray[Any]:
    """Return a copy of an array of a saved state; in its required shape None stands for any length.

    Raises:
        ValueError: naming the array, if it is missing or has another shape or type than required.
    """
    if name not in state:
        raise ValueError(f"the state lacks {name}")
    array: npt.NDArray[Any] = state[name]
    fits = array.ndim == len(shape) and all(b in (None, a) for a, b in zip(array.shape, shape, strict=True))
    if not fits or array.dtype != np.dtype(kind):
        expected = str(shape).replace("None", "n")
        raise ValueError(
            f"{name} has shape {array.shape} and type {array.dtype}, expected {expected} {np.dtype(kind)}"
        )
    copy: npt.NDArray[Any] = array.copy()
    return copy


def checked_count(state: Arrays, name: str) -> int:
    """Return a single count of a saved state.

    Raises:
        ValueError: naming the array, if it is missing, has another shape or type, or is negative.
    """
    count = int(checked_array(state, name, (), np.int64))
    if count < 0:
        raise ValueError(f"{name} is {count}, expected a count of 0 or more")
    return count


@dataclass(frozen=True)
class RunState:
    """The complete state of a run at one moment; training continues from it."""

    env_steps: int
    updates: int
    stages: Arrays
    """The stages' states under names like "learner/policy" and "worker_0/env/cycle"."""
    replay: StoredTransitions | None
    """The contents of the replay buffer; None if they are left out."""


@dataclass(frozen=True)
class StoredTransitions:
    """The contents of a replay buffer at one moment, to be written to or read from a file."""

    inserted: int
    """Rows added since the buffer was created; the last row here has the number `inserted - 1`."""
    num_rows: int
    """Rows in `chunks` together."""
    chunks: Iterator[FloatArray]
    """Arrays [n, width], oldest rows first; can be iterated once."""

    def first_row_number(self, capacity: int) -> int:
        """Return the number of the first row in a ring of this capacity that is restored from these rows.

        If the ring would hold exactly these rows after `inserted` rows, each row keeps its number and so its
        place, and the same random draws sample the same rows. Otherwise numbering starts at 0.
        """
        exact = self.num_rows == min(self.inserted, capacity)
        return self.inserted - self.num_rows if exact else 0
