import io

import numpy as np
import pytest

from distributed_maddpg.checkpoint.folder import load_checkpoint
from distributed_maddpg.checkpoint.listing import checkpoints_of
from distributed_maddpg.checkpoint.saver import SavingOptions
from distributed_maddpg.cli import main
from distributed_maddpg.envs import env_spec
from distributed_maddpg.errors import CheckpointUnavailable
from distributed_maddpg.rollout import first_policies
from distributed_maddpg.run import stages as module
from distributed_maddpg.run.progress import Progress
from distributed_maddpg.run.training import RunOptions, train_run, train_seeds
from tests.support.serial_runs import start, tiny

PACING = {"total_env_steps": 800, "checkpoint_interval_env_steps": 160}


def train(config, folder, checkpoint=None, **saving):
    progress = Progress(io.StringIO())
    return train_run(config, folder, progress, checkpoint, RunOptions(SavingOptions(**saving)))


def steps_of(folder):
    return sorted(int(path.name.removeprefix("step_")) for path in checkpoints_of(folder / "policies"))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Return the folder of a run of 800 steps that reported every 80; tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("stages") / "run"
    train(tiny(pacing=PACING), folder, keep=1)
    return folder


def test_policies_of_the_start_a_tenth_three_tenths_and_the_end_are_kept(run_dir):
    assert steps_of(run_dir) == [0, 80, 240, 800]
    assert len(checkpoints_of(run_dir / "checkpoints")) == 1
    sizes = [file.stat().st_size for file in run_dir.glob("policies/*/*")]
    assert max(sizes) < 10_000 and len(sizes) == 8  # a manifest and a state each


def test_they_are_the_policies_of_these_moments(run_dir, tmp_path):
    for steps in (80, 800):
        checkpoint = load_checkpoint(run_dir / "policies" / f"step_{steps}")
        again = tmp_path / str(steps)
        # The learning rate of these settings does not depend on the length of the run.
        train(tiny(pacing={**PACING, "total_env_steps": steps}), again)
        expected = load_checkpoint(again / "checkpoints" / f"step_{steps}")
        assert checkpoint.updates == expected.updates
        np.testing.assert_array_equal(checkpoint.policies, expected.policies)


@pytest.mark.parametrize("normalise", [False, True])
def test_the_first_are_those_that_the_learner_starts_with(normalise):
    config = tiny(env={"normalise": normalise})
    spec = env_spec(config.env.id, config.env.backend, config.env.kwargs)
    np.testing.assert_array_equal(first_policies(config, spec), start(config).weights(0).policies)


def test_a_resumed_run_neither_loses_nor_doubles_them(run_dir, tmp_path):
    train(tiny(pacing={**PACING, "total_env_steps": 160}), tmp_path, keep=9)
    assert steps_of(tmp_path) == [0, 80, 160]
    train(tiny(pacing=PACING), tmp_path, load_checkpoint(tmp_path / "checkpoints" / "step_160"), keep=9)
    assert steps_of(tmp_path) == [0, 80, 160, 240, 800]
    train(tiny(pacing=PACING), tmp_path, load_checkpoint(tmp_path / "checkpoints" / "step_160"), keep=9)
    assert steps_of(tmp_path) == [0, 80, 160, 240, 800]


def test_each_of_several_seeds_has_its_own(tmp_path):
    train_seeds(tiny(pacing=PACING), 2, tmp_path, Progress(io.StringIO()))
    first = [load_checkpoint(tmp_path / f"seed_{seed}" / "policies" / "step_0") for seed in range(2)]
    assert [steps_of(tmp_path / f"seed_{seed}") for seed in range(2)] == [[0, 80, 240, 800]] * 2
    assert not np.array_equal(first[0].policies, first[1].policies)


def test_they_are_evaluated_but_not_resumed_from(run_dir, capsys):
    snapshot = str(run_dir / "policies" / "step_80")
    assert main(["evaluate", snapshot, "--episodes", "2", "--no-matchups"]) == 0
    assert "Greedy returns, 2 episodes" in capsys.readouterr().err
    with pytest.raises(CheckpointUnavailable, match="it holds policies alone; resume from a checkpoint"):
        load_checkpoint(snapshot).check_resumable()


def test_a_snapshot_that_cannot_be_written_ends_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_checkpoint", fail)
    stream = io.StringIO()
    summary = train_run(tiny(pacing=PACING), tmp_path, Progress(stream))
    assert summary["finished"] and steps_of(tmp_path) == []
    assert stream.getvalue().count("could not be written") == 4


def test_the_policies_of_a_checkpoint_are_read_without_the_rest(run_dir):
    [path] = checkpoints_of(run_dir / "checkpoints")
    whole, alone = load_checkpoint(path), load_checkpoint(path, policies_only=True)
    np.testing.assert_array_equal(whole.policies, alone.policies)
    assert (alone.replay, alone.tables, set(alone.state)) == (None, {}, {"learner/policy"})
