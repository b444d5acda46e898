"""Environments, settings and batches that the tests of the updates share."""

from dataclasses import replace

import torch
from torch import nn

from distributed_maddpg.config import AlgorithmConfig
from distributed_maddpg.types import EnvSpec, PrivatePart

NAMES = ("red_0", "blue_0", "blue_1")
CONTINUOUS = EnvSpec(NAMES, (3, 2, 4), (2, 3, 1), ("continuous",) * 3)
DISCRETE = EnvSpec(NAMES, (3, 2, 4), (2, 3, 4), ("discrete",) * 3)
MIXED = EnvSpec(NAMES, (3, 2, 4), (2, 3, 1), ("continuous", "discrete", "continuous"))
EVEN = EnvSpec(NAMES, (3, 3, 3), (2, 2, 2), ("continuous",) * 3)
OF_TWO, OF_THREE = PrivatePart((0, 1), ((1, 2), (2, 3))), PrivatePart((1, 2), ((0, 1), (2, 3), (3, 4)))
OF_TWO_OTHERS = PrivatePart((1, 2), ((0, 1), (2, 3)))
COLORED = PrivatePart((1, 3), ((0, 1), (3, 4)), constants=((0.25,), (-0.5,)))
OF_CONSTANTS = PrivatePart((0, 2), constants=((1.0, 0.0), (0.0, 1.0), (0.5, 0.75)))
PRIVATE = EnvSpec(NAMES, (3, 4, 4), (2, 3, 3), ("continuous",) * 3, (OF_TWO, OF_THREE, OF_THREE))
PRIVATE_MIXED = EnvSpec(
    NAMES, (3, 2, 4), (2, 3, 1), ("continuous", "discrete", "continuous"), (OF_TWO, None, OF_THREE)
)
ONE_TEAM = EnvSpec(
    NAMES, (3, 4, 4), (2, 3, 3), ("continuous", "discrete", "discrete"), (None, OF_THREE, OF_THREE)
)
VARYING, VARYING_DISCRETE, VARYING_EVEN, VARYING_MIXED, VARYING_PRIVATE, VARYING_TEAM = (
    replace(spec, varying=True) for spec in (CONTINUOUS, DISCRETE, EVEN, MIXED, PRIVATE, ONE_TEAM)
)
MASKED, MASKED_MIXED = (
    replace(spec, varying=varying, masked=tuple(kind == "discrete" for kind in spec.action_types))
    for spec, varying in ((DISCRETE, False), (MIXED, True))
)
MASKED_PRIVATE = replace(ONE_TEAM, masked=(False, True, True))
WITH_CONSTANTS = EnvSpec(NAMES, (3, 4, 4), (2, 3, 3), ("continuous",) * 3, (OF_CONSTANTS, COLORED, COLORED))
ONE_COLORED_TEAM = EnvSpec(
    NAMES, (3, 4, 4), (2, 3, 3), ("continuous", "discrete", "discrete"), (None, COLORED, COLORED)
)
SMALL = AlgorithmConfig(
    policy_hidden_sizes=(7, 5), critic_hidden_sizes=(8,), regulariser_weight=0.1, max_grad_norm=0.05, tau=0.1
)

