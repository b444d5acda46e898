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

_SIZE, _REACH = 360, 1.6  # pixels, half the width in env units
_MIN_RADIUS, _FAR = 3.0, 10.0  # pixels; beyond this distance a landmark is out of the game
_FRAME_MS, _LAST_FRAME_MS = 90, 1200
_GOAL, _LANDMARK, _ADVERSARY = "#3aa655", "#b5b5b5", "#d9534f"
_TEAMS = ("#4a78c9", "#c98f2d", "#8e6bb3")
_ADVERSARIES = ("adversary", "leadadversary", "eve")


@dataclass(frozen=True)
class Frame:
    """One step of an episode of one of MPE2's scenarios."""

    agents: npt.NDArray[np.float64]
    """[N, 2]"""
    landmarks: npt.NDArray[np.float64]
    """[L, 2]."""
    sizes: npt.NDArray[np.float64]
    """[N + L] radii, landmarks last."""
    colours: tuple[str, ...]
    """N"""
    goal: int
    """Index of the landmark that is the goal, -1 if there is none."""
    last: bool


def record_episodes(
    config: MADDPGConfig, parameters: FloatArray, num_episodes: int, seed: int
) -> list[Frame]:
    """Play greedy episodes with policy parameters `[N, P]`; return their frames.

    Returns:
        The frames; none for other environments than MPE2's scenarios, whose state can be drawn.
    """
    env = make_vector_env(config.env.id, 1, seed, backend=config.env.backend, **config.env.kwargs)
    try:
        obs = env.reset()
        scenario = getattr(env, "scenario", None)
        if scenario is None:
            return []
        policies = JointPolicy(config.algorithm, env.spec, 1)
        policies.set_parameters(parameters)
        sizes, colours = scenario.world.bodies["size"], _colours(env.spec.teams)
        frames: list[Frame] = []
        while num_episodes:
            state = env.get_state()
            result = env.step(policies.act(obs, env.roster()))
            obs, last = result.obs, bool(result.truncated[0] or result.terminated[0].all())
            num_episodes -= last
            agents, landmarks = state["agent_positions"][0], state["landmark_positions"][0]
            goal = int(state["goal_landmark"][0]) if "goal_landmark" in state else -1
            frames.append(Frame(agents, landmarks, sizes, colours, goal, last))
        return frames
    finally:
        env.close()


def _colours(teams: tuple[str, ...]) -> tuple[str, ...]:
    """Return the colour of each agent: adversaries red, other teams one each."""
    others = [team for team in dict.fromkeys(teams) if team not in _ADVERSARIES]
    return tuple(
        _ADVERSARY if team in _ADVERSARIES else _TEAMS[others.index(team) % len(_TEAMS)] for team in teams
    )


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
    num_agents = len(frame.agents)
    for index, (position, size) in enumerate(zip(frame.landmarks, frame.sizes[num_agents:], strict=True)):
        if np.abs(position).max() < _FAR:
            canvas.ellipse(_box(position, size), fill=_GOAL if index == frame.goal else _LANDMARK)
    for position, size, colour in zip(frame.agents, frame.sizes[:num_agents], frame.colours, strict=True):
        canvas.ellipse(_box(position, size), fill=colour, outline="black")
    return image


def _box(position: npt.NDArray[np.float64], size: float) -> tuple[float, float, float, float]:
    """Return the pixels around a point; y points up, and points outside are drawn at the edge."""
    half = max(_MIN_RADIUS, size / _REACH / 2.0 * _SIZE)
    x, y = np.clip(position / _REACH, -1.0, 1.0)
    x, y = (x + 1.0) / 2.0 * _SIZE, (1.0 - y) / 2.0 * _SIZE
    return x - half, y - half, x + half, y + half
