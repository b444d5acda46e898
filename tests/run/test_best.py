import dataclasses
import threading
import uuid

import pytest

from distributed_maddpg.checkpoint import saver as saver_module
from distributed_maddpg.checkpoint.folder import load_checkpoint, save_checkpoint
from distributed_maddpg.checkpoint.listing import best_checkpoints_of, checkpoints_of, remove_old
from distributed_maddpg.checkpoint.remote import RemoteFolder, is_url
from distributed_maddpg.errors import CheckpointError
from distributed_maddpg.run import best as module
from distributed_maddpg.run.best import BestKeeper
from distributed_maddpg.run.folder import best_checkpoint
from distributed_maddpg.run.goals import Ranking
from tests.checkpoint.samples import make

LARGEST = Ranking("success.agents")


@pytest.fixture(params=["local", "remote"])
def place(request, tmp_path):
    """Return a folder for checkpoints, on the disk and behind a URL."""
    return str(tmp_path / "there") if request.param == "local" else f"memory://bucket-{uuid.uuid4().hex}/run"


def keeper(place, ranking=LARGEST, resumed=True, note=print):
    return BestKeeper(ranking, place, resumed, note)


def offer(keeper, *scores, env_steps=40):
    """Offer an evaluation of each score, one step after the other, and wait until the best is written."""
    for number, score in enumerate(scores):
        keeper.offer({"success": {"agents": score}}, make(env_steps + number, tables={}))
    for _ in range(2):
        keeper.advance()
        if keeper._saver._thread:
            keeper._saver._thread.join()


def names(place):
    found = [str(path).rpartition("/")[2] for path in best_checkpoints_of(place)]
    return [int(name.removeprefix("best_step_")) for name in found]


def test_only_the_best_stays_and_says_what_was_measured_when(place):
    keeping = keeper(place)
    for score, env_steps in ((50.0, 40), (40.0, 50), (float("nan"), 60), (70.0, 70), (70.0, 80)):
        offer(keeping, score, env_steps=env_steps)
    assert names(place) == [70]
    best = load_checkpoint(best_checkpoint(place))
    assert best.measured.model_dump() == {"name": "success.agents", "value": 70.0}
    assert (best.env_steps, best.updates) == (70, 12)
    assert keeping.saved == {
        **{"path": f"{place}/best_step_70", "name": "success.agents"},
        **{"value": 70.0, "env_steps": 70, "updates": 12},
    }
    assert keeping.finish() == ""


def test_of_several_evaluations_at_once_the_best_counts_and_the_smallest_where_that_is_asked_for(place):
    offer(keeper(place), 20.0, 30.0, 25.0)
    assert load_checkpoint(best_checkpoint(place)).measured.value == 30.0
    assert names(place) == [41]
    smallest = keeper(place, Ranking("success.agents", smallest=True), resumed=False)
    offer(smallest, 20.0, 30.0, 25.0, env_steps=50)
    offer(smallest, 19.0, 30.0, env_steps=60)
    assert names(place) == [60]
    assert load_checkpoint(best_checkpoint(place)).measured.value == 19.0


def test_the_best_is_neither_one_of_the_newest_nor_deleted_with_the_old_ones(place):
    offer(keeper(place), 50.0, env_steps=10)
    for env_steps in (20, 30):
        save_checkpoint(f"{place}/step_{env_steps}", make(env_steps))
    remove_old(place, keep=1)
    assert [str(path).rpartition("/")[2] for path in checkpoints_of(place)] == ["step_30"]
    assert names(place) == [10]


def test_a_resumed_run_knows_the_best_so_far(place):
    offer(keeper(place), 50.0, env_steps=10)
    resumed = keeper(place)
    assert resumed.saved["value"] == 50.0
    offer(resumed, 45.0, env_steps=20)
    assert names(place) == [10]
    offer(resumed, 55.0, env_steps=30)
    assert names(place) == [30]


def test_of_two_that_a_killed_run_left_the_better_stays(place):
    for score, env_steps in ((50.0, 10), (60.0, 20), (40.0, 30)):
        offer(keeper(f"{place}-{env_steps}"), score, env_steps=env_steps)
        found = load_checkpoint(f"{place}-{env_steps}/best_step_{env_steps}")
        save_checkpoint(f"{place}/best_step_{env_steps}", dataclasses.replace(found, resume_problem=""))
    assert keeper(place).saved["value"] == 60.0
    assert names(place) == [20]


