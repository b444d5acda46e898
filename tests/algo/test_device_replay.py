"""Rows mirrored on the learner's device: which are stored, and how they are drawn."""

import numpy as np
import pytest
import torch

from distributed_maddpg.algo.device_replay import DeviceReplay
from distributed_maddpg.normalisation import RowTransform
from distributed_maddpg.types import TransitionLayout


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def numbered(first, count):
    return torch.arange(first, first + count, dtype=torch.float32)[:, None].repeat(1, 3)


def drawn(replay, batch_size=2000):
    return [set(run[:, 0].tolist()) for run in replay.sample(batch_size)]


def test_whole_rows_are_drawn_and_only_stored_ones():
    replay = DeviceReplay(10, 3, generators(1))
    replay.add(0, numbered(5, 4), 4)
    batch = replay.sample(500)
    assert batch.shape == (1, 500, 3)
    assert (batch == batch[:, :, :1]).all()
    assert drawn(replay) == [{5, 6, 7, 8}]


def test_the_newest_rows_replace_the_oldest():
    replay = DeviceReplay(10, 3, generators(1))
    for first, count in ((0, 7), (7, 0), (7, 6), (13, 10), (23, 2)):
        replay.add(0, numbered(first, count), first + count)
        newest = first + count
        assert drawn(replay) == [set(range(max(0, newest - 10), newest))]
        assert (replay.inserted, replay.sizes) == ([newest], [min(newest, 10)])


@pytest.mark.parametrize("rows_at_a_time", [1, 3, 100])
def test_rows_are_copied_in_pieces(rows_at_a_time, monkeypatch):
    monkeypatch.setattr("distributed_maddpg.algo.device_replay._PINNED_ROWS", rows_at_a_time)
    replay = DeviceReplay(10, 3, generators(1))
    replay.add(0, numbered(0, 8), 8)
    replay.add(0, numbered(8, 9), 17)
    assert replay.rows[0, :, 0].tolist() == [10, 11, 12, 13, 14, 15, 16, 7, 8, 9]


def test_after_a_gap_only_the_new_rows_count():
    replay = DeviceReplay(10, 3, generators(1))
    replay.add(0, numbered(0, 10), 10)
    replay.add(0, numbered(27, 6), 33)  # 10 to 26 were overwritten before they could be read
    assert drawn(replay) == [set(range(27, 33))]
    replay.add(0, numbered(33, 6), 39)
    assert drawn(replay) == [set(range(29, 39))]


def test_a_cleared_run_starts_again_and_the_others_do_not():
    replay = DeviceReplay(10, 3, generators(1, 2))
    for run in range(2):
        replay.add(run, numbered(0, 10), 10)
    replay.clear(1)
    assert replay.sizes == [10, 0]
    replay.add(1, numbered(50, 2), 52)
    assert drawn(replay) == [set(range(10)), {50, 51}]


def test_the_index_of_a_row_depends_only_on_its_number():
    followed, late = DeviceReplay(10, 3, generators(1)), DeviceReplay(10, 3, generators(1))
    for first in range(0, 24, 4):
        followed.add(0, numbered(first, 4), first + 4)
    late.add(0, numbered(14, 10), 24)
    assert torch.equal(followed.sample(50), late.sample(50))


def test_every_row_is_as_likely():
    replay = DeviceReplay(10, 3, generators(1))
    replay.add(0, numbered(0, 10), 10)
    replay.add(0, numbered(10, 3), 13)
    counts = torch.bincount(replay.sample(100_000)[0, :, 0].long(), minlength=13)[3:]
    expected = 10_000.0
    assert ((counts - expected) ** 2 / expected).sum() < 27.9  # chi-square, 9 degrees, p = 0.001


def test_runs_draw_from_their_own_rows_with_their_own_generators():
    together, alone = DeviceReplay(10, 3, generators(1, 2)), DeviceReplay(10, 3, generators(2))
    together.add(0, numbered(0, 10), 10)
    for replay, run in ((together, 1), (alone, 0)):
        replay.add(run, numbered(100, 7), 7)
    for _ in range(3):
        first, second = together.sample(40)
        assert torch.equal(second, alone.sample(40)[0])
        assert (first < 10).all()
    assert not torch.equal(first % 7, second % 7)


@pytest.mark.gpu
def test_a_gpu_stores_and_draws_the_same_rows():
    cuda = torch.Generator("cuda").manual_seed(1)
    replay = DeviceReplay(100_000, 3, [cuda])
    replay.add(0, numbered(0, 70_000), 70_000)
    replay.add(0, numbered(70_000, 70_000), 140_000)
    assert torch.equal(replay.rows[0, :, 0].cpu().sort().values, numbered(40_000, 100_000)[:, 0])
    batch = replay.sample(10_000)[0].cpu()
    assert (batch == batch[:, :1]).all()
    assert 40_000 <= batch.min() < 40_500 < 139_500 < batch.max() < 140_000


def test_each_runs_rows_are_normalised_when_they_are_drawn():
    replay, rng = DeviceReplay(10, 3, generators(1, 2)), np.random.default_rng(0)
    rows = rng.normal(5.0, 4.0, (2, 10, 3)).astype(np.float32)
    limit, layout = np.array([10.0, 1.0, np.inf], np.float32), TransitionLayout((1,), (1,))
    for run, own in enumerate(rows):
        replay.add(run, torch.from_numpy(own), 10)
        replay.normalise_by(run, RowTransform(own[0], np.full(3, run + 0.5, np.float32), limit, layout))
    batch = replay.sample(500).numpy()
    for run, own in enumerate(rows):
        expected = own.copy()
        RowTransform(own[0], np.full(3, run + 0.5, np.float32), limit, layout).apply(expected)
        assert np.array_equal(np.unique(batch[run], axis=0), np.unique(expected, axis=0))
    assert np.array_equal(replay.rows.numpy(), rows), "what is stored stays as it was"
