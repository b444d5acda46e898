import csv
import dataclasses
import json

import pytest

from distributed_maddpg.checkpoint.folder import Checkpoint, save_checkpoint
from distributed_maddpg.cli import main
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput
from distributed_maddpg.evaluation.episodes import evaluate_weights
from distributed_maddpg.evaluation.matchups import TeamSource, evaluate_teams
from distributed_maddpg.experiments.cross_play import (
    _labels,
    cross_play,
    play_matchup,
    read_entries,
    write_cross_play,
)
from distributed_maddpg.experiments.options import CrossPlayOptions
from distributed_maddpg.experiments.tables import cross_play_tables
from distributed_maddpg.seeding import integer_seed
from distributed_maddpg.trainer import MADDPG

HERE = CrossPlayOptions(episodes=20, seed=3, in_process=True)


def saved(folder, seed=0, env=None, **algorithm):
    """Save the untrained start of a run; return the path."""
    values = {"seed": seed, "num_workers": 0, "algorithm": algorithm, "replay": {"capacity": 20_000}}
    values["env"] = env or {"kwargs": {"N": 2, "max_cycles": 5, "continuous_actions": True}}
    with MADDPG(MADDPGConfig.from_dict(values)) as algo:
        return algo.save(folder)


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    folder = tmp_path_factory.mktemp("entries")
    paths = [
        saved(folder / "narrow", 1, policy_hidden_sizes=[4]),
        saved(
            folder / "wide",
            2,
            policy_hidden_sizes=[9, 9],
            policy_head="gumbel",
            team_overrides={"agent": "ddpg"},
        ),
    ]
    return read_entries(paths, "")


def test_a_matrix_of_all_matchups_by_value(entries):
    said = []
    result = cross_play(entries, HERE, said.append)
    assert said == ["4 matchups of 20 episodes"]
    assert result["teams"] == ["agent", "adversary"]
    assert [(matchup["agent"], matchup["adversary"]) for matchup in result["matchups"]] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]
    for matchup in result["matchups"]:
        sources = {
            "agent": entries[matchup["agent"]].source,
            "adversary": entries[matchup["adversary"]].source,
        }
        expected = play_matchup(sources, 20, integer_seed(3, "evaluation", 0))
        assert {name: matchup[name] for name in expected} == expected
    # Against itself a run plays as it always does.
    narrow = entries[0].source
    alone = evaluate_weights(narrow.config, narrow.parameters, 20, integer_seed(3, "evaluation", 0)).to_dict()
    assert result["matchups"][0]["success"] == alone["success"]
    assert result["matchups"][0]["agent_episode_returns_mean"] == alone["agent_episode_returns_mean"]


def test_each_team_acts_as_its_own_run(entries):
    still = entries[0].source.parameters.copy()
    still[0] = 0.0  # an adversary that idles
    idle = TeamSource(entries[0].source.config, still)
    sources = {"agent": entries[1].source, "adversary": idle}
    first = evaluate_teams(sources, 30, 0).episodes.final_distances
    other = evaluate_teams({"agent": entries[0].source, "adversary": idle}, 30, 0).episodes.final_distances
    assert (first[:, 0] == other[:, 0]).all()  # regardless of the other team
    assert (first[:, 1:] != other[:, 1:]).any()


def test_algorithms_are_compared_where_there_are_several(entries):
    groups = cross_play(entries, HERE, lambda line: None)["by_algorithm"]
    assert [(group["agent"], group["adversary"], group["matchups"]) for group in groups] == [
        ("maddpg", "maddpg", 1),
        ("ddpg", "maddpg", 1),
    ]
    result = cross_play(entries[:1], HERE, lambda line: None)
    assert result["by_algorithm"] == []
    matchups = cross_play(entries, HERE, lambda line: None)["matchups"]
    assert groups[1]["delta"] == matchups[2]["delta"]  # not with matchups[3], whose teams learnt together


