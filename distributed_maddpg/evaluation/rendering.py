"""Pictures of greedy episodes, without a display.

Scenarios of MPE2 are drawn by MPE2's own renderer, from the states that the run's environment reached. Any
other environment is stepped with `render_mode="rgb_array"` and draws itself.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import make_vector_env
from distributed_maddpg.envs.base import State, VectorEnv
from distributed_maddpg.errors import BadInput, TrainingError, reason
from distributed_maddpg.evaluation.episodes import evaluation_env, greedy_policy
from distributed_maddpg.evaluation.matchups import TeamSource
from distributed_maddpg.evaluation.recording import Recording, record_episodes
from distributed_maddpg.evaluation.scripted import combine_teams

Camera = Literal["steady", "mpe2"]
"""How much of the world of a scenario of MPE2 is shown. mpe2: in each frame as much as its entities take, so
that landmarks seem to move when an agent leaves. steady: all that the episode takes, at true sizes."""
Image = npt.NDArray[np.uint8]
"""[H, W, 3]"""

_MARGIN = 0.9  # of the picture that MPE2's camera leaves to the entities' centres
_COLLECTED = 100.0  # MPE2 keeps a collected treasure at -999, and does not draw it
_MAX_EPISODE_STEPS = 100_000
_HEADLESS = {"SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy", "PYGAME_HIDE_SUPPORT_PROMPT": "1"}


class Frame(NamedTuple):
    """One picture of an episode."""

    image: Image
    episode: int
    """0 and up."""
    step: int
    """Steps before it; 0 is the start state."""
    last: bool
    """Whether the episode is over."""


@contextmanager
def no_display() -> Iterator[None]:
    """Let SDL, which MPE2 and others draw with, neither open a window nor look for a display meanwhile."""
    before = {name: os.environ.get(name) for name in _HEADLESS}
    os.environ.update(_HEADLESS)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def render_episodes(
    sources: Mapping[str, TeamSource], num_episodes: int, seed: int, camera: Camera = "steady"
) -> Iterator[Frame]:
    """Play greedy episodes in which each team acts with the policies of its own run, and draw them.

    Args:
        sources: of each team; the environment is built from the settings of the first.
        num_episodes: K.
        seed: of the start states.
        camera: for scenarios of MPE2.

    Raises:
        BadInput: if the environment cannot draw itself.
        TrainingError: if an episode does not end.
    """
    own = {team: run._replace(config=_undrawn(run.config)) for team, run in sources.items()}
    config = next(iter(own.values())).config
    with evaluation_env(config, 1, seed) as env:
        has_state = hasattr(env, "scenario")
    if has_state:
        return draw_recording(config, record_episodes(own, num_episodes, seed), camera)
    return _film(own, config, num_episodes, seed)


def _undrawn(config: MADDPGConfig) -> MADDPGConfig:
    """Return settings whose environment, which may have been drawn in training, draws nothing itself."""
    kwargs = {name: value for name, value in config.env.kwargs.items() if name != "render_mode"}
    return _with_kwargs(config, kwargs)


def _with_kwargs(config: MADDPGConfig, kwargs: dict[str, Any]) -> MADDPGConfig:
    return dataclasses.replace(config, env=dataclasses.replace(config.env, kwargs=kwargs))


def draw_recording(config: MADDPGConfig, recording: Recording, camera: Camera) -> Iterator[Frame]:
    """Draw recorded episodes of a scenario of MPE2, 700 pixels wide and high."""
    pen = _MPE2Pen(config, int(recording.lengths.max()))
    for episode in range(recording.num_episodes):
        frames = recording.frames(episode)
        states = {name: values[frames] for name, values in recording.states.items()}
        pen.aim(states, camera)
        for step in range(frames.stop - frames.start):
            image = pen.draw({name: values[step : step + 1] for name, values in states.items()})
            yield Frame(image, episode, step, frames.start + step + 1 == frames.stop)


class _MPE2Pen:
    """Draws states with one of MPE2's environments, into whose world they are written."""

    def __init__(self, config: MADDPGConfig, length: int) -> None:
        from mpe2._mpe_utils.core import Landmark  # noqa: PLC0415 - loads gymnasium

        # The last state of an episode is one of an environment that may still take a step.
        kwargs = {**config.env.kwargs, "max_cycles": length + 1, "render_mode": "rgb_array"}
        env: Any = make_vector_env(config.env.id, 1, 0, backend="pettingzoo", **kwargs)
        self._env, self._raw = env, env.envs[0].unwrapped
        self._scaling, self._sizes = self._raw.dynamic_rescaling, env.scenario.world.bodies["size"]
        self._edge: Any = None
        self._unseen = Landmark()
        self._unseen.size, self._unseen.color = 0.0, np.ones(3)

    def aim(self, states: State, camera: Camera) -> None:
        """Choose how much of the world to show in the frames of an episode."""
        entities = np.concatenate([states["agent_positions"], states["landmark_positions"]], axis=1)
        reach = np.abs(entities).max(axis=2)  # [frames, N + L]
        num_agents = states["agent_positions"].shape[1]
        seen = (np.arange(reach.shape[1]) < num_agents) | (reach < _COLLECTED)
        if camera == "mpe2":
            self._edge, self._first, self._raw.dynamic_rescaling = None, reach[0].max(), self._scaling
            return
        whole = _MARGIN * np.where(seen, reach + self._sizes, 0.0).max()
        self._edge = max(np.where(seen, reach, 0.0).max(), whole)
        # MPE2 draws the entities larger or smaller by the ratio of this to what it shows.
        self._first, self._raw.dynamic_rescaling = 1.0, True

    def draw(self, state: State) -> Image:
        """Return the picture of one state `[1, ...]`."""
        self._env.set_state(state)
        self._raw.original_cam_range = self._first  # as `set_state` resets, it was that of another episode
        landmarks = self._raw.world.landmarks
        if self._edge is None:
            return cast(Image, self._raw.render())
        # MPE2 shows as much as the farthest entity takes: one of size 0 makes it show the same in all frames.
        self._unseen.state.p_pos = np.array([self._edge, 0.0])
        landmarks.append(self._unseen)
        try:
            return cast(Image, self._raw.render())
        finally:
            landmarks.pop()