def test_by_another_score_a_run_starts_anew_and_what_it_had_stays(place):
    offer(keeper(place), 50.0, env_steps=10)
    other = keeper(place, Ranking("episode_return_mean"))
    assert other.saved == {}
    other.offer({"success": {"agents": 0.0}, "episode_return_mean": -3.0}, make(20))
    assert other.finish() == ""
    assert names(place) == [20, 10]
    with pytest.raises(
        CheckpointError, match=r"several best .*step_20 \(episode_return_mean\), .*\(success\.agents\)"
    ):
        best_checkpoint(place)


def test_the_best_checkpoint_may_be_named_itself_and_a_folder_of_runs_names_them(place, tmp_path):
    offer(keeper(place), 50.0, env_steps=10)
    save_checkpoint(f"{place}/step_20", make(20))
    assert str(best_checkpoint(f"{place}/best_step_10")) == f"{place}/best_step_10"
    with pytest.raises(CheckpointError, match=r"step_20: holds no best checkpoint; train with --keep-best"):
        best_checkpoint(f"{place}/step_20")
    (tmp_path / "runs" / "seed_3").mkdir(parents=True)
    (tmp_path / "runs" / "seed_3" / "config.toml").touch()
    with pytest.raises(CheckpointError, match=r"runs: holds runs; name one of them, such as .*/seed_3$"):
        best_checkpoint(tmp_path / "runs")


def test_a_new_run_in_the_folder_renames_what_it_finds(place):
    offer(keeper(place), 50.0, env_steps=10)
    assert keeper(place, resumed=False).saved == {}
    assert names(place) == []
    found = RemoteFolder(place if is_url(place) else f"file://{place}").names()
    assert [name.rpartition(".")[0] for name in found if name.startswith("best")] == ["best_step_10.aside"]
    with pytest.raises(CheckpointError, match="holds no best checkpoint; train with --keep-best"):
        best_checkpoint(place)


def test_one_that_cannot_be_read_is_named_and_not_deleted(tmp_path):
    offer(keeper(str(tmp_path)), 50.0, env_steps=10)
    (tmp_path / "best_step_10" / "manifest.json").write_text("{")
    lines = []
    offer(keeper(str(tmp_path), note=lines.append), 30.0, env_steps=20)
    assert lines[0].startswith(f"skipped: {tmp_path}/best_step_10/manifest.json: is not valid JSON")
    assert names(tmp_path) == [20, 10]


def test_a_better_one_that_comes_while_the_last_is_written_follows_it(tmp_path, monkeypatch):
    go_on, order = threading.Event(), []

    def save(path, checkpoint):
        assert go_on.wait(60)
        order.append(checkpoint.measured.value)
        return save_checkpoint(path, checkpoint)

    monkeypatch.setattr(saver_module, "save_checkpoint", save)
    keeping = keeper(str(tmp_path))
    for score, env_steps in ((50.0, 10), (60.0, 20), (70.0, 30), (65.0, 40)):
        keeping.offer({"success": {"agents": score}}, make(env_steps))
        keeping.advance()
    assert keeping.saved == {}
    go_on.set()
    assert keeping.finish() == ""
    assert order == [50.0, 70.0]
    assert names(tmp_path) == [30]


def test_a_failed_save_leaves_the_best_before_and_is_tried_again(tmp_path, monkeypatch):
    lines, fails = [], [True]

    def save(path, checkpoint):
        if fails[0]:
            raise OSError(28, "No space left on device")
        return save_checkpoint(path, checkpoint)

    keeping = keeper(str(tmp_path), note=lines.append)
    offer(keeping, 50.0, env_steps=10)
    monkeypatch.setattr(saver_module, "save_checkpoint", save)
    offer(keeping, 60.0, env_steps=20)
    assert names(tmp_path) == [10] and keeping.saved["value"] == 50.0
    assert lines[-1] == f"{tmp_path}/best_step_20 was not saved ([Errno 28] No space left on device)"
    assert keeping.finish() == lines[-1]
    fails[0] = False
    monkeypatch.setattr(saver_module, "_RETRY_S", 0.0)
    offer(keeping, 55.0, env_steps=30)
    assert names(tmp_path) == [20]
    assert keeping.finish() == ""


def test_one_before_that_cannot_be_deleted_is_a_line(tmp_path, monkeypatch):
    def refuse(path):
        raise OSError(13, "Permission denied")

    lines = []
    keeping = keeper(str(tmp_path), note=lines.append)
    offer(keeping, 50.0, env_steps=10)
    monkeypatch.setattr(module, "remove_checkpoint", refuse)
    offer(keeping, 60.0, env_steps=20)
    assert "best_step_10: the best checkpoint before could not be deleted" in lines[-1]
    assert keeping.saved["value"] == 60.0
