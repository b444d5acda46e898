import socket

import pytest

pytest.importorskip("ray")
from distributed_maddpg.errors import TrainingError
from distributed_maddpg.runtime.cluster import _check_reachable


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_an_address_where_nobody_listens_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    for address in (
        f"127.0.0.1:{free}",
        f"ray://127.0.0.1:{free}",
        "127.0.0.1:99999",
        "no.such.host.invalid:1",
    ):
        with pytest.raises(TrainingError, match=r"ray.address = .*no connection \(.+\); start the"):
            _check_reachable(address)


def test_an_address_where_somebody_listens_or_that_is_a_word_is_left_to_ray(listener):
    for address in (f"127.0.0.1:{listener}", f"ray://127.0.0.1:{listener}", "auto", "local", ""):
        _check_reachable(address)