def test_results_are_files_and_tables(entries, tmp_path):
    result = cross_play(entries, HERE, lambda line: None)
    paths = write_cross_play(tmp_path / "out", result)
    assert json.loads(paths[0].read_text()) == json.loads(json.dumps(result))
    with paths[1].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["agent"], row["adversary"]) for row in rows][1] == ("narrow", "wide")
    assert float(rows[2]["delta"]) == result["matchups"][2]["delta"]
    assert paths[2].read_text().count("Plotly.newPlot(") == len(rows[0]) - 2  # a map of each number
    titles = [table.title for table in cross_play_tables(result)]
    assert titles[0] == "agents %: agent of a row against adversary of a column"
    assert titles[-1] == "Means by the algorithms that trained the teams"
    assert cross_play_tables(result)[3].rows[1][0] == "wide"


def test_checkpoints_that_cannot_play_each_other_are_refused(tmp_path):
    two, three = (
        saved(tmp_path / f"n{n}", env={"kwargs": {"N": n, "continuous_actions": True}}) for n in (2, 3)
    )
    with pytest.raises(
        BadInput, match=r"n3.*plays simple_adversary with N 3, .*the first one .* N 2, .*they must"
    ):
        read_entries([two, three], "")
    with pytest.raises(BadInput, match=r"n2.*as another one does; name it once"):
        read_entries([two, f"{two}/../n2/."], "")
    with pytest.raises(BadInput, match="names one of them twice"):
        read_entries([two, two], "")
    with pytest.raises(BadInput, match="name checkpoints"):
        read_entries([], "")
    spread = saved(tmp_path / "spread", env={"id": "mpe2.simple_spread_v3"})
    with pytest.raises(BadInput, match="has the teams agent; cross-play needs two"):
        read_entries([spread], "")
    for values in ({"episodes": 0}, {"seed": -1}, {"timeout_s": 0.0}):
        with pytest.raises(BadInput):
            CrossPlayOptions(**values)


def test_without_landmarks_returns_are_compared(tmp_path):
    env = {"id": "mpe2.simple_push_v3", "kwargs": {"max_cycles": 5}}
    entries = read_entries([saved(tmp_path / name, seed, env) for seed, name in enumerate("ab")], "")
    result = cross_play(entries, CrossPlayOptions(episodes=3, in_process=True), lambda line: None)
    tables = cross_play_tables(result)
    assert [table.title.split(":")[0] for table in tables] == ["adversary_0", "agent_0"]
    write_cross_play(tmp_path / "out", result)


def test_the_command_prints_and_writes(entries, tmp_path, capsys):
    paths = [entry.path for entry in entries]
    options = ["--episodes", "5", "--in-process", "--out", str(tmp_path / "out")]
    assert main(["cross-play", *paths, *options, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["matchups"]) == 4
    assert main(["cross-play", *paths, *options]) == 0
    captured = capsys.readouterr()
    assert captured.out == "" and "delta: agent of a row against adversary of a column" in captured.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"cross_play.{kind}" for kind in ("json", "csv", "html")
    }


def test_start_states_do_not_depend_on_who_stands_first(entries):
    one = entries[0].source
    other = TeamSource(
        dataclasses.replace(one.config, rollout=dataclasses.replace(one.config.rollout, num_envs=3)),
        one.parameters,
    )
    cards = [
        evaluate_teams(dict(zip(("agent", "adversary"), pair, strict=True)), 100, 0)
        for pair in ((one, other), (other, one))
    ]
    assert (cards[0].episodes.final_distances == cards[1].episodes.final_distances).all()


def test_labels_tell_paths_apart():
    assert _labels(["runs/a", "runs/b/"]) == ["a", "b"]
    assert _labels(["x/seed_0", "y/seed_0"]) == ["x/seed_0", "y/seed_0"]


@pytest.mark.ray
def test_tasks_on_ray_play_the_same(entries, ray_cluster):
    over_ray = cross_play(entries, CrossPlayOptions(episodes=20, seed=3, timeout_s=120.0), lambda line: None)
    assert over_ray == cross_play(entries, HERE, lambda line: None)


def test_checkpoints_without_transitions_can_play(entries, tmp_path):
    algo = MADDPG.from_checkpoint(entries[0].path)
    assert isinstance(algo._restored, Checkpoint)
    save_checkpoint(tmp_path / "small", dataclasses.replace(algo._restored, replay=None))
    [again] = read_entries([str(tmp_path / "small")], "")
    assert (again.source.parameters == entries[0].source.parameters).all()
