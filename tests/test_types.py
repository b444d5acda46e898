import math
from dataclasses import replace

import numpy as np
import pytest

from distributed_maddpg.types import (
    EnvSpec,
    EpisodeReport,
    StackedLayout,
    critic_layout,
    initial_policies,
    policy_layout,
)

SPEC = EnvSpec(("adversary_0", "agent_0", "agent_1"), (3, 2, 4), (2, 3, 1), ("continuous",) * 3)


def covered(*parts):
    """Return the columns that slices cover, in order."""
    return [column for part in parts for column in range(part.start, part.stop)]


def test_teams_are_names_without_their_number():
    names = ("adversary_0", "agent_10", "lead_adversary_1", "listener")
    spec = EnvSpec(names, (1,) * 4, (1,) * 4, ("discrete",) * 4)
    assert spec.teams == ("adversary", "agent", "lead_adversary", "listener")
    assert spec.num_agents == 4


def test_the_parts_of_a_row_cover_each_column_once_in_order():
    layout = SPEC.transitions
    parts = [*layout.obs, *layout.actions, layout.rewards, *layout.next_obs, layout.discounts]
    assert covered(*parts) == list(range(layout.width))
    assert layout.width == 9 + 6 + 3 + 9 + 3
    assert layout.critic_input == slice(0, 15)


def test_each_agents_columns_have_its_width():
    layout = SPEC.transitions
    assert layout.obs == (slice(0, 3), slice(3, 5), slice(5, 9))
    assert layout.actions == (slice(9, 11), slice(11, 14), slice(14, 15))
    assert layout.next_obs == (slice(18, 21), slice(21, 23), slice(23, 27))


def test_a_row_of_simple_adversary_has_77_columns():
    spec = EnvSpec(("adversary_0", "agent_0", "agent_1"), (8, 10, 10), (5, 5, 5), ("continuous",) * 3)
    assert (spec.transitions.width, spec.transitions.critic_input.stop) == (77, 43)


def test_flags_and_masks_stand_behind_the_discounts():
    spec = replace(SPEC, varying=True, masked=(True, False, True))
    layout = spec.transitions
    parts = [layout.next_acting, *layout.next_allowed, layout.present, layout.acting, *layout.allowed]
    assert layout.discounts == SPEC.transitions.discounts
    assert covered(*parts) == list(range(30, layout.width))
    assert [own.stop - own.start for own in layout.allowed] == [2, 0, 1]
    assert layout.width == 30 + 3 * 3 + 2 * (2 + 1)


def test_rows_of_earlier_versions_get_ones_for_their_flags():
    layout, rows = (
        replace(SPEC, varying=True).transitions,
        np.random.default_rng(0).random((4, 30), np.float32),
    )
    whole = layout.with_flags(rows)
    assert np.array_equal(whole[:, :30], rows)
    assert whole[:, 30:].tolist() == [[1.0] * 9] * 4
    assert layout.with_flags(whole) is whole
    assert SPEC.transitions.with_flags(rows) is rows
    with pytest.raises(ValueError, match="stored without action masks; start a new run"):
        replace(SPEC, masked=(True, False, True)).transitions.with_flags(rows)


def test_the_layers_cover_each_parameter_once_in_order():
    layout = StackedLayout((3, 2, 4), (8, 6), 5)
    parts = [part for weight, bias, _, _ in layout.layers for part in (weight, bias)]
    assert covered(*parts) == list(range(layout.num_parameters))
    assert [layer[2:] for layer in layout.layers] == [(4, 8), (8, 6), (6, 5)]
    assert layout.num_parameters == 5 * 8 + 9 * 6 + 7 * 5
    assert layout.num_networks == 3


def test_policies_are_padded_to_the_widest_agent_and_critics_take_all_agents():
    assert policy_layout(SPEC, (8,)).sizes == (4, 8, 3)
    assert policy_layout(SPEC, (8,)).input_widths == (3, 2, 4)
    assert critic_layout(SPEC, (8,)).sizes == (15, 8, 1)
    assert critic_layout(SPEC, (8,)).input_widths == (15, 15, 15)


