import csv
import gc
import io
import json
import subprocess
import sys

import psutil
import pytest
import wandb

from distributed_maddpg.checkpoint.folder import load_checkpoint
from distributed_maddpg.cli import main
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput
from distributed_maddpg.run.progress import Progress
from distributed_maddpg.run.training import RunOptions, train_run, train_seeds
from tests.support.target import SHORT_RUN, target_config
from tests.support.wandb_files import config, history, records, summary, wandb_files

SHORT = {**SHORT_RUN, "pacing": {**SHORT_RUN["pacing"], "evaluation_interval_env_steps": 160}}


# W&B does not wait for its process, which ends by itself.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    for name in ("WANDB_NAME", "WANDB_RUN_GROUP", "WANDB_RUN_ID", "WANDB_API_KEY", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    places = {f"WANDB_{kind}_DIR": str(tmp_path / "w" / kind) for kind in ("CACHE", "CONFIG", "DATA")}
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", **places}.items():
        monkeypatch.setenv(name, value)
    yield
    wandb.teardown()
    gc.collect()
    assert not [process for process in psutil.Process().children() if "wandb" in process.name()]


def train(run_dir, project="", resume=None):
    options = RunOptions(wandb=project)
    checkpoint = load_checkpoint(resume) if resume else None
    settings = checkpoint.config if checkpoint else target_config(**SHORT)
    summary = train_run(settings, run_dir, Progress(io.StringIO()), checkpoint, options)
    wandb.teardown()  # which writes its files to their end
    return summary


def table(path):
    with path.open(newline="") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def test_a_run_has_the_settings_the_rows_of_the_tables_and_the_summary(tmp_path):
    ended = train(tmp_path / "run", "deception")
    [path] = wandb_files(tmp_path / "run")
    [run] = [record.run for record in records(path) if record.HasField("run")]
    assert (run.project, run.run_id, run.display_name) == ("deception", ended["wandb"]["id"], "run")
    settings = json.loads(json.dumps(target_config(**SHORT).to_dict()))
    assert settings.items() <= config(path).items()
    logged = history(path)
    results = [row for row in logged if "env_steps_per_s" in row]
    assert [{**row, "env_steps": 0} for row in results] == [
        {**row, "env_steps": 0} for row in table(tmp_path / "run" / "metrics.csv")
    ]
    assert [row["env_steps"] for row in results] == [160, 320]
    returns = table(tmp_path / "run" / "returns.csv")
    evaluations = [row for row in logged if "evaluation/episodes" in row]
    for agent in ("even_0", "odd_0"):
        name = f"evaluation/agent_episode_returns_mean/{agent}"
        assert [row[name] for row in evaluations] == [row[agent] for row in returns]
    assert [row["env_steps"] for row in evaluations] == [160, 320]
    final = summary(path)
    assert (final["weights_digest"], final["finished"]) == (ended["weights_digest"], True)


def test_the_x_axis_is_environment_steps(tmp_path):
    train(tmp_path / "run", "deception")
    [path] = wandb_files(tmp_path / "run")
    metrics = [record.metric for record in records(path) if record.HasField("metric")]
    assert ("*", "env_steps") in [(metric.glob_name, metric.step_metric) for metric in metrics]


def test_a_resumed_run_goes_on_as_the_same_run_of_wandb(tmp_path):
    first = train(tmp_path / "run", "deception")
    again = train(tmp_path / "run", resume=tmp_path / "run" / "checkpoints" / "step_160")
    assert again["wandb"]["id"] == first["wandb"]["id"]
    before, after = wandb_files(tmp_path / "run")
    assert [row["env_steps"] for row in history(after)] == [320, 320]
    assert len(history(before)) == 4


def test_a_resumed_run_can_leave_wandb(tmp_path):
    train(tmp_path / "run", "deception")
    summary = train(tmp_path / "run", "none", resume=tmp_path / "run" / "checkpoints" / "step_160")
    assert "wandb" not in summary
    assert len(wandb_files(tmp_path / "run")) == 1


def test_several_seeds_are_a_group(tmp_path):
    options = RunOptions(wandb="deception")
    config = MADDPGConfig.from_dict({"seed": 3}, target_config(**SHORT))
    train_seeds(config, 2, tmp_path / "both", Progress(io.StringIO()), options=options)
    wandb.teardown()
    names = set()
    for seed in (3, 4):
        [path] = wandb_files(tmp_path / "both" / f"seed_{seed}")
        [run] = [record.run for record in records(path) if record.HasField("run")]
        names.add((run.run_group, run.display_name))
        assert {row["env_steps"] for row in history(path)} == {160, 320}
    assert names == {("both", "seed_3"), ("both", "seed_4")}


def test_wandb_itself_decides_name_and_group(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_NAME", "mine")
    monkeypatch.setenv("WANDB_RUN_GROUP", "ours")
    train(tmp_path / "run", "deception")
    [path] = wandb_files(tmp_path / "run")
    [run] = [record.run for record in records(path) if record.HasField("run")]
    assert (run.run_group, run.display_name) == ("ours", "mine")


KILLING = """
from distributed_maddpg import Callbacks
import psutil

class Killing(Callbacks):
    def on_result(self, algo, result):
        for process in psutil.Process().children(recursive=True):
            if "wandb" in process.name():
                process.kill()
"""


def test_a_run_whose_wandb_dies_trains_to_its_end(tmp_path):
    (tmp_path / "killing.py").write_text(KILLING)
    (tmp_path / "config.toml").write_text(target_config(**SHORT).to_toml())
    words = ["train", "--config", str(tmp_path / "config.toml"), "--run-dir", str(tmp_path / "run")]
    hooks = ["--callbacks", f"{tmp_path}/killing.py:Killing", "--wandb", "deception"]
    command = [sys.executable, "-m", "distributed_maddpg", *words, *hooks, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    ended = json.loads(done.stdout)
    assert (ended["finished"], "problem" in ended) == (True, False)
    assert "W&B takes no more of this run" in ended["wandb"]["problem"]
    assert done.stderr.count("W&B takes no more of this run") == 1
    assert len(table(tmp_path / "run" / "metrics.csv")) == 2


def test_without_the_package_the_option_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main(["train", "--run-dir", str(tmp_path / "run"), "--wandb", "deception"]) == 2
    line = "error: --wandb = 'deception': needs the package wandb: pip install 'distributed-maddpg[wandb]'"
    assert capsys.readouterr().err.startswith(line)
    assert not (tmp_path / "run").exists()


def test_a_run_that_wandb_refuses_does_not_start(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path))  # no login of whoever runs the tests
    with pytest.raises(BadInput, match=r"--wandb = 'deception': W&B cannot start .*WANDB_MODE=offline"):
        train(tmp_path / "run", "deception")
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {".lock", "wandb"}


def test_an_id_for_several_seeds_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "one")
    with pytest.raises(BadInput, match="WANDB_RUN_ID = 'one': is the id of one run"):
        options = RunOptions(wandb="deception")
        train_seeds(target_config(**SHORT), 2, tmp_path / "both", Progress(io.StringIO()), options=options)
