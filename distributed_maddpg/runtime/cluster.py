"""Joining or starting a Ray cluster, and placing the processes of a run on it."""

from __future__ import annotations

import logging
import math
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import EnvFactory, factory_id
from distributed_maddpg.errors import BadInput, TrainingError
from distributed_maddpg.replay.ring import RingAddress
from distributed_maddpg.runtime.actors import (
    EvaluationActor,
    LearnerActor,
    ProcessLocation,
    ReplayBufferActor,
    RolloutWorkerActor,
)
from distributed_maddpg.runtime.calls import ask
from distributed_maddpg.runtime.orphans import kill_orphans, mark_processes, marked_processes_of_this_run
from distributed_maddpg.types import EnvSpec

if TYPE_CHECKING:
    from ray.actor import ActorProxy

_OBJECT_STORE_BYTES = 256 * 2**20
_EXIT_GRACE_S = 0.5
_CONNECT_TIMEOUT_S = 10.0
_HELPERS = ("monitor.py", "dashboard.py")  # Ray's own that only watch; also log_monitor.py
_LOG = logging.getLogger("distributed_maddpg")


class Processes:
    """Handles of a run's Ray actors, and how each is started and ended."""

    def __init__(
        self,
        configs: Sequence[MADDPGConfig],
        spec: EnvSpec,
        use_gpu: bool,
        env_factory: EnvFactory | None = None,
    ) -> None:
        """Start all actors of one run, or of several equal but for the seed.

        Raises:
            TrainingError: on several nodes, if the learner is not up in time.
        """
        self._configs, self._spec, self._use_gpu = configs, spec, use_gpu
        self._env_factory = env_factory
        self._config = configs[0]
        self._evaluator: ActorProxy[EvaluationActor] | None = None
        self._started: dict[Any, ray.ObjectRef[ProcessLocation]] = {}
        self.workers: list[ActorProxy[RolloutWorkerActor]] = []
        self.learner: ActorProxy[LearnerActor]
        self.replay: ActorProxy[ReplayBufferActor]
        try:
            self._start_all()
        except BaseException:
            self.kill()
            raise

    def _start_all(self) -> None:
        one_node = _one_node()
        first = not one_node or _is_full(self._config)
        if first:  # the learner takes its place before workers can fill the GPU's node, or all there is
            self.start_learner()
        for index in range(self._config.num_workers):
            self.workers.append(self._new_worker(index, 0))
        if not first:
            self.start_learner()
        if one_node:
            self.start_replay()
        else:
            place = ask("learner", self._started[self.learner], self._config.ray.timeout_s)
            self.start_replay(place.node)

    @property
    def evaluator(self) -> ActorProxy[EvaluationActor]:
        """The evaluator, which is started when it is first asked for: the others need the cores before."""
        if self._evaluator is None:
            self._evaluator = self._start(EvaluationActor, self._config, self._env_factory, num_cpus=0)
        return self._evaluator

    # No runtime_env: Ray could not use the processes it has standing by, and would start others first.

    def start_learner(self) -> ray.ObjectRef[ProcessLocation]:
        """Start a learner, in the place of one that is gone; return the place that it will have."""
        cpus, gpus = self._config.learner.num_threads, int(self._use_gpu)
        arguments = (self._configs, self._spec, self._use_gpu)
        self.learner = self._start(LearnerActor, *arguments, num_cpus=cpus, num_gpus=gpus)
        return self._started[self.learner]

    def start_replay(self, node: str = "", left: Sequence[RingAddress] = ()) -> None:
        """Start a replay buffer, in the place of one that is gone.

        Minibatches are ten times the bytes of new transitions, and within a node they need not be sent.

        Args:
            node: id of the learner's node, to be on the same; empty: any.
            left: where its predecessor's transitions are.
        """
        beside = {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)} if node else {}
        self.replay = self._start(ReplayBufferActor, self._configs, self._spec, left, num_cpus=0, **beside)

    def learner_node(self) -> str | None:
        """Return the node for a replay buffer, empty if there is only one; None if it is not known yet."""
        place = None if _one_node() else self._started.get(self.learner)
        if place is None:
            return ""
        if not ray.wait([place], timeout=0)[0]:
            return None
        try:
            return ask("learner", place, self._config.ray.timeout_s).node
        except TrainingError:
            return None  # it is being replaced

    def start_worker(self, index: int, incarnation: int) -> None:
        """Start a rollout worker in place of one that is gone; see `RolloutWorkerActor` for `incarnation`."""
        self.workers[index] = self._new_worker(index, incarnation)

    def _new_worker(self, index: int, incarnation: int) -> ActorProxy[RolloutWorkerActor]:
        arguments = (self._configs, index, incarnation, self._env_factory)
        actor: ActorProxy[RolloutWorkerActor] = self._start(
            RolloutWorkerActor, *arguments, num_cpus=1, scheduling_strategy="SPREAD"
        )
        return actor

    def end(self, actor: Any) -> None:
        """End one actor, even one that hangs."""
        if actor is self._evaluator:
            self._evaluator = None
        self._end(actor, self._started.pop(actor))

    def kill(self) -> None:
        """End all of them at once."""
        while self._started:
            self._end(*self._started.popitem())

    def _end(self, actor: Any, place: ray.ObjectRef[ProcessLocation]) -> None:
        if not ray.is_initialized():  # then it is gone, and Ray would start a cluster to look for it
            return
        ray.kill(actor)
        # Ray gives a process that hangs five seconds; until then it keeps its CPU.
        if ray.wait([place], timeout=0)[0]:
            with suppress(ray.exceptions.RayError, ProcessLookupError):
                answer = ray.get(place)
                if answer.node == ray.get_runtime_context().get_node_id():
                    os.kill(answer.pid, signal.SIGKILL)

    def _start(self, kind: Any, *arguments: Any, **options: Any) -> Any:
        # Task events would grow the cluster's memory by hundreds of bytes a call.
        actor = ray.remote(kind).options(**options, enable_task_events=False).remote(*arguments)
        self._started[actor] = actor.place.remote()
        return actor


