"""Information regularisation: policies whose actions do not tell the private part of an observation.

Strouse et al. 2018 (arXiv:1808.02093) add the mutual information of an agent's action and its goal, given
the rest of the observation, to the loss. Here its measure is the squared distance between the actions for
the goal that is there and for another one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distributed_maddpg.types import PrivatePart


class Counterfactuals:
    """Observations in which another candidate stands in the private part."""

    def __init__(self, parts: Sequence[PrivatePart | None], runs: int, device: torch.device) -> None:
        """Prepare for the N agents' private parts and S runs."""
        self._groups = [
            (torch.tensor(_networks(parts, part, runs), device=device), part)
            for part in dict.fromkeys(parts)
            if part is not None
        ]
        """(rows of the M networks, their private part)."""

    def __bool__(self) -> bool:
        """Return whether any agent has a private part."""
        return bool(self._groups)

    def __call__(self, obs: Tensor) -> Tensor:
        """Return a copy of observations `[M, R, O]` with another candidate in each private part.

        Of C candidates, row b takes the one that is 1 + b mod (C - 1) places, in a circle, after the one that
        stands there or is nearest to it. Agents without a private part keep their observations.
        """
        changed = obs.clone()
        for networks, part in self._groups:
            own = obs.index_select(0, networks)
            own[:, :, slice(*part.columns)] = _other_candidates(own, part)
            changed.index_copy_(0, networks, own)
        return changed


def _networks(parts: Sequence[PrivatePart | None], part: PrivatePart, runs: int) -> list[int]:
    agents = [agent for agent, own in enumerate(parts) if own == part]
    return [run * len(parts) + agent for run in range(runs) for agent in agents]


def _other_candidates(obs: Tensor, part: PrivatePart) -> Tensor:
    """Return another value `[n, R, W]` for the private part of each row of `obs [n, R, O]`."""
    candidates = torch.stack([obs[:, :, slice(*columns)] for columns in part.candidates], dim=2)
    private = obs[:, :, None, slice(*part.columns)]
    own = (candidates - private).square().sum(dim=3).argmin(dim=2)
    count = len(part.candidates)
    steps = 1 + torch.arange(obs.shape[1], device=obs.device) % (count - 1)
    other = (own + steps) % count
    return candidates.gather(2, other[:, :, None, None].expand(private.shape)).squeeze(2)