CASES = {
    "sigmoid": (CONTINUOUS, {}),
    "equal_sizes": (EVEN, {}),
    "no_clipping": (CONTINUOUS, {"max_grad_norm": 0.0}),
    "clipped_one_by_one": (CONTINUOUS, {"grad_norm_of": "parameter"}),
    "clipped_one_by_one_shared": (EVEN, {"grad_norm_of": "parameter", "share_policies": True}),
    "glorot": (CONTINUOUS, {"initial_weights": "glorot", "team_overrides": {"blue": "ddpg"}}),
    "gumbel_head": (CONTINUOUS, {"policy_head": "gumbel", "temperature": 0.7}),
    "discrete_straight_through": (DISCRETE, {}),
    "discrete_relaxed": (DISCRETE, {"straight_through": False}),
    "mixed": (MIXED, {}),
    "mixed_gumbel": (MIXED, {"policy_head": "gumbel", "other_actions": "current"}),
    "current_others": (CONTINUOUS, {"other_actions": "current"}),
    "actions_regularised": (CONTINUOUS, {"regulariser": "actions"}),
    "discrete_actions_regularised": (DISCRETE, {"regulariser": "actions"}),
    "ddpg": (CONTINUOUS, {"name": "ddpg"}),
    "ddpg_team": (MIXED, {"team_overrides": {"blue": "ddpg"}, "other_actions": "current"}),
    "maddpg_team": (CONTINUOUS, {"name": "ddpg", "team_overrides": {"red": "maddpg"}}),
    "shared": (EVEN, {"share_policies": True}),
    "shared_gumbel": (EVEN, {"share_policies": True, "policy_head": "gumbel"}),
    "matd3": (CONTINUOUS, {"name": "matd3"}),
    "matd3_of_one_team": (MIXED, {"team_overrides": {"red": "matd3"}, "policy_delay": 1}),
    "matd3_gumbel_shared": (EVEN, {"name": "matd3", "policy_head": "gumbel", "share_policies": True}),
    "matd3_without_smoothing": (CONTINUOUS, {"name": "matd3", "target_noise": 0.0, "policy_delay": 3}),
    "delayed_policies": (DISCRETE, {"policy_delay": 2}),
    "matd3_beside_ddpg": (CONTINUOUS, {"name": "matd3", "team_overrides": {"red": "ddpg"}}),
    "information": (PRIVATE, {"information_weight": 2.0}),
    "information_gumbel_shared": (
        PRIVATE,
        {"information_weight": 2.0, "policy_head": "gumbel", "temperature": 0.7, "share_policies": True},
    ),
    "information_mixed": (PRIVATE_MIXED, {"information_weight": 0.5, "max_grad_norm": 0.0}),
    "information_matd3": (PRIVATE, {"information_weight": 2.0, "name": "matd3"}),
    "information_of_a_setting": (
        PRIVATE_MIXED,
        {"information_weight": 2.0, "private": {"red": OF_TWO_OTHERS}},
    ),
    "information_of_constants": (WITH_CONSTANTS, {"information_weight": 2.0}),
    "mean_over_candidates": (ONE_TEAM, {"private_values": "mean"}),
    "mean_over_candidates_gumbel_shared": (
        ONE_TEAM,
        {
            "private_values": "mean",
            "information_weight": 2.0,
            "policy_head": "gumbel",
            "share_policies": True,
            "other_actions": "current",
        },
    ),
    "mean_over_candidates_ddpg": (ONE_TEAM, {"private_values": "mean", "team_overrides": {"blue": "ddpg"}}),
    "mean_over_candidates_matd3": (ONE_TEAM, {"private_values": "mean", "name": "matd3"}),
    "shared_critics": (EVEN, {"share_critics": True}),
    "shared_critics_discrete": (
        ONE_TEAM,
        {"share_critics": True, "share_policies": True, "grad_norm_of": "parameter"},
    ),
    "shared_critics_current": (
        EVEN,
        {
            "share_critics": True,
            "other_actions": "current",
            "policy_head": "gumbel",
            "team_overrides": {"red": "ddpg"},
        },
    ),
    "shared_critics_matd3": (EVEN, {"share_critics": True, "name": "matd3", "policy_delay": 3}),
    "shared_critics_of_no_team": (EVEN, {"share_critics": True, "team_overrides": {"blue": "ddpg"}}),
    "shared_critics_mean_over_candidates": (
        ONE_TEAM,
        {
            "share_critics": True,
            "private_values": "mean",
            "information_weight": 2.0,
            "other_actions": "current",
        },
    ),
    "mean_over_constants": (ONE_COLORED_TEAM, {"private_values": "mean", "information_weight": 2.0}),
    "mean_over_constants_shared_critics": (
        ONE_COLORED_TEAM,
        {"share_critics": True, "private_values": "mean", "other_actions": "current"},
    ),
    "random_rows": (CONTINUOUS, {"random_action_rows": 0.4}),
    "random_rows_current": (MIXED, {"random_action_rows": 0.4, "other_actions": "current"}),
    "random_rows_discrete": (DISCRETE, {"random_action_rows": 1.0, "other_actions": "current"}),
    "absent": (VARYING, {}),
    "absent_discrete": (VARYING_DISCRETE, {"other_actions": "current", "random_action_rows": 0.4}),
    "absent_matd3": (VARYING, {"name": "matd3", "regulariser": "actions"}),
    "absent_mixed": (VARYING_MIXED, {"policy_head": "gumbel", "other_actions": "current"}),
    "absent_information": (VARYING_PRIVATE, {"information_weight": 2.0, "max_grad_norm": 0.0}),
    "absent_shared_critics": (VARYING_EVEN, {"share_critics": True, "share_policies": True}),
    "absent_mean_over_candidates": (VARYING_TEAM, {"private_values": "mean", "information_weight": 2.0}),
    "masked": (MASKED, {}),
    "masked_information": (MASKED_PRIVATE, {"information_weight": 2.0}),
    "masked_relaxed": (MASKED, {"straight_through": False, "temperature": 0.7}),
    "masked_current": (MASKED, {"other_actions": "current", "random_action_rows": 0.4}),
    "masked_mixed_matd3": (MASKED_MIXED, {"name": "matd3", "other_actions": "current"}),
}


