"""Every setting, once: its default, type, meaning and check (floor F1).

The text under a field is its help on the command line. Sections are frozen dataclasses; a stage receives its
own section. Files and checkpoints are read through the same dataclasses, so that an unknown key or a wrong
type is named with its nearest remedy before anything is started.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from distributed_maddpg.errors import BadInput, did_you_mean
from distributed_maddpg.files import read_small
from distributed_maddpg.presets import PRESETS
from distributed_maddpg.types import EnvSpec, InitialWeights

Algorithm = Literal["maddpg", "ddpg", "matd3"]
Head = Literal["sigmoid", "gumbel"]
EnvArgument = int | float | bool | str


_LARGEST, _WIDEST, _MOST_WORKERS, _MOST_THREADS = 10**15, 65_536, 10_000, 1_024
# tomllib takes time with the square of a key's parts; all settings together are 2 kB, the longest key has 3.
_MOST_TOML_BYTES, _MOST_DOTS_IN_LINE = 65_536, 200


def _require(condition: bool, name: str, value: object, remedy: str) -> None:
    if not condition:
        raise BadInput(name, value, remedy)


def _require_positive(section: str, settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        _require(0 < value <= _LARGEST, f"{section}.{name}", value, "must be a positive number below 10^15")


def _require_not_negative(section: str, settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        remedy = "must be zero or a positive number below 10^15"
        _require(0 <= value <= _LARGEST, f"{section}.{name}", value, remedy)


def _require_hidden_sizes(name: str, sizes: tuple[int, ...]) -> None:
    fits = len(sizes) > 0 and all(0 < size <= _WIDEST for size in sizes)
    _require(fits, name, sizes, f"needs one or more widths from 1 to {_WIDEST}")


class _Section:
    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 (read by pydantic, never changed)


@dataclass(frozen=True)
class EnvConfig(_Section):
    """Which environment, and how it is built."""

    id: str = "simple_adversary"
    """"simple_adversary", or any PettingZoo parallel environment: "package.module[:callable]"."""
    backend: Literal["auto", "vectorized", "pettingzoo"] = "auto"
    """Compiled kernel where there is one (auto), always the kernel, or always the PettingZoo adapter."""
    kwargs: dict[str, EnvArgument] = field(default_factory=dict)
    """Arguments of the environment itself, as its PettingZoo constructor names them."""

    def __post_init__(self) -> None:
        """Check the arguments, and give an environment that has two names one of them."""
        for name, value in self.kwargs.items():
            # JSON, and so a checkpoint, has no others; better refused now than after hours of training.
            finite = not isinstance(value, float) or math.isfinite(value)
            _require(finite, f"env.kwargs.{name}", value, "must be finite")
        if self.id == "mpe2.simple_adversary_v3":
            object.__setattr__(self, "id", "simple_adversary")


@dataclass(frozen=True)
class RolloutConfig(_Section):
    """How each rollout worker collects."""

    num_envs: int = 64
    """Environment copies per worker, stepped together."""
    fragment_steps: int = 4
    """Vector steps between two looks at the pacing; a push carries num_envs * fragment_steps transitions."""

    def __post_init__(self) -> None:
        """Check the section."""
        _require_positive("rollout", self, "num_envs", "fragment_steps")

    @property
    def fragment_env_steps(self) -> int:
        """Environment steps per fragment."""
        return self.num_envs * self.fragment_steps


@dataclass(frozen=True)
class AlgorithmConfig(_Section):
    """The MADDPG update (Lowe et al. 2017, arXiv:1706.02275) and its variants."""

    name: Algorithm = "maddpg"
    """maddpg: critics see all observations and actions. ddpg: only their own agent's. matd3: maddpg with two
    critics an agent, the lower of which makes the target, and smoothed target actions."""
    team_overrides: dict[str, Algorithm] = field(default_factory=dict)
    """Another algorithm for some teams; a team is an agent's name without its number: agent, adversary."""
    share_policies: bool = False
    """One policy for all agents of a team whose observations and actions are alike in size."""
    policy_hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of the policies' hidden layers (ReLU)."""
    critic_hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of the critics' hidden layers (ReLU)."""
    initial_weights: InitialWeights = "torch"
    """Rule of the first weights: torch's for linear layers, or glorot's with biases of zero (paper)."""
    policy_head: Literal["auto", "sigmoid", "gumbel"] = "auto"
    """Action from logits: sigmoid, or Gumbel-softmax. auto: sigmoid for continuous, gumbel for discrete."""
    temperature: float = 1.0
    """Temperature of the Gumbel-softmax."""
    straight_through: bool = True
    """Discrete actions in the actor loss: one-hot forward, relaxed backward (otherwise relaxed in both)."""
    gamma: float = 0.95
    """Discount per environment step."""
    n_step: int = 1
    """Steps whose rewards a target sums before the critic's estimate; fewer where a fragment ends."""
    tau: float = 0.01
    """Share of the online weights that enters the targets after each update."""
    actor_lr: float = 0.01
    """Adam's learning rate of the policies."""
    critic_lr: float = 0.01
    """Adam's learning rate of the critics."""
    policy_delay: int = 0
    """Updates of the critics for each of policies and targets; 0: two if a team learns by matd3, else one."""
    target_noise: float = 0.1
    """Standard deviation of the noise on matd3's target actions, cut off at 2.5 times it; sigmoid heads."""
    lr_end: float = 1.0
    """Share of both rates that is left at the end of the run; they fall linearly."""
    max_grad_norm: float = 0.5
    """Limit of the gradient's norm; 0 switches clipping off."""
    grad_norm_of: Literal["network", "parameter"] = "network"
    """What it limits: each network's whole gradient, or that of each weight matrix and bias (paper)."""
    other_actions: Literal["replay", "current"] = "replay"
    """The other agents' actions in the actor loss: as replayed (paper), or by their policies of today."""
    regulariser: Literal["logits", "actions"] = "logits"
    """What the actor loss keeps small."""
    regulariser_weight: float = 1e-3
    """Weight of the mean square of the logits or actions in the actor loss."""
    random_action_rows: float = 0.0
    """Probability that a batch row's target or other-agent action is replaced by a uniform random one."""

    def __post_init__(self) -> None:
        """Check the section."""
        _require_hidden_sizes("algorithm.policy_hidden_sizes", self.policy_hidden_sizes)
        _require_hidden_sizes("algorithm.critic_hidden_sizes", self.critic_hidden_sizes)
        _require_positive("algorithm", self, "n_step", "temperature", "actor_lr", "critic_lr")
        _require_not_negative(
            "algorithm", self, "max_grad_norm", "regulariser_weight", "policy_delay", "target_noise"
        )
        for name, value in (("gamma", self.gamma), ("random_action_rows", self.random_action_rows)):
            _require(0 <= value <= 1, f"algorithm.{name}", value, "must lie in [0, 1]")
        for name, value in (("tau", self.tau), ("lr_end", self.lr_end)):
            _require(0 < value <= 1, f"algorithm.{name}", value, "must lie in (0, 1]")

    def per_agent(self, spec: EnvSpec) -> tuple[Algorithm, ...]:
        """Return each agent's algorithm."""
        for team in self.team_overrides:
            _require(
                team in spec.teams, "algorithm.team_overrides", team, did_you_mean(team, set(spec.teams))
            )
        return tuple(self.team_overrides.get(team, self.name) for team in spec.teams)

    def updates_per_policy_update(self, spec: EnvSpec) -> int:
        """Return how many updates of the critics there are for each of policies and targets."""
        return self.policy_delay or (2 if "matd3" in self.per_agent(spec) else 1)

    def heads(self, spec: EnvSpec) -> tuple[Head, ...]:
        """Return each agent's policy head."""
        head, discrete = self.policy_head, "discrete" in spec.action_types
        _require(
            not (discrete and head == "sigmoid"),
            "algorithm.policy_head",
            head,
            "is for continuous actions only; use auto or gumbel",
        )
        if head == "auto":
            return tuple("gumbel" if kind == "discrete" else "sigmoid" for kind in spec.action_types)
        return (head,) * spec.num_agents


