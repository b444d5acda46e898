"""Connects to a Ray cluster or starts one, and places a run's actors on it."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

import psutil
import ray

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
from distributed_maddpg.runtime.calls import wait_for_result
from distributed_maddpg.runtime.nodes import alive_nodes
from distributed_maddpg.runtime.orphans import kill_orphans, mark_processes, marked_processes_of_this_run
from distributed_maddpg.runtime.placement import (
    await_placement,
    has_too_few_cpus,
    in_placement_group,
    learner_options,
    replay_options,
    worker_options,
)
from distributed_maddpg.runtime.store import object_store_bytes
from distributed_maddpg.types import EnvSpec

if TYPE_CHECKING:
    from ray.actor import ActorProxy

_EXIT_GRACE_S = 0.5
_END_S = 2.0
_HANDLER_CHECK_S = 0.001
_CONNECT_TIMEOUT_S = 10.0
_SLOW_START = "timed out during startup"
"""In the message of a local cluster's start if an agent of Ray's needs more than 15 s, a limit that cannot be
set (github.com/ray-project/ray/issues/65983)."""
TOKEN_NEEDED = (
    "a cluster with a token needs it: ray get-auth-token --generate; export RAY_AUTH_MODE=token "
    "(on another machine than the head, copy the head's ~/.ray/auth_token instead of generating one)"
)
"""What may help where a cluster refuses a connection."""
_HELPERS = ("monitor.py", "dashboard.py")  # ends of the names of Ray's monitors, such as log_monitor.py
_LOG = logging.getLogger("distributed_maddpg")


class Processes:
    """Handles of a run's actors; starts and ends them."""

    def __init__(
        self,
        configs: Sequence[MADDPGConfig],
        spec: EnvSpec,
        use_gpu: bool,
        env_factory: EnvFactory | None = None,
    ) -> None:
        """Start all actors of one run, or of several that differ only in the seed.

        Raises:
            TrainingError: on several nodes, if the learner does not start in time.
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
            self.end_all()
            raise

    def _start_all(self) -> None:
        one_node = _one_node()
        learner_first = not one_node or in_placement_group() or has_too_few_cpus(self._config)
        if learner_first:  # the learner is scheduled before workers can fill the GPU's node, or its bundle
            self.start_learner()
        for index in range(self._config.num_workers):
            self.workers.append(self._new_worker(index, 0))
        if not learner_first:
            self.start_learner()
        if one_node:
            self.start_replay()
        else:
            location = wait_for_result("learner", self._started[self.learner], self._config.ray.timeout_s)
            self.start_replay(location.node)

    @property
    def evaluator(self) -> ActorProxy[EvaluationActor]:
        """The evaluator, started at its first use: a start takes CPU time, although Ray reserves no CPU."""
        if self._evaluator is None:
            self._evaluator = self._start(EvaluationActor, self._config, self._env_factory, num_cpus=0)
        return self._evaluator

    @property
    def has_evaluator(self) -> bool:
        """Whether the evaluator was started."""
        return self._evaluator is not None

    # No runtime_env: with one, Ray cannot use its prestarted worker processes.

    def start_learner(self) -> ray.ObjectRef[ProcessLocation]:
        """Start a learner or its replacement; return a reference to its location."""
        arguments = (self._configs, self._spec, self._use_gpu)
        options = learner_options(self._config, self._use_gpu)
        self.learner = self._start(LearnerActor, *arguments, **options)
        return self._started[self.learner]

    def start_replay(self, node: str = "", previous: Sequence[RingAddress] = ()) -> None:
        """Start a replay buffer or its replacement.

        It runs on the learner's node, where minibatches are read from shared memory. They are ten times the
        bytes of new transitions.

        Args:
            node: id of the learner's node; empty: any.
            previous: addresses of the rings of the replay buffer that it replaces.
        """
        arguments = (self._configs, self._spec, previous)
        self.replay = self._start(ReplayBufferActor, *arguments, **replay_options(node))

    def learner_node(self) -> str | None:
        """Return the learner's node, empty if there is only one node; None if it is not known yet."""
        if _one_node() or self.learner not in self._started:
            return ""
        return self.node_of(self.learner)

    def node_of(self, actor: Any) -> str | None:
        """Return the id of an actor's node; None if it is not known yet, or the actor is being replaced."""
        location = self._started.get(actor)
        if location is None or not ray.wait([location], timeout=0)[0]:
            return None
        try:
            return wait_for_result("actor", location, self._config.ray.timeout_s).node
        except TrainingError:
            return None

    def start_worker(self, index: int, incarnation: int) -> None:
        """Start the replacement of a rollout worker; see `RolloutWorkerActor` for `incarnation`."""
        self.workers[index] = self._new_worker(index, incarnation)

    def _new_worker(self, index: int, incarnation: int) -> ActorProxy[RolloutWorkerActor]:
        arguments = (self._configs, index, incarnation, self._env_factory)
        actor: ActorProxy[RolloutWorkerActor] = self._start(
            RolloutWorkerActor, *arguments, **worker_options()
        )
        return actor

    def end(self, actor: Any) -> None:
        """End one actor at once, even one that hangs; Ray reports it as died."""
        if actor is self._evaluator:
            self._evaluator = None
        process = _local_process(self._started.pop(actor))
        if ray.is_initialized():  # otherwise the actor is gone, and the call would start a new cluster
            ray.kill(actor)
        _kill([process])  # Ray kills a hanging one only after five seconds, during which its CPU is not free

    def end_all(self) -> None:
        """Have all actors end, also in mid-call, and kill those that have not within two seconds.

        They take a few tenths. Ray prints "died or was killed by an unexpected system error" about a process
        that is killed before it could say that it ends, and nothing about one that could.
        """
        if not ray.is_initialized():
            self._started.clear()
            return
        processes = [_local_process(location) for location in self._started.values()]
        while self._started:
            ray.kill(self._started.popitem()[0])
        _, left = psutil.wait_procs([process for process in processes if process], timeout=_END_S)
        _kill(left)

    def _start(self, kind: Any, *arguments: Any, **options: Any) -> Any:
        # Task events take hundreds of bytes of the cluster's memory per call.
        actor = ray.remote(kind).options(**options, enable_task_events=False).remote(*arguments)
        self._started[actor] = actor.location.remote()
        return actor


