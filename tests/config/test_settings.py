import dataclasses
import json
import os

import numpy as np
import pytest

from distributed_maddpg.config import (
    AlgorithmConfig,
    EnvConfig,
    ExplorationConfig,
    MADDPGConfig,
    PacingConfig,
)
from distributed_maddpg.config.presets import PRESETS
from distributed_maddpg.errors import BadInput
from distributed_maddpg.types import EnvSpec, PrivatePart

SPEC = EnvSpec(("adversary_0", "agent_0", "agent_1"), (8, 10, 10), (5,) * 3, ("continuous",) * 3)
DISCRETE = EnvSpec(("adversary_0", "agent_0"), (8, 10), (5, 5), ("continuous", "discrete"))


def private(columns, candidates, **constants):
    part = {"columns": columns, "candidates": candidates, **constants}
    return {"algorithm": {"private": {"a": part}}}


def nested(depth):
    return [nested(depth - 1)] if depth else 1


BAD = [
    ({"sed": 1}, "sed = 1: no such setting; did you mean 'seed'?"),
    ({"learner": {"batchsize": 8}}, "learner.batchsize = 8: no such setting; did you mean 'batch_size'?"),
    ({"learner": {"zzz": 8}}, "learner.zzz = 8: no such setting; known: batch_size, device, num_threads"),
    ({"learner": {"batch_size": "8"}}, "learner.batch_size = '8': must be a whole number, such as 1000000"),
    ({"learner": {"batch_size": 1.5}}, "learner.batch_size = 1.5: must be a whole number, such as 1000000"),
    (
        {"learner": {"device": "gpu"}},
        "learner.device = 'gpu': must be one of auto, cpu, cuda; did you mean 'cpu'?",
    ),
    ({"learner": 3}, "learner = 3: must be a table of settings"),
    ({"ray": {"wait_for_nodes": 15}}, "ray.wait_for_nodes = 15: must be text in quotes, as in '15'"),
    ({"sync": "yes"}, "sync = 'yes': must be true or false, without quotes"),
    (
        {"algorithm": {"team_overrides": {"agent": "matd"}}},
        "algorithm.team_overrides.agent = 'matd': must be one of",
    ),
    ({"learner": {"batch_size": 0}}, "learner.batch_size = 0: must be a positive number"),
    ({"seed": -1}, "seed = -1: must be zero or a positive integer"),
    ({"num_workers": -2}, "num_workers = -2: must be 0 (no Ray) to 10000"),
    ({"algorithm": {"actor_lr": -0.1}}, "algorithm.actor_lr = -0.1: must be a positive number"),
    ({"algorithm": {"critic_lr": 0.0}}, "algorithm.critic_lr = 0.0: must be a positive number"),
    ({"algorithm": {"critic_lr": float("inf")}}, "algorithm.critic_lr = inf: must be a positive number"),
    ({"algorithm": {"temperature": 0.0}}, "algorithm.temperature = 0.0: must be a positive number"),
    ({"algorithm": {"temperature": 1e-300}}, "algorithm.temperature = 1e-300: must be at least 1e-06"),
    ({"algorithm": {"gamma": 1.1}}, "algorithm.gamma = 1.1: must lie in [0, 1]"),
    ({"algorithm": {"gamma": float("nan")}}, "algorithm.gamma = nan: must lie in [0, 1]"),
    ({"algorithm": {"tau": 0.0}}, "algorithm.tau = 0.0: must lie in (0, 1]"),
    ({"algorithm": {"random_action_rows": 2.0}}, "algorithm.random_action_rows = 2.0: must lie in [0, 1]"),
    (
        {"algorithm": {"max_grad_norm": -1.0}},
        "algorithm.max_grad_norm = -1.0: must be zero or a positive number",
    ),
    ({"algorithm": {"policy_hidden_sizes": []}}, "algorithm.policy_hidden_sizes = (): needs one or more"),
    (
        {"algorithm": {"critic_hidden_sizes": [64, 0]}},
        "algorithm.critic_hidden_sizes = (64, 0): needs one or more",
    ),
    (
        {"algorithm": {"name": "maddgp"}},
        "algorithm.name = 'maddgp': must be one of maddpg, ddpg, matd3; did you mean 'maddpg'?",
    ),
    ({"exploration": {"kind": "noise"}}, "exploration.kind = 'noise': must be one of auto, none, "),
    ({"exploration": {"start": -1.0}}, "exploration.start = -1.0: must be zero or a positive number"),
    ({"exploration": {"ou_theta": 0.0}}, "exploration.ou_theta = 0.0: must lie in (0, 1]"),
    (
        {"exploration": {"kind": "epsilon", "start": 1.5}},
        "exploration.start = 1.5: is a probability for epsilon",
    ),
    ({"rollout": {"num_envs": 0}}, "rollout.num_envs = 0: must be a positive number"),
    ({"evaluation": {"episodes": 0}}, "evaluation.episodes = 0: must be a positive number"),
    (
        {"pacing": {"env_steps_per_update": 0.0}},
        "pacing.env_steps_per_update = 0.0: must be a positive number",
    ),
    ({"pacing": {"learning_starts": -1}}, "pacing.learning_starts = -1: must be a positive number"),
    ({"ray": {"timeout_s": 0.0}}, "ray.timeout_s = 0.0: must be a positive number"),
    ({"replay": {"capacity": 0}}, "replay.capacity = 0: must be a positive number"),
    (
        {"learner": {"batch_size": 2_000_000}},
        "learner.batch_size = 2000000: is more than replay.capacity (1000000)",
    ),
    ({"algorithm": {"information_weight": -1.0}}, "algorithm.information_weight = -1.0: must be zero or"),
    ({"algorithm": {"private": {"a": {}}}}, "algorithm.private.a = {}: needs 'columns'"),
    (private([0, 2], [[2, 4]]), "algorithm.private.a.candidates = ((2, 4),): needs two or more"),
    (
        private([0, 2], [[2, 4], [4, 6], [2, 4]]),
        "algorithm.private.a.candidates = ((2, 4), (4, 6), (2, 4)): name each candidate once",
    ),
    (
        private([0, 2], [[2, 4], [4, 5]]),
        "algorithm.private.a = ((0, 2), (2, 4), (4, 5)): the private columns",
    ),
    (
        private([2, 2], [[2, 4], [4, 6]]),
        "algorithm.private.a.columns = (2, 2): columns need a start",
    ),
    (
        private([-2, 0], [[2, 4], [4, 6]]),
        "algorithm.private.a.columns = (-2, 0): columns need a start",
    ),
    (private([0, 2], [[1, 3], [4, 6]]), "algorithm.private.a.candidates = (1, 3): a candidate must lie"),
    (private([0, 2], [[2, 4], [6, 4]]), "algorithm.private.a.candidates = (6, 4): columns need a start"),
    (
        private([0, 2], [[2, 3], [3, 4]], constants=[[0.5]]),
        "algorithm.private.a.constants = ((0.5,),): needs one list for each of the 2 candidates",
    ),
    (
        private([0, 2], [[2, 3], [3, 4]], constants=[[0.5], [0.5, 1]]),
        "algorithm.private.a = ((0, 2), (2, 3), (3, 4), (0.5,), (0.5, 1.0)): the private columns",
    ),
    (
        private([0, 1], [], constants=[[0.5]]),
        "algorithm.private.a.constants = ((0.5,),): needs two or more",
    ),
    (
        private([0, 1], [], constants=[[0.5], [0.5]]),
        "algorithm.private.a.constants = ((0.5,), (0.5,)): name each candidate once",
    ),
    (
        private([0, 1], [], constants=[[0.5], [float("inf")]]),
        "algorithm.private.a.constants = ((0.5,), (inf,)): must be finite in float32",
    ),
    (
        private([0, 1], [], constants=[[0.5], ["red"]]),
        "algorithm.private.a.constants.1.0 = 'red': must be a number, without quotes",
    ),
    (private([0], [[2, 4], [4, 6]]), "algorithm.private.a.columns = [0]: needs more entries"),
    (private([0, 2], 3), "algorithm.private.a.candidates = 3: must be a list, as in [64, 64]"),
    (
        {"algorithm": {"private": {"a": {"columns": [0, 1], "candidate": []}}}},
        "algorithm.private.a.candidate = []: no such setting; did you mean 'candidates'?",
    ),
    ({"algorithm": {"n_step": 5}}, "algorithm.n_step = 5: is more than rollout.fragment_steps (4)"),
    ({"algorithm": {"lr_end": 0.0}}, "algorithm.lr_end = 0.0: must lie in (0, 1]"),
    ({"exploration": {"episode_offset": -1.0}}, "exploration.episode_offset = -1.0: must be zero or"),
    ({"replay": {"capacity": 5000}}, "pacing.learning_starts = 10000: is more than replay.capacity (5000)"),
    (
        {"rollout": {"num_envs": 10**6}},
        "rollout.num_envs = 1000000: times rollout.fragment_steps is more than replay.capacity (1000000)",
    ),
    (
        {"env": {"kwargs": {"N": None}}},
        "env.kwargs.N = None: must be a number, true or false, text, or a list",
    ),
    ({"env": {"kwargs": {"a": {"b": [1, float("nan")]}}}}, "env.kwargs.a.b[1] = nan: must be finite"),
    ({"env": {"kwargs": {"a": nested(30)}}}, "env.kwargs.a[0][0]"),
    ({"env": {"kwargs": {"N": float("inf")}}}, "env.kwargs.N = inf: must be finite"),
    ({"env": {"kwargs": {"N": float("nan")}}}, "env.kwargs.N = nan: must be finite"),
]


