"""The command `completion`, which prints a script with which a shell completes all commands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from distributed_maddpg.cli.options import command_type, option_names, options_of
from distributed_maddpg.cli.parsing import parse
from distributed_maddpg.config.presets import PRESETS
from distributed_maddpg.types import MPE2_MODULES

Shell = Literal["bash", "zsh", "fish"]

_KNOWN_VALUES = {"--preset": tuple(PRESETS), "--env.id": tuple(MPE2_MODULES)}
"""Words for options that take any text, of which these are the usual ones."""


@dataclass(frozen=True)
class CompletionCommand:
    """Print a script for a shell, which then completes commands, options and their values with Tab.

    For good: add the first example to ~/.bashrc, the second to ~/.zshrc after compinit, or put what the third
    pipes into ~/.config/fish/completions/distributed-maddpg.fish. Print it again after an update.

    Examples:
        distributed-maddpg completion bash
        distributed-maddpg completion zsh
        distributed-maddpg completion fish
    """

    shell: Annotated[tyro.conf.Positional[Shell], tyro.conf.arg(metavar="{bash,zsh,fish}")]
    """Which shell."""


def run(arguments: list[str]) -> None:
    """Run the command with these arguments."""
    command = parse(CompletionCommand, "completion", arguments)
    from distributed_maddpg.cli import COMMANDS  # noqa: PLC0415 - this module is one of them

    print(completion_script(command.shell, COMMANDS), end="")


def completion_script(shell: Shell, commands: Iterable[str]) -> str:
    """Return the script for these commands."""
    names = tuple(commands)
    options = {name: tuple(option_names(command_type(name))) for name in names}
    values = {f"{name} {after}": words for name in names for after, words in _values(name).items()}
    first = (*names, "--help", "--version")
    if shell == "fish":
        return _FISH.format(first=" ".join(first), values=_fish_cases(values), options=_fish_cases(options))
    script = _POSIX.format(first=" ".join(first), values=_cases(values), options=_cases(options))
    return script + {"bash": _BASH, "zsh": _ZSH}[shell]


def _values(name: str) -> dict[str, tuple[str, ...]]:
    """Return the values of a command's options, by the word before them: an option, or the command itself."""
    found: dict[str, tuple[str, ...]] = {"--": ("train",)} if name == "submit" else {}
    for option in options_of(command_type(name)):
        for word in option.names or (name,):
            if words := option.choices or _KNOWN_VALUES.get(word, ()):
                found[word] = words
    return found


def _cases(words: Mapping[str, tuple[str, ...]]) -> str:
    return "\n".join(f"    '{key}') echo '{' '.join(values)}' ;;" for key, values in words.items())


def _fish_cases(words: Mapping[str, tuple[str, ...]]) -> str:
    return "\n".join(
        f"        case '{key}'\n            printf '%s\\n' {' '.join(values)}"
        for key, values in words.items()
    )


# After -- of submit come the words of train. The word before the present one decides which values fit.
_POSIX = """\
_distributed_maddpg_command() {{
  local command="$2" word
  [ $# -ge 2 ] && shift 2
  for word in "$@"; do
    [ "$command" = submit ] && [ "$word" = -- ] && command=train-after
    [ "$command" = train-after ] && [ "$word" = train ] && command=train
  done
  [ "$command" = train-after ] && command=submit
  echo "$command"
}}
_distributed_maddpg_words() {{
  case "$1 $3" in
    ' '*) echo '{first}' ;;
    *' -'*) _distributed_maddpg_options "$1" ;;
    *) _distributed_maddpg_values "$1 $2" ;;
  esac
}}
_distributed_maddpg_options() {{
  case "$1" in
{options}
  esac
}}
_distributed_maddpg_values() {{
  case "$1" in
{values}
  esac
}}
"""
_BASH = """\
_distributed_maddpg() {
  local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}" command
  if [ "$current" = = ]; then  # --option=, which bash splits
    current=
  elif [ "$previous" = = ]; then
    previous="${COMP_WORDS[COMP_CWORD-2]}"
  fi
  command=$(_distributed_maddpg_command "${COMP_WORDS[@]:0:COMP_CWORD}")
  COMPREPLY=($(compgen -W "$(_distributed_maddpg_words "$command" "$previous" "$current")" -- "$current"))
}
complete -o bashdefault -o default -F _distributed_maddpg distributed-maddpg
"""
_ZSH = """\
_distributed_maddpg() {
  local current="${words[CURRENT]}" previous="${words[CURRENT-1]}" command found
  if [[ "$current" == --*=* ]]; then
    previous="${current%%=*}"
    current=
    compset -P '*='
  fi
  command=$(_distributed_maddpg_command "${(@)words[1,CURRENT-1]}")
  found=$(_distributed_maddpg_words "$command" "$previous" "$current")
  if [[ -n "$found" ]]; then
    compadd -- ${=found}
  else
    _files
  fi
}
compdef _distributed_maddpg distributed-maddpg
"""
_FISH = """\
function __distributed_maddpg
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    if test (count $words) -eq 1
        printf '%s\\n' {first}
        return
    end
    set -l command $words[2]
    if test $command = submit; and contains -- train $words
        set command train
    end
    if string match -q -- '-*' $current
        switch $command
{options}
        end
        return
    end
    switch "$command $words[-1]"
{values}
    end
end
complete -c distributed-maddpg -n 'count (__distributed_maddpg) >/dev/null' -f -a '(__distributed_maddpg)'
"""