def connect(config: MADDPGConfig) -> bool:
    """Initialise Ray if necessary; return whether this call did, so that the caller must `disconnect`.

    A local cluster that does not start on a busy machine is started again, until `ray.timeout_s` have passed.

    Raises:
        BadInput: for an address of Ray Client.
        TrainingError: if the cluster named by `ray.address` or the surrounding job does not answer, or the
            local one does not start.
    """
    if ray.is_initialized():
        return False
    address = config.ray.cluster_address()
    _check_reachable(address)
    deadline = time.monotonic() + config.ray.timeout_s
    while True:
        try:
            with _signals_deferred():
                if address:
                    _join(address)
                else:
                    _start_local(config)
            return True
        except BaseException as error:
            disconnect()  # ends processes that were started before the error
            if not isinstance(error, Exception):  # Ray raises many types, plain Exception among them
                raise
            if address or _SLOW_START not in str(error) or time.monotonic() > deadline:
                raise TrainingError(
                    f"ray.address = {address or 'local'!r}: {_no_start(address, error)}"
                ) from error
            _LOG.warning("Ray did not start, as happens on a busy machine; starting it again")


def _no_start(address: str, error: BaseException) -> str:
    """Return why Ray did not start; it does not say that a cluster has refused this user's token."""
    reason, _, _ = _first_line(error).partition(". ")
    refused = isinstance(error, ray.exceptions.AuthenticationError) or "Failed to connect" in reason
    return f"{reason}; {TOKEN_NEEDED}" if address and refused else reason


def _join(address: str) -> None:
    """Join a running cluster; what its processes print is repeated here, in colour only on a terminal."""
    if not sys.stderr.isatty():
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    ray.init(address=address, logging_level=logging.WARNING)


def _check_reachable(address: str) -> None:
    """Raise TrainingError if `host:port` refuses a connection; Ray would wait and ignore Ctrl-C."""
    host, colon, port = address.rpartition(":")
    host = host.strip("[]")
    if not colon or not port.isdecimal() or not host:
        return  # a word such as "auto", which Ray resolves
    # Ray replaces 127.0.0.1 by the node's address.
    used = ray._private.services.resolve_ip_for_localhost(host)
    for each in dict.fromkeys((host, used)):
        try:
            socket.create_connection((each, int(port)), _CONNECT_TIMEOUT_S).close()
        except (OSError, OverflowError) as error:
            to = f" to {each}, which Ray uses instead" if each != host else ""
            reason = f"no connection{to} ({_first_line(error)})"
            remedy = "start the cluster or correct it"
            raise TrainingError(f"ray.address = {address!r}: {reason}; {remedy}") from None


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
    """Disconnect; if `connect` started the cluster, end all of its processes.

    Ray's agents notice only after seconds that the raylet is gone, or not at all while they start.
    """
    started = marked_processes_of_this_run()  # Ray may start more: checked again below
    for process in started:
        with suppress(psutil.Error):
            if any(word.endswith(_HELPERS) for word in process.cmdline()):
                process.kill()  # Ray ends them one by one, which takes a second
    _shut_down_ray()
    psutil.wait_procs(started, timeout=_EXIT_GRACE_S)
    _kill(started | marked_processes_of_this_run())


