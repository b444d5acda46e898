"""Rollout workers of a notebook: their processes end with the cell, however it ends, and with the kernel."""

from __future__ import annotations

import time
from pathlib import Path

import nbclient
import nbformat
import psutil
import pytest

pytest.importorskip("ray")
from jupyter_client.manager import KernelManager

from tests.notebook.test_notebook import ENDLESS, INTERRUPT_ONCE_IT_TRAINS, ROOT
from tests.support.processes import gone, session_processes

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(not psutil.LINUX, reason="finds processes by their session"),
]
TRAIN = f'notebook.train("default", run_dir="run", **{ {**ENDLESS, "num_workers": 1} })'


def test_an_interrupted_cell_leaves_no_process_and_the_kernels_end_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cells = [
        f"{INTERRUPT_ONCE_IT_TRAINS}\nimport psutil\nfrom distributed_maddpg import notebook",
        f'interrupt_once(Path("run/metrics.csv"))\nrun = {TRAIN}',
        'run.status["state"], psutil.Process().children(recursive=True)',
    ]
    client = nbclient.NotebookClient(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells]),
        timeout=500,
        resources={"metadata": {"path": str(tmp_path)}},
    )
    manager = KernelManager(kernel_name="python3")
    client.km = manager
    with client.setup_kernel(cwd=str(tmp_path)):
        for index, cell in enumerate(client.nb.cells):
            client.execute_cell(cell, index)
        assert client.nb.cells[2].outputs[0].data["text/plain"] == "('interrupted', [])"
        # Now the kernel is shut down, as by closing the notebook, while a cell trains.
        metrics = tmp_path / "run" / "metrics.csv"
        rows = len(metrics.read_text().splitlines())
        client.kc.execute("run.resume()")
        deadline = time.monotonic() + 400
        while len(metrics.read_text().splitlines()) <= rows:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        processes = session_processes(client.km.provisioner.pid)
        assert any("RolloutWorker" in name for name in processes.values()), processes
    assert gone(processes, 120)
