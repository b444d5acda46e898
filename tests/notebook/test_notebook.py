"""Training in notebooks that a real kernel executes: what cells show, interrupts, and going on."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "num_workers": 0,
    "env": {"kwargs": {"N": 2, "max_cycles": 10, "continuous_actions": True}},
    "rollout": {"num_envs": 4, "fragment_steps": 2},
    "algorithm": {"policy_hidden_sizes": [8], "critic_hidden_sizes": [8], "lr_end": 1.0, "n_step": 1},
    "learner": {"batch_size": 16, "device": "cpu"},
    "replay": {"capacity": 1000},
    "pacing": {
        "total_env_steps": 240,
        "learning_starts": 40,
        "env_steps_per_update": 10.0,
        "publish_interval_updates": 2,
        "report_interval_env_steps": 80,
        "evaluation_interval_env_steps": 80,
    },
    "evaluation": {"episodes": 3, "final_episodes": 5},
}
ENDLESS = {**SETTINGS, "pacing": {**SETTINGS["pacing"], "total_env_steps": 10**9}}  # type: ignore[dict-item]
INTERRUPT_ONCE_IT_TRAINS = """
import os, signal, threading, time
from pathlib import Path

def interrupt_once(path):
    def wait():
        while not path.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)  # as Jupyter does
    threading.Thread(target=wait, daemon=True).start()
"""


def executed(notebook: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Execute a notebook in a folder; return its code cells."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    client = nbclient.NotebookClient(
        notebook,
        timeout=500,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def notebook_of(*sources: str) -> Any:
    return nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in sources],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )


def displayed(cell: Any, kind: str) -> str:
    """Return the value of a cell's last line, as this kind of data."""
    [output] = [each for each in cell.outputs if each.output_type == "execute_result"]
    return str(output.data[kind])


def test_the_example_trains_shows_evaluates_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = nbformat.read(ROOT / "examples" / "notebook.ipynb", 4)
    nbformat.validate(example)
    assert all(not cell.get("outputs") for cell in example.cells), "strip the outputs"
    [parameters] = [cell for cell in example.cells if "parameters" in cell.metadata.get("tags", ())]
    parameters.source = f"settings = {SETTINGS}"
    _, _, trained, shown, evaluated, resumed, acted = executed(example, tmp_path, monkeypatch)

    [display] = trained.outputs
    for part in ("<span>finished</span>", "240 env steps, ", "21 updates, ", "runs/default-"):
        assert part in display.data["text/html"], display
    assert "result: finished" in display.data["text/plain"]
    page, text = displayed(shown, "text/html"), displayed(shown, "text/plain")
    assert page.startswith('<iframe sandbox="allow-scripts" ') and page.endswith('"></iframe>')
    [inside] = re.findall(' srcdoc="([^"]*)"', page)
    assert "simple_adversary" in inside and "<!doctype html>" in inside.lower()
    assert "<" not in re.sub(' srcdoc="[^"]*"', "", page)[1:].replace("</iframe>", "")
    assert re.search(r"^progress +100 %: 240 of 240 env steps", text, re.MULTILINE)
    assert set(ast.literal_eval(displayed(evaluated, "text/plain"))) == {"agents", "adversary", "coverage"}
    assert "360 env steps, " in resumed.outputs[0].data["text/html"]
    assert set(ast.literal_eval(displayed(resumed, "text/plain"))) == {"agents", "adversary", "coverage"}
    assert "'adversary_0': array([" in displayed(acted, "text/plain")


def test_an_interrupted_cell_leaves_a_run_that_goes_on_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, train, state, _, resume, again, _, same = executed(
        notebook_of(
            f"{INTERRUPT_ONCE_IT_TRAINS}\nfrom distributed_maddpg import notebook",
            'interrupt_once(Path("run/metrics.csv"))\n'
            f'run = notebook.train("default", run_dir="run", **{ENDLESS})',
            'run.status["state"], run.summary["env_steps"] % 8, signal.getsignal(signal.SIGINT).__name__',
            "run.stop()",
            'total = run.summary["env_steps"] + 80\nrun.resume(pacing={"total_env_steps": total})',
            'run.status["state"], run.summary["env_steps"] - total',
            f'settings = {ENDLESS}\nsettings["pacing"]["total_env_steps"] = total\n'
            'whole = notebook.train("default", run_dir="whole", **settings)',
            'whole.summary["weights_digest"] == run.summary["weights_digest"]',
        ),
        tmp_path,
        monkeypatch,
    )
    [display] = train.outputs
    assert "<span>interrupted</span>" in display.data["text/html"]
    assert "<span>run.resume()</span>" in display.data["text/html"]
    assert displayed(state, "text/plain") == "('interrupted', 0, 'default_int_handler')"
    assert "<span>finished</span>" in resume.outputs[0].data["text/html"]
    assert displayed(again, "text/plain") == "('finished', 0)"
    assert displayed(same, "text/plain") == "True", "it is not the run that was never interrupted"