@dataclass(frozen=True)
class ExplorationConfig(_Section):
    """Noise of the acting policies; its magnitude moves linearly from `start` to `end`."""

    kind: Literal["auto", "none", "epsilon", "gaussian", "ou", "gumbel"] = "auto"
    """epsilon: uniform actions of all agents, with that probability. gaussian, ou (Ornstein-Uhlenbeck): added
    to sigmoid actions. gumbel: added to the logits of gumbel heads. auto: gumbel, or 0.3 of gaussian."""
    start: float = 1.0
    """Magnitude at the first step: a probability, a standard deviation, or a factor of the Gumbel noise."""
    end: float = 1.0
    """Magnitude from `decay_env_steps` on."""
    decay_env_steps: int = 0
    """Environment steps over which the magnitude moves from start to end."""
    episode_offset: float = 0.0
    """Standard deviation of an offset of the logits that stays for an episode; beside any kind of noise."""
    ou_theta: float = 0.15
    """Pull of the Ornstein-Uhlenbeck noise towards zero, per step."""

    def check_heads(self, heads: tuple[Head, ...]) -> None:
        """Refuse a noise that none of the policies could take."""
        needs = {"gaussian": "sigmoid", "ou": "sigmoid", "gumbel": "gumbel"}.get(self.kind)
        _require(
            needs is None or needs in heads,
            "exploration.kind",
            self.kind,
            f"needs a {needs} policy head, here it is {heads[0]}; use auto or change algorithm.policy_head",
        )

    def __post_init__(self) -> None:
        """Check the section."""
        _require_not_negative("exploration", self, "start", "end", "decay_env_steps", "episode_offset")
        _require(0 < self.ou_theta <= 1, "exploration.ou_theta", self.ou_theta, "must lie in (0, 1]")
        if self.kind == "epsilon":
            for name, value in (("start", self.start), ("end", self.end)):
                _require(value <= 1, f"exploration.{name}", value, "is a probability for epsilon: at most 1")


