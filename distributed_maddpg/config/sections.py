"""The sections of the settings: defaults, help texts and checks.

The text below a field is its help on the command line. Sections are frozen dataclasses; each stage receives
its own.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from distributed_maddpg.durations import parse_duration
from distributed_maddpg.errors import BadInput, did_you_mean
from distributed_maddpg.types import EnvSpec, InitialWeights, PrivatePart, canonical_env_id

Algorithm = Literal["maddpg", "ddpg", "matd3"]
Head = Literal["sigmoid", "gumbel"]
Precision = Literal["float32", "bf16"]
EnvArgument = Any
"""A value that TOML and JSON have: a number, true or false, text, or a list or table of these."""
MAX_NUMBER, MAX_WIDTH, MAX_WORKERS, MAX_THREADS = 10**15, 65_536, 10_000, 1_024
MIN_TEMPERATURE, _LARGEST = 1e-6, 3.4e38
_MAX_DEPTH = 20


def require(condition: bool, name: str, value: object, remedy: str) -> None:
    """Raise BadInput for a setting unless `condition` holds."""
    if not condition:
        raise BadInput(name, value, remedy)


def _require_positive(section: str, settings: object, *names: str, or_zero: bool = False) -> None:
    least = "zero or a positive number" if or_zero else "a positive number"
    for name in names:
        value = getattr(settings, name)
        fits = 0 <= value <= MAX_NUMBER and (or_zero or value > 0)
        require(fits, f"{section}.{name}", value, f"must be {least} below 10^15")


def _require_hidden_sizes(name: str, sizes: tuple[int, ...]) -> None:
    fits = len(sizes) > 0 and all(0 < size <= MAX_WIDTH for size in sizes)
    require(fits, name, sizes, f"needs one or more widths from 1 to {MAX_WIDTH}")


def _require_private_part(name: str, part: PrivatePart) -> None:
    spans = (part.columns, *part.candidates)
    for key, span in [("columns", part.columns), *(("candidates", own) for own in part.candidates)]:
        remedy = "columns need a start of 0 or more and a later stop"
        require(0 <= span[0] < span[1], f"{name}.{key}", span, remedy)
    _require_constants(name, part)
    field = f"{name}.candidates" if part.candidates or not part.constants else f"{name}.constants"
    known = part.candidates or part.constants
    require(len(part.choices) > 1, field, known, "needs two or more")
    distinct = len(set(part.choices)) == len(part.choices)
    require(distinct, field, known, "name each candidate once")
    widths = {stop - start + len(constants) for (start, stop), constants in part.choices}
    remedy = "the private columns and all candidates need the same width"
    require(widths == {part.width}, name, (*spans, *part.constants), remedy)
    for start, stop in part.candidates:
        apart = stop <= part.columns[0] or start >= part.columns[1]
        remedy = "a candidate must lie outside the private columns"
        require(apart, f"{name}.candidates", (start, stop), remedy)


def _require_constants(name: str, part: PrivatePart) -> None:
    field, constants = f"{name}.constants", part.constants
    finite = all(abs(value) <= _LARGEST for own in constants for value in own)
    require(finite, field, constants, "must be finite in float32")
    fits = not (part.candidates and constants) or len(constants) == len(part.candidates)
    remedy = f"needs one list for each of the {len(part.candidates)} candidates"
    require(fits, field, constants, remedy)


def _aligned_as(known: PrivatePart | None, part: PrivatePart | None) -> PrivatePart | None:
    """Return `part`, aligned only if the environment does not say that its own is not."""
    return replace(part, aligned=False) if part and known and not known.aligned else part


def plain_argument(name: str, value: Any, depth: int = 0) -> EnvArgument:
    """Return an environment's argument as files hold it: tuples and arrays become lists.

    Raises:
        BadInput: for what TOML and JSON do not have, at any depth.
    """
    require(depth <= _MAX_DEPTH, name, value, f"has more than {_MAX_DEPTH} lists or tables in each other")
    value = value.tolist() if hasattr(value, "tolist") else value  # numpy's numbers and arrays
    if isinstance(value, float):
        # Neither JSON nor a checkpoint can hold other numbers; refused before training, not after.
        require(math.isfinite(value), name, value, "must be finite")
        return float(value)
    if isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return _storable(name, value)
    if isinstance(value, list | tuple):
        return [plain_argument(f"{name}[{index}]", each, depth + 1) for index, each in enumerate(value)]
    remedy = "must be a number, true or false, text, or a list or table of these; leave it out"
    require(isinstance(value, Mapping), name, value, remedy)
    return {
        _storable(name, key): plain_argument(f"{name}.{key}", each, depth + 1) for key, each in value.items()
    }


def _storable(name: str, text: Any) -> str:
    """Return a text or a table's key; BadInput unless a file can hold it."""
    require(isinstance(text, str), name, text, "keys of a table must be text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadInput(name, text, "is not valid text") from None
    return str(text)


class Section:
    """A part of the configuration; unknown keys are refused when it is parsed."""

    # Read by pydantic, never changed. The texts below fields become descriptions in the schema.
    __pydantic_config__ = {"extra": "forbid", "use_attribute_docstrings": True}  # noqa: RUF012


@dataclass(frozen=True)
class EnvConfig(Section):
    """The environment and its arguments."""

    id: str = "simple_adversary"
    """A scenario of MPE2, such as "simple_adversary" or "simple_spread", or any environment of PettingZoo or
    Gymnasium: "package.module[:callable]" or "path/to/file.py[:callable]"."""
    backend: Literal["auto", "vectorized", "pettingzoo"] = "auto"
    """auto: compiled if the environment is. vectorized: compiled, or an error if it is not. pettingzoo: the
    original environment, stepped copy by copy."""
    kwargs: dict[str, EnvArgument] = field(default_factory=dict)
    """Arguments of the environment, by the names of its PettingZoo constructor: numbers, true or false, text,
    lists or tables."""
    measures: tuple[str, ...] = ()
    """Numbers in the infos of an episode's last step to report, by their keys, beside the measures that the
    environment declares."""
    normalise: bool = False
    """Normalise observations by their running mean and variance, and scale rewards by the running standard
    deviation of discounted returns, for each agent."""

    def __post_init__(self) -> None:
        """Check the arguments; replace an alias of the environment by its id."""
        object.__setattr__(self, "kwargs", plain_argument("env.kwargs", self.kwargs))
        object.__setattr__(self, "id", canonical_env_id(self.id))


@dataclass(frozen=True)
class RolloutConfig(Section):
    """Collection of transitions by each rollout worker."""

    num_envs: int = 64
    """Environment copies per worker, stepped together."""
    fragment_steps: int = 4
    """Vector steps of a fragment, the unit of pacing and pushing: num_envs * fragment_steps transitions."""

    def __post_init__(self) -> None:
        """Check the section."""
        _require_positive("rollout", self, "num_envs", "fragment_steps")

    @property
    def fragment_env_steps(self) -> int:
        """Environment steps per fragment."""
        return self.num_envs * self.fragment_steps


@dataclass(frozen=True)
class AlgorithmConfig(Section):
    """The MADDPG update (Lowe et al. 2017, arXiv:1706.02275) and its variants."""

    name: Algorithm = "maddpg"
    """maddpg: critics see all observations and actions. ddpg: only those of their agent. matd3: maddpg with
    two critics for one, of which the target uses the smaller value, and smoothed target actions."""
    team_overrides: dict[str, Algorithm] = field(default_factory=dict)
    """Another algorithm for some teams; a team is an agent's name without its number: agent, adversary."""
    share_policies: bool = False
    """One policy for all agents of a team with observations and actions of equal sizes."""
    share_critics: bool = False
    """One critic, with a value for each agent, for those that share_policies would give one policy: for many
    agents a fraction of the work, but it needs wider layers. Teams of ddpg keep a critic per agent."""
    policy_hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of the policies' hidden layers (ReLU)."""
    critic_hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of the critics' hidden layers (ReLU)."""
    networks: str = ""
    """Layers of one's own, in the place of these perceptrons: the name of a function of role, input size and
    output size, "package.module:name" or "path/to/file.py:name". Updates are several times slower."""
    initial_weights: InitialWeights = "torch"
    """Initial weights. torch: the default of torch's linear layers. glorot: Glorot uniform, biases zero
    (paper)."""
    policy_head: Literal["auto", "sigmoid", "gumbel"] = "auto"
    """Action from logits: sigmoid, or Gumbel-softmax. auto: sigmoid for continuous, gumbel for discrete."""
    temperature: float = 1.0
    """Temperature of the Gumbel-softmax."""
    straight_through: bool = True
    """Discrete actions in the actor loss: one-hot forward, relaxed backward (otherwise relaxed in both)."""
    gamma: float = 0.95
    """Discount per environment step."""
    n_step: int = 1
    """Steps of an n-step return; fewer at the end of a fragment."""
    tau: float = 0.01
    """Step of the soft update of the target networks towards the online networks."""
    actor_lr: float = 0.01
    """Learning rate of the policies (Adam)."""
    critic_lr: float = 0.01
    """Learning rate of the critics (Adam)."""
    policy_delay: int = 0
    """Critic updates per update of policies and targets; 0: two if a team uses matd3, else one."""
    target_noise: float = 0.1
    """Standard deviation of the noise that matd3 adds to target actions of sigmoid heads, clipped at 2.5
    standard deviations."""
    lr_end: float = 1.0
    """Fraction of both learning rates at the end of the run; they decay linearly."""
    max_grad_norm: float = 0.5
    """Maximum gradient norm; 0: no clipping."""
    grad_norm_of: Literal["network", "parameter"] = "network"
    """Clip the gradient of each whole network, or of each weight matrix and bias (paper)."""
    other_actions: Literal["replay", "current"] = "replay"
    """Other agents' actions in the actor loss: as replayed (paper), or by their current policies."""
    regulariser: Literal["logits", "actions"] = "logits"
    """Regularise the logits or the actions in the actor loss."""
    regulariser_weight: float = 1e-3
    """Weight of their mean square in the actor loss."""
    information_weight: float = 0.0
    """Weight of information regularisation in the actor loss: how much an agent's action differs if another
    candidate stands in the private part of its observation. 0: off."""
    private_values: Literal["observed", "mean"] = "observed"
    """Values in the actor loss of agents with a private part. observed: with what stands there. mean: the
    mean over all candidates, each in the observations of all agents; beside information_weight, for policies
    that should not use the private part at all."""
    private: dict[str, PrivatePart] = field(default_factory=dict)
    """The private part of a team's observations, where the environment does not say it: columns, candidates,
    constants of candidates, and aligned = false if the team's agents observe them in different orders."""
    random_action_rows: float = 0.0
    """Probability, for each agent and batch row, that the target action is replaced by a uniform random one;
    with other_actions = current also the action of another agent."""

    def __post_init__(self) -> None:
        """Check the section."""
        _require_hidden_sizes("algorithm.policy_hidden_sizes", self.policy_hidden_sizes)
        _require_hidden_sizes("algorithm.critic_hidden_sizes", self.critic_hidden_sizes)
        _require_positive("algorithm", self, "n_step", "temperature", "actor_lr", "critic_lr")
        remedy = f"must be at least {MIN_TEMPERATURE:g}"
        require(self.temperature >= MIN_TEMPERATURE, "algorithm.temperature", self.temperature, remedy)
        zero_allowed = (
            "max_grad_norm",
            "regulariser_weight",
            "policy_delay",
            "target_noise",
            "information_weight",
        )
        _require_positive("algorithm", self, *zero_allowed, or_zero=True)
        for name, value in (("gamma", self.gamma), ("random_action_rows", self.random_action_rows)):
            require(0 <= value <= 1, f"algorithm.{name}", value, "must lie in [0, 1]")
        of = self.grad_norm_of
        remedy = "must be network with algorithm.networks, whose parameters have no rows of their own"
        require(of == "network" or not self.networks, "algorithm.grad_norm_of", of, remedy)
        for team, part in self.private.items():
            _require_private_part(f"algorithm.private.{team}", part)
        for name, value in (("tau", self.tau), ("lr_end", self.lr_end)):
            require(0 < value <= 1, f"algorithm.{name}", value, "must lie in (0, 1]")

    def per_agent(self, spec: EnvSpec) -> tuple[Algorithm, ...]:
        """Return each agent's algorithm."""
        for team in self.team_overrides:
            require(team in spec.teams, "algorithm.team_overrides", team, did_you_mean(team, set(spec.teams)))
        return tuple(self.team_overrides.get(team, self.name) for team in spec.teams)

    def critic_groups(self, spec: EnvSpec) -> tuple[tuple[int, ...], ...]:
        """Return the agents of each critic, ordered by their first one."""
        names, shared = self.per_agent(spec), spec.homogeneous_groups if self.share_critics else ()
        groups = [group for group in shared if names[group[0]] != "ddpg"]
        alone = set(range(spec.num_agents)).difference(*groups)
        return tuple(sorted([*groups, *((agent,) for agent in alone)]))

    def private_parts(self, spec: EnvSpec) -> tuple[PrivatePart | None, ...]:
        """Return the private part of each agent's observation: the setting's, or the environment's."""
        for team in self.private:
            require(team in spec.teams, "algorithm.private", team, did_you_mean(team, set(spec.teams)))
        known = spec.private_parts or (None,) * spec.num_agents
        parts = tuple(
            _aligned_as(own, self.private.get(team, own)) for team, own in zip(spec.teams, known, strict=True)
        )
        for team, part, size in zip(spec.teams, parts, spec.observation_sizes, strict=True):
            for start, stop in (part.columns, *part.candidates) if part else ():
                remedy = f"observations have {size} columns"
                require(stop <= size, f"algorithm.private.{team}", (start, stop), remedy)
        return parts

    def common_candidates(self, spec: EnvSpec) -> tuple[PrivatePart | None, ...]:
        """Return the private parts if values are means over their candidates, else parts that are all None.

        Raises:
            BadInput: if the candidates are not the same things for all agents with a private part.
        """
        parts = self.private_parts(spec)
        if self.private_values == "observed":
            return (None,) * spec.num_agents
        name, value = "algorithm.private_values", self.private_values
        teams = {team for team, part in zip(spec.teams, parts, strict=True) if part}
        require(len(teams) < 2, name, value, "agents of several teams have private parts; use observed")
        constants = spec.varying and any(part.constants for part in parts if part)
        require(not constants, name, value, "has no constants where agents may be absent; use observed")
        aligned = all(part.aligned for part in parts if part)
        aligned = aligned and len({len(part.choices) for part in parts if part}) < 2
        remedy = "the agents observe the candidates in different orders or numbers; use observed"
        require(aligned, name, value, remedy)
        return parts

    def measures_information(self, spec: EnvSpec) -> bool:
        """Return whether the actor loss of any agent contains the information term."""
        return self.information_weight > 0 and any(self.private_parts(spec))

    def updates_per_policy_update(self, spec: EnvSpec) -> int:
        """Return the number of critic updates per update of policies and targets."""
        return self.policy_delay or (2 if "matd3" in self.per_agent(spec) else 1)

    def heads(self, spec: EnvSpec) -> tuple[Head, ...]:
        """Return each agent's policy head."""
        head, discrete = self.policy_head, "discrete" in spec.action_types
        require(
            not (discrete and head == "sigmoid"),
            "algorithm.policy_head",
            head,
            "is for continuous actions only; use auto or gumbel",
        )
        if head == "auto":
            return tuple("gumbel" if kind == "discrete" else "sigmoid" for kind in spec.action_types)
        return (head,) * spec.num_agents


@dataclass(frozen=True)
class ExplorationConfig(Section):
    """Exploration noise; its magnitude changes linearly from `start` to `end`."""

    kind: Literal["auto", "none", "epsilon", "gaussian", "ou", "gumbel"] = "auto"
    """epsilon: uniform actions of all agents, with that probability. gaussian, ou (Ornstein-Uhlenbeck): added
    to sigmoid actions. gumbel: added to the logits of gumbel heads. auto: gumbel for gumbel heads; for
    sigmoid heads gaussian with 0.3 times the magnitude."""
    start: float = 1.0
    """Magnitude at the first step: a probability, a standard deviation, or a factor of the Gumbel noise."""
    end: float = 1.0
    """Magnitude from `decay_env_steps` on."""
    decay_env_steps: int = 0
    """Environment steps over which the magnitude changes from start to end."""
    episode_offset: float = 0.0
    """Standard deviation of an offset of the logits, constant during an episode; added to any kind."""
    ou_theta: float = 0.15
    """Mean reversion rate of the Ornstein-Uhlenbeck noise, per step."""

    def check_heads(self, heads: tuple[Head, ...]) -> None:
        """Refuse a noise that fits no policy head."""
        needs = {"gaussian": "sigmoid", "ou": "sigmoid", "gumbel": "gumbel"}.get(self.kind)
        require(
            needs is None or needs in heads,
            "exploration.kind",
            self.kind,
            f"needs a {needs} policy head, here it is {heads[0]}; use auto or change algorithm.policy_head",
        )

    def __post_init__(self) -> None:
        """Check the section."""
        zero_allowed = ("start", "end", "decay_env_steps", "episode_offset")
        _require_positive("exploration", self, *zero_allowed, or_zero=True)
        require(0 < self.ou_theta <= 1, "exploration.ou_theta", self.ou_theta, "must lie in (0, 1]")
        if self.kind == "epsilon":
            for name, value in (("start", self.start), ("end", self.end)):
                require(value <= 1, f"exploration.{name}", value, "is a probability for epsilon: at most 1")


@dataclass(frozen=True)
class ReplayConfig(Section):
    """The central replay buffer."""

    capacity: int = 1_000_000
    """Transitions kept; the oldest are overwritten."""

    def __post_init__(self) -> None:
        """Check the section."""
        _require_positive("replay", self, "capacity")


@dataclass(frozen=True)
class LearnerConfig(Section):
    """The device and the minibatches of updates."""

    batch_size: int = 1024
    """Transitions per update."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda if there is a GPU, else cpu. Asynchronous runs with a GPU measure both for half a second and
    use the faster."""
    num_threads: int = 0
    """Learner threads on the CPU; they change no result. 0: as many as make it faster, measured again and
    again; one where the compiled update is not used. Ray reserves that many CPUs, for 0 one."""
    precision: Precision = "float32"
    """Numbers of the networks' matrix products. bf16 (bfloat16; sums and weights stay float32) is faster for
    hidden layers of 256 and more on a CPU with instructions for it."""

    def __post_init__(self) -> None:
        """Check the section."""
        _require_positive("learner", self, "batch_size")
        _require_positive("learner", self, "num_threads", or_zero=True)
        remedy = f"must be at most {MAX_THREADS}"
        require(self.num_threads <= MAX_THREADS, "learner.num_threads", self.num_threads, remedy)

    @property
    def reserved_cpus(self) -> int:
        """CPUs that Ray reserves for the learner."""
        return max(1, self.num_threads)


@dataclass(frozen=True)
class PacingConfig(Section):
    """The balance of collecting and learning, and the intervals, in environment steps and updates."""

    total_env_steps: int = 1_000_000
    """Length of the run; it ends when the updates for these steps are done too."""
    learning_starts: int = 10_000
    """Environment steps before the first update."""
    env_steps_per_update: float = 100.0
    """Environment steps per update of all agents."""
    tolerance_updates: int = 128
    """Updates by which the workers may run ahead of the learner (asynchronous mode)."""
    publish_interval_updates: int = 4
    """Updates between two versions of the weights. Asynchronous runs publish at most once per learner call,
    which makes up to tolerance_updates / 4 updates in about 0.05 s."""
    report_interval_env_steps: int = 50_000
    """Environment steps between two reports: one iteration of `train()`."""
    evaluation_interval_env_steps: int = 100_000
    """Environment steps between two evaluations; 0: only the final one."""
    checkpoint_interval_env_steps: int = 500_000
    """Environment steps between two checkpoints, made with the next report; 0: only the final one."""

    def __post_init__(self) -> None:
        """Check the section."""
        zero_allowed = ("evaluation_interval_env_steps", "checkpoint_interval_env_steps")
        positive = (each.name for each in fields(self) if each.name not in zero_allowed)
        _require_positive("pacing", self, *positive)
        _require_positive("pacing", self, *zero_allowed, or_zero=True)

    @property
    def total_updates(self) -> int:
        """Updates of the whole run after the first one, which is made at `learning_starts`."""
        return max(0, int((self.total_env_steps - self.learning_starts) / self.env_steps_per_update))


@dataclass(frozen=True)
class EvaluationConfig(Section):
    """Greedy episodes from new start states."""

    episodes: int = 200
    """Episodes of each evaluation during training."""
    final_episodes: int = 1000
    """Episodes of the final evaluation."""

    def __post_init__(self) -> None:
        """Check the section."""
        _require_positive("evaluation", self, "episodes", "final_episodes")


@dataclass(frozen=True)
class RayConfig(Section):
    """The Ray cluster and its processes."""

    address: str = ""
    """Address of a running cluster; empty: RAY_ADDRESS, which Ray sets inside a job; without it a new local
    cluster."""
    timeout_s: float = 120.0
    """Timeout of a process start or call, and of the environment's trial before them. Asynchronous: after a
    process's first call, ten times its mean call time, at least timeout_s / 8 and at most timeout_s."""
    min_workers: int = 1
    """Workers that a run needs to start and to continue; others start when CPUs are free (asynchronous
    mode)."""
    wait_for_nodes: str = "0s"
    """How long to wait at the start until the cluster has what the run needs, such as 15m. Ray's autoscaler
    is asked for it. By default a cluster that lacks it is refused at once."""
    snapshot_interval_s: float = 10.0
    """Seconds between two snapshots of the learner, from which it is restored if its process fails."""

    def __post_init__(self) -> None:
        """Check the section."""
        _require_positive("ray", self, "timeout_s", "min_workers", "snapshot_interval_s")
        parse_duration("ray.wait_for_nodes", self.wait_for_nodes)

    def cluster_address(self) -> str:
        """Return the address of the cluster to join: `address`, else RAY_ADDRESS; empty: start one.

        Raises:
            BadInput: if it is one of Ray Client or another URL.
        """
        name, address = "ray.address", self.address
        if not address:
            name, address = "RAY_ADDRESS", os.environ.get("RAY_ADDRESS", "")
        refuse_ray_client(name, address)
        remedy = (
            "must be HOST:6379 of the cluster's head; for a dashboard's URL use distributed-maddpg submit"
        )
        require("://" not in address, name, address, remedy)
        return address


def refuse_ray_client(name: str, address: str) -> None:
    """Raise BadInput for an address of Ray Client, through which every call would take a detour."""
    remedy = (
        "Ray Client is not for training, says Ray; use distributed-maddpg submit with http://HOST:8265, or "
        "HOST:6379 on a node of the cluster"
    )
    require(not address.strip().lower().startswith("ray://"), name, address, remedy)
