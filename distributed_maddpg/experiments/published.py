"""Published results of physical deception, in percent of episodes.

The paper is Lowe et al. 2017 (arXiv:1706.02275), table 4, quoted from memory and not verified; it does not
say which distance counts as success. The replication is google/maddpg-replication: the authors' code and
environment, 60 000 episodes of 25 steps, 4 or 5 runs a row, the training policies with their noise, within
0.4 of the goal in the last frame.
"""

from __future__ import annotations

Rates = dict[str, tuple[float, float]]
"""Success of agents and adversary by source."""

PUBLISHED: dict[int, dict[tuple[str, str], Rates]] = {
    2: {
        ("maddpg", "maddpg"): {"paper": (94.4, 39.2), "replication": (94.7, 34.0)},
        ("maddpg", "ddpg"): {"paper": (92.2, 16.4), "replication": (94.8, 31.9)},
        ("ddpg", "maddpg"): {"paper": (68.9, 59.0), "replication": (44.6, 34.0)},
        ("ddpg", "ddpg"): {"paper": (74.7, 38.6), "replication": (52.5, 35.6)},
    },
    4: {
        ("maddpg", "maddpg"): {"paper": (81.5, 28.3)},
        ("maddpg", "ddpg"): {"paper": (69.6, 19.8)},
        ("ddpg", "maddpg"): {"paper": (35.7, 32.1)},
        ("ddpg", "ddpg"): {"paper": (18.4, 35.8)},
    },
}
