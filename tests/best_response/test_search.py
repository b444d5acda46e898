import json

import pytest

from distributed_maddpg import preflight
from distributed_maddpg.best_response import model_free, search
from distributed_maddpg.best_response.model_free import train_responses
from distributed_maddpg.best_response.observer import Effort, views, watch
from distributed_maddpg.best_response.opponents import play
from distributed_maddpg.best_response.search import best_responses, check_budget
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import env_spec
from distributed_maddpg.errors import BadInput
from distributed_maddpg.evaluation.episodes import evaluate_weights
from distributed_maddpg.evaluation.scores import mean_interval
from distributed_maddpg.seeding import integer_seed
from distributed_maddpg.types import initial_policies

CONFIG = MADDPGConfig.preset("default")
SPEC = env_spec(CONFIG.env.id, "auto", CONFIG.env.kwargs)
POLICIES = initial_policies(SPEC, CONFIG.algorithm.policy_hidden_sizes, 3)
TINY = 0.02


def untrained(config):
    spec = env_spec(config.env.id, "auto", config.env.kwargs)
    return initial_policies(spec, config.algorithm.policy_hidden_sizes, 3)


def searched(config=CONFIG, policies=POLICIES, budget=TINY, episodes=100):
    before = evaluate_weights(config, policies, episodes, integer_seed(0, "evaluation", 0))
    notes = []
    return best_responses(config, policies, before, budget, 0, notes.append), before, notes


def same(one, other):
    return (one["name"], one["number"]) == (other["name"], other["number"])


@pytest.fixture(scope="module")
def found():
    return searched()


def test_all_kinds_of_opponents_are_tried_and_the_strongest_count(found):
    result, _, _ = found
    adversary, agents = (result["teams"][team] for team in ("adversary", "agent"))
    scripted = ["centroid", "median", "nearest", "most landmarks"]
    scripted += [f"nearest from step {step}" for step in (5, 10, 15, 20)]
    recurrent = [f"recurrent, {objective}" for objective in ("return", "final distance") for _ in range(2)]
    assert [own["name"] for own in adversary["opponents"]] == ["MADDPG"] * 2 + scripted + recurrent
    assert [own["name"] for own in agents["opponents"]] == ["MADDPG"] * 2
    best = max(adversary["opponents"], key=lambda own: own["episode_return"])
    assert same(adversary["strongest"]["return"], best)
    nearest = min(adversary["opponents"], key=lambda own: own["final_distance"])
    assert same(adversary["strongest"]["final_distance"], nearest)
    most = max(adversary["opponents"], key=lambda own: own["success"])
    assert same(adversary["strongest"]["success"], most)
    assert list(agents["strongest"]) == ["return"]
    assert adversary["optimistic"], "the recurrent ones learned for too short a time"
    assert agents["optimistic"]
    assert json.loads(json.dumps(result, allow_nan=False))


def test_what_is_reported_is_played_from_other_start_states_than_the_choice(found):
    result, before, _ = found
    chosen = result["teams"]["agent"]["strongest"]["return"]
    seeds = [integer_seed(0, "response", 10 + number) for number in range(2)]
    responses = train_responses(CONFIG, POLICIES, "agent", round(2_000 * TINY), seeds)
    policies = responses[chosen["number"]].policies
    after = evaluate_weights(CONFIG, policies, 100, integer_seed(0, "evaluation", 0)).episodes
    gains = (after.returns - before.episodes.returns)[:, 1:].mean(axis=1)
    assert chosen["return_gain"] == pytest.approx(gains.mean())
    assert chosen["ci95"]["return_gain"] == pytest.approx(mean_interval(gains))
    tried = result["teams"]["agent"]["opponents"][chosen["number"]]
    other = play(CONFIG, policies, {}, 2_000, integer_seed(0, "evaluation", 1), 250).episodes
    assert tried["episode_return"] == pytest.approx(other.returns[:, 1:].mean())


