"""Joining or starting a Ray cluster, and placing the processes of a run on it (floor F4)."""

from __future__ import annotations

import logging
import math
import os
import secrets
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput, TrainingError
from distributed_maddpg.runtime.actors import (
    EvaluationActor,
    LearnerActor,
    ReplayBufferActor,
    RolloutWorkerActor,
)
from distributed_maddpg.runtime.calls import ask
from distributed_maddpg.types import EnvSpec

if TYPE_CHECKING:
    from ray.actor import ActorProxy

_ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
_NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}  # Ray does not hide GPUs from actors that ask for none
_OBJECT_STORE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Processes:
    """Handles of a run's Ray actors."""

    workers: tuple[ActorProxy[RolloutWorkerActor], ...]
    replay: ActorProxy[ReplayBufferActor]
    learner: ActorProxy[LearnerActor]
    evaluator: ActorProxy[EvaluationActor]
    device: str

    def kill(self) -> None:
        """End all of them at once."""
        _kill((*self.workers, self.learner, self.replay, self.evaluator))


def connect(config: MADDPGConfig) -> bool:
    """Make sure that Ray is initialised; return whether this call did it (and so must undo it).

    Raises:
        TrainingError: if the cluster named by `ray.address` or the surrounding job does not answer.
    """
    if ray.is_initialized():
        return False
    address = config.ray.address or os.environ.get("RAY_ADDRESS", "")
    try:
        with _own_sigterm():
            if address:
                ray.init(address=address, logging_level=logging.WARNING)
            else:
                _start_local(config)
    except BaseException as error:
        ray.shutdown()  # whatever had been started already
        if not isinstance(error, (OSError, RuntimeError, ValueError, ray.exceptions.RayError)):
            raise
        raise TrainingError(f"ray.address = {address or 'local'!r}: {_first_line(error)}") from error
    return True


def disconnect() -> None:
    """Leave the cluster; ends it if `connect` started it."""
    ray.shutdown()


def start_processes(config: MADDPGConfig, spec: EnvSpec) -> Processes:
    """Start and connect all actors of a run.

    Raises:
        BadInput: if the cluster can never hold them.
        TrainingError: if one fails or is not up in time; those already started are ended.
    """
    use_gpu = _check_resources(config)
    started: list[Any] = []
    try:
        return _start(config, spec, use_gpu, started)
    except BaseException:
        _kill(started)
        raise


def _start(config: MADDPGConfig, spec: EnvSpec, use_gpu: bool, started: list[Any]) -> Processes:
    """Start all actors, and append each to `started` as soon as it exists."""

    def start(kind: Any, *arguments: Any, **options: Any) -> Any:
        actor = ray.remote(kind).options(**options).remote(*arguments)
        started.append(actor)
        return actor

    timeout_s = config.ray.timeout_s
    light: dict[str, Any] = {"runtime_env": {"env_vars": {**_ONE_THREAD, **_NO_GPU}}}
    learner = start(
        LearnerActor,
        config,
        spec,
        num_cpus=config.learner.num_threads,
        num_gpus=1 if use_gpu else 0,
        runtime_env={"env_vars": {} if use_gpu else _NO_GPU},
    )
    workers = tuple(
        start(RolloutWorkerActor, config, index, num_cpus=1, scheduling_strategy="SPREAD", **light)
        for index in range(config.num_workers)
    )
    evaluator = start(EvaluationActor, config, num_cpus=0, **light)
    # Minibatches are ten times the bytes of new transitions: the buffer sits on the learner's node.
    beside = NodeAffinitySchedulingStrategy(ask("learner", learner.node_id.remote(), timeout_s), soft=False)
    replay = start(ReplayBufferActor, config, spec, num_cpus=0, scheduling_strategy=beside, **light)
    ask("replay buffer", replay.size.remote(), timeout_s)
    device = ask("learner", learner.connect.remote(replay), timeout_s)
    connected = [worker.connect.remote(replay) for worker in workers]
    for index, call in enumerate(connected):
        ask(f"rollout worker {index}", call, timeout_s)
    return Processes(workers, replay, learner, evaluator, device)


def _kill(actors: Iterable[Any]) -> None:
    if ray.is_initialized():  # otherwise they are gone, and Ray would start a cluster to look for them
        for actor in actors:
            ray.kill(actor)


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep the caller's SIGTERM handler, which `ray.init` replaces by one that exits with status 15."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None  # Ray's handler was called
    finally:
        signal.signal(signal.SIGTERM, handler)


def _start_local(config: MADDPGConfig) -> None:
    """Start a cluster for this run alone, on loopback, with a token that dies with it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Otherwise Ray writes a token into the user's home, and fails where there is none.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    ray.init(
        address="local",
        num_cpus=max(os.cpu_count() or 1, _cpus_needed(config)),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
        object_store_memory=_OBJECT_STORE_BYTES + 16 * _batch_bytes(config),
    )


def _batch_bytes(config: MADDPGConfig) -> int:
    return config.learner.batch_size * 1024  # a row of simple_adversary is 308 bytes


def _cpus_needed(config: MADDPGConfig) -> int:
    return config.num_workers + config.learner.num_threads


def _check_resources(config: MADDPGConfig) -> bool:
    """Refuse what the cluster can never hold; return whether the learner takes a GPU."""
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    needed, there = _cpus_needed(config), math.floor(total.get("CPU", 0))
    if needed > there:
        raise BadInput(
            "num_workers",
            config.num_workers,
            f"with the learner needs {needed} CPUs, the cluster has {there}; lower it or add nodes",
        )
    gpus = total.get("GPU", 0)
    if config.learner.device == "cuda" and gpus < 1:
        raise BadInput("learner.device", "cuda", "the cluster has no GPU; use cpu or auto")
    return gpus >= 1 and config.learner.device != "cpu"


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
