"""The fused update against autograd's in float64, with the same random numbers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from distributed_maddpg.algo.fused.update import FusedUpdate, groups_of
from distributed_maddpg.algo.fused.work import begin, work
from distributed_maddpg.replay.ring import Draw
from distributed_maddpg.types import EnvSpec
from tests.algo.fused.counted_noise import CountedNoise
from tests.algo.samples import CASES, CONTINUOUS, DISCRETE, EVEN, SMALL, make_batch

CPU = torch.device("cpu")
ROWS, UPDATES = 150, 4  # two tiles and a part of one
TEAM_OF_NINE = EnvSpec(tuple(f"blue_{k}" for k in range(9)), (3,) * 9, (2,) * 9, ("continuous",) * 9)
WIDE_TEAM = EnvSpec(CONTINUOUS.agents, (3, 70, 70), (2, 70, 70), ("continuous",) * 3)
WIDE = EnvSpec(CONTINUOUS.agents, (70, 3, 150), (2, 17, 3), ("continuous",) * 3)


def learn(update, batches):
    """Learn from minibatches [K, B, width]; return the sums of the metrics."""
    metrics = np.zeros((len(update.metrics), len(update.policy.flat)), np.float32)
    rows = np.ascontiguousarray(batches.flatten(0, 1).numpy())
    index = np.arange(len(rows)).reshape(len(batches), -1)
    assert update.learn(rows, index, Draw.of(rows).counters(), [1.0] * len(batches), metrics)
    return metrics


def batches_of(spec, rows=ROWS, updates=UPDATES):
    return torch.stack([make_batch(spec, rows, seed) for seed in range(updates)])


def start_from(update, other):
    """Copy parameters, and give Adam a past: its first step would depend on each gradient's sign only."""
    for name, rows in update.per_network_state().items():
        if name.endswith("exp_avg_sq"):
            rows.fill_(0.01)
        elif "exp_avg" not in name:
            rows.copy_(other.per_network_state()[name])


def check_equal(spec, rows=ROWS, frozen=None, **changes):
    config = replace(SMALL, **changes)
    fused, batches = FusedUpdate(config, spec, 7 << 33), batches_of(spec, rows)
    start_from(fused, fused)
    torch.set_default_dtype(torch.float64)
    try:
        plain = CountedNoise(config, spec, CPU, [7 << 33])
        start_from(plain, fused)
        if frozen:
            kept = torch.randn(plain.policy.flat.shape, generator=torch.Generator().manual_seed(1))
            fused.freeze(frozen, kept.float())
            plain.freeze(frozen, kept.float().double())
        got, expected = 0.0, 0.0
        for batch in batches:
            got += learn(fused, batch[None])
            expected += plain(batch[None].double()).numpy()
            for name, values in plain.state().items():
                np.testing.assert_allclose(fused.state()[name], values, rtol=0, atol=2e-6, err_msg=name)
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-6)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("case", CASES)
def test_the_fused_update_is_autograds(case):
    spec, changes = CASES[case]
    check_equal(spec, **changes)


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 600])
@pytest.mark.parametrize("case", ["information", "shared_critics_mean_over_candidates"])
def test_any_number_of_rows_is_learned_from(case, rows):
    check_equal(CASES[case][0], rows, **CASES[case][1])


@pytest.mark.parametrize("sizes", [(1,), (64, 64), (65, 130), (200,), (20, 30, 40, 50)])
@pytest.mark.parametrize("spec", [WIDE, WIDE_TEAM], ids=["alone", "shared"])
def test_layers_of_any_width_and_number_are_learned(spec, sizes):
    changes = {"policy_hidden_sizes": sizes, "critic_hidden_sizes": sizes[::-1], "policy_head": "gumbel"}
    check_equal(spec, share_critics=True, **changes)


def test_a_critic_of_many_agents_has_smaller_groups_of_tiles_than_they():
    rows = 1100
    assert groups_of(rows, 1) > groups_of(rows, TEAM_OF_NINE.num_agents)
    check_equal(TEAM_OF_NINE, rows, share_critics=True, other_actions="current")
    updates = [FusedUpdate(replace(SMALL, share_critics=True), TEAM_OF_NINE, 7, n) for n in (1, 3)]
    one, three = (learn(update, batches_of(TEAM_OF_NINE, rows, 3)) for update in updates)
    np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize(("spec", "head"), [(EVEN, "gumbel"), (DISCRETE, "auto")])
def test_frozen_agents_stay_and_act_without_noise(spec, head):
    changes = {"policy_head": head, "share_policies": True, "other_actions": "current", "share_critics": True}
    check_equal(spec, frozen=(False, True, True), **changes)


@pytest.mark.parametrize(
    "case",
    [
        "information_gumbel_shared",
        "matd3",
        "random_rows_current",
        "shared_critics_current",
        "shared_critics_matd3",
    ],
)
def test_the_number_of_threads_changes_no_bit(case):
    spec, changes = CASES[case]
    updates = [FusedUpdate(replace(SMALL, **changes), spec, 7, threads) for threads in (1, 2, 3)]
    batches = batches_of(spec, 600, 6)
    for whole in batches[:4], batches[4:]:
        one, *others = [learn(update, whole) for update in updates]
        for other in others:
            np.testing.assert_array_equal(one, other)
    for name, values in updates[0].state().items():
        for other in updates[1:]:
            assert torch.equal(values, other.state()[name]), name


def test_learning_compiles_nothing():
    spec, changes = CASES["information_gumbel_shared"]
    update = FusedUpdate(replace(SMALL, **changes), spec, 7)
    compiled = [*begin.signatures], [*work.signatures]
    learn(update, batches_of(spec))
    assert compiled == (begin.signatures, work.signatures)
    assert len(begin.signatures) == len(work.signatures) == 1


def test_updates_in_one_call_or_several_are_the_same():
    spec, changes = CASES["matd3_without_smoothing"]  # policies every third update
    whole, pieces = (FusedUpdate(replace(SMALL, **changes), spec, 7) for _ in range(2))
    batches = batches_of(spec, updates=7)
    learn(whole, batches)
    for part in batches[:1], batches[1:5], batches[5:]:
        learn(pieces, part)
    for name, values in whole.state().items():
        assert torch.equal(values, pieces.state()[name]), name


def test_the_seed_decides_the_random_numbers():
    spec, changes = CASES["gumbel_head"]
    updates = [FusedUpdate(replace(SMALL, **changes), spec, seed) for seed in (1, 1, 2)]
    for update in updates:
        start_from(update, updates[0])
    first, again, other = [learn(update, batches_of(spec)) for update in updates]
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
