"""Autograd's update with the random numbers of the fused one, written with numpy."""

import numpy as np
import torch

from distributed_maddpg.algo.fused import noise
from distributed_maddpg.algo.maddpg import MADDPGUpdate

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def threefry(key, counter):
    """Return the two words of Threefry-2x32 with 20 rounds; integers or arrays of them."""
    keys = [*(np.uint32(word) for word in key), np.uint32(key[0] ^ key[1] ^ 0x1BD11BDA)]
    with np.errstate(over="ignore"):
        x, y = counter[0] + keys[0], counter[1] + keys[1]
        for block in range(5):
            for distance in ROTATIONS[block % 2]:
                x = x + y
                y = (y << np.uint32(distance) | y >> np.uint32(32 - distance)) ^ x
            x = x + keys[(block + 1) % 3]
            y = y + keys[(block + 2) % 3] + np.uint32(block + 1)
    return x, y


class CountedNoise(MADDPGUpdate):
    """Draws for the uses of each update in their order."""

    def __init__(self, config, spec, device, seeds):
        super().__init__(config, spec, device, seeds)
        [seed] = seeds
        self._seed = (seed & 0xFFFFFFFF, seed >> 32)
        self._sizes = spec.action_sizes
        heads, rows = self._gumbel_heads.any, config.random_action_rows > 0
        current = rows and config.other_actions == "current"
        uses = (
            (noise.TARGET_HEAD, heads),
            (noise.TARGET_NOISE, self._smoothed_agents.any),
            (noise.TARGET_ROWS, rows),
            (noise.TARGET_ACTIONS, rows),
            (noise.HEAD, heads),
            (noise.ROWS, current),
            (noise.ACTIONS, current),
        )
        self._uses = [int(use) for use, needed in uses if needed]

    def __call__(self, batch):
        number = np.uint32(self.updates_made), np.uint32(0)
        self._key, self._left = threefry(self._seed, number), iter(self._uses)
        return super().__call__(batch)

    def _random(self, fill, like):
        use, drawn = next(self._left), torch.zeros(like.shape)
        for agent, size in enumerate(self._sizes):
            count = min(size, like.shape[1])
            if fill is torch.Tensor.normal_:
                uniform = self._uniform(use, agent, 2 * count, like.shape[2])
                radius, angle = np.sqrt(-2 * np.log(1 - uniform[:count])), 2 * np.pi * uniform[count:]
                values = radius * np.cos(angle)
            else:
                values = self._uniform(use, agent, count, like.shape[2])
            drawn[agent, :count] = torch.from_numpy(values)
        return drawn

    def _uniform(self, use, agent, count, rows):
        stream = (use * len(self._sizes) + agent) * (max(self._sizes) + 1)
        words = []
        for pair in range((count + 1) // 2):
            counter = np.arange(rows, dtype=np.uint32), np.full(rows, stream + pair, np.uint32)
            words += threefry(self._key, counter)
        return np.stack([word >> np.uint32(8) for word in words[:count]]) * 2.0**-24