def report(*lengths):
    count = len(lengths)
    returns = np.arange(count * 2, dtype=float).reshape(count, 2) + lengths[0]
    return EpisodeReport(
        returns,
        np.array(lengths),
        np.full((count, 2, 3), lengths[0], np.float32),
        np.full((count, 1), lengths[0]),
    )


def test_reports_are_concatenated_in_order_without_empty_ones():
    joined = EpisodeReport.concatenate(
        [EpisodeReport.empty(2), report(4, 5), EpisodeReport.empty(2), report(6)], 2
    )
    assert joined.lengths.tolist() == [4, 5, 6]
    assert joined.returns.tolist() == [[4, 5], [6, 7], [6, 7]]
    assert joined.final_distances[:, 0, 0].tolist() == [4, 4, 6]
    assert joined.measures[:, 0].tolist() == [4, 4, 6]


@pytest.mark.parametrize("reports", [[], [EpisodeReport.empty(2)]])
def test_concatenating_no_episodes_gives_an_empty_report(reports):
    joined = EpisodeReport.concatenate(reports, 2)
    shapes = (joined.returns.shape, joined.lengths.shape, joined.final_distances.shape)
    assert shapes == ((0, 2), (0,), (0, 2, 0))


def test_initial_weights_have_the_scale_of_each_agents_unpadded_width():
    layout = policy_layout(SPEC, (400, 5))
    flat = layout.initial_parameters(np.random.default_rng(0))
    first, _, width_in, hidden = layout.layers[0]
    for agent, width in enumerate(SPEC.observation_sizes):
        weights, bound = flat[agent, first].reshape(width_in, hidden), 1 / math.sqrt(width)
        assert np.abs(weights[:width]).max() <= bound
        assert abs(weights[:width].std() - bound / math.sqrt(3)) < 0.05 * bound
        assert not weights[width:].any()
    for weights, biases, inputs, _ in layout.layers[1:]:
        assert 0 < np.abs(flat[:, weights]).max() <= 1 / math.sqrt(inputs)
        assert 0 < np.abs(flat[:, biases]).max() <= 1 / math.sqrt(inputs)


def test_glorot_weights_depend_on_outputs_too_and_biases_are_zero():
    layout = policy_layout(SPEC, (400, 5))
    flat = layout.initial_parameters(np.random.default_rng(0), "glorot")
    for depth, (weights, biases, inputs, outputs) in enumerate(layout.layers):
        for agent, width in enumerate(SPEC.observation_sizes):
            bound = math.sqrt(6 / ((inputs if depth else width) + outputs))
            assert 0.5 * bound < np.abs(flat[agent, weights]).max() <= bound
            assert not flat[agent, biases].any()
    policies = initial_policies(SPEC, (400, 5), 0, rule="glorot")
    assert np.array_equal(policies, flat)


def test_the_seed_decides_the_initial_weights():
    first, again, other = (initial_policies(SPEC, (8,), seed) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_homogeneous_agents_have_one_team_and_one_size():
    names = ("wolf_0", "wolf_1", "wolf_2", "sheep_0", "sheep_1")
    spec = EnvSpec(names, (4, 4, 5, 4, 4), (2,) * 5, ("continuous",) * 5)
    assert spec.homogeneous_groups == ((0, 1), (3, 4))
    shared, own = (initial_policies(spec, (8,), 3, shared) for shared in (True, False))
    assert (shared[1] == own[0]).all() and (shared[4] == own[3]).all() and (own[1] != own[0]).any()
    assert (shared[[0, 2, 3]] == own[[0, 2, 3]]).all()
    assert EnvSpec(names[2:4], (4, 4), (2, 2), ("continuous",) * 2).homogeneous_groups == ()
