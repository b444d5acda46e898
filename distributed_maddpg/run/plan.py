"""What a run would start and write, worked out from its settings; nothing is started, nothing is written."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed_maddpg import layouts
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import make_vector_env
from distributed_maddpg.errors import BadInput
from distributed_maddpg.preflight import (
    candidate_values_bytes,
    check,
    check_machine,
    memory_bytes,
    network_bytes,
)
from distributed_maddpg.run.folder import check_no_checkpoints, check_unused
from distributed_maddpg.run.goals import check_scores
from distributed_maddpg.run.training import RunOptions
from distributed_maddpg.threads import available_cores
from distributed_maddpg.trainer import MAX_SEEDS
from distributed_maddpg.types import EnvSpec

_MIB = 2**20
_PROCESS_BYTES = {"training": 340 * _MIB, "learner": 340 * _MIB, "driver": 200 * _MIB}
_OTHER_PROCESS_BYTES = 140 * _MIB
"""Resident memory of a process that has loaded its modules and works on nothing yet: measured on Linux, x86,
with torch's CPU build. With CUDA a learner takes a gigabyte more."""
_LOGGED_EPISODES, _EPISODE_STEPS = 1024, 25
"""Episodes in a checkpoint at most, and their length where max_cycles does not say it."""
_GENERATORS_BYTES, _TEXT_BYTES = 5_200, 7_500


@dataclass(frozen=True)
class Processes:
    """Processes of one kind."""

    name: str
    count: int
    cpus: int
    """That Ray reserves for each."""
    bytes_each: int
    """About how much memory each takes beside what is listed of its own."""


@dataclass(frozen=True)
class Networks:
    """The networks of one kind of a run."""

    name: str
    count: int
    layers: tuple[int, ...]
    """Widths from the widest input to the output."""
    parameters_each: int

    @property
    def parameters(self) -> int:
        """Parameters of all of them."""
        return self.count * self.parameters_each


@dataclass(frozen=True)
class Counts:
    """What a run does until its last step."""

    env_steps: int
    updates: int
    reports: int
    evaluations: int
    """The final one among them."""
    evaluation_episodes: int
    checkpoints: int


@dataclass(frozen=True)
class Plan:
    """What a run, or several that differ in their seed, would start and write."""

    run_dirs: tuple[str, ...]
    environment: str
    stepped_by: str
    agents: tuple[str, ...]
    observation_sizes: tuple[int, ...]
    action_sizes: tuple[int, ...]
    copies: int
    """Of the environment, in all workers."""
    processes: tuple[Processes, ...]
    learner: str
    """Where it runs, as far as that is known before the start."""
    networks: tuple[Networks, ...]
    transition_bytes: int
    replay_rows: int
    memory_bytes: dict[str, int]
    """By what it is for, of all runs."""
    machine_bytes: int
    cores: int
    counts: Counts
    """Of each run."""
    checkpoint_bytes: int
    """Size of the last checkpoint of each run, the largest."""
    kept_checkpoints: int
    checkpoints_dir: str
    disk_free_bytes: int

    @property
    def parameters(self) -> int:
        """Parameters of a run's policies and critics, without targets."""
        return sum(each.parameters for each in self.networks)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {**dataclasses.asdict(self), "parameters": self.parameters}


def check_run(config: MADDPGConfig, num_seeds: int, run_dir: Path, options: RunOptions) -> EnvSpec:
    """Make every check that `train` makes before it starts something; return the environment's spec.

    Raises:
        BadInput: naming the first setting that cannot be used, its value and the remedy.
    """
    if num_seeds > MAX_SEEDS:
        raise BadInput("--num-seeds", num_seeds, f"must be at most {MAX_SEEDS:,}")
    check_unused(run_dir)
    if folder := options.saving.folder:
        check_no_checkpoints(folder)
        if num_seeds > 1:
            raise BadInput("--checkpoint-dir", folder, "is for one run; leave it out with several seeds")
    spec = check(config)
    check_machine(config, spec, num_seeds)
    check_scores(config, spec, options.ending.stop_at, options.ranking)
    parent = _existing(run_dir)
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise BadInput("--run-dir", str(run_dir), f"cannot be created in {parent}; name another")
    return spec


def plan_run(config: MADDPGConfig, num_seeds: int, run_dir: Path, options: RunOptions) -> Plan:
    """Return what `train` would do, after all its checks.

    Raises:
        BadInput: see `check_run`.
    """
    spec = check_run(config, num_seeds, run_dir, options)
    row = spec.transitions.width * 4
    counts = count_run(config)
    saving = options.saving
    kept = min(counts.checkpoints, saving.keep or counts.checkpoints)
    processes = _processes(config)
    return Plan(
        run_dirs=tuple(_run_dirs(config, num_seeds, run_dir)),
        environment=config.env.id,
        stepped_by=_stepped_by(config),
        agents=spec.agents,
        observation_sizes=spec.observation_sizes,
        action_sizes=spec.action_sizes,
        copies=max(1, config.num_workers) * config.rollout.num_envs,
        processes=processes,
        learner=learner_place(config),
        networks=networks_of(config, spec),
        transition_bytes=row,
        replay_rows=config.replay.capacity,
        memory_bytes={
            "processes": sum(each.count * each.bytes_each for each in processes),
            "replay buffer": config.replay.capacity * row * num_seeds,
            "networks": network_bytes(config, spec) * num_seeds,
            "values of candidates": candidate_values_bytes(config, spec) * num_seeds,
        },
        machine_bytes=memory_bytes(),
        cores=available_cores(),
        counts=counts,
        checkpoint_bytes=checkpoint_bytes(config, spec, counts.env_steps, saving.replay),
        kept_checkpoints=kept,
        checkpoints_dir=saving.folder or str(run_dir / ("seed_*" if num_seeds > 1 else "") / "checkpoints"),
        disk_free_bytes=shutil.disk_usage(_existing(run_dir)).free,
    )


