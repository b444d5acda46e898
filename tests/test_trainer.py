import dataclasses
import math
import weakref

import numpy as np
import pytest
import torch

from distributed_maddpg import MADDPG, MADDPGConfig, preflight
from distributed_maddpg.checkpoint.folder import load_checkpoint, save_checkpoint
from distributed_maddpg.config import AlgorithmConfig
from distributed_maddpg.errors import BadInput, CheckpointError, TrainingError
from distributed_maddpg.metrics import flatten
from distributed_maddpg.trainer import train_together
from tests.support.counting import CountingEnv
from tests.support.target import TargetEnv


def config(**changes):
    base = MADDPGConfig.from_dict(
        {
            "num_workers": 0,
            "env": {"kwargs": {"N": 2, "max_cycles": 5, "continuous_actions": True}},
            "rollout": {"num_envs": 4, "fragment_steps": 5},
            "algorithm": {"policy_hidden_sizes": [8], "critic_hidden_sizes": [8]},
            "learner": {"batch_size": 16, "device": "cpu"},
            "replay": {"capacity": 1000},
            "pacing": {
                "total_env_steps": 200,
                "learning_starts": 40,
                "env_steps_per_update": 10,
                "report_interval_env_steps": 100,
                "checkpoint_interval_env_steps": 80,
                "evaluation_interval_env_steps": 100,
            },
            "evaluation": {"episodes": 3},
        }
    )
    return MADDPGConfig.from_dict(changes, base)


DISCRETE = {"env": {"kwargs": {"continuous_actions": False}}}


def observations(num_envs=None, widths=(8, 10, 10)):
    rng = np.random.default_rng(0)
    names = ("adversary_0", "agent_0", "agent_1")
    return {
        name: rng.normal(size=(width,) if num_envs is None else (num_envs, width))
        for name, width in zip(names, widths, strict=True)
    }


