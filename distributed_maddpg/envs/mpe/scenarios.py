"""All scenarios by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from distributed_maddpg.envs.mpe.collect_treasure import CollectTreasure
from distributed_maddpg.envs.mpe.scenario import Scenario
from distributed_maddpg.envs.mpe.simple import Simple
from distributed_maddpg.envs.mpe.simple_adversary import SimpleAdversary
from distributed_maddpg.envs.mpe.simple_crypto import SimpleCrypto
from distributed_maddpg.envs.mpe.simple_formation import SimpleFormation
from distributed_maddpg.envs.mpe.simple_line import SimpleLine
from distributed_maddpg.envs.mpe.simple_push import SimplePush
from distributed_maddpg.envs.mpe.simple_reference import SimpleReference
from distributed_maddpg.envs.mpe.simple_speaker_listener import SimpleSpeakerListener
from distributed_maddpg.envs.mpe.simple_spread import SimpleSpread
from distributed_maddpg.envs.mpe.simple_tag import SimpleTag
from distributed_maddpg.envs.mpe.simple_world_comm import SimpleWorldComm

_ALL: tuple[type[Scenario], ...] = (
    Simple,
    SimpleAdversary,
    SimpleCrypto,
    SimpleFormation,
    SimpleLine,
    SimplePush,
    SimpleReference,
    SimpleSpeakerListener,
    SimpleSpread,
    SimpleTag,
    SimpleWorldComm,
    CollectTreasure,
)
SCENARIOS: Mapping[str, type[Scenario]] = {scenario.name: scenario for scenario in _ALL}


def keywords(name: str) -> tuple[str, ...]:
    """Return the keywords that a scenario takes."""
    return tuple(field.name for field in dataclasses.fields(SCENARIOS[name].options_type))


def make_scenario(name: str, kwargs: Mapping[str, Any]) -> Scenario:
    """Return a scenario with its keywords; BadInput names one that is unknown or has a bad value."""
    return SCENARIOS[name].from_kwargs(kwargs)
