"""Who a curve or a circle is of, which decides its colour everywhere on a page."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

_ADVERSARIES = ("adversary", "leadadversary", "eve")
_OTHERS = ("agent", "second", "third")


@dataclass(frozen=True)
class Role:
    """A name, and what its colour depends on."""

    name: str
    kind: str
    """adversary, agent, second or third for the teams; goal; neutral."""
    index: int = 0
    """Among those of the kind, which get shades of its colour."""


@functools.lru_cache(maxsize=10_000)  # each agent is compared with all the others
def team_name(agent: str) -> str:
    """Return an agent's team: its name without the trailing number, by PettingZoo's convention."""
    return re.sub(r"_\d+$", "", agent)


def role_of(agent: str, agents: Sequence[str]) -> Role:
    """Return the role of one of these agents."""
    teams = list(dict.fromkeys(map(team_name, agents)))
    others = [team for team in teams if team not in _ADVERSARIES]
    team = team_name(agent)
    if team in _ADVERSARIES:
        peers = [name for name in agents if team_name(name) in _ADVERSARIES]
        return Role(agent, "adversary", peers.index(agent))
    kind = _OTHERS[min(others.index(team), len(_OTHERS) - 1)]
    return Role(agent, kind, [name for name in agents if team_name(name) == team].index(agent))


def team_of(role: Role) -> Role:
    """Return the role of an agent's team; of anything else, itself."""
    return Role(team_name(role.name), role.kind)
