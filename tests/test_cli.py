import csv
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from distributed_maddpg import MADDPG, __version__
from distributed_maddpg.checkpoint import saver
from distributed_maddpg.checkpoint.folder import load_checkpoint, save_checkpoint
from distributed_maddpg.checkpoint.listing import checkpoints_of
from distributed_maddpg.cli import main
from distributed_maddpg.cli.parsing import env_argument
from distributed_maddpg.config.parsing import read_toml
from distributed_maddpg.errors import CheckpointError, TrainingError
from tests.support import arguments
from tests.support.pages import data_in

TINY = [
    *("--num-workers", "0", "--learner.device", "cpu", "--env.kwargs", "max_cycles", "5"),
    *("--rollout.num-envs", "4", "--rollout.fragment-steps", "5", "--learner.batch-size", "16"),
    *("--algorithm.policy-hidden-sizes", "8", "--algorithm.critic-hidden-sizes", "8"),
    *("--replay.capacity", "1000", "--pacing.learning-starts", "40", "--pacing.env-steps-per-update", "10"),
    *("--pacing.total-env-steps", "200", "--pacing.report-interval-env-steps", "100"),
    *("--pacing.evaluation-interval-env-steps", "100", "--pacing.checkpoint-interval-env-steps", "100"),
    *("--evaluation.episodes", "3", "--evaluation.final-episodes", "4"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a finished run's folder; tests must leave it as it is."""
    run_dir = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", *TINY, "--run-dir", str(run_dir)]) == 0
    return run_dir


def refused(arguments, capsys, code=2):
    """Run a command that must fail; return its only line on stderr."""
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    return lines[0]


BAD = {
    "unknown command": (["trian"], "command = 'trian': did you mean 'train'?"),
    "unknown option before a command": (["--verison"], "command = '--verison': did you mean '--version'?"),
    "too many seeds": (
        ["train", "--num-seeds", "1e6", "--dry-run"],
        "--num-seeds = 1000000: must be at most",
    ),
    "unknown option": (["train", "--learner.batchsize", "8"], "did you mean --learner.batch-size"),
    "unknown environment": (
        ["train", "--env.id", "mpe2.simple_spred_v3"],
        "env.id = 'mpe2.simple_spred_v3': there is no such environment, did you mean 'mpe2.simple_spread_v3'",
    ),
    "no agents": (["train", "--env.kwargs", "N", "0"], "N = 0"),
    "unknown environment argument": (["train", "--env.kwargs", "max_cycle", "9"], "max_cycle"),
    "negative rate": (
        ["train", "--algorithm.actor-lr", "-0.1"],
        "algorithm.actor_lr = -0.1: must be a positive",
    ),
    "not a number": (["train", "--seed", "x"], "--seed"),
    "unknown choice": (["train", "--algorithm.name", "maddgp"], "--algorithm.name"),
    "batch above capacity": (
        ["train", "--replay.capacity", "20000", "--learner.batch-size", "30000"],
        "learner.batch_size = 30000: is more than replay.capacity (20000)",
    ),
    "more replay than memory": (
        ["train", "--num-workers", "0", "--replay.capacity", str(10**13)],
        "replay.capacity = 10000000000000: needs",
    ),
    "unknown preset": (["train", "--preset", "notbook"], "preset = 'notbook': did you mean 'notebook'?"),
    "missing preset name": (["train", "--preset"], "--preset"),
    "a name without a value": (
        ["train", "--env.kwargs", "N", "3", "max_cycles"],
        "--env.kwargs: a name lacks its value; give --env.kwargs NAME VALUE",
    ),
    "no such algorithm of a team": (
        ["train", "--algorithm.team-overrides", "agent", "ppo"],
        "--algorithm.team-overrides: a name lacks its value, or has none of these; "
        "give --algorithm.team-overrides NAME {maddpg,ddpg,matd3}",
    ),
    "a file for a folder": (
        ["reproduce", "physical-deception", "--out", __file__],
        "test_cli.py': is a file; name a folder",
    ),
    "missing configuration": (
        ["train", "--config", "none.toml"],
        "config = 'none.toml': cannot be read (No such file",
    ),
    "no episodes": (["evaluate", "x", "--episodes", "0"], "--episodes = 0: must be positive"),
    "budget of nothing": (["evaluate", "x", "--budget", "9"], "--budget = 9.0: needs --best-response"),
    "budget without end": (
        ["evaluate", "x", "--best-response", "--budget", "inf"],
        "--budget = inf: must be positive, and below 1,000",
    ),
    "budget of years": (
        ["evaluate", "x", "--best-response", "--budget", "999999999"],
        "--budget = 999999999.0: must be positive, and below 1,000",
    ),
    "goal above all": (
        ["train", "--stop-at", "success.agents=950"],
        "--stop-at = 'success.agents>=950': success is in percent, from 0 to 100; no evaluation reaches that",
    ),
    "goal below all": (
        ["train", "--stop-at", "success.agents<=-1"],
        "--stop-at = 'success.agents<=-1': success is in percent",
    ),
    "negative seed": (["evaluate", "x", "--seed", "-1"], "seed = -1"),
    "no checkpoint named": (["evaluate"], "checkpoint"),
    "no run": (["report", "nowhere"], "RUN_DIR = 'nowhere': holds no run"),
    "no such benchmark": (["benchmark", "envs"], "kind"),
    "no such list of workers": (
        ["benchmark", "scaling", "--workers", "1-4"],
        "--workers = '1-4': must be positive numbers with commas between them, as in 1,2,4",
    ),
    "no repeats": (["benchmark", "env", "--repeats", "0"], "--repeats = 0: must be positive"),
    "no such preset to measure": (
        ["benchmark", "env", "--preset", "papper"],
        "preset = 'papper': did you mean 'paper'?",
    ),
    "Ray Client": (
        ["train", "--ray.address", "ray://h:10001"],
        "ray.address = 'ray://h:10001': Ray Client is not",
    ),
    "no name of a file": (["benchmark", "env", "--name", "a/b"], "name = 'a/b': takes small letters"),
    **{
        f"{name} of a train {option}": (["train", option, value], f"{option} = {value!r}: {remedy}"[:200])
        for option in ("--run-dir", "--resume")
        for name, value, remedy in (
            ("empty name", "", "is empty; give it a value, or leave the option out"),
            ("URL", "s3://a/b", "must be a path of this machine"),
            ("newline", "a\nb", "must be a path of this machine, without control characters"),
            ("NUL", "a\0b", "must be a path of this machine, without control characters"),
        )
    },
    "long name of a run": (
        ["train", "--run-dir", "x" * 300],
        "cannot be used (File name too long); name another",
    ),
    "long name to report": (["report", "x" * 300], "cannot be used (File name too long); name another"),
    "NUL to report": (["report", "a\0b"], r"RUN_DIR = 'a\x00b': must be a path of this machine"),
    **{
        f"goal {text!r}": (["train", "--stop-at", text], f"--stop-at = {text!r}: must be NAME=NUMBER")
        for text in ("success.agents", "success.agents=many", "=95")
    },
    "no goal": (["train", "--stop-at", "--seed", "3"], "--stop-at = []: is empty"),
    "goal that no evaluation has": (
        ["train", "--stop-at", "success.agent=95"],
        "--stop-at = 'success.agent>=95': evaluations have no such score; did you mean 'success.agents'?",
    ),
    "best of what there is not": (
        ["train", "--keep-best", "delt"],
        "--keep-best = 'delt': evaluations have no",
    ),
    "no best": (["train", "--keep-best", ""], "--keep-best = '': is empty"),
    "best without evaluations": (
        ["train", "--keep-best", "delta", "--pacing.evaluation-interval-env-steps", "0"],
        "--keep-best = 'delta': needs evaluations; set pacing.evaluation_interval_env_steps above 0",
    ),
    "no duration": (["train", "--max-time", "5h50"], "--max-time = '5h50': must be a duration such as"),
    "no time": (["train", "--max-time", "0m"], "--max-time = '0m': must be longer than nothing"),
    "empty configuration": (["train", "--config", ""], "--config = '': is empty"),
    "empty variable": (["train", "--run-dir=", "--seed", "3"], "--run-dir = '': is empty"),
    "checkpoints in a file": (
        ["train", "--checkpoint-dir", __file__],
        "test_cli.py': is a file; name a folder",
    ),
    "checkpoints by an unknown protocol": (
        ["train", "--checkpoint_dir", "foo://x"],
        "--checkpoint-dir = 'foo://x': cannot be opened",
    ),
    "checkpoints in memory": (
        ["train", "--checkpoint-dir", "memory://x"],
        "--checkpoint-dir = 'memory://x': is lost when the process ends",
    ),
    "noise without a head": (
        ["train", "--exploration.kind", "ou"],
        "exploration.kind = 'ou': needs a sigmoid",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(case, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, message = BAD[case]
    assert message.lower() in refused(arguments, capsys).lower()
    assert os.listdir(tmp_path) == []


def test_an_unknown_key_in_a_file_is_named(capsys, tmp_path):
    (tmp_path / "c.toml").write_text("[learner]\nbach_size = 8\n")
    line = refused(["train", "--config", str(tmp_path / "c.toml")], capsys)
    assert "learner.bach_size = 8: no such setting; did you mean 'batch_size'?" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused(capsys, tmp_path):
    arguments = ["train", "--num-workers", "0", "--learner.device", "cuda", "--run-dir", str(tmp_path / "x")]
    assert "learner.device = 'cuda': torch sees no GPU" in refused(arguments, capsys)
    assert not (tmp_path / "x").exists()


def test_a_folder_that_holds_a_run_is_refused(run, capsys):
    line = refused(["train", *TINY, "--run-dir", str(run)], capsys)
    assert f"already holds a run; resume it with --resume {run}" in line


def test_a_folder_that_is_a_file_is_refused(capsys, tmp_path):
    (tmp_path / "x").write_text("")
    assert "is a file; name a folder" in refused(["train", *TINY, "--run-dir", str(tmp_path / "x")], capsys)


@pytest.mark.parametrize("arguments", [["evaluate", "nowhere"], ["train", "--resume", "nowhere"]])
def test_a_missing_checkpoint_is_exit_code_3(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "nowhere" in refused(arguments, capsys, code=3)


def test_what_could_be_evaluated_is_said(run, capsys, tmp_path):
    line = refused(["evaluate", str(tmp_path)], capsys, code=3)
    assert "is not a checkpoint" in line and "name a checkpoint, a run folder or a folder" in line
    line = refused(["evaluate", __file__], capsys, code=3)
    assert "test_cli.py: is a file; name the folder of a checkpoint or of a run" in line
    assert f"holds runs; name one of them, such as {run}" in refused(
        ["evaluate", str(run.parent)], capsys, code=3
    )


def test_an_expected_environment_must_be_the_checkpoints(run, capsys):
    line = refused(["evaluate", str(run), "--env.id", "mpe2.simple_spread_v3"], capsys)
    assert "env.id = 'mpe2.simple_spread_v3':" in line and "was trained in simple_adversary" in line
    assert main(["evaluate", str(run), "--env.id", "mpe2.simple_adversary_v3", "--episodes", "2"]) == 0


def test_a_damaged_checkpoint_is_exit_code_3(run, capsys, tmp_path):
    (tmp_path / "manifest.json").write_text("{")
    assert "is not valid JSON" in refused(["evaluate", str(tmp_path)], capsys, code=3)


def test_help_and_version_are_printed_and_no_command_is_refused(capsys):
    assert main(["--help"]) == 0
    assert "distributed-maddpg COMMAND" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"
    assert main([]) == 2
    assert "distributed-maddpg COMMAND" in capsys.readouterr().err


def test_a_commands_help_shows_every_setting_with_its_text(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train", "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "--learner.batch-size" in shown
    assert "Transitions per update." in shown


def test_training_prints_one_json_object_and_leaves_every_file(capsys, tmp_path):
    assert main(["train", *TINY, "--run-dir", str(tmp_path / "run"), "--json"]) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert captured.out.count("\n") == 1
    assert (summary["finished"], summary["env_steps"], summary["updates"]) == (True, 200, 17)
    assert summary["evaluation"]["episodes"] == 4
    assert len(summary["weights_digest"]) == 64
    assert all(os.path.exists(path) for path in summary["files"].values())
    assert "100 %" in captured.err


def test_a_run_folder_is_complete(run):
    names = {path.name for path in run.iterdir() if not path.name.startswith("events.out.tfevents")}
    assert names >= {
        "config.toml",
        "metrics.csv",
        "returns.csv",
        "checkpoints",
        "report.html",
        "summary.json",
    }
    assert [name for name in names if name.startswith(".")] == [".lock"]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step_100", "step_200"]
    assert any(path.name.startswith("events.out.tfevents") for path in run.iterdir())


def column(path, name):
    with path.open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file)]


def test_curves_have_one_row_per_report_and_per_evaluation(run):
    assert column(run / "metrics.csv", "num_env_steps_sampled_lifetime") == [100, 200]
    assert column(run / "metrics.csv", "num_updates_lifetime") == [7, 17]
    assert column(run / "returns.csv", "env_steps") == [100, 200]
    assert column(run / "returns.csv", "episodes") == [3, 4]
    assert all(rate >= 0 for rate in column(run / "returns.csv", "success_coverage"))


def test_a_runs_settings_repeat_it(run, tmp_path):
    again = tmp_path / "again"
    assert main(["train", "--config", str(run / "config.toml"), "--run-dir", str(again)]) == 0
    first, second = (json.loads((folder / "summary.json").read_text()) for folder in (run, again))
    assert first["weights_digest"] == second["weights_digest"]


def test_a_private_part_is_set_by_a_file_changed_by_an_option_and_resumed(tmp_path):
    path, run = tmp_path / "private.toml", tmp_path / "run"
    path.write_text("[algorithm.private.agent]\ncolumns = [0, 2]\ncandidates = [[2, 4], [4, 6]]\n")
    candidates = ["--algorithm.private.agent.candidates", "4", "6", "6", "8"]
    assert main(["train", "--config", str(path), *TINY, *candidates, "--run-dir", str(run)]) == 0
    more = ["--pacing.total-env-steps", "300"]
    assert main(["train", "--resume", str(run), *more]) == 0
    settings = read_toml(run / "config.toml")
    part = {"columns": [0, 2], "candidates": [[4, 6], [6, 8]], "aligned": True, "constants": []}
    assert settings["algorithm"]["private"] == {"agent": part}
    assert settings["pacing"]["total_env_steps"] == 300


def test_evaluate_gives_the_same_numbers_for_the_same_seed(run, capsys):
    cards = []
    for seed in ("3", "3", "4"):
        assert main(["evaluate", str(run), "--episodes", "6", "--seed", seed, "--json"]) == 0
        cards.append(json.loads(capsys.readouterr().out))
    assert cards[0] == cards[1]
    assert cards[0]["agent_episode_returns_mean"] != cards[2]["agent_episode_returns_mean"]
    assert cards[0]["checkpoint"].endswith("step_200")
    assert cards[0]["episodes"] == 6
    assert set(cards[0]["success"]) == {"agents", "adversary", "coverage"}
    assert set(cards[0]["success_by_eps"]["0.4"]) == {"agents", "adversary", "coverage"}


def test_evaluate_shows_a_table_on_stderr(run, capsys):
    assert main(["evaluate", str(run / "checkpoints" / "step_100"), "--episodes", "2"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Greedy returns, 2 episodes" in captured.err
    assert "Trained and scripted teams against each other" in captured.err
    assert "strongest opponents" not in captured.err


def test_evaluate_tries_to_exploit_the_run_if_asked(run, capsys):
    response = ["--best-response", "--budget", "0.002", "--episodes", "50"]
    assert main(["evaluate", str(run), *response, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["best_response"]
    adversary, agents = (found["teams"][team] for team in ("adversary", "agent"))
    assert agents["strongest"]["return"]["episodes"] == 50
    assert "bounds" not in agents
    informed = adversary["bounds"]["informed"]
    strongest = adversary["strongest"]["final_distance"]
    assert informed["final_distance"] < strongest["final_distance_mean"]["adversary"]
    assert main(["evaluate", str(run), *response]) == 0
    shown = capsys.readouterr().err
    assert "The strongest opponents in the place of adversary, on other start states" in shown
    assert "How well the history of observations tells the private part" in shown


def test_resume_continues_counts_and_curves(capsys, tmp_path):
    run_dir = tmp_path / "run"
    assert main(["train", *TINY, "--run-dir", str(run_dir)]) == 0
    resumed = ["train", "--resume", str(run_dir), "--pacing.total-env-steps", "400", "--json"]
    capsys.readouterr()
    assert main(resumed) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["env_steps"], summary["updates"]) == (400, 1 + (400 - 40) // 10)
    assert column(run_dir / "metrics.csv", "num_env_steps_sampled_lifetime") == [100, 200, 300, 400]
    assert column(run_dir / "returns.csv", "env_steps") == [100, 200, 300, 400]
    assert (run_dir / "checkpoints" / "step_400").is_dir()


def test_the_report_that_train_leaves_shows_the_summary(run):
    summary = json.loads((run / "summary.json").read_text())
    [card] = data_in(run / "report.html")["groups"]
    facts = {fact["label"]: fact["value"] for fact in card["facts"]}
    assert (card["state"], facts["Env steps"], facts["Updates"]) == ("finished", "200", "17")
    assert facts["Weights digest"] == summary["weights_digest"][:8]
    rates = [f"{rate:.1f}" for rate in summary["evaluation"]["success"].values()]
    assert [own["value"] for own in card["results"]] == rates and len(rates) == 3


def test_report_writes_the_page_anew(run, capsys):
    before = (run / "report.html").read_bytes()
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    assert abs(len((run / "report.html").read_bytes()) - len(before)) < 1000
    other = run / "other.html"
    assert main(["report", str(run), "--out", str(other)]) == 0
    assert (capsys.readouterr().out, other.exists()) == (f"{other}\n", True)


def test_an_interrupt_ends_a_run_with_a_checkpoint_and_the_command_to_go_on(tmp_path):
    run_dir = tmp_path / "run"
    endless = ["--pacing.total-env-steps", "1000000000", "--pacing.evaluation-interval-env-steps", "0"]
    command = [
        sys.executable,
        "-m",
        "distributed_maddpg",
        "train",
        *TINY,
        *endless,
        "--run-dir",
        str(run_dir),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 300
        while not (run_dir / "metrics.csv").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert (process.returncode, out) == (0, ""), err
    assert f"train --resume {run_dir}" in err.replace("\n", "")
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["interrupted"], summary["finished"]) == (True, False)
    assert (run_dir / "checkpoints" / f"step_{summary['env_steps']}" / "manifest.json").exists()
    assert data_in(run_dir / "report.html")["groups"][0]["state"] == "interrupted"


@pytest.mark.parametrize("option", ["--preset=paper", "--config=x.toml", "--run-dir=x"])
def test_resuming_takes_no_other_origin(option, capsys):
    assert "cannot be combined with --resume" in refused(["train", "--resume", "somewhere", option], capsys)


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """Return (run folder, checkpoint) of a run in an environment of one's own, imported by nobody yet."""
    env = ["--env.id", TELLTALE, "--algorithm.policy-head", "auto"]
    own = [word for word in TINY if word not in ("--env.kwargs", "max_cycles")]
    own.remove("5")  # of max_cycles
    run_dir = tmp_path / "run"
    assert main(["train", *own, *env, "--run-dir", str(run_dir)]) == 0
    forget(monkeypatch)
    return run_dir, run_dir / "checkpoints" / "step_200"


TELLTALE = "tests.support.telltale:parallel_env"


def forget(monkeypatch):
    monkeypatch.delitem(sys.modules, "tests.support.telltale", raising=False)
    monkeypatch.setenv("TELLTALE", "")


def test_an_environment_that_only_a_file_names_is_not_imported(foreign, capsys):
    run_dir, checkpoint = foreign
    capsys.readouterr()
    for command in (
        ["evaluate", str(run_dir)],
        ["evaluate", str(checkpoint)],
        ["evaluate", str(checkpoint), "--env.id", "tests.support.target:parallel_env"],
        ["train", "--resume", str(run_dir)],
    ):
        line = refused(command, capsys, code=3)
        assert f"its environment {TELLTALE!r} would be imported and run" in line
        assert f"--env.id {TELLTALE}" in line
    assert main(["train", "--resume", "auto", "--run-dir", str(run_dir)]) == 3
    assert os.environ["TELLTALE"] == "" and "tests.support.telltale" not in sys.modules
    with pytest.raises(CheckpointError, match=f"env_id='{TELLTALE}'"):
        MADDPG.from_checkpoint(checkpoint)
    with pytest.raises(CheckpointError, match="would be imported"):
        MADDPG.from_checkpoint(checkpoint, env_id="tests.support.telltale")
    assert os.environ["TELLTALE"] == "" and "tests.support.telltale" not in sys.modules
    assert checkpoint.is_dir(), "it is sound, and stays"


def spoil(checkpoint, **changes):
    """Change arrays of a checkpoint, by names with "__" for "/"; its checksums are right all the same."""
    read = load_checkpoint(checkpoint)
    arrays = {name.replace("__", "/"): change for name, change in changes.items()}
    state = {**read.state, **{name: change(read.state[name]) for name, change in arrays.items()}}
    replay = (
        None
        if read.replay is None
        else dataclasses.replace(read.replay, chunks=iter(list(read.replay.chunks)))
    )
    save_checkpoint(checkpoint, dataclasses.replace(read, state=state, replay=replay))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"learner__policy": lambda array: array * np.nan},
            "the policy weights are missing, or not all finite",
        ),
        ({"pacing__counts": lambda array: array + 1}, "(its counts disagree)"),
        ({"log__returns": lambda array: array[:0]}, "a part of it does not fit its settings"),
    ],
    ids=["weights", "counts", "log"],
)
def test_what_the_stages_cannot_take_over_is_skipped_by_auto_alone(run, capsys, tmp_path, changes, problem):
    here = tmp_path / "run"
    shutil.copytree(run, here)
    newest = here / "checkpoints" / "step_200"
    spoil(newest, **changes)
    capsys.readouterr()
    for more in ([], ["--pacing.total-env-steps", "300"]):
        assert main(["train", "--resume", str(here), *more]) == 3
        line = capsys.readouterr().err.splitlines()[-1]
        assert str(newest) in line and problem in line
    assert newest.is_dir()
    assert main(["train", "--resume", "auto", "--run-dir", str(here), "--json"]) == 0
    captured = capsys.readouterr()
    said = " ".join(captured.err.split())
    assert f"skipped: {newest}: " in said and f"resuming from {newest.with_name('step_100')}" in said
    digest = json.loads((run / "summary.json").read_text())["weights_digest"]
    assert json.loads(captured.out)["weights_digest"] == digest
    assert len(list(newest.parent.glob("step_200.broken.*"))) == 1


def test_a_resumed_run_saves_its_checkpoints_as_before(tmp_path, capsys):
    elsewhere = tmp_path / "there"
    options = ["--checkpoint-dir", str(elsewhere), "--keep-checkpoints", "0", "--no-checkpoint-replay"]
    assert main(["train", *TINY, "--run-dir", str(tmp_path / "run"), *options]) == 0
    for total in ("300", "400", "500"):  # one that is due while another is being written would be left out
        assert main(["train", "--resume", str(tmp_path / "run"), "--pacing.total-env-steps", total]) == 0
    assert sorted(os.listdir(elsewhere)) == [".lock", *(f"step_{n}00" for n in range(1, 6))]
    assert load_checkpoint(elsewhere / "step_500").replay is None
    assert main(["train", "--resume", str(tmp_path / "run"), "--keep-checkpoints", "2"]) == 0
    assert len(checkpoints_of(elsewhere)) == 2
    elsewhere.rename(tmp_path / "unmounted")
    capsys.readouterr()
    for command in (
        ["--resume", str(tmp_path / "run")],
        ["--resume", "auto", "--run-dir", str(tmp_path / "run")],
    ):
        assert "restore it" in refused(["train", *command], capsys, code=3)


def test_ray_client_is_refused_before_anything_is_written(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "ray://h:10001")
    line = refused(["train", "--run-dir", str(tmp_path / "run")], capsys)
    assert line.startswith("error: RAY_ADDRESS = 'ray://h:10001': Ray Client is not for training")
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_does_not_decide_whom_we_connect_to(run, capsys, tmp_path, monkeypatch):
    checkpoint = tmp_path / "run" / "checkpoints" / "step_200"
    shutil.copytree(run, tmp_path / "run")
    read = load_checkpoint(checkpoint)
    elsewhere = dataclasses.replace(read.config, ray=dataclasses.replace(read.config.ray, address="else:1"))
    save_checkpoint(checkpoint, dataclasses.replace(read, config=elsewhere))
    asked = []

    def train(config, *_, **__):
        asked.append(config.ray.address)
        raise TrainingError("far enough")

    monkeypatch.setattr("distributed_maddpg.run.training.train_run", train)
    resume = ["train", "--resume", "auto", "--run-dir", str(tmp_path / "run")]
    (tmp_path / "mine.toml").write_text('[ray]\naddress = "mine:1"\n')
    for more in ([], ["--config", str(tmp_path / "mine.toml")], ["--ray.address", "else:1"]):
        assert main([*resume, *more]) == 1
    assert asked == ["", "mine:1", "else:1"]
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("the run used --ray.address else:1") == 2
    with MADDPG.from_checkpoint(checkpoint) as algo:
        assert algo.config.ray.address == ""


def test_an_environment_that_is_named_is_imported(foreign, capsys, monkeypatch):
    run_dir, checkpoint = foreign
    assert main(["evaluate", str(run_dir), "--env.id", TELLTALE, "--episodes", "2"]) == 0
    assert os.environ["TELLTALE"] == "made"
    forget(monkeypatch)
    with MADDPG.from_checkpoint(checkpoint, env_id=TELLTALE) as algo:
        assert algo.env_steps == 200
    longer = ["--env.id", TELLTALE, "--pacing.total-env-steps", "400", "--json"]
    capsys.readouterr()
    assert main(["train", "--resume", str(run_dir), *longer]) == 0
    assert json.loads(capsys.readouterr().out)["env_steps"] == 400


@pytest.mark.parametrize(
    "env_id",
    ["os:system", "os", "mpe2:x", "mpe2._env", "mpe2..x", "pettingzoo.a:system", "mpe2x.y", "mpe2.é"],
)
def test_only_names_of_the_packages_that_come_along_are_believed(env_id, run, tmp_path):
    checkpoint = load_checkpoint(run / "checkpoints" / "step_200")
    config = dataclasses.replace(checkpoint.config, env=dataclasses.replace(checkpoint.config.env, id=env_id))
    path = save_checkpoint(tmp_path / "x", dataclasses.replace(checkpoint, config=config))
    with pytest.raises(CheckpointError, match="would be imported and run"):
        MADDPG.from_checkpoint(path)


def test_auto_needs_a_folder_begins_there_and_goes_on(tmp_path, capsys):
    assert "--resume = 'auto': needs --run-dir" in refused(["train", *TINY, "--resume", "auto"], capsys)
    command = ["train", *TINY, "--resume", "auto", "--run-dir", str(tmp_path / "run"), "--json"]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert "starting a new run" in captured.err
    first = json.loads(captured.out)
    (tmp_path / "run" / "checkpoints" / "step_200" / "manifest.json").write_text("{")
    assert main(command) == 0
    captured = capsys.readouterr()
    assert "skipped: " in captured.err and "step_200/manifest.json: is not valid JSON" in captured.err
    assert f"resuming from {tmp_path}/run/checkpoints/step_100" in captured.err
    assert json.loads(captured.out)["weights_digest"] == first["weights_digest"]
    assert column(tmp_path / "run" / "returns.csv", "env_steps") == [100, 200]


def test_a_goal_ends_a_run_and_the_same_command_again_at_once(tmp_path, capsys):
    run_dir = tmp_path / "run"
    command = ["train", *TINY, "--run-dir", str(run_dir), "--resume", "auto", "--json"]
    goals = ["--stop-at", "success.agents=0", "--stop-at", "success.adversary>=0", "delta<=100"]
    best = ["--keep-best", "agent_episode_returns_mean.agent_0:min"]
    summaries = []
    for more in (goals + best, goals + best, []):  # the last with what the run remembers
        assert main([*command, *more]) == 0
        summaries.append(json.loads(capsys.readouterr().out))
    reached = "success.agents>=0, success.adversary>=0, delta<=100"
    for summary in summaries:
        assert (summary["finished"], summary["env_steps"]) == (True, 100)
        assert summary["reason"] == f"ended early, because an evaluation reached {reached} (--stop-at)"
        assert summary["best"] == summaries[0]["best"]
    assert column(run_dir / "returns.csv", "env_steps") == [100, 100]
    assert summary["best"]["value"] == min(column(run_dir / "returns.csv", "agent_0"))
    assert main([*command, "--stop-at", "none", "--keep-best", "none"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["env_steps"], "reason" in summary, "best" in summary) == (200, False, False)
    assert main(["evaluate", str(run_dir), "--best", "--episodes", "2", "--no-matchups", "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)["checkpoint"]
    assert evaluated == summaries[0]["files"]["best_checkpoint"] == f"{run_dir}/checkpoints/best_step_100"


def test_the_best_checkpoint_may_be_behind_a_url(tmp_path, capsys):
    url = f"file://{tmp_path}/far"
    command = ["train", *TINY, "--run-dir", str(tmp_path / "run"), "--resume", "auto", "--json"]
    options = ["--checkpoint-dir", url, "--keep-best", "success.agents", "--keep-checkpoints", "1"]
    for total in ("200", "300"):
        assert main([*command, *options, "--pacing.total-env-steps", total]) == 0
        best = json.loads(capsys.readouterr().out)["files"]["best_checkpoint"]
        names = sorted(name for name in os.listdir(tmp_path / "far") if not name.startswith("."))
        assert [f"{url}/{name}" for name in names] == [best, f"{url}/step_{total}"]
    assert main(["evaluate", url, "--best", "--episodes", "2", "--no-matchups", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checkpoint"] == best


def test_a_run_ends_in_time_with_a_checkpoint_and_goes_on(tmp_path, capsys):
    command = ["train", *TINY, "--run-dir", str(tmp_path / "run"), "--resume", "auto", "--json"]
    began = time.time()
    assert main([*command, "--pacing.total-env-steps", "1000000000", "--max-time", "4s"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["interrupted"], first["finished"]) == (True, False)
    assert "(--max-time 4s); the same command with --resume auto goes on" in first["reason"]
    saved = os.stat(os.path.join(first["files"]["checkpoint"], "manifest.json")).st_mtime
    late = first["training_s"] < 0.1  # the start took all the time, on a busy machine
    assert late or saved - began < 4
    assert main([*command, "--pacing.total-env-steps", str(first["env_steps"] + 100)]) == 0
    second = json.loads(capsys.readouterr().out)
    assert (second["finished"], second["env_steps"] > first["env_steps"]) == (True, True)


def test_where_checkpoints_go_and_what_they_hold(tmp_path, capsys):
    url = f"file://{tmp_path}/far"
    options = ["--checkpoint-dir", url, "--no-checkpoint-replay", "--keep-checkpoints", "1"]
    assert main(["train", *TINY, *options, "--run-dir", str(tmp_path / "run")]) == 0
    assert [str(path) for path in checkpoints_of(url)] == [f"{url}/step_200"]
    assert load_checkpoint(f"{url}/step_200").replay is None
    capsys.readouterr()
    assert main(["evaluate", f"{url}/step_200", "--episodes", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checkpoint"] == f"{url}/step_200"
    longer = ["--pacing.total-env-steps", "300", "--json"]
    assert main(["train", "--resume", str(tmp_path / "run"), "--checkpoint-dir", url, *longer]) == 0
    assert json.loads(capsys.readouterr().out)["env_steps"] == 300
    assert "--keep-checkpoints = -1" in refused(["train", *TINY, "--keep-checkpoints", "-1"], capsys)


def test_a_run_that_could_not_be_saved_is_exit_code_1(tmp_path, capsys, monkeypatch):
    def full(path, checkpoint):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saver, "save_checkpoint", full)
    assert main(["train", *TINY, "--run-dir", str(tmp_path / "run"), "--json"]) == 1
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    last = captured.err.splitlines()[-1]
    assert last == f"error: {summary['problem']}"
    assert "step_200 was not saved ([Errno 28] No space left on device)" in last


def test_what_no_one_expected_is_still_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "--num-workers", "0", "--algorithm.policy-head", "auto"]
    code = main(
        [*arguments, "--env.id", "tests.support.failing:parallel_env", "--env.kwargs", "fail_at", "30"]
    )
    lines = capsys.readouterr().err.splitlines()
    assert code == 1
    place = r"in copy 0 at step 5 of its episode"  # the sixth episode of five steps
    assert re.match(rf"error: RuntimeError: boom at step 30, {place} \(.*=1 in the environment", lines[-1])
    assert not any("Traceback" in line for line in lines)


def test_options_that_decide_what_is_resumed_may_have_underscores(tmp_path, capsys):
    options = [*TINY, "--run_dir", str(tmp_path / "run"), "--resume", "auto"]
    assert main(["train", *options]) == 0
    assert main(["train", *options, "--pacing.total_env_steps=240", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["env_steps"] == 240


@pytest.mark.parametrize("num_workers", ["0", "2"])
def test_an_environment_that_can_never_work_is_refused_before_anything_starts(
    capsys, monkeypatch, tmp_path, num_workers
):
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "--num-workers", num_workers, "--algorithm.policy-head", "auto"]
    arguments += ["--env.id", "tests.support.failing:parallel_env", "--env.kwargs", "fail_at", "3"]
    line = refused(arguments, capsys)
    remedy = "fails when it is stepped (RuntimeError: boom at step 3, in copy 0 at step 3 of its episode)"
    assert line == f"error: env.id = 'tests.support.failing:parallel_env': {remedy}"
    assert not list(tmp_path.iterdir())


def test_an_environment_that_hangs_does_not_keep_the_command_from_its_end(tmp_path):
    (tmp_path / "hangs_at_import.py").write_text("import time\ntime.sleep(3600)\n")
    command = [sys.executable, "-m", "distributed_maddpg", "train", "--num-workers", "0"]
    command += ["--env.id", "hangs_at_import", "--ray.timeout-s", "0.5", "--run-dir", str(tmp_path / "run")]
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    remedy = "took more than 0.5 s (ray.timeout_s) when it was created, reset for the first time or closed"
    assert done.stderr == f"error: env.id = 'hangs_at_import': {remedy}\n"
    assert not (tmp_path / "run").exists()


def test_several_seeds_cannot_go_on_together(tmp_path, capsys):
    assert main(["train", "--preset", "notebook", "--num-seeds", "0"]) == 2
    assert "--num-seeds = 0: must be at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("[3,4]", [3, 4]),
        ('{"a": [1.5, true]}', {"a": [1.5, True]}),
        ("3", 3),
        ("3.0", 3.0),
        ("1e3", 1000.0),
        ("TRUE", True),
        ('"3"', "3"),
        ("[3,4", "[3,4"),
        ("maze", "maze"),
        ("[" * 200_000, "[" * 200_000),
    ],
)
def test_a_word_is_the_value_of_json_or_else_text(word, value):
    read = env_argument(word)
    assert (type(read), read) == (type(value), value)


def test_arguments_of_any_type_are_the_same_in_the_environment_and_all_files(tmp_path):
    words = ["max_cycles", "5", "sizes", "[3,4.0]", "map", '{"a": [true]}', "name", "maze"]
    kwargs = {"max_cycles": 5, "sizes": [3, 4.0], "map": {"a": [True]}, "name": "maze"}
    env = ["--env.id", "tests.support.arguments:parallel_env", "--env.kwargs", *words]
    own = [word for word in TINY if word not in ("--env.kwargs", "max_cycles")]
    own.remove("5")  # of max_cycles
    run_dir = tmp_path / "run"
    assert main(["train", *own, *env, "--algorithm.policy-head", "auto", "--run-dir", str(run_dir)]) == 0
    for read in (
        read_toml(run_dir / "config.toml")["env"]["kwargs"],
        load_checkpoint(run_dir / "checkpoints" / "step_200").config.env.kwargs,
        arguments.GIVEN,
    ):
        assert json.dumps(read, sort_keys=True) == json.dumps(kwargs, sort_keys=True)


def test_closed_streams_lead_nowhere():
    command = 'exec "$0" -m distributed_maddpg nonsense 2>&- <&-'
    done = subprocess.run(["bash", "-c", command, sys.executable], stdout=subprocess.PIPE, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
