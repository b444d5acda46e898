"""What other packages reach on the schedule of preset `paper`; constants, not measured here."""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = "measured by the project on a 2-core machine"
SCHEDULE = "one update per 100 env steps, batch 1,024, networks 64-64"


@dataclass(frozen=True)
class Peer:
    """A rate of another package."""

    package: str
    what: str
    value: float
    unit: str
    source: str = SOURCE


PEERS = (
    Peer("BenchMARL", "training, environments of VMAS", 1_300, "env steps/s"),
    Peer("BenchMARL", "training, environments of PettingZoo", 490, "env steps/s"),
    Peer("AgileRL", "learning alone", 44, "updates/s"),
)
