"""What a reader sees in the replay of each scenario."""

from __future__ import annotations

CAPTIONS = {
    "simple": "The agent heads for the landmark.",
    "simple_adversary": (
        "The good agents know which landmark is the goal; the adversary does not, and watches them. They are "
        "rewarded when one of them is at the goal and the adversary is far from it: by covering every "
        "landmark they give nothing away."
    ),
    "simple_crypto": (
        "Nobody moves: Alice sends Bob a message under a key that both know, and Eve listens. Letters above "
        "an agent are what it says."
    ),
    "simple_formation": "The agents form a circle around the landmark.",
    "simple_line": "The agents form a line between the landmarks.",
    "simple_push": (
        "The good agent heads for the goal; the adversary, who does not know which landmark that is, keeps "
        "it away."
    ),
    "simple_reference": (
        "Each agent knows where the other should go, and tells it. Letters above an agent are what it says."
    ),
    "simple_speaker_listener": (
        "The speaker, who cannot move, tells the listener which landmark is the goal. Letters above it are "
        "what it says."
    ),
    "simple_spread": "The agents cover all landmarks and avoid each other.",
    "simple_tag": "The predators, slower and more, hunt the prey among obstacles.",
    "simple_world_comm": (
        "A leader directs the predators that hunt prey; food attracts prey, and forests hide who is inside. "
        "Letters above the leader are what it says."
    ),
    "collect_treasure": "Collectors pick up treasures and bring each to the deposit of its type.",
}