@pytest.mark.parametrize(("values", "message"), BAD, ids=[message for _, message in BAD])
def test_a_bad_setting_is_one_line_with_field_value_and_remedy(values, message):
    with pytest.raises(BadInput) as error:
        MADDPGConfig.from_dict(values)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_counts_may_have_an_exponent(tmp_path):
    text = "num_workers = 1_0\n[pacing]\ntotal_env_steps = 1e6\nlearning_starts = 2.5e3\n"
    (tmp_path / "c.toml").write_text(text + "[algorithm]\npolicy_hidden_sizes = [6.4e1, 64]\n")
    config = MADDPGConfig.from_toml(tmp_path / "c.toml")
    assert config.num_workers == 10
    assert (config.pacing.total_env_steps, config.pacing.learning_starts) == (1_000_000, 2_500)
    counts = (config.pacing.total_env_steps, *config.algorithm.policy_hidden_sizes)
    assert {type(count) for count in counts} == {int}


def test_numbers_of_other_settings_stay_as_they_are():
    values = {"env": {"kwargs": {"size": 2.0}}, "ray": {"timeout_s": 60.0}}
    config = MADDPGConfig.from_dict(values)
    assert [type(each) for each in (config.env.kwargs["size"], config.ray.timeout_s)] == [float, float]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_and_survive_toml(name, tmp_path):
    config = MADDPGConfig.preset(name)
    (tmp_path / "config.toml").write_text(config.to_toml())
    assert MADDPGConfig.from_toml(tmp_path / "config.toml") == config
    assert MADDPGConfig.from_dict(config.to_dict()) == config


