import shutil
import subprocess

import pytest

from distributed_maddpg import cli
from distributed_maddpg.cli import main
from distributed_maddpg.cli.completion import completion_script
from distributed_maddpg.cli.options import command_type, option_names
from distributed_maddpg.config.presets import PRESETS

DRIVERS = {
    "bash": """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _distributed_maddpg; printf '%s\\n' "${COMPREPLY[@]}"
""",
    # compadd works in zsh's line editor only; it gets all words, of which zsh keeps those that fit.
    "zsh": """
compdef() { } ; compset() { } ; _files() { }
compadd() { shift; print -l -- ${(M)@:#${words[CURRENT]##*=}*} }
source "$1"; shift
words=("$@"); CURRENT=$#; _distributed_maddpg
""",
    "fish": """
source $argv[1]
complete -C (string join -- ' ' $argv[2..])
""",
}
CASES = {
    "a command": ("ev", ["evaluate"]),
    "an option": ("train --learner.b", ["--learner.batch-size"]),
    "an option of a switch": ("evaluate x --no-m", ["--no-matchups"]),
    "a choice": ("train --algorithm.name m", ["maddpg", "matd3"]),
    "a preset": ("train --preset ", sorted(PRESETS)),
    "an environment": ("train --env.id simple_s", ["simple_speaker_listener", "simple_spread"]),
    "what to measure": ("benchmark s", ["scaling"]),
    "an option of submit": ("submit --submission", ["--submission-id"]),
    "train after submit": ("submit -- ", ["train"]),
    "an option of train after submit": ("submit --no-wait -- train --num-w", ["--num-workers"]),
    "after an equals sign": ("train --preset=d", ["deception", "default"]),
}


def completed(shell, text, tmp_path):
    """Return what the shell offers after `text`."""
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"no {shell} here")
    (tmp_path / "script").write_text(completion_script(shell, cli.COMMANDS))
    words = f"distributed-maddpg {text}".split(" ")
    if shell == "bash" and "=" in text:  # bash splits there
        words = [*words[:-1], *words[-1].replace("=", " = ").split()]
    command = [
        path,
        "-c",
        DRIVERS[shell],
        *([] if shell == "fish" else ["test"]),
        tmp_path / "script",
        *words,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    # fish offers the whole word, and a description after a tab.
    return sorted({line.split("\t")[0].rpartition("=")[2] for line in done.stdout.split("\n") if line})


@pytest.mark.parametrize("shell", DRIVERS)
@pytest.mark.parametrize("case", CASES)
def test_a_real_shell_completes(shell, case, tmp_path):
    text, expected = CASES[case]
    if shell == "fish" and "=" in text:
        pytest.skip("fish completes values after a space")
    assert completed(shell, text, tmp_path) == expected


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_bash_offers_every_option_of_every_command(command, tmp_path):
    assert completed("bash", f"{command} -", tmp_path) == sorted(option_names(command_type(command)))


def test_the_command_prints_the_script_and_refuses_other_shells(capsys):
    assert main(["completion", "zsh"]) == 0
    assert capsys.readouterr().out == completion_script("zsh", cli.COMMANDS)
    assert main(["completion", "tcsh"]) == 2
    line = "error: shell = 'tcsh': must be one of bash, zsh, fish; did you mean 'zsh'?\n"
    assert capsys.readouterr().err == line
