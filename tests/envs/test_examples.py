"""The examples run as the documents say."""

import json
from pathlib import Path

from distributed_maddpg.cli import main

ROOT = Path(__file__).parents[2]


def test_ones_own_environment_in_a_file_is_trained_in(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sizes = ["--rollout.num-envs", "4", "--learner.batch-size", "32", "--pacing.learning-starts", "64"]
    lengths = ["--pacing.total-env-steps", "800", "--pacing.evaluation-interval-env-steps", "0"]
    environment = ["--env.id", str(ROOT / "examples" / "meeting.py"), "--env.kwargs", "max_steps", "7"]
    assert main(["train", "--num-workers", "0", "--json", *environment, *sizes, *lengths]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["updates"] > 0
    assert list(summary["evaluation"]["agent_episode_returns_mean"]) == ["walker_0", "walker_1"]
    assert summary["evaluation"]["episode_len_mean"] == 7
    assert 0 <= summary["evaluation"]["measures"]["distance"] <= 2 + 2 * 7 * 0.1
    assert summary["measures"] == {"distance": "between the walkers at the end"}
