import dataclasses
import json
import shutil

import pytest

from distributed_maddpg.cli import main
from distributed_maddpg.errors import BadInput
from distributed_maddpg.evaluation.scores import bootstrap_interval, interquartile_mean
from distributed_maddpg.experiments import reproduction
from distributed_maddpg.experiments.options import ReproduceOptions
from distributed_maddpg.experiments.published import PUBLISHED
from distributed_maddpg.experiments.reproduction import (
    PAIRINGS,
    Pairing,
    _load_result,
    _seed_statistics,
    _settings,
    default_out,
    reproduce,
)

SMALL = ReproduceOptions(seeds=1, budget="small", episodes=20, in_process=True)
RATES = {"agents": 90.0, "adversary": 40.0, "coverage": 50.0}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("reproduction") / "out"
    arguments = ["--budget", "small", "--seeds", "1", "--episodes", "20", "--in-process", "--out", str(out)]
    assert main(["reproduce", "physical-deception", *arguments]) == 0
    return out


def test_all_four_pairings_are_trained_compared_and_written(done):
    result = json.loads((done / "results.json").read_text())
    assert [(row["agent_by"], row["adversary_by"]) for row in result["rows"]] == [
        tuple(own) for own in PAIRINGS
    ]
    for row, pairing in zip(result["rows"], PAIRINGS, strict=True):
        name = f"{pairing.agent}-{pairing.adversary}-seed_0"
        card = result["runs"][name]
        assert row["agents"]["seeds"] == [card["success"]["agents"]]
        assert row["delta"]["mean"] == card["delta"]
        settings = (done / "runs" / name / "config.toml").read_text()
        assert f'agent = "{pairing.agent}"' in settings
        assert f'adversary = "{pairing.adversary}"' in settings
    assert len({json.dumps(card) for card in result["runs"].values()}) == 4
    groups = result["cross_play"]["by_algorithm"]
    # With one seed, teams of one algorithm meet only those they learnt with, which are left out.
    assert {(group["agent"], group["adversary"]) for group in groups} == {
        ("maddpg", "ddpg"),
        ("ddpg", "maddpg"),
    }
    text = (done / "README.md").read_text()
    assert "94.7 / 34.0 (60.7)" in text and "small budget" in text
    assert (
        "success_agents" in (done / "curves.html").read_text()
        or "Success of agents" in (done / "curves.html").read_text()
    )


def test_checkpoints_of_runs_that_ended_hold_no_transitions(done):
    for manifest in done.glob("**/manifest.json"):
        assert json.loads(manifest.read_text())["replay"] is None


def test_what_is_done_is_not_done_again(done, monkeypatch, tmp_path):
    def never(*arguments):
        raise AssertionError

    monkeypatch.setattr(reproduction, "train_one", never)
    before = json.loads((done / "results.json").read_text())
    again = reproduce(SMALL, done, lambda line: None)
    assert json.loads(json.dumps(again)) == before
    out = tmp_path / "out"
    shutil.copytree(done, out)
    (out / "results" / "ddpg-ddpg-seed_0.json").unlink()
    with pytest.raises(AssertionError):
        reproduce(SMALL, out, lambda line: None)