def _film(
    sources: Mapping[str, TeamSource], config: MADDPGConfig, num_episodes: int, seed: int
) -> Iterator[Frame]:
    """Play episodes of an environment that draws itself, and yield what it draws."""
    env = _drawn_env(config, seed)
    try:
        images = _photographed(env, config.env.id)
        policies = {team: greedy_policy(run.config, env, run.parameters) for team, run in sources.items()}
        policy = combine_teams(env.spec, policies)
        obs, step, episode = env.reset(), 0, 0
        while episode < num_episodes:
            image = images.pop(0)
            if step == _MAX_EPISODE_STEPS:
                raise TrainingError(f"rendering: an episode did not end within {_MAX_EPISODE_STEPS} steps")
            result = env.step(policy(obs))
            obs, ended = result.obs, bool(result.truncated[0] or result.terminated[0].all())
            yield Frame(image, episode, step, False)
            step += 1
            if ended:
                yield Frame(images.pop(0), episode, step, True)
                step, episode = 0, episode + 1
    finally:
        env.close()


def _drawn_env(config: MADDPGConfig, seed: int) -> VectorEnv:
    env, kwargs = config.env, {**config.env.kwargs, "render_mode": "rgb_array"}
    try:
        return make_vector_env(env.id, 1, seed, backend=env.backend, measures=env.measures, **kwargs)
    except BadInput as error:
        raise _cannot_draw(env.id, f"it takes no render_mode ({error})") from error


def _photographed(env: VectorEnv, env_id: str) -> list[Image]:
    """Make the one copy draw itself after each reset and step; return the list that receives the pictures.

    A copy that ends is reset within the vector environment's step, which so adds two.
    """
    images: list[Image] = []
    copies: Sequence[Any] = cast(Any, env).envs
    copy = copies[0]

    def then_draw(call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def called(*args: Any, **kwargs: Any) -> Any:
            result = call(*args, **kwargs)
            images.append(_picture(copy, env_id))
            return result

        return called

    copy.reset, copy.step = then_draw(copy.reset), then_draw(copy.step)
    return images


def _picture(copy: Any, env_id: str) -> Image:
    try:
        image = np.asarray(copy.render())
    except Exception as error:  # an environment may raise anything
        raise _cannot_draw(env_id, f"its render raises {reason(error)}") from error
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (3, 4):
        raise _cannot_draw(env_id, "its render returns no picture of [height, width, 3] bytes")
    return image[:, :, :3].copy()


def _cannot_draw(env_id: str, why: str) -> BadInput:
    return BadInput("env.id", env_id, f'cannot be drawn with render_mode="rgb_array": {why}')
