import shlex

import pytest

from distributed_maddpg import cli
from distributed_maddpg.cli import main
from distributed_maddpg.cli.options import command_type
from distributed_maddpg.cli.parsing import examples_of, parse

COMMANDS = cli.COMMANDS
EXAMPLES = [words for command in COMMANDS for words in examples_of(command_type(command))]


def help_of(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_begins_with_what_the_command_does_and_examples_within_80_columns(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = help_of(command, capsys)
    assert max(map(len, lines[1:])) <= 80  # the first one is tyro's usage, which it does not fold
    sections = ("positional", "options")
    head = lines[: next(i for i, line in enumerate(lines) if line.strip("╭─ ").startswith(sections))]
    examples = [
        shlex.split(line.partition(" > ")[0])[1:] for line in head if line.startswith("  distributed-maddpg ")
    ]
    assert examples == examples_of(command_type(command)) != []
    assert all(words[0] == command for words in examples)


@pytest.mark.parametrize("words", EXAMPLES, ids=" ".join)
def test_every_example_is_accepted(words):
    name, arguments = words[0], words[1:]
    if name == "submit" and "--" in arguments:
        where = arguments.index("--")
        test_every_example_is_accepted(arguments[where + 1 :])
        arguments = arguments[:where]
    assert parse(command_type(name), name, arguments)


@pytest.mark.parametrize("words", [words for words in EXAMPLES if words[0] == "train"], ids=" ".join)
def test_every_example_of_train_passes_its_checks(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if "--resume" in words:
        pytest.skip("needs a run")
    if "--config" in words:
        (tmp_path / words[words.index("--config") + 1]).write_text('preset = "paper"')
    assert main([*words, "--dry-run"]) == 0, capsys.readouterr().err
