"""All settings of a run in one object, read from presets, TOML files and checkpoints."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distributed_maddpg.config.parsing import as_bad_input, merge, read_toml, with_counts
from distributed_maddpg.config.presets import PRESETS
from distributed_maddpg.config.sections import (
    MAX_WORKERS,
    AlgorithmConfig,
    EnvConfig,
    EvaluationConfig,
    ExplorationConfig,
    LearnerConfig,
    PacingConfig,
    RayConfig,
    ReplayConfig,
    RolloutConfig,
    Section,
    plain_argument,
    require,
)
from distributed_maddpg.errors import BadInput, did_you_mean


@dataclass(frozen=True)
class MADDPGConfig(Section):
    """All settings of a run."""

    seed: int = 0
    """Seed of all random streams."""
    num_workers: int = 1
    """Number of rollout workers; 0 runs everything in one process, without Ray, reproducibly."""
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
        """Check the settings of several sections against each other."""
        require(self.seed >= 0, "seed", self.seed, "must be zero or a positive integer")
        remedy = f"must be 0 (no Ray) to {MAX_WORKERS}"
        require(0 <= self.num_workers <= MAX_WORKERS, "num_workers", self.num_workers, remedy)
        minimum, maximum = self.ray.min_workers, self.num_workers or self.ray.min_workers
        require(minimum <= maximum, "ray.min_workers", minimum, f"must be at most num_workers = {maximum}")
        if self.algorithm.networks:
            for name, own, others in (
                ("device", self.learner.device, "cuda"),
                ("precision", self.learner.precision, "bf16"),
            ):
                remedy = "cannot be used with algorithm.networks; leave it out"
                require(own != others, f"learner.{name}", own, remedy)
        n_step, fragment = self.algorithm.n_step, self.rollout.fragment_steps
        remedy = f"is more than rollout.fragment_steps ({fragment}); lower the one or raise the other"
        require(n_step <= fragment, "algorithm.n_step", n_step, remedy)
        capacity = self.replay.capacity
        remedy = f"is more than replay.capacity ({capacity}); lower the one or raise the other"
        for name, value in (
            ("learner.batch_size", self.learner.batch_size),
            ("pacing.learning_starts", self.pacing.learning_starts),
        ):
            require(value <= capacity, name, value, remedy)
        require(
            self.rollout.fragment_env_steps <= capacity,
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
        """Return `base` updated with nested `values`; without a base, missing settings get their defaults.

        Tables with free keys are merged key by key; an argument of the environment is replaced as a whole. If
        `values` name another environment than the base's, the base's `env.kwargs`, `env.measures` and
        `algorithm.policy_head` are reset to their defaults first, and so are `information_weight` and
        `private_values` unless `algorithm.private` is set.

        Raises:
            BadInput: for an unknown key, a wrong type or a value out of range; names the field.
        """
        merged = with_counts(MADDPGConfig, _laid_over(base, values))
        from pydantic import ValidationError  # noqa: PLC0415 (as in settings_parser)

        try:
            text = json.dumps(merged, default=str)
        except (ValueError, RecursionError) as error:  # such as an integer with more than 4300 digits
            raise BadInput("config", merged, f"cannot be read ({error})") from None
        try:
            # Through JSON, where "strict" accepts a list for a tuple, but not "3" for 3.
            config: MADDPGConfig = settings_parser().validate_json(text, strict=True)
        except ValidationError as error:
            raise as_bad_input(error.errors(include_url=False), MADDPGConfig) from None
        return config

    @staticmethod
    def from_toml(path: str | Path, base: MADDPGConfig | None = None) -> MADDPGConfig:
        """Read a TOML file; its `preset = "..."`, if there is one, is used instead of `base`.

        Raises:
            BadInput: if the file cannot be read or a setting is invalid.
        """
        values = read_toml(Path(path))
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
        """Return the settings as TOML; `from_toml` reads it back to equal settings."""
        import tomli_w  # noqa: PLC0415 (as in settings_parser)

        return tomli_w.dumps(self.to_dict())


@functools.cache
def settings_parser() -> Any:
    """Return the pydantic adapter of the settings; cached, as building it is slow."""
    # Imported here: rollout workers use settings but never parse them.
    from pydantic import TypeAdapter  # noqa: PLC0415

    return TypeAdapter(MADDPGConfig)


def _laid_over(base: MADDPGConfig | None, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of `base`, if there is one, updated with nested `values`."""
    settings = {} if base is None else _base_settings(base, values)
    merged = merge(settings, values)
    env = values.get("env")
    given = env.get("kwargs") if isinstance(env, Mapping) else None
    if isinstance(given, Mapping):  # an argument that is a table is one value, not settings to merge
        old = settings["env"]["kwargs"] if settings else {}
        merged["env"] = {**merged["env"], "kwargs": {**old, **plain_argument("env.kwargs", given)}}
    return merged


def _base_settings(base: MADDPGConfig, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of `base`, without what is for its environment if `values` name another one."""
    settings = base.to_dict()
    env, algorithm = values.get("env"), values.get("algorithm")
    if isinstance(env, Mapping) and EnvConfig(env.get("id", base.env.id)).id != base.env.id:
        settings["env"]["kwargs"] = {}
        settings["env"]["measures"] = ()
        # The base's head was chosen for the actions of its environment.
        settings["algorithm"]["policy_head"] = "auto"
        # Whether it pays to hide what is private depends on the game.
        if not base.algorithm.private and not (isinstance(algorithm, Mapping) and algorithm.get("private")):
            settings["algorithm"] |= {"information_weight": 0.0, "private_values": "observed"}
    return settings