def test_other_episodes_are_played_and_nothing_is_trained_again(done, monkeypatch, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(done, out)
    monkeypatch.setattr(reproduction, "train_one", None)
    again = reproduce(dataclasses.replace(SMALL, episodes=30), out, lambda line: None)
    assert {card["episodes"] for card in again["runs"].values()} == {30}


def test_a_damaged_result_is_made_again_before_anything_else_and_ends_the_same(done, tmp_path):
    out, said = tmp_path / "out", []
    shutil.copytree(done, out)
    before = json.loads((out / "results.json").read_text())
    (out / "results" / "ddpg-ddpg-seed_0.json").write_text("")
    shutil.rmtree(out / "checkpoints" / "maddpg-ddpg-seed_0")
    result = reproduce(SMALL, out, said.append)
    assert ["the run is made again" in line for line in said[:3]] == [True, True, False]
    assert "4 runs, of which 2 are done" in said[2]
    assert json.loads(json.dumps(result["runs"])) == before["runs"]


def _without_success(values):
    del values["card"]["success"]


def _with_a_word(values):
    values["card"]["success"]["agents"] = "high"


def _with_nan(values):
    values["card"]["success"]["agents"] = float("nan")


def _without_curves(values):
    values["curves"] = {}


def _with_a_short_curve(values):
    values["curves"]["agent_0"].pop()


@pytest.mark.parametrize(
    "damage", [_without_success, _with_a_word, _with_nan, _without_curves, _with_a_short_curve]
)
def test_a_result_that_cannot_be_compared_is_made_again(done, tmp_path, damage):
    said = []
    shutil.copytree(done / "checkpoints", tmp_path / "checkpoints")
    shutil.copytree(done / "results", tmp_path / "results")
    name = "ddpg-maddpg-seed_0"
    path, config = tmp_path / "results" / f"{name}.json", _settings(SMALL, Pairing("ddpg", "maddpg"), 0)
    assert _load_result(tmp_path, name, config, 20, said.append) == json.loads(path.read_text())
    values = json.loads(path.read_text())
    damage(values)
    path.write_text(json.dumps(values))
    assert said == []
    assert _load_result(tmp_path, name, config, 20, said.append) is None
    assert "the run is made again" in said[0]


def test_a_checkpoint_of_another_run_is_not_taken_for_this_ones(done, tmp_path):
    said = []
    shutil.copytree(done / "results", tmp_path / "results")
    other, name = done / "checkpoints" / "ddpg-ddpg-seed_0", "ddpg-maddpg-seed_0"
    shutil.copytree(other, tmp_path / "checkpoints" / name)
    assert (
        _load_result(tmp_path, name, _settings(SMALL, Pairing("ddpg", "maddpg"), 0), 20, said.append) is None
    )
    assert "its checkpoint is another run's; the run is made again" in said[0].replace(")", "")


def test_a_run_that_was_cut_goes_on_and_ends_the_same(done, tmp_path, monkeypatch):
    config = _settings(SMALL, PAIRINGS[0], 0)
    pacing = dataclasses.replace(config.pacing, checkpoint_interval_env_steps=5_000)
    config = dataclasses.replace(config, pacing=pacing)
    whole = reproduction.train_one(config.to_dict(), str(tmp_path / "whole"), 20)

    real, calls = reproduction.train_run, []

    def cut(config, folder, progress, *arguments, **options):
        def show(result):
            calls.append(result)
            if len(calls) == 3:
                raise KeyboardInterrupt

        monkeypatch.setattr(progress, "print_result", show)
        return real(config, folder, progress, *arguments, **options)

    monkeypatch.setattr(reproduction, "train_run", cut)
    with pytest.raises(KeyboardInterrupt):
        reproduction.train_one(config.to_dict(), str(tmp_path / "cut"), 20)
    assert list((tmp_path / "cut" / "checkpoints").glob("step_*"))
    monkeypatch.setattr(reproduction, "train_run", real)
    resumed = reproduction.train_one(config.to_dict(), str(tmp_path / "cut"), 20)
    assert resumed.card == whole.card
    assert resumed.curves == whole.curves


@pytest.mark.parametrize("changes", [{"num_good_agents": 4}, {"preset": "default"}, {"budget": "full"}])
def test_a_folder_of_another_experiment_is_refused(done, changes):
    with pytest.raises(BadInput, match=r"--out = .*holds an experiment with other settings"):
        reproduce(dataclasses.replace(SMALL, **changes), done, lambda line: None)


def test_a_folder_with_anything_else_is_left_alone(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(BadInput, match=r"--out = .*holds 'README.md', no experiment; name a new or empty"):
        reproduce(SMALL, tmp_path, lambda line: None)
    assert [own.name for own in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "mine"


def test_an_experiment_file_that_is_no_text_is_another_one(tmp_path):
    (tmp_path / "experiment.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="holds an experiment with other settings"):
        reproduce(SMALL, tmp_path, lambda line: None)


def test_experiments_have_folders_of_their_own():
    outs = {
        default_out(dataclasses.replace(SMALL, **changes))
        for changes in ({}, {"num_good_agents": 4}, {"seeds": 3})
    }
    assert {str(out) for out in outs} == {
        "reproductions/physical-deception-n2-paper-small",
        "reproductions/physical-deception-n4-paper-small",
    }


def test_bad_options_are_one_line():
    wrong = ({"seeds": 0}, {"num_good_agents": 0}, {"episodes": 0}, {"timeout_s": -1.0})
    for values in (*wrong, {"timeout_s": float("inf")}):
        with pytest.raises(BadInput):
            ReproduceOptions(**values)
    with pytest.raises(BadInput, match="preset"):
        _settings(ReproduceOptions(preset="papre"), PAIRINGS[0], 0)


def test_the_full_budget_is_the_papers():
    config = _settings(ReproduceOptions(num_good_agents=4), PAIRINGS[1], 3)
    assert config.pacing.total_env_steps == 60_000 * 25
    assert config.env.kwargs["squared_adversary_reward"] is True
    assert (config.env.kwargs["N"], config.seed, config.num_workers) == (4, 3, 0)
    assert config.algorithm.team_overrides == {"agent": "maddpg", "adversary": "ddpg"}
    assert set(PUBLISHED[4]) == set(PUBLISHED[2]) == set(PAIRINGS)


def test_statistics_over_seeds_by_value():
    def card(agents):
        return {
            "success": {**RATES, "agents": agents},
            "delta": agents - 40,
            "final_distance_mean": {"agents": 0.1, "adversary": 0.5},
            "agent_episode_returns_mean": {"adversary_0": -15.0, "agent_0": 6.0},
        }

    row = _seed_statistics([card(agents) for agents in (10.0, 90.0, 92.0, 94.0)])["agents"]
    assert (row["mean"], row["iqm"], row["seeds"]) == (71.5, 91.0, [10.0, 90.0, 92.0, 94.0])
    low, high = row["ci95"]
    assert 10.0 < low < 71.5 < high <= 94.0


def test_the_bootstrap_interval_holds_what_it_promises_and_repeats():
    import numpy as np

    rng = np.random.default_rng(0)
    caught = 0
    for _ in range(200):
        low, high = bootstrap_interval(rng.normal(5.0, 1.0, 30).tolist())
        caught += low < 5.0 < high
    assert 180 <= caught <= 198
    assert bootstrap_interval([1.0, 2.0, 4.0]) == bootstrap_interval([1.0, 2.0, 4.0])
    assert bootstrap_interval([1.0]) is None
    assert interquartile_mean([0.0, 1.0, 2.0, 100.0]) == 1.5


@pytest.mark.ray
@pytest.mark.slow
def test_runs_are_spread_over_a_cluster(done, tmp_path, ray_cluster):
    options = dataclasses.replace(SMALL, in_process=False, timeout_s=300.0)
    spread = reproduce(options, tmp_path / "spread", lambda line: None)
    here = json.loads((done / "results.json").read_text())
    assert json.loads(json.dumps(spread["runs"])) == here["runs"]
