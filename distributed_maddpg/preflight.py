"""Checks settings and checkpoints against the environment and this machine, before any process starts."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import shlex
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from distributed_maddpg import layouts
from distributed_maddpg.acting.joint_policy import JointPolicy
from distributed_maddpg.checkpoint.folder import Checkpoint
from distributed_maddpg.config import AlgorithmConfig, MADDPGConfig
from distributed_maddpg.config.sections import require
from distributed_maddpg.envs import (
    EnvFactory,
    action_codecs,
    env_spec,
    is_builtin,
    is_compiled,
    is_factory_id,
    make_vector_env,
)
from distributed_maddpg.envs.base import VectorEnv
from distributed_maddpg.envs.finite import bad_observation
from distributed_maddpg.errors import BadInput, CheckpointError, reason
from distributed_maddpg.evaluation.scripted import random_policy
from distributed_maddpg.layer_checks import check_layers, check_layers_learn
from distributed_maddpg.normalisation import unknown
from distributed_maddpg.types import METRICS, EnvSpec

if TYPE_CHECKING:
    from distributed_maddpg.envs.spaces import ActionCodec

_LOG = logging.getLogger(__name__)
T = TypeVar("T")

MOST_WORKERS = 100
"""Rollout workers that one replay buffer's process is measured to carry: docs/scaling.md."""
_TRIAL_STEPS = 5
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def check(config: MADDPGConfig, env_factory: EnvFactory | None = None) -> EnvSpec:
    """Return the environment's spec if the settings fit it and this machine can train with them.

    Args:
        config: the settings.
        env_factory: makes the environment if it was given as a callable.

    Raises:
        BadInput: naming the first setting that cannot be used, its value and the remedy.
    """
    spec = check_settings(config, env_factory)
    check_environment_runs(config, env_factory)
    check_machine(config, spec)
    return spec


def check_settings(config: MADDPGConfig, env_factory: EnvFactory | None = None) -> EnvSpec:
    """Return the environment's spec if the settings fit it; enough for acting without training.

    Raises:
        BadInput: see `check`.
    """
    spec = _try_environment(
        config,
        env_factory,
        lambda env_id, _: env_spec(env_id, config.env.backend, config.env.kwargs, config.env.measures),
    )
    config.algorithm.per_agent(spec)
    config.algorithm.common_candidates(spec)
    if config.algorithm.networks:
        check_layers(config.algorithm, spec)
    config.exploration.check_heads(config.algorithm.heads(spec))
    if config.env.normalise:
        _check_normalises(config.algorithm, spec)
    return spec


def checked_action_codecs(
    config: MADDPGConfig, env_factory: EnvFactory | None = None
) -> tuple[ActionCodec, ...]:
    """Return what converts each agent's actions to those of its space.

    Raises:
        BadInput: if the environment raises anything, or hangs.
    """
    env = config.env
    return _try_environment(
        config, env_factory, lambda env_id, _: action_codecs(env_id, env.backend, env.kwargs)
    )


def _check_normalises(algorithm: AlgorithmConfig, spec: EnvSpec) -> None:
    """Refuse what puts one part of an observation in the place of another: each has a scale of its own."""
    refused = {
        "information_weight": ("0", algorithm.measures_information(spec)),
        "private_values": ("observed", any(algorithm.common_candidates(spec))),
    }
    for name, (instead, is_used) in refused.items():
        remedy = f"cannot be used with env.normalise; use {instead}, or leave env.normalise out"
        require(not is_used, f"algorithm.{name}", getattr(algorithm, name), remedy)


def check_environment_runs(config: MADDPGConfig, env_factory: EnvFactory | None = None) -> None:
    """Step copies of the environment with random actions, as rollout workers will.

    An environment whose numbers are sometimes not finite passes: workers drop those fragments.

    Raises:
        BadInput: if the environment raises, hangs, or no step gives finite observations and rewards.
    """
    problems = _try_environment(
        config, env_factory, lambda env_id, calls: _trial_step_problems(config, env_id, calls)
    )
    if all(problems):
        remedy = f"{problems[0]}; check what the environment computes"
        raise BadInput("env.id", config.env.id, remedy)