def train_all(algo):
    while not algo.finished:
        algo.train()
    return algo


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return (path, digest, scorecard) of a run saved half-way."""
    with MADDPG(config()) as algo:
        algo.train()
        path = algo.save(tmp_path_factory.mktemp("run") / "step_100")
        return path, algo.weights_digest(), algo.evaluate(5, seed=3)


def test_train_returns_one_iteration_of_plain_numbers():
    with MADDPG(config()) as algo:
        first, second = algo.train(), algo.train()
        assert algo.finished
    assert [first["training_iteration"], second["training_iteration"]] == [1, 2]
    assert [first["num_env_steps_sampled_lifetime"], second["num_env_steps_sampled_lifetime"]] == [100, 200]
    assert [first["num_updates_lifetime"], second["num_updates_lifetime"]] == [7, 17]
    assert first["evaluation"]["num_env_steps"] == 100
    assert all(isinstance(value, int | float) for value in flatten(first).values())
    assert second["time_total_s"] > first["time_total_s"] > 0
    assert first["env_steps_per_s"] * first["time_this_iter_s"] == pytest.approx(100)


def test_results_carry_rllibs_keys():
    with MADDPG(config()) as algo:
        flat = flatten(algo.train())
    for key in (
        "env_runners/episode_return_mean",
        "env_runners/agent_episode_returns_mean/adversary_0",
        "learners/agent_1/critic_loss",
        "replay_buffer/num_env_steps_stored",
        "timers/learner_busy_s",
        "evaluation/success/coverage",
    ):
        assert math.isfinite(flat[key]), key


def test_the_same_seed_gives_the_same_digest():
    digests = []
    for seed in (0, 0, 1):
        with MADDPG(config(seed=seed)) as algo:
            digests.append(train_all(algo).weights_digest())
    assert digests[0] == digests[1] != digests[2]


def test_a_checkpoint_brings_weights_counts_and_settings_back(saved):
    path, digest, card = saved
    with MADDPG.from_checkpoint(path) as algo:
        assert (algo.config, algo.env_steps, algo.updates) == (config(), 100, 7)
        assert algo.evaluate(5, seed=3) == card  # before anything is started
        algo.start()
        assert algo.weights_digest() == digest
        assert algo.evaluate(5, seed=3) == card
        assert (algo.env_steps, algo.updates) == (100, 7)


def test_training_goes_on_from_a_checkpoint(saved):
    with MADDPG.from_checkpoint(saved[0]) as algo:
        result = algo.train()
    assert result["num_env_steps_sampled_lifetime"] == 200
    assert result["num_updates_lifetime"] == 1 + (200 - 40) // 10


def test_other_settings_may_continue_a_checkpoint(saved):
    longer = config(pacing={"total_env_steps": 300})
    with MADDPG.from_checkpoint(saved[0], longer) as algo:
        train_all(algo)
        assert algo.env_steps == 300


def test_another_environments_checkpoint_is_refused(saved):
    with pytest.raises(BadInput, match=r"env.kwargs = .*: gives agents .*'agent_2'\), not"):
        MADDPG.from_checkpoint(saved[0], config(env={"kwargs": {"N": 3}}))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"policy_hidden_sizes": [9]}, "algorithm.policy_hidden_sizes"),
        ({"critic_hidden_sizes": [9]}, "algorithm.critic_hidden_sizes"),
        ({"policy_head": "gumbel"}, "algorithm.policy_head"),
        ({"share_critics": True}, "algorithm.share_critics"),
    ],
)
def test_other_networks_cannot_continue_a_checkpoint(saved, changes, field):
    other = config(algorithm=changes)
    with pytest.raises(BadInput, match=f"^{field} = "):
        MADDPG.from_checkpoint(saved[0], other)


def test_a_team_that_shares_a_critic_cannot_become_ddpg(tmp_path):
    shared = config(algorithm={"share_critics": True})
    with MADDPG(shared) as algo:
        path = algo.save(tmp_path / "shared")
    ddpg = MADDPGConfig.from_dict({"algorithm": {"team_overrides": {"agent": "ddpg"}}}, shared)
    with pytest.raises(BadInput, match=r"^algorithm.team_overrides = .*must stay ddpg"):
        MADDPG.from_checkpoint(path, ddpg)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, r"bad: the policy weights are missing, or not all finite"),
        (3e38, r"bad: its policies give actions that are not finite"),
    ],
)
def test_weights_that_do_not_fit_are_the_checkpoints_fault(saved, tmp_path, value, message):
    checkpoint = load_checkpoint(saved[0])
    broken = {
        **checkpoint.state,
        "learner/policy": np.full_like(checkpoint.state["learner/policy"], value),
    }
    path = save_checkpoint(tmp_path / "bad", dataclasses.replace(checkpoint, state=broken))
    with pytest.raises(CheckpointError, match=message):
        MADDPG.from_checkpoint(path)


def test_a_checkpoint_replaces_nothing_but_a_checkpoint(saved, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("all of it")
    with pytest.raises(BadInput, match="holds something other than a checkpoint"):
        save_checkpoint(tmp_path / "precious", load_checkpoint(saved[0]))
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "all of it"


def test_after_stop_counters_stay_and_training_is_refused():
    with MADDPG(config()) as algo:
        algo.train()
        steps = algo.env_steps
    assert algo.env_steps == steps > 0
    with pytest.raises(TrainingError, match="was stopped"):
        algo.train()


def test_a_stopped_run_lets_go_of_its_transitions_at_once():
    algo = MADDPG(config())
    algo.train()
    ring = weakref.ref(algo._ensure_started()._runs[0].replay.ring)
    assert ring().rows.any()
    algo.stop()
    assert ring() is None, "whoever trains many runs in one process would fill the memory with them"
    assert algo.env_steps > 0


@pytest.fixture(scope="module")
def acting():
    """Return an algorithm that acts and never trains."""
    with MADDPG(config()) as algo:
        yield algo


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros(3), "(3,): must have shape (10,)"),
        (np.float32(1), "(): must have shape (10,)"),
        (np.zeros((2, 10)), "(2, 10): must have shape (10,)"),
        (["x"] * 10, "'<U1': must be an array of numbers"),
        (np.full(10, np.nan), "nan: must be finite in float32, without NaN or infinity"),
        (np.full(10, 1e300), "1e+300: must be finite in float32, without NaN or infinity"),
        ([[1.0], [1.0, 2.0]], "'list': cannot be read as an array (setting an array element"),
        (torch.zeros(10, requires_grad=True), "'Tensor': cannot be read as an array (Can't call numpy()"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_observation_that_does_not_fit_is_named(acting, wrong, message):
    obs = {"adversary_0": np.zeros(8), "agent_0": wrong, "agent_1": np.zeros(10)}
    with pytest.raises(BadInput) as error:
        acting.compute_actions(obs)
    assert str(error.value).startswith(f"obs['agent_0'] = {message}")


@pytest.mark.parametrize("changes", [{}, DISCRETE])
def test_an_observation_too_large_for_the_policies_is_refused(changes):
    with (
        MADDPG(config(algorithm={"policy_hidden_sizes": [64, 64]}, **changes)) as algo,
        pytest.raises(BadInput, match=r"^obs = 3\.0*\d*e\+38: is too large"),
    ):
        algo.compute_actions({"agent_0": np.full(10, 3e38)})


def test_a_missing_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError):
        MADDPG.from_checkpoint(tmp_path)


def test_evaluations_follow_their_seed():
    with MADDPG(config()) as algo:
        first, again, other = (algo.evaluate(4, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert first["episodes"] == 4
    assert set(first["success"]) == {"agents", "adversary", "coverage"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda algo: MADDPG(None), "config = None: must be a MADDPGConfig"),
        (lambda algo: MADDPG({"seed": 3}), "config = {'seed': 3}: must be a MADDPGConfig"),
        (lambda algo: MADDPG.for_seeds(None, 2), "config = None: must be a MADDPGConfig"),
        (lambda algo: MADDPG.from_checkpoint(None), "path = None: must be a path or URL"),
        (lambda algo: algo.save(None), "path = None: must be a path or URL"),
        (lambda algo: algo.save("a\0b"), r"path = 'a\x00b': must be a path of this machine"),
        (lambda algo: algo.save("a" * 300), f"path = '{'a' * 145}"),
        (lambda algo: algo.evaluate(0), "num_episodes = 0: must be an integer from 1"),
        (lambda algo: algo.evaluate("3"), "num_episodes = '3': must be an integer from 1"),
        (lambda algo: algo.evaluate(3, seed=-1), "seed = -1: must be an integer from 0"),
        (lambda algo: algo.evaluate(3, seed=1.5), "seed = 1.5: must be an integer from 0"),
        *(
            (
                lambda algo, n=n: MADDPG.for_seeds(config(), n),
                f"num_seeds = {n!r}: must be an integer from 1 to 1000",
            )
            for n in (0, 1.5, "2", None, 100_000)
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_argument_that_cannot_be_used_is_named(acting, call, message):
    with pytest.raises(BadInput) as error:
        call(acting)
    assert str(error.value).startswith(message)


def test_many_seeds_are_checked_before_they_are_made(monkeypatch):
    monkeypatch.setattr(preflight, "memory_bytes", lambda: 2**27)
    made = []
    monkeypatch.setattr(
        MADDPG, "_prepare", lambda self, *given, own=MADDPG._prepare: made.append(own(self, *given))
    )
    with pytest.raises(BadInput, match=r"replay\.capacity = 1000: needs"):
        MADDPG.for_seeds(config(), 1000)
    assert len(made) == 1


def test_no_runs_cannot_be_trained_together():
    with pytest.raises(TrainingError, match=r"takes all runs of MADDPG\.for_seeds"):
        train_together([])


def test_actions_of_one_observation_and_of_many_agree():
    with MADDPG(config()) as algo:
        many = algo.compute_actions(observations(3))
        one = algo.compute_actions({name: values[1] for name, values in observations(3).items()})
    for name, action in one.items():
        assert (action.shape, many[name].shape) == ((5,), (3, 5))
        np.testing.assert_allclose(action, many[name][1], atol=1e-6)
        assert ((action >= 0) & (action <= 1)).all()


def test_discrete_actions_are_integers():
    with MADDPG(config(**DISCRETE)) as algo:
        actions = algo.compute_actions(observations(4))
    assert all(action.shape == (4,) and action.dtype == np.int64 for action in actions.values())


def test_actions_are_those_that_masks_allow():
    with MADDPG(config(**DISCRETE)) as algo:
        greedy = algo.compute_actions(observations(4))["agent_0"]
        mask = np.ones((4, 5), np.int8)
        mask[np.arange(4), greedy] = 0
        others = algo.compute_actions(observations(4), action_masks={"agent_0": mask})
        only = {"agent_0": np.array([0, 0, 0, 1, 0])}
        noisy = algo.compute_actions(observations(4), explore=True, action_masks=only)
        assert (others["agent_0"] != greedy).all()
        assert noisy["agent_0"].tolist() == [3] * 4
        for wrong, message in (
            (mask, "action_masks = 'ndarray': must hold masks by the names of agents"),
            ({"agent_9": mask}, "action_masks = 'agent_9': no such agent"),
            ({"agent_0": mask[:, :3]}, r"action_masks\['agent_0'\] = \(4, 3\): must have shape \(5,\)"),
            ({"agent_0": np.zeros(5)}, r"action_masks\['agent_0'\] = .*: must allow an action"),
            ({"agent_0": np.full(5, np.nan)}, r"action_masks\['agent_0'\] = .*: must be an array of flags"),
            ({"agent_0": mask.astype(object)}, r"action_masks\['agent_0'\] = .*: must be an array of flags"),
        ):
            with pytest.raises(BadInput, match=message):
                algo.compute_actions(observations(4), action_masks=wrong)
    with MADDPG(config()) as algo, pytest.raises(BadInput, match="only discrete agents have masks"):
        algo.compute_actions(observations(4), action_masks={"agent_0": mask})


def test_exploring_actions_are_noisy_and_greedy_ones_are_not():
    with MADDPG(config()) as algo:
        greedy, again = (algo.compute_actions(observations())["agent_0"] for _ in range(2))
        noisy, other = (algo.compute_actions(observations(), explore=True)["agent_0"] for _ in range(2))
    np.testing.assert_array_equal(greedy, again)
    assert not np.allclose(noisy, greedy)
    assert not np.allclose(noisy, other)


@pytest.mark.parametrize("explore", [False, True])
@pytest.mark.parametrize("names", [("agent_1",), ("agent_0", "adversary_0")])
def test_any_agents_act_without_the_others(names, explore):
    with MADDPG(config()) as algo:
        everyone, some = observations(3), {name: observations(3)[name] for name in names}
        rng = algo._acting_rng.bit_generator.state
        expected = algo.compute_actions(everyone, explore)
        algo._acting_rng.bit_generator.state = rng
        actions = algo.compute_actions(some, explore)
        alone = algo.compute_actions({names[0]: everyone[names[0]][1]})[names[0]]
    assert actions.keys() == set(names)
    for name in names:
        np.testing.assert_array_equal(actions[name], expected[name])
    if not explore:
        np.testing.assert_allclose(alone, expected[names[0]][1], atol=1e-6)


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        ({}, "obs = {}: must hold the observation of at least one agent"),
        (np.zeros(10), r"obs = array\(.*: must hold the observation of at least one agent, by its name"),
        ([0.0], r"obs = \[0.0\]: must hold the observation of at least one agent, by its name"),
        ({None: np.zeros(10)}, "obs = None: no such agent; known: adversary_0"),
        ({3: np.zeros(10)}, "obs = 3: no such agent; known: adversary_0"),
        ({"agent0": np.zeros(10)}, "obs = 'agent0': no such agent; did you mean 'agent_0'"),
    ],
)
def test_no_agent_and_an_unknown_one_are_refused(acting, obs, message):
    with pytest.raises(BadInput, match=message):
        acting.compute_actions(obs)


# An environment given as a callable


def target_config(**changes):
    return config(pacing={"total_env_steps": 100}, **changes)


def test_a_class_of_a_script_trains_as_the_same_environment_by_name():
    class Mine(TargetEnv):
        pass

    with MADDPG(target_config(env={"id": "tests.support.target:parallel_env"})) as by_name:
        expected = train_all(by_name).weights_digest()
    with MADDPG(target_config(), env=Mine) as algo:  # whose N and max_cycles are those of another one
        assert train_all(algo).weights_digest() == expected
        assert algo.config.env.id.startswith("factory:") and algo.config.env.id.endswith("Mine")
        assert algo.config.env.kwargs == {}


def test_arguments_of_a_callable_are_settings_as_well():
    named = target_config(env={"id": "factory:mine", "kwargs": {"max_cycles": 7}})
    with MADDPG(named, env=TargetEnv) as algo:
        assert algo.evaluate(2)["episode_len_mean"] == 7


def test_a_checkpoint_needs_the_callable_that_training_was_given(tmp_path):
    with MADDPG(target_config(), env=lambda: TargetEnv()) as algo:
        algo.train()
        path, digest, card = algo.save(tmp_path / "x"), algo.weights_digest(), algo.evaluate(3)
    with pytest.raises(CheckpointError, match=r"'factory:.*<lambda>' was given in Python .*path, env="):
        MADDPG.from_checkpoint(path)
    with pytest.raises(BadInput, match=r"env.id = 'factory:.*': was given in Python"):
        MADDPG(load_checkpoint(path).config)
    with MADDPG.from_checkpoint(path, env=TargetEnv) as again:
        assert again.evaluate(3) == card
        assert again.weights_digest() == digest
        assert again.compute_actions({"odd_0": np.zeros(2)})["odd_0"].shape == (2,)
        assert train_all(again).env_steps == 100
    with pytest.raises(CheckpointError, match="gives agents"):
        MADDPG.from_checkpoint(path, env=CountingEnv)


@pytest.mark.parametrize("env", [TargetEnv(), "tests.support.target:parallel_env", 5, 0, False, ""])
def test_an_environment_that_is_not_a_callable_is_refused(env, saved):
    for use in (lambda: MADDPG(target_config(), env=env), lambda: MADDPG.from_checkpoint(saved[0], env=env)):
        with pytest.raises(BadInput) as caught:
            use()
        assert str(caught.value).startswith("env = ")
        assert str(caught.value).endswith(
            ": must be a callable that returns a PettingZoo parallel environment"
        )


def test_a_callable_counts_even_if_it_is_false():
    class Empty:
        def __len__(self):
            return 0

        def __call__(self):
            return TargetEnv()

    with MADDPG(target_config(), env=Empty()) as algo:
        assert train_all(algo).evaluate(2)["episodes"] == 2
        assert "odd_0" in algo.spec.agents


def test_an_unusable_callable_is_not_the_checkpoints_fault(saved):
    with pytest.raises(BadInput, match="has no possible_agents"):
        MADDPG.from_checkpoint(saved[0], env=lambda **_: None)


def test_checkpoints_are_due_once_per_interval():
    with MADDPG(config(pacing={"report_interval_env_steps": 20})) as algo:
        due = []
        while not algo.finished:
            algo.train()
            due.append(algo.checkpoint_due())
    assert [20 * (k + 1) for k, now in enumerate(due) if now] == [80, 160]


def test_a_requested_stop_ends_training_within_a_round():
    with MADDPG(config()) as algo:
        algo.request_stop()
        result = algo.train()
        assert (algo.stop_requested, algo.finished) == (True, False)
    assert result["num_env_steps_sampled_lifetime"] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env": {"id": "mpe2.simple_spred_v3"}}, "did you mean 'mpe2.simple_spread_v3'"),
        ({"env": {"kwargs": {"N": 0}}}, "N"),
        ({"exploration": {"kind": "gumbel"}}, "exploration.kind"),
        ({"algorithm": {"team_overrides": {"agnt": "ddpg"}}}, "did you mean 'agent'"),
        ({**DISCRETE, "algorithm": {"policy_head": "sigmoid"}}, "policy_head"),
        ({"replay": {"capacity": 10**13}}, "replay.capacity"),
    ],
)
def test_what_cannot_run_is_refused_at_construction(changes, message):
    with pytest.raises(BadInput, match=message):
        MADDPG(config(**changes))


def test_ddpg_and_maddpg_learn_differently():
    digests = set()
    for algorithm in ({"name": "maddpg"}, {"name": "ddpg"}, {"team_overrides": {"agent": "ddpg"}}):
        with MADDPG(config(algorithm=algorithm)) as algo:
            digests.add(train_all(algo).weights_digest())
    assert len(digests) == 3
    assert AlgorithmConfig().name == "maddpg"


def test_one_of_several_runs_cannot_train_alone():
    runs = MADDPG.for_seeds(MADDPGConfig(num_workers=0), 2)
    with pytest.raises(TrainingError, match="train_together"):
        runs[1].train()