def test_private_parts_survive_toml(tmp_path):
    config = MADDPGConfig.from_dict(private([0, 2], [[2, 4], [4, 6]]))
    (tmp_path / "config.toml").write_text(config.to_toml())
    assert MADDPGConfig.from_toml(tmp_path / "config.toml") == config
    assert config.algorithm.private["a"].candidates == ((2, 4), (4, 6))


def test_constants_of_candidates_survive_toml(tmp_path):
    text = "[algorithm.private.a]\ncolumns = [0, 2]\nconstants = [[1, 0], [0, 1], [0.5, -0.25]]\n"
    (tmp_path / "c.toml").write_text(text)
    config = MADDPGConfig.from_toml(tmp_path / "c.toml")
    assert config.algorithm.private["a"] == PrivatePart((0, 2), constants=((1, 0), (0, 1), (0.5, -0.25)))
    (tmp_path / "config.toml").write_text(config.to_toml())
    assert MADDPGConfig.from_toml(tmp_path / "config.toml") == config


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(BadInput, match="preset = 'notbook': did you mean 'notebook'"):
        MADDPGConfig.preset("notbook")


def test_the_notebook_preset_is_the_notebook():
    config = MADDPGConfig.preset("notebook")
    algorithm, pacing = config.algorithm, config.pacing
    assert config.env.kwargs == {
        "N": 2, "max_cycles": 40, "continuous_actions": True, "dynamic_rescaling": True,
    }  # fmt: skip
    assert (algorithm.gamma, algorithm.tau, algorithm.actor_lr, algorithm.critic_lr) == (
        0.95,
        0.01,
        0.01,
        0.01,
    )
    assert (algorithm.policy_hidden_sizes, algorithm.critic_hidden_sizes) == ((64, 64), (64, 64))
    assert (algorithm.policy_head, algorithm.other_actions, algorithm.regulariser) == (
        "sigmoid",
        "current",
        "actions",
    )
    assert (algorithm.regulariser_weight, algorithm.random_action_rows, algorithm.max_grad_norm) == (
        1e-3,
        0.01,
        0,
    )
    assert (config.exploration.kind, config.exploration.start, config.exploration.end) == (
        "epsilon",
        0.01,
        0.01,
    )
    assert (config.replay.capacity, config.learner.batch_size) == (100_000, 1024)
    assert (pacing.total_env_steps, pacing.learning_starts, pacing.env_steps_per_update) == (
        200_000,
        4000,
        100,
    )


