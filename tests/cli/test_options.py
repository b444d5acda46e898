import dataclasses
import re

import pytest

from distributed_maddpg import cli
from distributed_maddpg.cli import main
from distributed_maddpg.cli.options import command_type, option_names, options_of

COMMANDS = cli.COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_the_options_are_those_of_the_help(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    heads = [line for line in capsys.readouterr().out.splitlines() if re.match(r"[│ ] -", line)]
    shown = {
        name
        for line in heads
        for name in re.findall(r"(?<![\w.-])--?[a-z][\w.-]*", line.strip("│ ").split("  ")[0])
    }
    assert set(option_names(command_type(command))) == shown


def test_options_say_what_they_take():
    by_name = {option.names: option for option in options_of(command_type("train"))}
    assert by_name["--json", "--no-json"].takes_value is False
    assert by_name["--env.normalise", "--env.no-normalise"].takes_value is False
    assert by_name["--algorithm.name",].choices == ("maddpg", "ddpg", "matd3")
    assert by_name["--seed",].takes_value and not by_name["--seed",].choices
    [kind] = [option for option in options_of(command_type("reproduce")) if not option.names]
    assert (kind.field, kind.choices) == ("experiment", ("physical-deception",))


def test_every_command_has_a_dataclass():
    assert all(dataclasses.is_dataclass(command_type(command)) for command in COMMANDS)
