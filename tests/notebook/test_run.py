"""`notebook.train` and `notebook.Run` without a kernel: settings, environments, interrupts, bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distributed_maddpg import MADDPGConfig, notebook
from distributed_maddpg.errors import BadInput, CheckpointError
from distributed_maddpg.run.progress import Progress
from tests.notebook.test_notebook import SETTINGS
from tests.support.counting import CountingEnv
from tests.support.serial_runs import tiny


def test_a_config_or_a_preset_with_changes_is_trained(tmp_path: Path) -> None:
    first = notebook.train(tiny(), run_dir=tmp_path / "config")
    assert first.summary["finished"] and first.summary["env_steps"] == 240
    second = notebook.train("default", run_dir=tmp_path / "preset", **SETTINGS)
    config = MADDPGConfig.from_toml(second.path / "config.toml")
    assert config == MADDPGConfig.from_dict(SETTINGS, MADDPGConfig.preset("default"))
    assert notebook.latest() is second


def test_two_runs_of_a_second_have_two_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(notebook, "default_run_dir", lambda name: Path("runs") / name)
    assert [notebook.train(tiny()).path for _ in range(2)] == [
        *(Path("runs/notebook"), Path("runs/notebook-2"))
    ]


def test_an_environment_of_ones_own_is_given_as_a_callable(tmp_path: Path) -> None:
    run = notebook.train(tiny(env_id="simple"), env=lambda: CountingEnv(continuous=True), run_dir=tmp_path)
    assert run.algo.spec.agents == ("counter_0", "counter_1")
    assert run.evaluate(2)["agent_episode_returns_mean"] == {"counter_0": 15.0, "counter_1": 15.0}
    again = run.resume(pacing={"total_env_steps": 320})
    assert again is run and run.summary["env_steps"] == 320
    with pytest.raises(CheckpointError, match="given in Python as a callable"):
        notebook.Run(tmp_path).evaluate(2)
    elsewhere = notebook.Run(tmp_path, env=lambda: CountingEnv(continuous=True))
    assert elsewhere.evaluate(2)["episodes"] == 2


def test_settings_of_the_environment_are_given_as_a_table(tmp_path: Path) -> None:
    env = {"id": "simple_adversary", "kwargs": {"N": 2, "max_cycles": 5, "continuous_actions": True}}
    run = notebook.train(tiny(), env=env, run_dir=tmp_path)
    assert run.algo.config.env.kwargs == env["kwargs"]


def test_the_algorithm_is_that_of_the_newest_checkpoint(tmp_path: Path) -> None:
    run = notebook.train(tiny(), run_dir=tmp_path)
    before = run.algo
    assert (before.env_steps, run.algo is before) == (240, True)
    run.resume(pacing={"total_env_steps": 320})
    assert run.algo.env_steps == 320
    result = run.algo.train()  # beyond what is in the folder, until stop
    assert result["num_env_steps_sampled_lifetime"] >= 320
    run.stop()
    run.stop()
    assert run.algo.env_steps == 320


def test_two_interrupts_end_it_at_once_and_latest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Progress, result: dict[str, Any]) -> None:
        if result["num_env_steps_sampled_lifetime"] >= 160:
            raise KeyboardInterrupt  # as the second one does

    config = tiny(pacing={"checkpoint_interval_env_steps": 80})
    with monkeypatch.context() as patched:
        patched.setattr(Progress, "print_result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            notebook.train(config, run_dir=tmp_path / "run")
    run = notebook.latest()
    run.stop()
    assert (run.path, run.summary) == (tmp_path / "run", {})
    assert "progress" in repr(run)
    whole = notebook.train(config, run_dir=tmp_path / "whole")
    assert run.resume().summary["weights_digest"] == whole.summary["weights_digest"]


def test_what_cannot_be_shown_says_why(tmp_path: Path) -> None:
    run = notebook.Run(tmp_path / "nowhere")
    assert run._repr_html_() is None
    assert repr(run).startswith("problem ") and "is no folder" in repr(run)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"settings": "defualt"}, "preset = 'defualt': did you mean 'default'?"),
        ({"settings": 3}, "settings = 3: must be a preset or MADDPGConfig"),
        ({"settings": "default", "pacng": {}}, "pacng"),
        ({"settings": "default", "num_workers": -1}, "num_workers = -1"),
        ({"settings": "default", "run_dir": "s3://bucket"}, "must be a path of this machine"),
    ],
)
def test_bad_input_is_refused_before_anything_is_started(arguments: dict[str, Any], line: str) -> None:
    with pytest.raises(BadInput, match=line.replace("?", "[?]")):
        notebook.train(**arguments)


def test_a_folder_in_use_is_refused_with_the_way_to_go_on(tmp_path: Path) -> None:
    notebook.train(tiny(), run_dir=tmp_path)
    with pytest.raises(BadInput, match="already holds a run"):
        notebook.train(tiny(), run_dir=tmp_path)