@dataclass(frozen=True)
class ReplayConfig(_Section):
    """The central replay buffer."""

    capacity: int = 1_000_000
    """Transitions kept; the oldest are overwritten."""

    def __post_init__(self) -> None:
        """Check the section."""
        _require_positive("replay", self, "capacity")


@dataclass(frozen=True)
class LearnerConfig(_Section):
    """Where and on how much data one update runs."""

    batch_size: int = 1024
    """Transitions per update."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: where there is a GPU, the faster of cuda and cpu, tried for half a second each."""
    num_threads: int = 1
    """Threads of the learner on the CPU; two gain a fifth on idle cores, and lose where workers need them."""

    def __post_init__(self) -> None:
        """Check the section."""
        _require_positive("learner", self, "batch_size", "num_threads")
        remedy = f"must be at most {_MOST_THREADS}"
        _require(self.num_threads <= _MOST_THREADS, "learner.num_threads", self.num_threads, remedy)


@dataclass(frozen=True)
class PacingConfig(_Section):
    """When each stage may move, counted in environment steps and updates."""

    total_env_steps: int = 1_000_000
    """The run ends after this many environment steps and the updates they are worth."""
    learning_starts: int = 10_000
    """Environment steps before the first update."""
    env_steps_per_update: float = 100.0
    """Environment steps collected per update of all agents."""
    tolerance_updates: int = 32
    """How many updates' worth of steps the workers may run ahead of the learner (asynchronous mode)."""
    publish_interval_updates: int = 4
    """Updates between two versions of the weights; asynchronously at most one per tolerance_updates / 4."""
    report_interval_env_steps: int = 50_000
    """Environment steps between two reports; one iteration of `train()`."""
    evaluation_interval_env_steps: int = 100_000
    """Environment steps between two evaluations; 0 for none but the last."""
    checkpoint_interval_env_steps: int = 500_000
    """Environment steps between two checkpoints, made with the next report; 0 for none but the last."""

    def __post_init__(self) -> None:
        """Check the section."""
        _require_positive(
            "pacing",
            self,
            "total_env_steps",
            "env_steps_per_update",
            "tolerance_updates",
            "publish_interval_updates",
            "report_interval_env_steps",
            "learning_starts",
        )
        _require_not_negative(
            "pacing",
            self,
            "evaluation_interval_env_steps",
            "checkpoint_interval_env_steps",
        )

    @property
    def total_updates(self) -> int:
        """Updates that the whole run is worth."""
        return max(0, int((self.total_env_steps - self.learning_starts) / self.env_steps_per_update))