def _try_environment(
    config: MADDPGConfig,
    env_factory: EnvFactory | None,
    trial: Callable[[str | EnvFactory, list[str]], T],
) -> T:
    """Return the result of `trial`, a function of the environment and of a list of what happens to it next.

    An environment that is not built in runs in a thread, which is left behind after `ray.timeout_s`.

    Raises:
        BadInput: if the environment raises anything, or takes longer.
    """
    env_id: str | EnvFactory = config.env.id if env_factory is None else env_factory
    calls = ["created, reset for the first time or closed"]
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(trial(env_id, calls))
        except BaseException as error:  # noqa: BLE001 - the environment may raise anything
            outcome.set_exception(error)

    if env_factory is None and is_builtin(config.env.id):
        run()
    else:  # a daemon does not block the exit if the environment hangs
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(min(config.ray.timeout_s, threading.TIMEOUT_MAX))
    if not outcome.done():
        remedy = f"took more than {config.ray.timeout_s:g} s (ray.timeout_s) when it was {calls[-1]}"
        raise BadInput("env.id", config.env.id, remedy)
    error = outcome.exception()
    if error is None or isinstance(error, BadInput | KeyboardInterrupt):
        return outcome.result()
    raise BadInput("env.id", config.env.id, f"fails when it is {calls[-1]} ({reason(error)})") from error


def _trial_step_problems(config: MADDPGConfig, env_id: str | EnvFactory, calls: list[str]) -> list[str]:
    """Return for each trial step what is not finite, or an empty string."""
    copies = min(2, config.rollout.num_envs)  # a second one shows a callable that always returns the same
    env = make_vector_env(
        env_id,
        copies,
        config.seed,
        backend=config.env.backend,
        measures=config.env.measures,
        **config.env.kwargs,
    )
    try:
        if is_compiled(env):
            return [""]  # part of the package; compiling it here would delay a first start by seconds
        act = random_policy(env.spec, np.random.default_rng(config.seed), env.roster)
        calls.append("reset")
        obs = env.reset()
        calls.append("stepped")
        problems = []
        for _ in range(_TRIAL_STEPS):
            problem = bad_observation(obs, env.agents)
            result = env.step(act(obs))
            obs = result.obs
            problem = problem or bad_observation(result.final_obs, env.agents)
            bad = result.rewards[~np.isfinite(result.rewards).all(axis=1)]
            problems.append(problem or (f"rewards are {bad[0].tolist()}" if len(bad) else ""))
        _name_numbers_in_infos(env)
        calls.append("closed")
        return problems
    finally:
        env.close()


def _name_numbers_in_infos(env: VectorEnv) -> None:
    """Log which numbers in the infos of an environment could be measures, if it has none."""
    found: list[str] = getattr(env, "numbers_in_infos", list)()  # a compiled environment has no infos
    if found and not env.spec.measures:
        _LOG.warning(
            "infos hold numbers that are not recorded; --env.measures %s would do so",
            " ".join(map(shlex.quote, found)),
        )


def check_machine(config: MADDPGConfig, spec: EnvSpec, num_runs: int = 1) -> None:
    """Check that this machine can train `num_runs` runs with the settings.

    A line in the log says if there are more rollout workers than the design carries.

    Raises:
        BadInput: see `check`.
    """
    _check_memory(config, spec, num_runs)
    _warn_of_many_workers(config)
    if config.algorithm.networks:
        check_layers_learn(config.algorithm, spec)
    remote = config.num_workers > 0 and config.ray.cluster_address()
    if config.learner.device == "cuda" and not remote:
        # Imported here: only this check needs torch, which takes seconds to load.
        from distributed_maddpg.learner import choose_device  # noqa: PLC0415

        choose_device("cuda")


