import ctypes
import os
import signal
import socket
import time

import pytest

pytest.importorskip("ray")
import ray

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput, TrainingError
from distributed_maddpg.runtime import cluster
from distributed_maddpg.runtime.cluster import _check_reachable, connect


@pytest.fixture
def listener():
    with socket.create_server(("", 0)) as server:
        yield server.getsockname()[1]


def test_an_address_where_nobody_listens_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    for address in (
        f"127.0.0.1:{free}",
        "127.0.0.1:99999",
        "no.such.host.invalid:1",
    ):
        with pytest.raises(TrainingError, match=r"ray.address = .*no connection \(.+\); start the"):
            _check_reachable(address)


def test_an_address_that_ray_replaces_by_one_where_nobody_listens_is_refused(monkeypatch):
    monkeypatch.setattr(ray._private.services, "resolve_ip_for_localhost", lambda host: "127.0.0.2")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        refused = rf"'127.0.0.1:{port}': no connection to 127.0.0.2, which Ray uses instead \(.+\); start the"
        with pytest.raises(TrainingError, match=refused):
            _check_reachable(f"127.0.0.1:{port}")


def test_an_address_where_somebody_listens_or_that_is_a_word_is_left_to_ray(listener):
    for address in (f"127.0.0.1:{listener}", "auto", "local", ""):
        _check_reachable(address)


SLOW = "The current node timed out during startup. This could happen because some of the raylet failed"


def slow_start():
    return Exception(SLOW)


def interrupted_start():
    signal.raise_signal(signal.SIGINT)
    return Exception(SLOW)


@pytest.fixture
def starts(monkeypatch):
    """Let Ray's starts fail with the errors that these functions return, then succeed; keep a log."""
    failures, log = [], []

    def start(**options):
        log.append("start")
        if failures:
            raise failures.pop(0)()

    monkeypatch.setenv("RAY_AUTH_TOKEN", "unused")  # else a start would leave one to the other tests
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr(cluster, "disconnect", lambda: log.append("clean up"))
    return failures, log


def test_ray_is_started_again_where_a_busy_machine_kept_its_agents_from_starting(starts, caplog):
    failures, log = starts
    failures += [slow_start] * 2
    assert connect(MADDPGConfig())
    assert log == ["start", "clean up", "start", "clean up", "start"]
    assert caplog.text.count("starting it again") == 2


@pytest.mark.parametrize(
    ("failure", "settings"),
    [
        (lambda: Exception("no space left"), {}),
        (slow_start, {"timeout_s": 1e-9}),
        (slow_start, {"address": "auto"}),
    ],
)
def test_any_other_failed_start_is_named_at_once(starts, failure, settings):
    failures, log = starts
    failures.append(failure)
    with pytest.raises(TrainingError, match=r"ray.address = .*(no space left|timed out during startup)"):
        connect(MADDPGConfig.from_dict({"ray": settings}))
    assert log == ["start", "clean up"]


def test_a_cluster_that_cannot_be_joined_may_have_a_token(starts, listener):
    failures, _ = starts
    failures.append(lambda: Exception("Failed to connect to Ray cluster at h:1"))
    address = f"127.0.0.1:{listener}"
    with pytest.raises(TrainingError, match=r"at h:1; a cluster with a token needs it: ray get-auth-token"):
        connect(MADDPGConfig.from_dict({"ray": {"address": address}}))


def test_an_address_of_ray_client_is_refused_where_it_is_used(starts, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "ray://h:10001")
    with pytest.raises(BadInput, match=r"^RAY_ADDRESS = 'ray://h:10001': Ray Client is not for training"):
        connect(MADDPGConfig())
    assert starts[1] == []


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("RAY://h:10001", "Ray Client is not for training"),
        (" ray://h:10001", "Ray Client is not for training"),
        ("http://h:8265", "must be HOST:6379 of the cluster's head"),
    ],
)
def test_a_url_is_no_address_to_train_at(starts, address, remedy):
    with pytest.raises(BadInput, match=f"^ray.address = '{address}': {remedy}"):
        connect(MADDPGConfig.from_dict({"ray": {"address": address}}))
    assert starts[1] == []


def test_an_interrupt_during_a_failed_start_is_not_lost(starts):
    failures, log = starts
    failures.append(interrupted_start)
    with pytest.raises(KeyboardInterrupt):
        connect(MADDPGConfig())
    assert log == ["start", "clean up"]


def test_a_handler_of_sigterm_outlasts_the_end_of_ray(monkeypatch):
    received = []

    def shutdown():
        ctypes.CDLL(None).signal(signal.SIGTERM, None)  # to the default, unseen by Python, as Ray does it
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ray, "shutdown", shutdown)
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        cluster._shut_down_ray()
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM] * 2
