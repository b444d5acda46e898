"""A recorded state is drawn as MPE2 draws its own world that took the same steps."""

import os

import numpy as np
import pytest

from distributed_maddpg.envs import streams
from distributed_maddpg.envs.make import _import
from distributed_maddpg.errors import BadInput
from distributed_maddpg.evaluation.recording import record_episodes
from distributed_maddpg.evaluation.rendering import draw_recording, no_display, render_episodes
from distributed_maddpg.types import MPE2_MODULES
from tests.evaluation.recorded import settings, source

SEED, STEPS = 4, 6


def mpe2_pictures(config, recording, episode, prepare):
    """Return what MPE2 draws of an episode that it steps itself, from its own start state."""
    kwargs = {name: value for name, value in config.env.kwargs.items() if name != "velocity_first"}
    env = _import("", MPE2_MODULES[config.env.id]).parallel_env(**kwargs, render_mode="rgb_array")
    env.unwrapped.np_random = streams.stream(SEED, episode)
    prepare(env.unwrapped.world)
    env.reset()
    pictures = [env.render()]
    steps = recording.steps(episode)
    for step in range(steps.start, steps.stop):
        actions = [array[step] for array in recording.actions]
        env.step(dict(zip(env.possible_agents, actions, strict=True)))
        pictures.append(env.render())
    return pictures


def drawn_as_by_mpe2(config, spec, prepare=lambda world: None):
    """Compare each frame of two episodes; return the recording."""
    own = dict.fromkeys(spec.teams, source(config, spec, 1))
    recording = record_episodes(own, 2, SEED)
    frames = list(draw_recording(config, recording, "mpe2"))
    length = config.env.kwargs["max_cycles"]
    every = [(k, step, step == length) for k in range(2) for step in range(length + 1)]
    assert [frame[1:] for frame in frames] == every
    expected = mpe2_pictures(config, recording, 0, prepare) + mpe2_pictures(config, recording, 1, prepare)
    for frame, picture in zip(frames, expected, strict=True):
        assert np.array_equal(frame.image, picture), frame[1:]
    return recording


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("env_id", MPE2_MODULES)
def test_a_state_is_drawn_as_by_mpe2(env_id, continuous):
    kwargs = {"max_cycles": STEPS, "continuous_actions": continuous}
    # Not compiled, which takes ten seconds for each; tests/envs/mpe/ shows that its states are the same.
    drawn_as_by_mpe2(*settings(env_id, backend="pettingzoo", kwargs=kwargs))


def test_compiled_episodes_are_drawn_as_by_mpe2():
    kwargs = {"max_cycles": STEPS, "dynamic_rescaling": False}
    drawn_as_by_mpe2(*settings(backend="vectorized", kwargs=kwargs))


def test_who_holds_a_treasure_has_its_colour():
    kwargs = {"max_cycles": 8, "num_treasures": 80}
    recording = drawn_as_by_mpe2(*settings("collect_treasure", backend="pettingzoo", kwargs=kwargs))
    assert (recording.states["holding"] >= 0).any()


def velocity_first(world):
    """Integrate as OpenAI's MPE does: the position with the new velocity."""

    def integrate_state(forces):
        for agent, force in zip(world.agents, forces, strict=False):  # landmarks feel forces as well
            agent.state.p_vel = agent.state.p_vel * (1 - world.damping)
            if force is not None:
                agent.state.p_vel = agent.state.p_vel + force / agent.mass * world.dt
            agent.state.p_pos = agent.state.p_pos + agent.state.p_vel * world.dt

    world.integrate_state = integrate_state


def test_an_episode_that_mpe2_cannot_play_is_drawn_from_its_states():
    kwargs = {"max_cycles": STEPS, "velocity_first": True, "continuous_actions": True}
    config, spec = settings(kwargs=kwargs)
    drawn_as_by_mpe2(config, spec, velocity_first)
    with pytest.raises(AssertionError):  # MPE2's own order of integration gives another picture
        drawn_as_by_mpe2(config, spec)


def test_the_steady_camera_holds_still_and_shows_true_sizes():
    config, spec = settings(backend="pettingzoo", kwargs={"max_cycles": 25})
    own = dict.fromkeys(spec.teams, source(config, spec, 1))
    frames = list(render_episodes(own, 1, SEED))
    recording = record_episodes(own, 1, SEED)
    reach = np.abs(recording.states["agent_positions"]).max()
    assert reach > 3  # an agent leaves the square where all begin, and MPE2's camera would follow
    scale = 0.9 * 350 / reach
    goal = recording.states["goal_landmark"][0]
    x, y = 350 + scale * recording.states["landmark_positions"][0, goal] * [1, -1]
    for frame in frames:
        ys, xs = np.nonzero((frame.image == [30, 130, 30]).all(axis=2))  # MPE2's green
        assert abs((xs.min() + xs.max()) / 2 - x) < 2
        assert abs((ys.min() + ys.max()) / 2 - y) < 2
        assert int(0.08 * scale) == (xs.max() - xs.min() + 1) / 2 + 1  # the last pixel is black
        edge = np.concatenate([frame.image[0], frame.image[-1], frame.image[:, 0], frame.image[:, -1]])
        assert (edge == 255).all()  # nothing is cut off


def test_drawing_changes_no_variable_of_the_process(monkeypatch):
    monkeypatch.delenv("SDL_VIDEODRIVER", raising=False)
    monkeypatch.setenv("SDL_AUDIODRIVER", "alsa")
    before = dict(os.environ)
    with no_display():
        assert os.environ["SDL_VIDEODRIVER"] == os.environ["SDL_AUDIODRIVER"] == "dummy"
    assert dict(os.environ) == before


PAINTING, COUNTING = "tests.support.painting:parallel_env", "tests.support.counting:parallel_env"


def test_other_environments_draw_themselves_to_the_last_frame():
    config, spec = settings(PAINTING, kwargs={"max_cycles": 3})
    frames = list(render_episodes(dict.fromkeys(spec.teams, source(config, spec, 1)), 2, SEED))
    assert [frame.image.shape for frame in frames] == [(20, 30, 3)] * 8
    assert [tuple(frame.image[0, 0]) for frame in frames] == [(k, t, 255) for k in range(2) for t in range(4)]
    assert [frame[1:] for frame in frames] == [(k, t, t == 3) for k in range(2) for t in range(4)]


@pytest.mark.parametrize(
    ("env_id", "kwargs", "why"),
    [
        (COUNTING, {}, "it takes no render_mode"),
        (PAINTING, {"broken": True}, "its render returns no picture of"),
    ],
)
def test_an_environment_that_cannot_draw_itself_is_named(env_id, kwargs, why):
    config, spec = settings(env_id, kwargs=kwargs)
    with pytest.raises(BadInput, match=f"env.id = '{env_id}': cannot be drawn.*: {why}"):
        list(render_episodes(dict.fromkeys(spec.teams, source(config, spec, 1)), 1, SEED))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The system font")
@pytest.mark.parametrize("env_id", ["pettingzoo.sisl.pursuit_v5", "pettingzoo.classic.tictactoe_v3"])
def test_pettingzoo_s_own_environments_are_drawn(env_id):
    config, spec = settings(env_id)
    with no_display():
        frames = render_episodes(dict.fromkeys(spec.teams, source(config, spec, 1)), 1, SEED)
        first, second = next(frames), next(frames)
    assert first.image.shape == second.image.shape
    assert (first.image != second.image).any()