def count_run(config: MADDPGConfig) -> Counts:
    """Return how often a run does what; asynchronous ones overshoot by a few fragments."""
    pacing, episodes = config.pacing, config.evaluation
    fragment = config.rollout.fragment_env_steps
    total = -(-pacing.total_env_steps // fragment) * fragment

    def passed(*intervals: int) -> int:
        """Return how many intervals pass before the last step."""
        return (total - 1) // max(fragment, *intervals)

    evaluated = pacing.evaluation_interval_env_steps
    evaluations = passed(evaluated) if evaluated else 0
    saved = pacing.checkpoint_interval_env_steps
    learning = total - pacing.learning_starts
    return Counts(
        env_steps=total,
        updates=int(learning / pacing.env_steps_per_update) + 1 if learning >= 0 else 0,
        reports=-(-total // max(fragment, pacing.report_interval_env_steps)),
        evaluations=evaluations + 1,
        evaluation_episodes=evaluations * episodes.episodes + episodes.final_episodes,
        checkpoints=1 + (passed(saved, pacing.report_interval_env_steps) if saved else 0),
    )


def networks_of(config: MADDPGConfig, spec: EnvSpec) -> tuple[Networks, ...]:
    """Return a run's networks, without targets."""
    algorithm = config.algorithm
    twins = 2 if "matd3" in algorithm.per_agent(spec) else 1

    def stacked(name: str, layout: layouts.Layout, copies: int) -> Networks:
        return Networks(name, layout.num_networks * copies, layout.sizes, layout.num_parameters)

    return (
        stacked("policies", layouts.policies(algorithm, spec), 1),
        stacked("critics", layouts.critics(algorithm, spec), twins),
    )


def checkpoint_bytes(config: MADDPGConfig, spec: EnvSpec, env_steps: int, replay: bool) -> int:
    """Return about how large a run's checkpoint after these steps is.

    The last states of networks, targets and both moments of Adam, the policies once more as published, the
    latest episodes, the environments, and the transitions.
    """
    policies, critics = networks_of(config, spec)
    learner = (5 * policies.parameters + 4 * critics.parameters) * 4
    agents, landmarks = spec.num_agents, 2
    cycles = config.env.kwargs.get("max_cycles", _EPISODE_STEPS)
    length = cycles if isinstance(cycles, int) and cycles > 0 else _EPISODE_STEPS
    logged = min(_LOGGED_EPISODES, env_steps // length)
    episodes = logged * (8 + 8 * agents + 4 * agents * landmarks)
    copy = 4 * sum(spec.observation_sizes) + 8 * sum(spec.action_sizes) + 48 * agents + 112
    copies = max(1, config.num_workers) * config.rollout.num_envs * copy
    rows = min(config.replay.capacity, env_steps) * spec.transitions.width * 4 if replay else 0
    return learner + episodes + copies + rows + _GENERATORS_BYTES + _TEXT_BYTES


def learner_place(config: MADDPGConfig, sees_gpu: Callable[[], bool] | None = None) -> str:
    """Return where the learner runs, as far as that is known before the start.

    Args:
        config: the settings.
        sees_gpu: whether torch sees a GPU here; default: ask torch if there is a driver.
    """
    device = config.learner.device
    if config.algorithm.networks:
        return "cpu (algorithm.networks)"
    if device != "auto":
        return f"{device} (learner.device)"
    if config.num_workers and (address := config.ray.cluster_address()):
        return f"cuda if the cluster at {address} has a GPU, else cpu"
    if not (sees_gpu or _sees_gpu)():
        return "cpu (torch sees no GPU)"
    if config.num_workers and not config.sync:
        return "cuda or cpu, whichever is faster in half a second at the start"
    return "cuda (torch sees a GPU)"


def _sees_gpu() -> bool:
    if not Path("/dev/nvidiactl").exists() and shutil.which("nvidia-smi") is None:
        return False  # torch takes seconds to load
    from distributed_maddpg.learner import choose_device  # noqa: PLC0415 - loads torch

    return choose_device("auto").type == "cuda"


def _processes(config: MADDPGConfig) -> tuple[Processes, ...]:
    if not config.num_workers:
        return (Processes("training", 1, 0, _PROCESS_BYTES["training"]),)
    parts = (
        ("driver", 1, 0),
        ("learner", 1, config.learner.reserved_cpus),
        ("replay buffer", 1, 0),
        ("rollout worker", config.num_workers, 1),
        ("evaluator", 1, 0),
    )
    return tuple(
        Processes(name, count, cpus, _PROCESS_BYTES.get(name, _OTHER_PROCESS_BYTES))
        for name, count, cpus in parts
    )


def _run_dirs(config: MADDPGConfig, num_seeds: int, run_dir: Path) -> list[str]:
    if num_seeds == 1:
        return [str(run_dir)]
    return [str(run_dir / f"seed_{config.seed + index}") for index in range(num_seeds)]


def _stepped_by(config: MADDPGConfig) -> str:
    """Return what steps the environment's copies; the checks before have created one as well."""
    from distributed_maddpg.envs.make import is_compiled  # noqa: PLC0415 - loads numba

    own = config.env
    env = make_vector_env(own.id, 1, 0, backend=own.backend, measures=own.measures, **own.kwargs)
    try:
        return "compiled code" if is_compiled(env) else "the original, copy by copy"
    finally:
        env.close()


def _existing(path: Path) -> Path:
    """Return the nearest folder above `path` that exists, or itself."""
    return next(each for each in (path, *path.absolute().parents) if each.exists())
