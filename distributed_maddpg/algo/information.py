"""What else could stand in the private part of an observation, for policies that do not tell what does.

Strouse et al. 2018 (arXiv:1808.02093) add the mutual information of an agent's action and its goal, given
the rest of the observation, to the loss. Here its measure is the squared distance between the actions for
the goal that is there and for another one. The value of an action may be averaged over all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distributed_maddpg.types import EnvSpec, PrivatePart


class Counterfactuals:
    """Observations in which another candidate stands in the private part."""

    def __init__(self, parts: Sequence[PrivatePart | None], runs: int, device: torch.device) -> None:
        """Prepare for the N agents' private parts and S runs."""
        self._groups = [
            (
                torch.tensor(_networks(parts, part, runs), device=device),
                part,
                torch.tensor([constants for _, constants in part.choices], device=device),
            )
            for part in dict.fromkeys(parts)
            if part is not None
        ]
        """(rows of the M networks, their private part, constants of its candidates [C, K])."""

    def __bool__(self) -> bool:
        """Return whether any agent has a private part."""
        return bool(self._groups)

    def __call__(self, obs: Tensor) -> Tensor:
        """Return a copy of observations `[M, R, O]` with another candidate in each private part.

        Of C candidates, row b takes the one that is 1 + b mod (C - 1) places, in a circle, after the one that
        stands there or is nearest to it. Agents without a private part keep their observations.
        """
        changed = obs.clone()
        for networks, part, constants in self._groups:
            other = _other_candidates(obs.index_select(0, networks), part, constants)
            changed[:, :, slice(*part.columns)].index_copy_(0, networks, other)
        return changed


class CommonCandidates:
    """Joint observations in which the same candidate stands in every private part.

    The mean of an action's values over all candidates is what it is worth if no action depends on them and
    all are equally likely. Unlike the value with what stands there, it asks for no action that depends on it.
    """

    def __init__(self, spec: EnvSpec, parts: Sequence[PrivatePart | None], device: torch.device) -> None:
        """Prepare for private parts whose candidates are aligned."""
        owners = [(obs.start, part) for obs, part in zip(spec.transitions.obs, parts, strict=True) if part]
        private = [start + k for start, part in owners for k in range(*part.columns)]
        self.columns = torch.tensor(private, device=device)
        """[W] the private columns of all agents."""
        constants: list[float] = []
        places = []
        for start, part in owners:
            places.append(part.places(start, spec.transitions.critic_input.stop + len(constants)))
            constants += [value for _, own in part.choices for value in own]
        candidates = [[place for own in each for place in own] for each in zip(*places, strict=True)]
        self.indices = torch.tensor(candidates, device=device)
        """[C, W] the columns of each candidate, in a joint input with the constants behind it."""
        self.constants = torch.tensor(constants, device=device)
        """[K] of all candidates."""
        self.count = len(candidates)
        """C."""

    def joints(self, joint: Tensor) -> list[Tensor]:
        """Return C copies of joint observations and actions `[S, B, J]`, each with another candidate."""
        known = self._with_constants(joint)
        values = [known.index_select(2, columns) for columns in self.indices]
        return [joint.index_copy(2, self.columns, value) for value in values]

    def changes(self, joint: Tensor) -> Tensor:
        """Return candidate minus private columns `[S, C * B, W]` of joint inputs `[S, B, J]`."""
        known, private = self._with_constants(joint), joint.index_select(2, self.columns)
        return torch.cat([known.index_select(2, columns) - private for columns in self.indices], dim=1)

    def _with_constants(self, joint: Tensor) -> Tensor:
        if not len(self.constants):
            return joint
        return torch.cat((joint, self.constants.expand(*joint.shape[:2], -1)), dim=2)


def _networks(parts: Sequence[PrivatePart | None], part: PrivatePart, runs: int) -> list[int]:
    agents = [agent for agent, own in enumerate(parts) if own == part]
    return [run * len(parts) + agent for run in range(runs) for agent in agents]


def _other_candidates(obs: Tensor, part: PrivatePart, constants: Tensor) -> Tensor:
    """Return another value `[n, R, W]` for the private part of each row of `obs [n, R, O]`."""
    candidates = torch.stack([obs[:, :, slice(*columns)] for columns, _ in part.choices], dim=2)
    candidates = torch.cat((candidates, constants.expand(*obs.shape[:2], -1, -1)), dim=3)
    private = obs[:, :, None, slice(*part.columns)]
    own = (candidates - private).square().sum(dim=3).argmin(dim=2)
    count = len(part.choices)
    steps = 1 + torch.arange(obs.shape[1], device=obs.device) % (count - 1)
    other = (own + steps) % count
    return candidates.gather(2, other[:, :, None, None].expand(private.shape)).squeeze(2)