def test_the_paper_preset_has_its_authors_choices():
    config = MADDPGConfig.preset("paper")
    algorithm, pacing = config.algorithm, config.pacing
    assert config.env.kwargs == {
        "N": 2, "max_cycles": 25, "continuous_actions": True,
        "squared_adversary_reward": True, "velocity_first": True,
    }  # fmt: skip
    rates = (algorithm.gamma, algorithm.tau, algorithm.actor_lr, algorithm.critic_lr, algorithm.lr_end)
    assert rates == (0.95, 0.01, 0.01, 0.01, 1)
    assert (algorithm.policy_hidden_sizes, algorithm.critic_hidden_sizes) == ((64, 64), (64, 64))
    assert (algorithm.policy_head, algorithm.other_actions) == ("gumbel", "replay")
    assert (algorithm.regulariser, algorithm.regulariser_weight) == ("logits", 1e-3)
    assert (algorithm.max_grad_norm, algorithm.grad_norm_of) == (0.5, "parameter")
    assert algorithm.initial_weights == "glorot"
    assert (algorithm.n_step, algorithm.share_policies, config.exploration.episode_offset) == (1, False, 0)
    assert (config.replay.capacity, config.learner.batch_size) == (1_000_000, 1024)
    assert (pacing.total_env_steps, pacing.learning_starts, pacing.env_steps_per_update) == (
        60_000 * 25,
        1024 * 25,
        100,
    )


@pytest.mark.parametrize("name", PRESETS)
def test_presets_fit_their_environment(name):
    config = MADDPGConfig.preset(name)
    assert config.algorithm.per_agent(SPEC) == ("maddpg",) * 3
    config.exploration.check_heads(config.algorithm.heads(SPEC))


def test_values_are_laid_over_a_base_key_by_key():
    base = MADDPGConfig.preset("notebook")
    config = MADDPGConfig.from_dict(
        {"seed": 3, "env": {"kwargs": {"N": 5}}, "learner": {"batch_size": 64}}, base
    )
    assert config.env.kwargs == {**base.env.kwargs, "N": 5}
    assert (config.seed, config.learner.batch_size) == (3, 64)
    unchanged = {"algorithm", "exploration", "replay", "pacing", "rollout", "evaluation", "ray"}
    assert all(getattr(config, name) == getattr(base, name) for name in unchanged)


def test_another_environment_does_not_inherit_the_bases_arguments():
    base = MADDPGConfig.preset("notebook")
    config = MADDPGConfig.from_dict({"env": {"id": "mpe2.simple_tag_v3", "kwargs": {"num_good": 2}}}, base)
    assert config.env.kwargs == {"num_good": 2}
    assert MADDPGConfig.from_dict({"env": {"id": "mpe2.simple_tag_v3"}}, base).env.kwargs == {}


def test_another_environment_hides_what_is_private_only_where_settings_ask_for_it():
    base, push = MADDPGConfig.preset("deception"), {"env": {"id": "simple_push"}}

    def hides(values, base=base):
        algorithm = MADDPGConfig.from_dict(values, base).algorithm
        return algorithm.information_weight, algorithm.private_values

    assert hides({"env": {"id": "simple_adversary", "kwargs": {"N": 4}}}) == (1.0, "mean")
    assert hides(push) == (0.0, "observed")
    assert hides({**push, "algorithm": {"information_weight": 0.5}}) == (0.5, "observed")
    assert hides({**push, **private([0, 2], [[2, 4], [4, 6]])}) == (1.0, "mean")
    told = MADDPGConfig.from_dict(private([0, 2], [[2, 4], [4, 6]]), base)
    assert hides(push, told) == (1.0, "mean")


