import io
import json
import os
import re
import signal
import threading

import pytest

from distributed_maddpg.checkpoint import load_checkpoint, newest_checkpoint
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput, CheckpointError
from distributed_maddpg.progress import Progress
from distributed_maddpg.run import checkpoint_to_resume, default_run_dir, train_run, train_seeds
from tests.envs.target import target_config

SHORT = {
    "rollout": {"num_envs": 4},
    "learner": {"batch_size": 16},
    "pacing": {
        "total_env_steps": 320,
        "learning_starts": 160,
        "env_steps_per_update": 16,
        "report_interval_env_steps": 160,
        "checkpoint_interval_env_steps": 160,
    },
    "evaluation": {"episodes": 2, "final_episodes": 2},
}


def short(**changes):
    return MADDPGConfig.from_dict(changes, target_config(**SHORT))


def train(config, run_dir, resume=False, **options):
    checkpoint = checkpoint_to_resume(str(run_dir / "checkpoints"), False, print) if resume else None
    return train_run(config, run_dir, Progress(io.StringIO()), checkpoint, **options)


def resumed_config(run_dir):
    return load_checkpoint(newest_checkpoint(run_dir)).config


class Interrupting(Progress):
    """Sends the run a signal after its first report."""

    def __init__(self, number):
        super().__init__(io.StringIO())
        self.number = number

    def show(self, result):
        super().show(result)
        os.kill(os.getpid(), self.number)


def test_the_default_folder_has_the_presets_name_and_the_time():
    assert re.fullmatch(r"runs/notebook-\d{8}-\d{6}", str(default_run_dir("notebook")))


def test_a_folder_that_cannot_be_created_is_refused_before_anything_starts(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"cannot be created \(Not a directory\)"):
        train(short(), tmp_path / "file" / "run")


def test_a_refused_configuration_leaves_no_folder(tmp_path):
    with pytest.raises(BadInput, match=r"env\.id"):
        train(short(env={"id": "nowhere.env"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_whole_run_leaves_its_settings_checkpoints_and_summary(tmp_path):
    summary = train(short(), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary
    assert (summary["finished"], summary["interrupted"]) == (True, False)
    assert (summary["env_steps"], summary["updates"]) == (320, 11)
    assert MADDPGConfig.from_toml(tmp_path / "run" / "config.toml") == short()
    saved = load_checkpoint(summary["files"]["checkpoint"])
    assert (saved.env_steps, saved.updates, saved.config) == (320, 11, short())
    assert sorted(os.listdir(tmp_path / "run" / "checkpoints")) == ["step_160", "step_320"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_can_go_on(number, tmp_path):
    first = train_run(short(), tmp_path / "run", Interrupting(number))
    assert (first["interrupted"], first["env_steps"], "evaluation" in first) == (True, 160, False)
    assert resumed_config(tmp_path / "run") == short()
    longer = short(pacing={"total_env_steps": 480})
    second = train(longer, tmp_path / "run", resume=True)
    assert (second["finished"], second["env_steps"]) == (True, 480)
    assert second["updates"] == 1 + (480 - 160) // 16  # as without the interruption
    assert resumed_config(tmp_path / "run") == longer
    assert MADDPGConfig.from_toml(tmp_path / "run" / "config.toml") == longer


def test_signals_are_given_back_after_a_run(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    train(short(), tmp_path / "run")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_run_may_live_in_another_thread(tmp_path):
    done = []
    thread = threading.Thread(target=lambda: done.append(train(short(), tmp_path / "run")))
    thread.start()
    thread.join(60)
    assert done[0]["finished"]


def test_resuming_what_holds_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint to resume from"):
        train(short(), tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


def test_the_same_run_twice_gives_the_same_digest(tmp_path):
    first, second = (train(short(), tmp_path / name)["weights_digest"] for name in ("a", "b"))
    assert first == second


def test_several_seeds_leave_a_run_folder_each_and_a_summary_of_all(tmp_path):
    summary = train_seeds(short(seed=3), 2, tmp_path / "run", Progress(io.StringIO()))
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary
    assert (summary["num_seeds"], summary["updates"], summary["finished"]) == (2, 2 * 11, True)
    for seed, own in zip((3, 4), summary["runs"], strict=True):
        folder = tmp_path / "run" / f"seed_{seed}"
        alone = train(short(seed=seed), tmp_path / f"alone_{seed}")
        assert own["weights_digest"] == alone["weights_digest"]
        assert own["evaluation"] == alone["evaluation"]
        files = [sorted(path.name for path in run.iterdir()) for run in (folder, tmp_path / f"alone_{seed}")]
        assert [name for name in files[0] if "tfevents" not in name] == [
            name for name in files[1] if "tfevents" not in name
        ]
        assert MADDPGConfig.from_toml(folder / "config.toml").seed == seed
    with pytest.raises(BadInput, match=r"already holds runs; continue one with --resume .*seed_3"):
        train_seeds(short(seed=7), 2, tmp_path / "run", Progress(io.StringIO()))


def test_one_of_several_runs_is_continued_by_itself(tmp_path):
    train_seeds(short(pacing={"total_env_steps": 320}), 2, tmp_path, Progress(io.StringIO()))
    longer = short(seed=1, pacing={"total_env_steps": 480})
    assert train(longer, tmp_path / "seed_1", resume=True)["env_steps"] == 480


def test_a_run_that_fails_to_start_leaves_its_folder_free(tmp_path):
    env = {"id": "tests.runtime.failing:parallel_env", "kwargs": {"fail_at": 1}}
    failing = short(env=env, exploration={"kind": "auto"})
    with pytest.raises(RuntimeError, match="boom"):
        train(failing, tmp_path / "run")
    assert train(short(), tmp_path / "run")["finished"]
