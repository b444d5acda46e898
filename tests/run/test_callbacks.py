import io
import json

import pytest

from distributed_maddpg import Callbacks
from distributed_maddpg.checkpoint.folder import load_checkpoint
from distributed_maddpg.cli import main
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput, TrainingError
from distributed_maddpg.run.callbacks import GuardedCallbacks
from distributed_maddpg.run.progress import Progress
from distributed_maddpg.run.training import RunOptions, train_run, train_seeds
from tests.support.target import SHORT_RUN, target_config

SHORT = {
    **SHORT_RUN,
    "pacing": {**SHORT_RUN["pacing"], "evaluation_interval_env_steps": 160},
    "evaluation": {"episodes": 2, "final_episodes": 3},
}


class Recorder(Callbacks):
    """Records the calls, in a list that outlives the object."""

    calls: list[tuple] = []  # noqa: RUF012 - shared on purpose

    def on_result(self, algo, result):
        self.calls.append(("result", algo.config.seed, result["num_env_steps_sampled_lifetime"]))

    def on_evaluation(self, algo, evaluation):
        steps, episodes = evaluation["num_env_steps"], evaluation["episodes"]
        self.calls.append(("evaluation", algo.config.seed, steps, episodes))

    def on_checkpoint(self, algo, path):
        assert load_checkpoint(path).config == algo.config  # complete at this moment
        self.calls.append(("checkpoint", algo.config.seed, path.rpartition("/")[2]))


@pytest.fixture
def calls(monkeypatch):
    monkeypatch.setattr(Recorder, "calls", [])
    return Recorder.calls


def train(run_dir, make, **changes):
    config = MADDPGConfig.from_dict(changes, target_config(**SHORT))
    return train_run(config, run_dir, Progress(io.StringIO()), options=RunOptions(callbacks=make))


def test_a_run_calls_them_with_every_result_evaluation_and_checkpoint(tmp_path, calls):
    train(tmp_path / "run", Recorder)
    assert [call for call in calls if call[0] != "checkpoint"] == [
        ("evaluation", 0, 160, 2),
        ("result", 0, 160),
        ("result", 0, 320),
        ("evaluation", 0, 320, 3),
    ]
    assert [call for call in calls if call[0] == "checkpoint"] == [
        ("checkpoint", 0, "step_160"),
        ("checkpoint", 0, "step_320"),
    ]


def test_a_resumed_run_calls_them_with_what_is_new(tmp_path, calls):
    train(tmp_path / "run", None)
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoints" / "step_160")
    progress, options = Progress(io.StringIO()), RunOptions(callbacks=Recorder)
    train_run(checkpoint.config, tmp_path / "run", progress, checkpoint, options)
    assert calls == [("result", 0, 320), ("checkpoint", 0, "step_320"), ("evaluation", 0, 320, 3)]


def test_each_of_several_seeds_has_an_object_of_its_own(tmp_path, calls):
    made = []
    config = MADDPGConfig.from_dict({"seed": 5}, target_config(**SHORT))
    options = RunOptions(callbacks=lambda: made.append(Recorder()) or made[-1])
    train_seeds(config, 2, tmp_path / "runs", Progress(io.StringIO()), options=options)
    assert len(made) == 2
    for seed in (5, 6):
        assert ("result", seed, 320) in calls
        assert ("checkpoint", seed, "step_320") in calls


def test_they_change_no_weight(tmp_path, calls):
    digests = {train(tmp_path / str(make), make)["weights_digest"] for make in (None, Recorder)}
    assert len(digests) == 1


def test_a_callback_can_end_the_run_as_an_interrupt_does(tmp_path):
    class Stopping(Callbacks):
        def on_result(self, algo, result):
            algo.request_stop()

    summary = train(tmp_path / "run", Stopping)
    assert (summary["interrupted"], summary["env_steps"]) == (True, 160)


