"""Greedy episodes as an animated GIF."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from distributed_maddpg.acting.joint_policy import JointPolicy
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import make_vector_env
from distributed_maddpg.types import FloatArray

_SIZE, _REACH, _RADIUS = 360, 1.6, 9  # pixels, half the width in env units, pixels
_FRAME_MS, _LAST_FRAME_MS = 90, 1200
_GOAL, _LANDMARK, _ADVERSARY, _AGENT = "#3aa655", "#9a9a9a", "#d9534f", "#4a78c9"


@dataclass(frozen=True)
class Frame:
    """One step of an episode of `simple_adversary`."""

    agents: npt.NDArray[np.float64]
    """[N, 2], the adversary first."""
    landmarks: npt.NDArray[np.float64]
    """[L, 2]."""
    goal: int
    last: bool


def record_episodes(
    config: MADDPGConfig, parameters: FloatArray, num_episodes: int, seed: int
) -> list[Frame]:
    """Play greedy episodes with policy parameters `[N, P]`; return their frames.

    Returns:
        The frames; none for other environments than `simple_adversary`, whose state can be drawn.
    """
    env = make_vector_env(config.env.id, 1, seed, backend=config.env.backend, **config.env.kwargs)
    try:
        obs = env.reset()
        if "landmark_positions" not in env.get_state():
            return []
        policies = JointPolicy(config.algorithm, env.spec, 1)
        policies.set_parameters(parameters)
        frames: list[Frame] = []
        while num_episodes:
            state = env.get_state()
            result = env.step(policies.act(obs))
            obs, last = result.obs, bool(result.truncated[0])
            num_episodes -= last
            agents, landmarks = state["agent_positions"][0], state["landmark_positions"][0]
            frames.append(Frame(agents, landmarks, int(state["goal_landmark"][0]), last))
        return frames
    finally:
        env.close()


def write_animation(frames: list[Frame], path: Path) -> None:
    """Write frames as a GIF that repeats; each episode's last frame is shown longer."""
    images = [_draw(frame) for frame in frames]
    durations = [_LAST_FRAME_MS if frame.last else _FRAME_MS for frame in frames]
    draft = path.with_name(f".{path.name}.tmp")
    images[0].save(draft, format="GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)
    draft.rename(path)


def _draw(frame: Frame) -> Image.Image:
    image = Image.new("RGB", (_SIZE, _SIZE), "white")
    canvas = ImageDraw.Draw(image)
    for index, position in enumerate(frame.landmarks):
        canvas.rectangle(_box(position, _RADIUS * 1.4), fill=_GOAL if index == frame.goal else _LANDMARK)
    for index, position in enumerate(frame.agents):
        canvas.ellipse(_box(position, _RADIUS), fill=_ADVERSARY if index == 0 else _AGENT, outline="black")
    return image


def _box(position: npt.NDArray[np.float64], half: float) -> tuple[float, float, float, float]:
    """Return the pixels around a point; y points up, and points outside are drawn at the edge."""
    x, y = np.clip(position / _REACH, -1.0, 1.0)
    x, y = (x + 1.0) / 2.0 * _SIZE, (1.0 - y) / 2.0 * _SIZE
    return x - half, y - half, x + half, y + half