@dataclass(frozen=True)
class EvaluationConfig(_Section):
    """Greedy episodes on fresh start states, off the training path."""

    episodes: int = 200
    """Episodes of each evaluation during training."""
    final_episodes: int = 1000
    """Episodes of the evaluation that ends a run."""

    def __post_init__(self) -> None:
        """Check the section."""
        _require_positive("evaluation", self, "episodes", "final_episodes")


@dataclass(frozen=True)
class RayConfig(_Section):
    """How the Ray processes are reached and awaited."""

    address: str = ""
    """Address of a running cluster; empty: the cluster of the surrounding Ray job, else a local one."""
    timeout_s: float = 120.0
    """Longest wait for a process to start or answer; one that has worked is given up after an eighth."""
    min_workers: int = 1
    """Rollout workers that a run needs to go on; others join when there is room (asynchronous mode)."""
    snapshot_interval_s: float = 10.0
    """Seconds between two copies of the learner's state, which a failure of its process goes back to."""

    def __post_init__(self) -> None:
        """Check the section."""
        _require_positive("ray", self, "timeout_s", "min_workers", "snapshot_interval_s")


@dataclass(frozen=True)
class MADDPGConfig(_Section):
    """Everything that defines a run."""

    seed: int = 0
    """The one seed from which every random stream descends."""
    num_workers: int = 1
    """Rollout-worker processes; 0 runs everything in this process, without Ray, reproducibly."""
    sync: bool = False
    """With workers: collect and learn in lock-step, reproducibly, instead of asynchronously."""
    env: EnvConfig = field(default_factory=EnvConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    pacing: PacingConfig = field(default_factory=PacingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    ray: RayConfig = field(default_factory=RayConfig)

    def __post_init__(self) -> None:
        """Check what no section can see alone."""
        _require(self.seed >= 0, "seed", self.seed, "must be zero or a positive integer")
        remedy = f"must be 0 (no Ray) to {_MOST_WORKERS}"
        _require(0 <= self.num_workers <= _MOST_WORKERS, "num_workers", self.num_workers, remedy)
        _require(
            self.num_workers == 0 or self.ray.min_workers <= self.num_workers,
            "ray.min_workers",
            self.ray.min_workers,
            f"must be at most num_workers = {self.num_workers}",
        )
        batch, capacity = self.learner.batch_size, self.replay.capacity
        _require(
            batch <= capacity,
            "learner.batch_size",
            batch,
            f"is more than replay.capacity ({capacity}); lower the one or raise the other",
        )
        _require(
            self.algorithm.n_step <= self.rollout.fragment_steps,
            "algorithm.n_step",
            self.algorithm.n_step,
            f"is more than rollout.fragment_steps ({self.rollout.fragment_steps}), where sums end",
        )
        starts, fragment = self.pacing.learning_starts, self.rollout.fragment_env_steps
        _require(
            starts <= capacity,
            "pacing.learning_starts",
            starts,
            f"is more than replay.capacity ({capacity}); lower the one or raise the other",
        )
        _require(
            fragment <= capacity,
            "rollout.num_envs",
            self.rollout.num_envs,
            f"times rollout.fragment_steps is more than replay.capacity ({capacity}); lower one of the two",
        )

    @staticmethod
    def preset(name: str) -> MADDPGConfig:
        """Return a named configuration.

        Raises:
            BadInput: if there is no such preset; names the nearest.
        """
        if name not in PRESETS:
            raise BadInput("preset", name, did_you_mean(name, PRESETS))
        return MADDPGConfig.from_dict(PRESETS[name])

    @staticmethod
    def from_dict(values: Mapping[str, Any], base: MADDPGConfig | None = None) -> MADDPGConfig:
        """Return nested `values` laid over `base`, or by themselves: what they do not name has its default.

        Over a base, tables without fixed keys are merged key by key; only the arguments of an environment
        other than the base's start empty.

        Raises:
            BadInput: for an unknown key, a wrong type or a value out of range; names the field.
        """
        merged = dict(values) if base is None else _merge(_settings_under(base, values), values)
        from pydantic import ValidationError  # noqa: PLC0415 (as in _parser)

        try:
            text = json.dumps(merged, default=str)
        except (ValueError, RecursionError) as error:  # such as an integer of more than 4300 digits
            raise BadInput("config", merged, f"cannot be read ({error})") from None
        try:
            # Through JSON, where "strict" still takes a list for a tuple but no "3" for a 3.
            config: MADDPGConfig = _parser().validate_json(text, strict=True)
        except ValidationError as error:
            raise _as_bad_input(error.errors(include_url=False)[0]) from None
        return config

    @staticmethod
    def from_toml(path: str | Path, base: MADDPGConfig | None = None) -> MADDPGConfig:
        """Read a configuration file; its optional `preset = "..."` is the base where none is given.

        Raises:
            BadInput: if the file cannot be read or does not hold a valid configuration.
        """
        values = _read_toml(Path(path))
        preset = values.pop("preset", None)
        if preset is not None:
            if not isinstance(preset, str):
                raise BadInput("preset", preset, "must be a name in quotes")
            base = MADDPGConfig.preset(preset)
        return MADDPGConfig.from_dict(values, base or MADDPGConfig())

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as nested dicts of plain values."""
        return dataclasses.asdict(self)

    def to_toml(self) -> str:
        """Return the settings as a TOML document that `from_toml` reads back to an equal configuration."""
        import tomli_w  # noqa: PLC0415 (as in _parser)

        return tomli_w.dumps(self.to_dict())


@functools.cache
def _parser() -> Any:
    """Return what reads settings from JSON; made once, which takes longer than to use it."""
    # Imported here: rollout workers read settings but never parse them.
    from pydantic import TypeAdapter  # noqa: PLC0415

    return TypeAdapter(MADDPGConfig)


def _settings_under(base: MADDPGConfig, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of `base`, without its environment's arguments where `values` name another one."""
    settings = base.to_dict()
    env = values.get("env")
    if isinstance(env, Mapping) and EnvConfig(env.get("id", base.env.id)).id != base.env.id:
        settings["env"]["kwargs"] = {}
        settings["algorithm"]["policy_head"] = "auto"  # the base's was chosen for its environment's actions
    return settings


def _merge(base: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Lay nested `values` over `base`; the free tables (`env.kwargs`) are merged too."""
    merged = dict(base)
    for key, value in values.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return merged


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        text = read_small(path, _MOST_TOML_BYTES).decode("utf-8")
        if any(line.count(".") > _MOST_DOTS_IN_LINE for line in text.splitlines()):
            raise ValueError(f"a line with more than {_MOST_DOTS_IN_LINE} dots")
        values: dict[str, Any] = tomllib.loads(text)
        return values
    except OSError as error:
        raise BadInput("config", str(path), f"cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:  # also TOMLDecodeError and UnicodeDecodeError
        raise BadInput("config", str(path), f"is not valid TOML ({error})") from None


def _as_bad_input(error: Any) -> BadInput:
    """Turn pydantic's first complaint into our one line."""
    path = [str(part) for part in error["loc"]]
    name = ".".join(path) or "config"
    if error["type"] == "value_error":
        cause = error["ctx"]["error"]
        return cause if isinstance(cause, BadInput) else BadInput(name, error["input"], str(cause))
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return BadInput(name, error["input"], f"no such setting; {did_you_mean(path[-1], _known(path[:-1]))}")
    return BadInput(name, error["input"], error["msg"].lower())


def _known(path: list[str]) -> list[str]:
    """Return the settings of the section at `path`."""
    section: Any = MADDPGConfig
    for part in path:
        section = get_type_hints(section)[part]
    return [item.name for item in dataclasses.fields(section)]
