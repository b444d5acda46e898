"""Checks a configuration against the environment and this machine, before any process is started."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future
from pathlib import Path

import numpy as np

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import EnvFactory, env_spec, is_compiled, make_vector_env
from distributed_maddpg.envs.finite import bad_observation
from distributed_maddpg.errors import BadInput
from distributed_maddpg.evaluation.scripted import random_policy
from distributed_maddpg.types import EnvSpec

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
    check_env_steps(config, env_factory)
    check_machine(config, spec)
    return spec


def check_settings(config: MADDPGConfig, env_factory: EnvFactory | None = None) -> EnvSpec:
    """Return the environment's spec if the settings fit it; enough for acting without training.

    Raises:
        BadInput: see `check`.
    """
    spec = env_spec(env_factory or config.env.id, config.env.backend, config.env.kwargs)
    config.algorithm.per_agent(spec)
    config.exploration.check_heads(config.algorithm.heads(spec))
    return spec


def check_env_steps(config: MADDPGConfig, env_factory: EnvFactory | None = None) -> None:
    """Step one copy of the environment with random actions, as rollout workers will.

    An environment whose numbers are sometimes not finite passes: workers drop those fragments.

    Raises:
        BadInput: if the environment raises, if no step gives finite observations and rewards, or, with
            workers, if the steps take longer than `ray.timeout_s`.
    """
    timeout_s = config.ray.timeout_s if config.num_workers else None
    trial: Future[list[str]] = Future()

    def run() -> None:
        try:
            trial.set_result(_trial_step_problems(config, env_factory))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            trial.set_exception(error)

    if timeout_s is None:
        run()
    else:  # a daemon: does not block the exit if the environment hangs
        threading.Thread(target=run, daemon=True).start()
    try:
        problems = trial.result(timeout_s)
    except BadInput:
        raise
    except (Exception, SystemExit) as error:  # the environment may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        remedy = f"fails when it is stepped ({reason})"
        if not trial.done():
            remedy = f"took more than {timeout_s:g} s (ray.timeout_s) for its first {_TRIAL_STEPS} steps"
        raise BadInput("env.id", config.env.id, remedy) from error
    if all(problems):
        remedy = f"{problems[0]}; check what the environment computes"
        raise BadInput("env.id", config.env.id, remedy)


def _trial_step_problems(config: MADDPGConfig, env_factory: EnvFactory | None) -> list[str]:
    """Return for each trial step what is not finite, or an empty string."""
    env_id = env_factory or config.env.id
    env = make_vector_env(env_id, 1, config.seed, backend=config.env.backend, **config.env.kwargs)
    try:
        if is_compiled(env):
            return [""]  # part of the package; compiling it here would delay a first start by seconds
        act = random_policy(env.spec, np.random.default_rng(config.seed))
        obs = env.reset()
        problems = []
        for _ in range(_TRIAL_STEPS):
            problem = bad_observation(obs, env.agents)
            result = env.step(act(obs))
            obs = result.obs
            finite = bool(np.isfinite(result.rewards).all())
            problem = problem or bad_observation(result.final_obs, env.agents)
            problems.append(problem or ("" if finite else f"rewards are {result.rewards[0].tolist()}"))
        return problems
    finally:
        env.close()


def check_machine(config: MADDPGConfig, spec: EnvSpec, num_runs: int = 1) -> None:
    """Check that this machine can train `num_runs` runs with the settings.

    Raises:
        BadInput: see `check`.
    """
    _check_memory(config, spec, num_runs)
    remote = config.num_workers > 0 and (config.ray.address or os.environ.get("RAY_ADDRESS"))
    if config.learner.device == "cuda" and not remote:
        # Imported here: only this check needs torch, which takes seconds to load.
        from distributed_maddpg.learner import choose_device  # noqa: PLC0415

        choose_device("cuda")


def _check_memory(config: MADDPGConfig, spec: EnvSpec, num_runs: int) -> None:
    row = spec.transitions.width * 4 * num_runs  # bytes of a transition of each run
    size_bytes = config.replay.capacity * row
    available = _memory_bytes()
    if size_bytes > available:
        raise BadInput(
            "replay.capacity",
            config.replay.capacity,
            f"needs {size_bytes / 2**30:.1f} GiB ({row} bytes per transition of all runs), this machine has "
            f"{available / 2**30:.1f} GiB; at most {int(available * 0.8) // row} is reasonable",
        )


def _memory_bytes() -> int:
    """Return the memory of this machine, or the limit of its container if that is lower."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in _CGROUP_LIMITS:
        try:
            limits.append(int(Path(path).read_text()))
        except (OSError, ValueError):
            continue  # no such control group, or "max"
    return min(limits)