def make_batch(spec, size=16, seed=0):
    generator, layout = torch.Generator().manual_seed(seed), spec.transitions
    batch = torch.randn(size, layout.width, generator=generator)
    for columns, count, kind in zip(layout.actions, spec.action_sizes, spec.action_types, strict=True):
        draws = torch.rand(size, count, generator=generator)
        batch[:, columns] = one_hot(draws) if kind == "discrete" else draws
    for part, columns in zip(spec.private_parts, layout.obs, strict=False):
        for row, obs in enumerate(batch[:, columns] if part else ()):
            obs[slice(*part.columns)] = candidate(obs, part, row % len(part.choices))
    terminated = torch.rand(size, spec.num_agents, generator=generator) < 0.3
    batch[:, layout.discounts] = torch.where(terminated, 0.0, 0.95).to(batch.dtype)
    if spec.varying:
        flags = torch.rand(3, size, spec.num_agents, generator=generator) < 0.7
        present, acting, batch[:, layout.next_acting] = (
            flags[0],
            flags[0] & flags[1],
            flags[2].to(batch.dtype),
        )
        batch[:, layout.present], batch[:, layout.acting] = present.to(batch.dtype), acting.to(batch.dtype)
        for agent, (obs, actions) in enumerate(zip(layout.obs, layout.actions, strict=True)):
            batch[:, obs] *= present[:, agent, None]
            batch[:, actions] *= acting[:, agent, None]
    for columns in (*layout.allowed, *layout.next_allowed):
        draws = torch.rand(size, columns.stop - columns.start, generator=generator)
        if draws.numel():
            batch[:, columns] = ((draws < 0.5) | (one_hot(draws) > 0)).to(batch.dtype)
    return batch


def candidate(obs, part, choice):
    """Return the numbers [..., W] of one of the candidates in observations [..., O]."""
    columns, constants = part.choices[choice]
    constants = obs.new_tensor(constants).expand(*obs.shape[:-1], -1)
    return torch.cat((obs[..., slice(*columns)], constants), dim=-1)


def one_hot(values):
    return nn.functional.one_hot(values.argmax(-1), values.shape[-1]).to(values.dtype)
