import uuid

import pytest

from distributed_maddpg.checkpoint.folder import save_checkpoint
from tests.checkpoint.samples import make, rows


@pytest.fixture
def saved(tmp_path):
    return save_checkpoint(tmp_path / "step_40", make(replay=rows()))


@pytest.fixture
def url():
    return f"memory://bucket-{uuid.uuid4().hex}/run"


@pytest.fixture(params=["local", "remote"])
def place(request, tmp_path, url):
    """Return a folder for checkpoints, on the disk and behind a URL."""
    return tmp_path / "checkpoints" if request.param == "local" else f"{url}/checkpoints"