@pytest.mark.parametrize("kwargs", [{}, {"N": 3}])
def test_a_whole_configuration_comes_back_with_its_own_arguments_only(kwargs):
    config = dataclasses.replace(MADDPGConfig(), env=EnvConfig("mpe2.simple_spread_v3", kwargs=kwargs))
    assert MADDPGConfig.from_dict(config.to_dict()) == config


def test_toml_of_another_environment_comes_back_equal(tmp_path):
    config = dataclasses.replace(MADDPGConfig(), env=EnvConfig("mpe2.simple_spread_v3", kwargs={}))
    (tmp_path / "config.toml").write_text(config.to_toml())
    assert MADDPGConfig.from_toml(tmp_path / "config.toml") == config


def test_toml_may_name_its_preset(tmp_path):
    (tmp_path / "c.toml").write_text('preset = "notebook"\nseed = 4\n[pacing]\ntotal_env_steps = 8000\n')
    config = MADDPGConfig.from_toml(tmp_path / "c.toml", MADDPGConfig.preset("paper"))
    notebook = MADDPGConfig.preset("notebook")
    assert (config.seed, config.pacing.total_env_steps) == (4, 8000)
    assert config.algorithm == notebook.algorithm
    assert config.env == notebook.env


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('preset = "papr"', "preset = 'papr': did you mean 'paper'?"),
        ("seed = ", "is not valid TOML"),
        ("[learner]\nbach_size = 3", "learner.bach_size = 3: no such setting; did you mean 'batch_size'?"),
    ],
)
def test_a_bad_file_is_one_line(text, message, tmp_path):
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(BadInput) as error:
        MADDPGConfig.from_toml(tmp_path / "c.toml")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


