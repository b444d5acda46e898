import re

import pytest

from distributed_maddpg import cli
from distributed_maddpg.cli.options import command_type, options_of
from distributed_maddpg.cli.parsing import parse
from distributed_maddpg.errors import BadInput
from tests.test_cli import refused

COMMANDS = cli.COMMANDS


def refusal(command, arguments):
    with pytest.raises(BadInput) as error:
        parse(command_type(command), command, arguments)
    return str(error.value)


def words_before(command):
    """Return words for the arguments without names, so that only the option is wrong."""
    return [(each.choices or ("x",))[0] for each in options_of(command_type(command)) if not each.names]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_misspelt_option_names_the_nearest(command):
    for name in [option.names[0] for option in options_of(command_type(command)) if option.names][:8]:
        wrong = f"{name}z"
        line = refusal(command, [*words_before(command), wrong, "3"])
        assert line == f"{wrong}: no such option; did you mean {name}?"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_choice_names_the_nearest(command):
    for option in options_of(command_type(command)):
        if option.choices and option.names:
            line = refusal(command, [*words_before(command), option.names[0], f"{option.choices[-1]}x"])
            assert line.startswith(f"{option.names[0]} = '{option.choices[-1]}x': must be one of ")
            assert f"did you mean '{option.choices[-1]}'?" in line


@pytest.mark.parametrize("command", COMMANDS)
def test_every_count_is_read_by_one_rule(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit):
        parse(command_type(command), command, ["--help"])
    for name in re.findall(r"(?m)^\W? (--[\w.-]+) INT", capsys.readouterr().out):
        line = refusal(command, [*words_before(command), name, "1.5"])
        assert line == f"{name} = '1.5': must be a whole number, such as 1000000, 1_000_000 or 1e6"
        line = refusal(command, [*words_before(command), name, "1e6", "--no-such-option"])
        assert line.startswith("--no-such-option: ")


LINES = {
    "seed that is no number": (
        ["train", "--seed", "x"],
        "--seed = 'x': must be a whole number, such as 1000000, 1_000_000 or 1e6",
    ),
    "rate that is no number": (
        ["train", "--algorithm.gamma", "high"],
        "--algorithm.gamma = 'high': must be a number",
    ),
    "widths": (
        ["train", "--algorithm.policy-hidden-sizes", "6", "x"],
        "--algorithm.policy-hidden-sizes = ['6', 'x']: each must be a whole number, such as",
    ),
    "no value": (["train", "--seed"], "--seed: needs a value"),
    "value of a flag": (
        ["train", "--json=3"],
        "--json = '3': takes no value; give --json alone, or its opposite with no- in it",
    ),
    "word too many": (
        ["train", "extra"],
        "word = 'extra': belongs to no option; distributed-maddpg train --help lists them",
    ),
    "nothing similar": (
        ["report", "x", "--zzz"],
        "--zzz: no such option; distributed-maddpg report --help lists all",
    ),
    "nothing to evaluate": (["evaluate"], "CHECKPOINT: is missing; A checkpoint; or a run folder, or"),
    "nothing to measure": (["benchmark"], "KIND: is missing; must be one of env, rollout, replay, "),
    "option of train in submit": (
        ["submit", "--", "train", "--num-worker", "3"],
        "--num-worker: no such option; did you mean --num-workers?",
    ),
    "list of counts": (
        ["benchmark", "growth", "--widths", "1e2,1.5"],
        "--widths = '1e2,1.5': must be positive numbers with commas between them, as in 1,2,4",
    ),
}


@pytest.mark.parametrize("case", LINES)
def test_a_refusal_names_option_value_and_remedy(case, capsys):
    arguments, line = LINES[case]
    assert refused(arguments, capsys).startswith(f"error: {line}")


def test_counts_are_read_in_lists_too():
    command = parse(
        command_type("benchmark"), "benchmark", ["growth", "--widths", "1e2,6_4", "--num-envs", "1e3"]
    )
    assert command.options.counts("widths") == (64, 100)
    assert command.options.num_envs == 1_000
    train = parse(command_type("train"), "train", ["--algorithm.critic-hidden-sizes", "1e2", "64"])
    assert train.settings.algorithm.critic_hidden_sizes == (100, 64)