@pytest.mark.parametrize("name", ["on_result", "on_evaluation"])
def test_one_that_raises_ends_the_run_with_its_checkpoint_saved(tmp_path, name):
    def fail(self, algo, value):
        raise SystemExit("broken")

    failing = type("Failing", (Callbacks,), {name: fail})
    with pytest.raises(TrainingError, match=r"Failing\.\w+ failed at .*callbacks\.py:\d+ \(SystemExit: bro"):
        train(tmp_path / "run", failing)
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "step_160").resume_problem == ""


def test_one_that_raises_when_the_run_is_over_is_the_problem_of_its_summary(tmp_path):
    class Failing(Callbacks):
        def on_evaluation(self, algo, evaluation):
            if evaluation["episodes"] == 3:
                raise ValueError("broken\nin two lines")

    summary = train(tmp_path / "run", Failing)
    assert summary["finished"]
    assert "on_evaluation failed at" in summary["problem"]
    assert summary["problem"].endswith("(ValueError: broken in two lines)")
    assert (tmp_path / "run" / "report.html").exists()


def test_a_failed_one_is_not_called_again(tmp_path):
    calls = []

    class Failing(Callbacks):
        def on_result(self, algo, result):
            calls.append("result")
            raise KeyError

        def on_checkpoint(self, algo, path):
            calls.append("checkpoint")

    with pytest.raises(TrainingError):
        train(tmp_path / "run", Failing)
    assert calls == ["result"]


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (Recorder(), "must be a class derived from Callbacks"),
        (dict, "makes a dict; it must be a class derived from Callbacks"),
        (lambda: 1 / 0, r"cannot be made \(ZeroDivisionError"),
    ],
)
def test_what_makes_no_callbacks_is_refused_before_anything_starts(tmp_path, make, line):
    with pytest.raises(BadInput, match=line):
        train(tmp_path / "run", make)
    assert not (tmp_path / "run" / "config.toml").exists()


CODE = """
from distributed_maddpg import Callbacks
print("loaded")

class Mine(Callbacks):
    def on_checkpoint(self, algo, path):
        with open({log!r}, "a") as file:
            print(path.rpartition("/")[2], file=file)
"""


def test_the_command_line_names_them_by_their_file(tmp_path, capsys):
    log = tmp_path / "log"
    (tmp_path / "mine.py").write_text(CODE.format(log=str(log)))
    config = tmp_path / "config.toml"
    config.write_text(target_config(**SHORT).to_toml())
    words = ["train", "--config", str(config), "--run-dir", str(tmp_path / "run"), "--json"]
    assert main([*words, "--callbacks", f"{tmp_path}/mine.py:Mine"]) == 0
    assert json.loads(capsys.readouterr().out)["finished"]
    assert log.read_text().split() == ["step_160", "step_320"]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("nowhere:Class", "there is no module 'nowhere' here"),
        ("nowhere.py:Class", "there is no file 'nowhere.py'"),
        ("tests.run.test_callbacks", "must be 'package.module:name' or 'path/to/file.py:name'"),
        ("tests.run.test_callbacks:Nothing", "'tests.run.test_callbacks' has no callable 'Nothing'"),
        ("tests.run.test_callbacks:SHORT", "has no callable 'SHORT'"),
        ("tests.support.target:TargetEnv", "makes a TargetEnv; it must be a class derived from Callbacks"),
        ("", "is empty"),
    ],
)
def test_a_wrong_name_is_one_line(tmp_path, capsys, name, line):
    assert main(["train", "--run-dir", str(tmp_path / "run"), "--callbacks", name]) == 2
    [error] = capsys.readouterr().err.splitlines()
    assert error.startswith("error: --callbacks = ")
    assert line in error


def test_a_callback_that_changes_what_it_is_told_changes_nothing_of_the_run():
    class Clears(Callbacks):
        def on_result(self, algo, result):
            result["timers"].clear()

    result = {"timers": {"busy_s": 1.0}}
    callbacks = GuardedCallbacks(Clears, None)
    callbacks.on_result(result)
    assert (result, callbacks.problem) == ({"timers": {"busy_s": 1.0}}, "")
