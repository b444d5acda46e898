import json
import re
from pathlib import Path

import numpy as np
import pytest

from distributed_maddpg.cli import main
from distributed_maddpg.envs import make_vector_env
from distributed_maddpg.errors import BadInput, TrainingError
from distributed_maddpg.evaluation.episode_file import check_same_episodes, episode_file, write_episodes
from distributed_maddpg.evaluation.episodes import evaluate_weights
from distributed_maddpg.evaluation.recording import record_episodes
from distributed_maddpg.trainer import MADDPG
from tests.evaluation.recorded import settings, source
from tests.support.serial_runs import tiny

COMING = "tests.support.coming:parallel_env"


def written(path, config, spec, num_episodes=5):
    """Record episodes of random policies; return the policies and what the file holds."""
    run = source(config, spec, 1)
    recording = record_episodes(dict.fromkeys(spec.teams, run), num_episodes, 3)
    assert write_episodes(path, recording, config, {"seed": 3}) == path.stat().st_size
    with np.load(path, allow_pickle=False) as file:
        return run, dict(file)


def test_the_file_is_as_documented(tmp_path):
    config, spec = settings(kwargs={"max_cycles": 6})
    _, file = written(tmp_path / "x.npz", config, spec)
    shapes = {name: (array.shape, str(array.dtype)) for name, array in file.items() if "state" not in name}
    assert shapes == {
        "lengths": ((5,), "int64"),
        "first_step": ((5,), "int64"),
        "first_frame": ((5,), "int64"),
        "rewards": ((30, 3), "float32"),
        "terminated": ((30, 3), "bool"),
        **{
            f"observations/{name}": ((35, 8 if name == "adversary_0" else 10), "float32")
            for name in spec.agents
        },
        **{f"actions/{name}": ((30,), "int64") for name in spec.agents},
        "meta": ((), str(file["meta"].dtype)),
    }
    assert file["states/agent_positions"].shape == (35, 3, 2)
    assert json.loads(file["meta"].item()) == {
        "format": 1,
        "version": "0.1.0",
        "env": {"id": "simple_adversary", "kwargs": {"max_cycles": 6}},
        "agents": ["adversary_0", "agent_0", "agent_1"],
        "teams": ["adversary", "agent", "agent"],
        "action_types": ["discrete"] * 3,
        "seed": 3,
    }


def test_an_environment_goes_on_from_any_frame(tmp_path):
    config, spec = settings(kwargs={"max_cycles": 6})
    _, file = written(tmp_path / "x.npz", config, spec)
    step, frame = file["first_step"][2] + 3, file["first_frame"][2] + 3
    states = {name[7:]: array[frame : frame + 1] for name, array in file.items() if name[:7] == "states/"}
    env = make_vector_env("simple_adversary", 1, 0)
    env.set_state(states)
    result = env.step([file[f"actions/{name}"][step : step + 1] for name in spec.agents])
    np.testing.assert_allclose(result.rewards[0], file["rewards"][step])
    np.testing.assert_array_equal(
        env.get_state()["agent_positions"][0], file["states/agent_positions"][frame + 1]
    )


@pytest.mark.parametrize("env_id", ["simple_adversary", COMING])
def test_the_recorded_episodes_are_the_evaluated_ones(tmp_path, env_id):
    config, spec = settings(env_id)
    run, file = written(tmp_path / "x.npz", config, spec, num_episodes=7)
    card = evaluate_weights(config, run.parameters, 7, 3)
    returns = np.add.reduceat(file["rewards"], file["first_step"])
    np.testing.assert_allclose(returns, card.episodes.returns, rtol=1e-5)
    assert file["lengths"].tolist() == card.episodes.lengths.tolist()


def test_an_environment_that_plays_other_episodes_again_is_refused():
    config, spec = settings(COMING)
    run = source(config, spec, 1)
    recording = record_episodes(dict.fromkeys(spec.teams, run), 4, 3)
    check_same_episodes(recording, evaluate_weights(config, run.parameters, 4, 3).episodes)
    recording.rewards[5] += 1
    with pytest.raises(TrainingError, match="does not play the same episodes again with the same seed"):
        check_same_episodes(recording, evaluate_weights(config, run.parameters, 4, 3).episodes)


def test_what_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "old.npz").touch()
    for name, why in {
        "old.npz": "exists; delete it",
        "x.csv": "must end with .npz",
        "missing/x.npz": "lies in no folder",
        ".": "is a folder",
    }.items():
        with pytest.raises(BadInput, match=why):
            episode_file("--record", tmp_path / name)


def test_evaluate_records_what_it_evaluates(tmp_path, capsys):
    with MADDPG(tiny(seed=2)) as algo:
        algo.save(tmp_path / "run")
    options = [
        "--episodes",
        "6",
        "--seed",
        "4",
        "--no-matchups",
        "--json",
        "--record",
        str(tmp_path / "x.npz"),
    ]
    assert main(["evaluate", str(tmp_path / "run"), *options]) == 0
    captured = capsys.readouterr()
    card = json.loads(captured.out)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as file:
        returns, meta = np.add.reduceat(file["rewards"], file["first_step"]), json.loads(file["meta"].item())
    means = dict(zip(meta["agents"], returns.mean(axis=0).tolist(), strict=True))
    assert means == pytest.approx(card["agent_episode_returns_mean"], rel=1e-5)
    assert (meta["checkpoint"], meta["seed"]) == (card["checkpoint"], 4)
    assert "6 episodes, 60 steps" in captured.err
    assert main(["evaluate", "nowhere", *options]) == 2  # before the checkpoint is read
    assert capsys.readouterr().err.startswith("error: --record = ")


def test_the_documentation_reads_it(tmp_path, monkeypatch):
    config, spec = settings(kwargs={"max_cycles": 6})
    _, file = written(tmp_path / "episodes.npz", config, spec)
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "docs" / "episodes.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)).splitlines()
    names: dict = {}
    exec("\n".join([*code[:-1], f"sums = {code[-1]}"]), names)
    k = names["returns"][:, 0].argmin()
    assert names["path"].shape == (7, 3, 2)
    np.testing.assert_array_equal(names["path"], file["states/agent_positions"][7 * k : 7 * k + 7])
    np.testing.assert_allclose(names["sums"].to_numpy(), names["returns"], rtol=1e-5)
    names["file"].close()
