"""The moving picture shows what the environment did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import env_spec
from distributed_maddpg.report.animation import Frame, record_episodes, write_animation
from distributed_maddpg.types import policy_layout

GREEN, RED, BLUE = (58, 166, 85), (217, 83, 79), (74, 120, 201)


def untrained(config: MADDPGConfig) -> np.ndarray:
    spec = env_spec(config.env.id, config.env.backend, config.env.kwargs)
    layout = policy_layout(spec, config.algorithm.policy_hidden_sizes)
    return np.zeros((layout.num_networks, layout.num_parameters), np.float32)


def test_episodes_have_their_length_and_their_state() -> None:
    config = MADDPGConfig.from_dict({"env": {"kwargs": {"N": 3, "max_cycles": 7}}}, MADDPGConfig())
    frames = record_episodes(config, untrained(config), num_episodes=2, seed=5)
    assert [frame.last for frame in frames] == ([False] * 6 + [True]) * 2
    assert frames[0].agents.shape == (4, 2)
    assert frames[0].landmarks.shape == (3, 2)
    np.testing.assert_array_equal(frames[0].landmarks, frames[6].landmarks)
    assert (frames[6].landmarks != frames[7].landmarks).any()


def test_any_scenario_is_drawn_with_its_teams_and_sizes() -> None:
    env = {"id": "simple_world_comm", "kwargs": {"max_cycles": 3}}
    config = MADDPGConfig.from_dict({"env": env}, MADDPGConfig())
    frames = record_episodes(config, untrained(config), num_episodes=1, seed=5)
    assert [frame.last for frame in frames] == [False, False, True]
    assert frames[0].colours == ("#d9534f",) * 4 + ("#4a78c9",) * 2
    assert frames[0].sizes.tolist() == [0.075] * 4 + [0.045] * 2 + [0.2] + [0.03] * 2 + [0.3] * 2
    assert frames[0].goal == -1


def test_an_environment_that_cannot_be_drawn_has_no_frames() -> None:
    config = MADDPGConfig.from_dict({"env": {"id": "tests.support.counting:parallel_env"}}, MADDPGConfig())
    assert record_episodes(config, untrained(config), num_episodes=1, seed=0) == []


def test_drawing_puts_each_thing_where_it_is(tmp_path: Path) -> None:
    agents = np.array([[-0.8, 0.0], [0.8, 0.0], [0.8, 0.8]])
    landmarks = np.array([[0.0, 0.8], [0.0, -0.8]])
    frame = Frame(agents, landmarks, np.full(5, 0.05), ("#d9534f", "#4a78c9", "#4a78c9"), goal=0, last=True)
    write_animation([frame], tmp_path / "x.gif")
    with Image.open(tmp_path / "x.gif") as image:
        picture = image.convert("RGB")
    assert picture.getpixel((90, 180)) == RED  # x = -0.8 of +-1.6 is a quarter of 360 pixels
    assert picture.getpixel((270, 180)) == BLUE
    assert picture.getpixel((180, 90)) == GREEN  # y points up
    assert [path.name for path in tmp_path.iterdir()] == ["x.gif"]
