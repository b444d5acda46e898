import io
import json
import subprocess
import sys

import numpy as np
import pytest

from distributed_maddpg.checkpoint.listing import checkpoints_of
from distributed_maddpg.report import replays as module
from distributed_maddpg.report.episode_choice import choose_episode
from distributed_maddpg.report.replays import replays, snapshots_of
from distributed_maddpg.report.runs import read_groups
from distributed_maddpg.report.scenario_texts import CAPTIONS
from distributed_maddpg.run.progress import Progress
from distributed_maddpg.run.training import train_run
from distributed_maddpg.types import MPE2_MODULES
from tests.support.serial_runs import tiny


def train(folder, env_id="simple_adversary", kwargs=None, **changes):
    config = tiny(env_id, kwargs, evaluation={"episodes": 3, "final_episodes": 5}, **changes)
    train_run(config, folder, Progress(io.StringIO()))
    return folder


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Return the folder of a finished run; tests must leave it as it is."""
    return train(tmp_path_factory.mktemp("replays") / "run", pacing={"total_env_steps": 800})


def replay_of(*folders):
    return replays(read_groups(folders, False))


def positions(world, episode, player):
    flat = np.array(world["episodes"][episode]["played"][player]["positions"]) / 1000
    return flat.reshape(-1, len(world["agents"]), 2)


def test_all_stages_start_in_the_same_state_and_go_other_ways(run_dir):
    [world] = replay_of(run_dir)["worlds"]
    assert [own["label"] for own in world["players"]] == ["Start", "10 %", "30 %", "End"]
    assert [own["env_steps"] for own in world["players"]] == [0, 80, 240, 800]
    assert len(world["episodes"]) == 6
    for episode in range(6):
        paths = [positions(world, episode, player) for player in range(4)]
        assert all(path.shape == (11, 3, 2) for path in paths)
        assert all((path[0] == paths[0][0]).all() for path in paths)
        assert not (paths[0] == paths[3]).all()


def test_rewards_are_those_of_the_positions(run_dir):
    [world] = replay_of(run_dir)["worlds"]
    played = world["episodes"][0]["played"][0]
    [goal] = world["episodes"][0]["goals"]
    marks = np.array(played["landmarks"]).reshape(-1, 2) / 1000
    apart = np.linalg.norm(positions(world, 0, 0)[1:] - marks[goal], axis=2)  # [T, N]
    expected = np.stack([-apart[:, 0], *[apart[:, 0] - apart[:, 1:].min(axis=1)] * 2], axis=1)
    rewards = np.array(played["rewards"]).reshape(-1, 3) / 1000
    np.testing.assert_allclose(rewards, expected, atol=0.004)


def test_a_run_without_snapshots_shows_its_newest_checkpoint(run_dir, tmp_path):
    train(tmp_path)
    for path in checkpoints_of(tmp_path / "policies"):
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    [world] = replay_of(tmp_path)["worlds"]
    assert [own["label"] for own in world["players"]] == ["End"]


def test_of_many_snapshots_the_nearest_to_the_stages_are_shown(run_dir, monkeypatch):
    [[run]] = [group.runs for group in read_groups([run_dir], False)]
    many = [module.Snapshot(run_dir, steps) for steps in (0, 50, 100, 200, 310, 600, 1000)]
    assert [own.env_steps for own in module._chosen(many, run)] == [0, 100, 310, 1000]
    assert [own.env_steps for own in snapshots_of(run)] == [0, 80, 240, 800]


def test_runs_in_the_same_environment_share_a_world_and_its_start_states(run_dir, tmp_path):
    other = train(tmp_path / "other", rollout={"num_envs": 8}, seed=5)
    tag = train(tmp_path / "tag", "simple_tag")
    first, second = replay_of(run_dir, other, tag)["worlds"]
    assert {own["run"] for own in first["players"]} == {"run", "other"}
    assert {own["run"] for own in second["players"]} == {"tag"}
    starts = [positions(first, 0, player)[0] for player in range(len(first["players"]))]
    assert all((start == starts[0]).all() for start in starts)


def test_a_replay_stays_small_however_many_agents_there_are(tmp_path):
    kwargs = {"num_good": 10, "num_adversaries": 15, "max_cycles": 60}
    [world] = replay_of(train(tmp_path, "simple_world_comm", kwargs=kwargs))["worlds"]
    assert len(json.dumps(world)) < 300_000 and len(world["episodes"]) == 3
    assert len(world["speakers"]) == 1 and len(world["episodes"][0]["played"][0]["said"]) == 61 * 4


def test_damaged_policies_are_left_out_and_named(tmp_path):
    train(tmp_path)
    (tmp_path / "policies" / "step_0" / "state.safetensors").write_bytes(b"x")
    module._record.cache_clear()
    found = replay_of(tmp_path)
    assert [own["label"] for own in found["worlds"][0]["players"]] == ["33 %", "End"]
    assert "step_0/state.safetensors: has 1 bytes" in found["reason"]


def test_the_episode_shown_first_is_one_in_which_the_adversary_goes_wrong():
    # [K, T + 1, N, 2]: at the end the good agents cover both landmarks in the last two, and the adversary is
    # at the goal in the second.
    marks = np.array([[[-0.5, 0.0], [0.5, 0.0]]] * 3)[:, None]
    ends = [[[0, 1], [-0.5, 0], [-0.5, 0]], [[-0.5, 0], [-0.5, 0], [0.5, 0]], [[0.5, 0], [-0.5, 0], [0.5, 0]]]
    states = {
        "agent_positions": np.array(ends, np.float64)[:, None],
        "landmark_positions": marks,
        "goal_landmark": np.zeros((3, 1), np.int64),
    }
    choice = choose_episode(
        "simple_adversary", states, np.zeros((3, 1, 3)), ("adversary_0", "agent_0", "agent_1")
    )
    assert choice.index == 2 and "1 of them end with every landmark covered" in choice.reason


def test_elsewhere_the_larger_teams_return_decides():
    rewards = np.zeros((3, 2, 3))
    rewards[1, :, 2], rewards[2, :, 0] = 5.0, 1.0
    agents = ("adversary_0", "adversary_1", "agent_0")
    assert choose_episode("simple_tag", {}, rewards, agents).index == 2
    assert choose_episode("simple_push", {}, rewards[:, :, ::2], agents[::2]).index == 1


def test_every_scenario_has_a_caption():
    assert CAPTIONS.keys() == MPE2_MODULES.keys()


def test_writing_a_page_loads_no_torch(run_dir, tmp_path):
    code = (
        "import sys; from pathlib import Path; from distributed_maddpg.report.page import write_report;"
        f"write_report([Path({str(run_dir)!r})], Path({str(tmp_path / 'page.html')!r}));"
        "print([name for name in ('torch', 'ray', 'plotly.graph_objects') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n" and (tmp_path / "page.html").stat().st_size < 2_500_000