def _shut_down_ray() -> None:
    """Call `ray.shutdown`, and keep the handler of SIGTERM.

    Ray resets it to the default early in that call, so that a SIGTERM would kill the process from then on.
    Only the main thread can set handlers, so another one makes the call; a millisecond remains unprotected.
    """
    if threading.current_thread() is not threading.main_thread():
        ray.shutdown()
        return
    handler = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(ray.shutdown)
        while not call.done():
            wait([call], _HANDLER_CHECK_S)
            signal.signal(signal.SIGTERM, handler)
        call.result()


def start_processes(
    configs: Sequence[MADDPGConfig], spec: EnvSpec, env_factory: EnvFactory | None = None
) -> Processes:
    """Start all actors of one run or several; calls are queued until an actor is running.

    Raises:
        BadInput: if the cluster has too few resources, also after `ray.wait_for_nodes`.
        TrainingError: on several nodes, if the learner does not start in time; all actors are ended then.
    """
    return Processes(configs, spec, await_placement(configs[0]), env_factory)


def _local_process(location: ray.ObjectRef[ProcessLocation]) -> psutil.Process | None:
    """Return an actor's process; None if it is not known, not running or on another node."""
    if not ray.is_initialized() or not ray.wait([location], timeout=0)[0]:
        return None
    with suppress(ray.exceptions.RayError, psutil.NoSuchProcess):
        answer = ray.get(location)
        if answer.node == ray.get_runtime_context().get_node_id():
            return psutil.Process(answer.pid)
    return None


def _kill(processes: Iterable[psutil.Process | None]) -> None:
    for process in processes:
        if process is not None:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def _one_node() -> bool:
    return len(alive_nodes()) == 1


@contextmanager
def _signals_deferred() -> Iterator[None]:
    """Defer the first signal until `ray.init` has returned, because an interrupted one leaves processes.

    A second signal interrupts it. `ray.init` installs a SIGTERM handler of its own that exits with status 15
    and cannot be deferred.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        if seen:
            raise KeyboardInterrupt
        seen = True

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        try:
            yield
        finally:
            if seen:
                raise KeyboardInterrupt
    except SystemExit:
        raise KeyboardInterrupt from None  # from Ray's handler
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _start_local(config: MADDPGConfig) -> None:
    """Start a local cluster for this run, on loopback, with a token of its own."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Otherwise Ray writes a token into the home directory, and fails where there is none.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    kill_orphans()
    with mark_processes(), _on_loopback():
        ray.init(
            address="local",
            num_cpus=max(os.cpu_count() or 1, config.num_workers + config.learner.reserved_cpus),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,  # at WARNING it only reports the token
            object_store_memory=object_store_bytes(config),
        )
    suppress_messages_of_lost_processes()


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Let the processes of a cluster that is started inside listen on loopback where Ray is able to.

    Ray has no option for it: it replaces 127.0.0.1 as a node's address. On Windows and macOS it does not, and
    this variable, whose default there is 0, decides which of the two it is.
    """
    constants = ray._private.ray_constants
    name, before = constants.ENABLE_RAY_CLUSTERS_ENV_VAR, constants.ENABLE_RAY_CLUSTER
    kept = os.environ.get(name)
    os.environ[name], constants.ENABLE_RAY_CLUSTER = "0", False  # of other processes, of this one
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before
        if kept is None:
            del os.environ[name]
        else:
            os.environ[name] = kept


def suppress_messages_of_lost_processes() -> None:
    """Suppress Ray's long line on each lost process, for which Ray has no option; the supervisor logs it."""
    if hasattr(ray._private.worker, "print_to_stdstream"):
        ray._private.worker.print_to_stdstream = lambda *_, **__: None


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