def connect(config: MADDPGConfig) -> bool:
    """Make sure that Ray is initialised; return whether this call did it (and so must undo it).

    Raises:
        TrainingError: if the cluster named by `ray.address` or the surrounding job does not answer.
    """
    if ray.is_initialized():
        return False
    address = config.ray.address or os.environ.get("RAY_ADDRESS", "")
    _check_reachable(address)
    try:
        with _signals_deferred():
            if address:
                ray.init(address=address, logging_level=logging.WARNING)
            else:
                _start_local(config)
    except BaseException as error:
        disconnect()  # whatever had been started already
        if not isinstance(error, Exception):  # Ray raises many kinds, and Exception itself on a busy machine
            raise
        raise TrainingError(f"ray.address = {address or 'local'!r}: {_first_line(error)}") from error
    return True


def _check_reachable(address: str) -> None:
    """Raise TrainingError if `[ray://]host:port` takes no connection; Ray would wait, deaf to Ctrl-C."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return  # a word such as "auto", which Ray resolves
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        reason = f"nobody answers there ({_first_line(error)})"
        raise TrainingError(f"ray.address = {address!r}: {reason}; start the cluster or correct it") from None


def check_can_be_sent(env_factory: EnvFactory) -> None:
    """Refuse an environment factory that Ray cannot pickle for its workers.

    Raises:
        BadInput: naming it and the reason.
    """
    try:
        ray.cloudpickle.dumps(env_factory)  # type: ignore[no-untyped-call]
    except Exception as error:  # pickling runs code of the object itself
        remedy = (
            f"cannot be sent to Ray workers ({_first_line(error)}); let it create what it needs when called"
        )
        raise BadInput("env", factory_id(env_factory), remedy) from error


def disconnect() -> None:
    """Leave the cluster; ends it if `connect` started it, down to the last process.

    Ray's agents notice only seconds later that they are alone, or not at all if they were just starting.
    """
    family = marked_processes_of_this_run()  # Ray may be starting more: look twice
    for process in family:
        with suppress(psutil.Error):
            if any(word.endswith(_HELPERS) for word in process.cmdline()):
                process.kill()  # Ray would end them one after another, gracefully, which takes a second
    ray.shutdown()
    psutil.wait_procs(family, timeout=_EXIT_GRACE_S)
    for process in family | marked_processes_of_this_run():
        with suppress(psutil.NoSuchProcess):
            process.kill()


def start_processes(
    configs: Sequence[MADDPGConfig], spec: EnvSpec, env_factory: EnvFactory | None = None
) -> Processes:
    """Start all actors of one run, or of several equal but for the seed; calls wait in their queues.

    Raises:
        BadInput: if the cluster can never hold them.
        TrainingError: on several nodes, if the learner is not up in time; what was started is ended.
    """
    return Processes(configs, spec, _check_resources(configs[0]), env_factory)


def _one_node() -> bool:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return len([node for node in nodes if node["Alive"]]) == 1


@contextmanager
def _signals_deferred() -> Iterator[None]:
    """Let signals wait until `ray.init` is through, unless they come twice: a cut start shuts down badly.

    `ray.init` replaces the handler of SIGTERM by one that exits with status 15; that one cuts it anyhow.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        if seen:
            raise KeyboardInterrupt
        seen = True

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
        if seen:
            raise KeyboardInterrupt
    except SystemExit:
        raise KeyboardInterrupt from None  # Ray's handler was called
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _start_local(config: MADDPGConfig) -> None:
    """Start a cluster for this run alone, on loopback, with a token that dies with it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Otherwise Ray writes a token into the user's home, and fails where there is none.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    kill_orphans()
    with mark_processes():
        ray.init(
            address="local",
            num_cpus=max(os.cpu_count() or 1, config.num_workers + config.learner.num_threads),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,  # at WARNING it only says that the token is on
            object_store_memory=_OBJECT_STORE_BYTES + 16 * _batch_bytes(config),
        )
    # Ray's half page on each process that is lost, of which the supervisor says a line. There is no option.
    if hasattr(ray._private.worker, "print_to_stdstream"):
        ray._private.worker.print_to_stdstream = lambda *_, **__: None


def _batch_bytes(config: MADDPGConfig) -> int:
    return config.learner.batch_size * 1024  # a row of simple_adversary is 308 bytes


def _num_cpus() -> int:
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return math.floor(total.get("CPU", 0))


def _is_full(config: MADDPGConfig) -> bool:
    """Whether the cluster has no room for all workers beside the learner."""
    return config.num_workers + config.learner.num_threads > _num_cpus()


def _check_resources(config: MADDPGConfig) -> bool:
    """Refuse what the cluster can never hold; return whether the learner takes a GPU."""
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    there = _num_cpus()
    at_least = config.num_workers if config.sync else config.ray.min_workers
    if at_least + config.learner.num_threads > there:
        raise BadInput(
            "num_workers" if config.sync else "ray.min_workers",
            at_least,
            f"with the learner needs {at_least + config.learner.num_threads} CPUs, the cluster has {there}; "
            "lower it or add nodes",
        )
    if _is_full(config):
        _LOG.warning(
            "the cluster has %d CPUs: of %d rollout workers those that find no place join when nodes do",
            there,
            config.num_workers,
        )
    gpus = total.get("GPU", 0)
    if config.learner.device == "cuda" and gpus < 1:
        raise BadInput("learner.device", "cuda", "the cluster has no GPU; use cpu or auto")
    return gpus >= 1 and config.learner.device != "cpu"


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