def test_each_learning_opponent_has_a_curve_and_its_progress_is_said(found):
    result, _, notes = found
    for own in result["teams"]["adversary"]["opponents"]:
        learns = own["name"] == "MADDPG" or own["name"].startswith("recurrent")
        updates = [point["updates"] for point in own["curve"]]
        assert (len(updates) > 2 and updates == sorted(updates)) if learns else own["curve"] == []
    assert sum("final distance" in line for line in notes) > 10


def test_the_budget_multiplies_how_long_each_learns(found):
    shorter = searched(budget=TINY / 2, episodes=10)[0]["teams"]["adversary"]["opponents"]
    for short, long in zip(shorter, found[0]["teams"]["adversary"]["opponents"], strict=True):
        if short["curve"]:
            learned = [own["curve"][-1]["updates"] for own in (short, long)]
            # Those of MADDPG are rounded up to a fragment of transitions.
            per_budget, more = (2_000, 16) if short["name"] == "MADDPG" else (7_000 / 25, 1)
            for updates, budget in zip(learned, (TINY / 2, TINY), strict=True):
                assert 0 <= updates - round(per_budget * budget) < more


def test_the_private_part_is_watched(found):
    effort = Effort(round(400 * TINY), round(800_000 * 0.05), 250)
    view = views(CONFIG, SPEC)["agent"]
    assert found[0]["private"] == {
        "agent": watch(CONFIG, POLICIES, view, effort, integer_seed(0, "response", 1000))
    }


def test_another_environment_has_model_free_opponents_only(monkeypatch):
    monkeypatch.setattr(model_free, "_CURVE_EPISODES", 5)
    config = MADDPGConfig.from_dict(
        {"env": {"id": "mpe2.simple_push_v3", "kwargs": {"max_cycles": 5, "continuous_actions": True}}}
    )
    result, _, _ = searched(config, untrained(config), budget=0.001, episodes=10)
    for own in result["teams"].values():
        assert [each["name"] for each in own["opponents"]] == ["MADDPG"] * 2
        assert {(each["final_distance"], each["success"]) for each in own["opponents"]} == {(None, None)}
        assert list(own["strongest"]) == ["return"] and "bounds" not in own
        assert own["optimistic"]
    assert list(result["private"]) == ["agent"]  # simple_push says what is private to it


@pytest.mark.parametrize("kwargs", [{"max_cycles": 1_300}, {"N": 101}])
def test_recurrent_opponents_need_too_much_memory_in_long_episodes_and_of_many_agents(kwargs, monkeypatch):
    monkeypatch.setattr(search, "train_responses", lambda *arguments: [])
    config = MADDPGConfig.from_dict({"env": {"kwargs": kwargs}}, CONFIG)
    before = evaluate_weights(config, untrained(config), 1, 0)
    tried = search._Search(config, untrained(config), before, 1.0, 0, print)._opponents("adversary")
    assert not [own.name for own in tried if own.name.startswith("recurrent")]


def test_a_budget_whose_opponents_do_not_fit_into_memory_is_refused(monkeypatch):
    monkeypatch.setattr(preflight, "memory_bytes", lambda: 2**25)
    with pytest.raises(BadInput, match=r"^--budget = 1\.0: lower it; .* replay\.capacity = 110750: needs"):
        check_budget(CONFIG, 1.0)
    check_budget(CONFIG, 0.01)


def test_the_search_repeats_and_needs_no_environment_that_draws(monkeypatch):
    monkeypatch.setattr(search, "_ENOUGH_UPDATES", 1)
    monkeypatch.setattr(search, "_ENOUGH_STEPS", 5)
    kwargs = {"N": 2, "max_cycles": 5, "continuous_actions": True}
    plain = MADDPGConfig.from_dict({"env": {"backend": "vectorized", "kwargs": kwargs}})
    drawing = MADDPGConfig.from_dict(
        {"env": {"backend": "pettingzoo", "kwargs": {**kwargs, "render_mode": "rgb_array"}}}, plain
    )
    first, second = (searched(config, budget=0.001, episodes=10)[0] for config in (plain, drawing))
    assert first == second
    assert not first["teams"]["adversary"]["optimistic"]