HOSTILE = {
    "a decimal of 5000 digits": ("seed = " + "9" * 5000, "is not valid TOML (Exceeds the limit"),
    "a hexadecimal of 5000 digits": ("seed = 0x" + "f" * 5000, "config = <dict>: cannot be read (Exceeds"),
    "a preset that is a number": ("preset = 0x" + "f" * 5000, "preset = <int>: must be a name in quotes"),
    "a number for a table": ("env = 3", "env = 3: "),
    "a table for a number": ("[seed]\nx = 1", "seed = {'x': 1}: "),
    "a date": ("seed = 2020-01-01", "seed = '2020-01-01': "),
    "a key with newlines": ('"a\\nb\\u2028" = 3', r"a\nb\u2028 = 3: no such setting"),
    "a long value": ("learner = '" + "x" * 50_000 + "'", "learner = 'xxx"),
    "a long key": ("k" * 50_000 + " = 1", "kkk"),
    "deep lists": ("a = " + "[" * 30_000, "is not valid TOML (maximum recursion"),
    "deep tables": ("a" + ".a" * 30_000 + " = 1", "is not valid TOML (a line with more than 200 dots)"),
    "tables as deep as allowed": ("a" + ".a" * 199 + " = 1", "a = {'a': {'a'"),
    "a large file": ("#" * 65_537, "cannot be read (larger than 65536 bytes)"),
    "a NUL": ("a = 1\0", "is not valid TOML"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_one_short_printable_line(kind, tmp_path):
    text, message = HOSTILE[kind]
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(BadInput) as error:
        MADDPGConfig.from_toml(tmp_path / "c.toml")
    assert message in str(error.value)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 2000


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(BadInput, match=r"cannot be read \(not a regular file\)"):
            MADDPGConfig.from_toml(path)
    (tmp_path / "c.toml").write_text("seed = 3")
    (tmp_path / "link.toml").symlink_to(tmp_path / "c.toml")
    assert MADDPGConfig.from_toml(tmp_path / "link.toml").seed == 3


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"none\.toml': cannot be read \(No such file or directory\)"):
        MADDPGConfig.from_toml(tmp_path / "none.toml")


def test_constructing_a_section_checks_it_too():
    with pytest.raises(BadInput, match=r"pacing\.total_env_steps = 0"):
        PacingConfig(total_env_steps=0)


def test_team_overrides_apply_by_team():
    config = AlgorithmConfig(team_overrides={"agent": "ddpg"})
    assert config.per_agent(SPEC) == ("maddpg", "ddpg", "ddpg")
    with pytest.raises(BadInput, match=r"algorithm.team_overrides = 'agents': did you mean 'agent'\?"):
        AlgorithmConfig(team_overrides={"agents": "ddpg"}).per_agent(SPEC)


def test_heads_follow_the_kind_of_action():
    assert AlgorithmConfig().heads(SPEC) == ("sigmoid",) * 3
    assert AlgorithmConfig().heads(DISCRETE) == ("sigmoid", "gumbel")
    assert AlgorithmConfig(policy_head="gumbel").heads(DISCRETE) == ("gumbel", "gumbel")
    with pytest.raises(BadInput, match="policy_head = 'sigmoid': is for continuous actions only"):
        AlgorithmConfig(policy_head="sigmoid").heads(DISCRETE)


@pytest.mark.parametrize(
    ("kind", "heads"), [("gumbel", ("sigmoid",)), ("ou", ("gumbel",)), ("gaussian", ("gumbel",))]
)
def test_noise_that_fits_no_head_is_refused(kind, heads):
    with pytest.raises(BadInput, match=f"exploration.kind = '{kind}'"):
        ExplorationConfig(kind).check_heads(heads)
    ExplorationConfig(kind).check_heads(("sigmoid", "gumbel"))


ARGUMENTS = {
    "sizes": [3, 4.0, 1e300, -0.5, 2**62],
    "layout": {"rooms": [{"at": [0, 1], "open": True}, {"at": [], "open": False}], "a b.c": {}},
    "text": ["[3,4]", "true", "7", "", 'é"\n\t\\'],
    "flag": True,
    "one": 1,
}


def kinds(value):
    """Return a value with the types of all its parts, as 1 == 1.0 == True."""
    if isinstance(value, dict):
        return {key: kinds(each) for key, each in value.items()}
    return [kinds(each) for each in value] if isinstance(value, list) else (type(value), value)


def test_arguments_of_any_type_are_the_same_in_every_file(tmp_path):
    config = dataclasses.replace(MADDPGConfig(), env=EnvConfig(kwargs=ARGUMENTS))
    (tmp_path / "config.toml").write_text(config.to_toml(), encoding="utf-8")
    for read in (
        config,
        MADDPGConfig.from_toml(tmp_path / "config.toml"),
        MADDPGConfig.from_dict(json.loads(json.dumps(config.to_dict()))),
        MADDPGConfig.from_dict({"env": {"kwargs": ARGUMENTS}}),
    ):
        assert kinds(read.env.kwargs) == kinds(ARGUMENTS)


def test_arguments_that_python_alone_has_become_what_files_hold():
    given = {"shape": (3, (4, 5)), "weights": np.float32([0.5, 2]), "n": np.int64(3), "r": np.float64(0.1)}
    kept = {"shape": [3, [4, 5]], "weights": [0.5, 2.0], "n": 3, "r": 0.1}
    assert kinds(EnvConfig(kwargs=given).kwargs) == kinds(kept)
    assert kinds(MADDPGConfig.from_dict({"env": {"kwargs": given}}).env.kwargs) == kinds(kept)
    for value in (object(), {1: 2}, {3}, b"x", "\ud800", ["\ud800"], np.float64("inf")):
        with pytest.raises(BadInput, match=r"^env\.kwargs\.x"):
            EnvConfig(kwargs={"x": value})
        with pytest.raises(BadInput, match=r"^env\.kwargs\.x"):
            MADDPGConfig.from_dict({"env": {"kwargs": {"x": value}}})


def test_an_argument_that_is_a_table_replaces_the_bases_as_a_whole():
    base = MADDPGConfig.from_dict({"env": {"kwargs": {"map": {"a": 1}, "n": 2}}})
    config = MADDPGConfig.from_dict({"env": {"kwargs": {"map": {"b": 3}}}}, base)
    assert config.env.kwargs == {"map": {"b": 3}, "n": 2}
    assert MADDPGConfig.from_dict({"env": {"id": base.env.id}}, base) == base