def _warn_of_many_workers(config: MADDPGConfig) -> None:
    """Name what saturates first, if there are more rollout workers than it carries."""
    pacing, fragment = config.pacing, config.rollout.fragment_env_steps
    in_flight = max(1, int(pacing.tolerance_updates * pacing.env_steps_per_update) // fragment)
    if config.sync or config.num_workers <= min(MOST_WORKERS, in_flight):
        return
    if MOST_WORKERS <= in_flight:
        _LOG.warning(
            "num_workers = %d: about %d saturate the replay buffer's process, which takes their transitions "
            "and hands out weights; more of them wait for it, see docs/scaling.md",
            config.num_workers,
            MOST_WORKERS,
        )
        return
    _LOG.warning(
        "num_workers = %d: pacing lets %d fragments be collected at once while learning, so that the other "
        "workers wait; raise pacing.tolerance_updates to %d or more, see docs/scaling.md",
        config.num_workers,
        in_flight,
        math.ceil(min(config.num_workers, MOST_WORKERS) * fragment / pacing.env_steps_per_update),
    )


def _check_memory(config: MADDPGConfig, spec: EnvSpec, num_runs: int) -> None:
    available = memory_bytes()
    networks = network_bytes(config, spec) * num_runs
    if networks > available:
        algorithm = config.algorithm
        raise BadInput(
            "algorithm.critic_hidden_sizes",
            algorithm.critic_hidden_sizes,
            f"with algorithm.policy_hidden_sizes {algorithm.policy_hidden_sizes} needs "
            f"{networks / 2**30:.1f} GiB, this machine has {available / 2**30:.1f} GiB; lower them",
        )
    available -= networks
    values = candidate_values_bytes(config, spec) * num_runs
    if values > available:
        raise BadInput(
            "learner.batch_size",
            config.learner.batch_size,
            f"with algorithm.private_values = 'mean' needs {values / 2**30:.1f} GiB, this machine has "
            f"{available / 2**30:.1f} GiB beside the networks; lower it or use observed",
        )
    available -= values
    row = spec.transitions.width * 4 * num_runs  # bytes of a transition of each run
    size_bytes = config.replay.capacity * row
    if size_bytes > available:
        raise BadInput(
            "replay.capacity",
            config.replay.capacity,
            f"needs {size_bytes / 2**30:.1f} GiB ({row} bytes per transition of all runs), this machine has "
            f"{available / 2**30:.1f} GiB beside the networks; at most "
            f"{int(available * 0.8) // row} is reasonable",
        )


def network_bytes(config: MADDPGConfig, spec: EnvSpec) -> int:
    """Return the bytes of a run's networks: weights, targets, gradients and both moments of Adam."""
    algorithm = config.algorithm
    policies, critics = layouts.policies(algorithm, spec), layouts.critics(algorithm, spec)
    kinds = 2 if "matd3" in algorithm.per_agent(spec) else 1
    of_critics = kinds * critics.num_networks * critics.num_parameters
    return (spec.num_agents * policies.num_parameters + of_critics) * 5 * 4


def candidate_values_bytes(config: MADDPGConfig, spec: EnvSpec) -> int:
    """Return the bytes of the critics' hidden layers and their gradients, if values are means of several."""
    algorithm = config.algorithm
    count = max(len(part.choices) if part else 0 for part in algorithm.common_candidates(spec))
    rows = spec.num_agents * count * config.learner.batch_size
    return rows * sum(algorithm.critic_hidden_sizes) * 2 * 4


def memory_bytes() -> int:
    """Return the memory of this machine, or the limit of its container if that is lower."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in _CGROUP_LIMITS:
        try:
            limits.append(int(Path(path).read_text()))
        except (OSError, ValueError):
            continue  # no such control group, or "max"
    return min(limits)


def checkpoint_settings(checkpoint: Checkpoint) -> MADDPGConfig:
    """Return a checkpoint's settings without the cluster's address, which a file must not decide.

    A run that hid nothing, because its scenario did not say yet what is private, goes on so.
    """
    config = checkpoint.config
    algorithm, ray = config.algorithm, dataclasses.replace(config.ray, address="")
    if algorithm.information_weight and _measured_information(checkpoint) is False:
        algorithm = dataclasses.replace(algorithm, information_weight=0.0, private_values="observed")
    return dataclasses.replace(config, algorithm=algorithm, ray=ray)


def check_environment_allowed(checkpoint: Checkpoint, env_id: str, networks: str = "") -> None:
    """Refuse to import what a checkpoint names, unless it is confirmed.

    Args:
        checkpoint: that names an environment and perhaps networks.
        env_id: confirms its environment, if that is not built in.
        networks: confirms its `algorithm.networks`, if it has some.

    Raises:
        CheckpointError: saying how to allow it.
    """
    own = checkpoint.config.env.id
    check_networks_allowed(checkpoint, networks)
    if is_factory_id(own):
        raise CheckpointError(
            f"its environment {own!r} was given in Python as a callable, which no file holds; "
            "open it with MADDPG.from_checkpoint(path, env=...)"
        )
    if not is_builtin(own) and own != env_id:
        raise CheckpointError(
            f"its environment {own!r} would be imported and run, which a file alone must not decide; "
            f"if you trust it, name it: --env.id {own} (in Python env_id={own!r})"
        )


def check_networks_allowed(checkpoint: Checkpoint, networks: str) -> None:
    """Refuse to import the networks that a checkpoint names, unless they are `networks`.

    Raises:
        CheckpointError: saying how to allow it.
    """
    own = checkpoint.config.algorithm.networks
    if own and own != networks:
        raise CheckpointError(
            f"its networks {own!r} would be imported and run, which a file alone must not decide; "
            f"if you trust it, name them: --{layouts.SETTING} {own} (in Python networks={own!r})"
        )


def check_finite(checkpoint: Checkpoint) -> None:
    """Refuse weights that are missing or not finite.

    Raises:
        CheckpointError: naming them.
    """
    policy_alone = bool(checkpoint.resume_problem)
    parts = ("policy",) if policy_alone else ("policy", "critic", "target_policy", "target_critic")
    for part in (*parts, "normaliser") if checkpoint.config.env.normalise else parts:
        array = checkpoint.state.get(f"learner/{part}")
        if array is None or array.dtype != np.float32 or not np.isfinite(array).all():
            raise CheckpointError(
                f"{checkpoint.path}: the {part} weights are missing, or not all finite numbers"
            )


def check_acts(config: MADDPGConfig, spec: EnvSpec, checkpoint: Checkpoint) -> None:
    """Refuse policies so large that their actions are not finite; for weights that fit the settings.

    Raises:
        CheckpointError: if an observation of ones gives such actions.
    """
    policies = JointPolicy(config.algorithm, spec, 1)
    policies.set_parameters(checkpoint.policies)
    if not policies.have_finite_logits(tuple(np.ones((1, n), np.float32) for n in spec.observation_sizes)):
        raise CheckpointError(f"{checkpoint.path}: its policies give actions that are not finite")


def incompatibility(
    config: MADDPGConfig, spec: EnvSpec, checkpoint: Checkpoint
) -> tuple[str, object, str] | None:
    """Return why a checkpoint's weights do not fit these settings (field, value, remedy), or None."""
    if spec.agents != checkpoint.agents:
        return "env.kwargs", config.env.kwargs, f"gives agents {spec.agents}, not {checkpoint.agents}"
    trained = checkpoint.config.algorithm.heads(spec)
    if config.algorithm.heads(spec) != trained:
        return "algorithm.policy_head", config.algorithm.policy_head, f"it was trained with {trained[0]}"
    if problem := _networks_incompatibility(config.algorithm, checkpoint.config.algorithm, spec):
        return problem
    groups, trained_groups = (own.algorithm.critic_groups(spec) for own in (config, checkpoint.config))
    if groups != trained_groups:
        return _groups_incompatibility(config.algorithm, checkpoint.config.algorithm, spec)
    return (
        _weights_incompatibility(config.algorithm, checkpoint, spec)
        or _normaliser_incompatibility(config, checkpoint, spec)
        or _learning_incompatibility(config, checkpoint, spec)
    )


def _networks_incompatibility(
    own: AlgorithmConfig, old: AlgorithmConfig, spec: EnvSpec
) -> tuple[str, object, str] | None:
    """Return why networks of a user's layers are not those of a checkpoint, or None."""
    if own.networks != old.networks:
        return layouts.SETTING, own.networks, f"it was trained with {old.networks or 'perceptrons'}"
    decentralised, before = ([name == "ddpg" for name in each.per_agent(spec)] for each in (own, old))
    if own.networks and decentralised != before:
        remedy = f"with {layouts.SETTING}, agents of ddpg must stay ddpg, and others not become it"
        return (*_changed_algorithm(own, old), remedy)
    return None


def _weights_incompatibility(
    algorithm: AlgorithmConfig, checkpoint: Checkpoint, spec: EnvSpec
) -> tuple[str, object, str] | None:
    """Return which weights of a checkpoint have another shape, or None."""
    own = {"policy": layouts.policies(algorithm, spec), "critic": layouts.critics(algorithm, spec)}
    for kind, layout in own.items():
        field, value = _setting_of_layout(algorithm, kind)
        shape = (layout.num_networks, layout.num_parameters)
        for part in (kind, f"target_{kind}"):
            if checkpoint.resume_problem and part != "policy":
                continue  # an earlier format version, of which the policies alone are read
            array = checkpoint.state.get(f"learner/{part}")
            if array is None or array.shape != shape or array.dtype != np.float32:
                return field, value, f"needs float32 {part} weights of shape {shape}"
    return None


def _setting_of_layout(algorithm: AlgorithmConfig, kind: str) -> tuple[str, object]:
    """Return the setting that decides the layout of policies or critics, and its value."""
    if algorithm.networks:
        return layouts.SETTING, algorithm.networks
    name = f"{kind}_hidden_sizes"
    return f"algorithm.{name}", getattr(algorithm, name)


def _normaliser_incompatibility(
    config: MADDPGConfig, checkpoint: Checkpoint, spec: EnvSpec
) -> tuple[str, object, str] | None:
    """Return why observations would not be normalised as in the checkpoint, or None."""
    own, old = config.env.normalise, checkpoint.config.env.normalise
    if own != old:
        return "env.normalise", own, f"it was trained with {old}; start a new run"
    shape = unknown(spec).shape
    if own and checkpoint.state["learner/normaliser"].shape != shape:
        return "env.normalise", own, f"needs a normaliser of shape {shape}"
    return None


def _groups_incompatibility(
    own: AlgorithmConfig, old: AlgorithmConfig, spec: EnvSpec
) -> tuple[str, object, str]:
    """Return why other agents share critics than in the checkpoint."""
    if own.share_critics != old.share_critics:
        return "algorithm.share_critics", own.share_critics, f"it was trained with {old.share_critics}"
    remedy = (
        "with share_critics, agents of ddpg must stay ddpg, and others not become it; it was trained with"
    )
    return (*_changed_algorithm(own, old), f"{remedy} {', '.join(old.per_agent(spec))}")


def _changed_algorithm(own: AlgorithmConfig, old: AlgorithmConfig) -> tuple[str, object]:
    """Return the setting that gives agents another algorithm, and its value."""
    if own.team_overrides == old.team_overrides:
        return "algorithm.name", own.name
    return "algorithm.team_overrides", own.team_overrides


def _learning_incompatibility(
    config: MADDPGConfig, checkpoint: Checkpoint, spec: EnvSpec
) -> tuple[str, object, str] | None:
    """Return why training cannot continue from a checkpoint with these settings, or None."""
    own, old = config.algorithm, checkpoint.config.algorithm
    if own.per_agent(spec) != old.per_agent(spec) and "matd3" in own.per_agent(spec):
        by_name = own.name == "matd3" != old.name
        name, value = ("name", own.name) if by_name else ("team_overrides", own.team_overrides)
        remedy = "with matd3, which has second critics, each agent must keep its algorithm of the checkpoint"
        return f"algorithm.{name}", value, f"{remedy}: {', '.join(old.per_agent(spec))}"
    if own.updates_per_policy_update(spec) > 1 and old.updates_per_policy_update(spec) == 1:
        remedy = "the checkpoint was trained with a policy update in every update; start a new run"
        return "algorithm.policy_delay", own.policy_delay, remedy
    measured = _measured_information(checkpoint)
    if measured is not None and own.measures_information(spec) != measured:
        return _information_incompatibility(config, checkpoint.config, measured)
    if own.gamma != old.gamma:
        return "algorithm.gamma", own.gamma, f"its transitions are stored with {old.gamma}; start a new run"
    return None


def _measured_information(checkpoint: Checkpoint) -> bool | None:
    """Return whether a checkpoint's metrics contain the information term; None if they do not say."""
    metrics = checkpoint.state.get("learner/metrics")
    shape = () if metrics is None else metrics.shape
    return {(len(METRICS),): False, (len(METRICS) + 1,): True}.get(shape[:1])


def _information_incompatibility(
    config: MADDPGConfig, old_config: MADDPGConfig, measured: bool
) -> tuple[str, object, str]:
    own, old = config.algorithm, old_config.algorithm
    trained = f"the checkpoint was trained {'with' if measured else 'without'} information regularisation"
    if bool(own.information_weight) != bool(old.information_weight):
        remedy = f"{trained}; use {old.information_weight}, or start a new run"
        return "algorithm.information_weight", own.information_weight, remedy
    remedy = f"{trained}, and this changes whether something is private; start a new run"
    if own.private != old.private:
        return "algorithm.private", own.private, remedy
    if config.env.kwargs == old_config.env.kwargs:
        remedy = f"{trained}, when {config.env.id} did not say what is private; use 0, or start a new run"
        return "algorithm.information_weight", own.information_weight, remedy
    return "env.kwargs", config.env.kwargs, remedy
