"""Turns the framed messages of tyro about a command line into one line with option, value and remedy."""

from __future__ import annotations

import difflib
import re

from distributed_maddpg.cli.options import option_names, options_of
from distributed_maddpg.counts import COUNT_REMEDY
from distributed_maddpg.errors import BadInput, must_be_one_of, one_line

VALUE = "= "
"""Begins what a rule of ours says of a value, for tyro to put the option's name before it."""


class _Refusal(BadInput):
    """A command line that tyro refused; its message is complete."""

    def __init__(self, line: str) -> None:
        ValueError.__init__(self, one_line(line))


def refusal(message: str, kind: type, arguments: list[str], name: str) -> BadInput:
    """Return the error for what tyro prints about a command line."""
    lines = [line.strip("│╭╮╰╯ ─") for line in message.splitlines()]
    lines = [line for line in lines if line.strip("-")]  # tyro draws rules of "-" where stdout is not UTF-8
    first = lines[1] if len(lines) > 1 else "the command line cannot be read"
    if found := re.fullmatch(r"Unrecognized options: (.*)", first):
        return _unknown_word(found[1], kind, arguments, name)
    if found := re.fullmatch(r"Missing value for argument '(.*)'\. .*", first):
        return _Refusal(f"{found[1]}: needs a value")
    if found := re.fullmatch(r"invalid choice '(.*)' for argument '(.*)'\. Expected.*", first):
        return _no_choice(found[1], found[2], kind)
    return _bad_value(first, lines[2:], message, kind, name)


def _bad_value(first: str, more: list[str], message: str, kind: type, name: str) -> BadInput:
    if first.endswith(":") and len(more) > 1:  # a heading above what is missing
        return _missing(more[0], more[1], kind)
    if found := re.fullmatch(r"Error parsing (\S+): Could not find .*arguments: (\[.*\])", first):
        each = (
            f"each {COUNT_REMEDY}"
            if "[INT" in message
            else f"distributed-maddpg {name} --help shows its form"
        )
        return _Refusal(f"{found[1]} = {found[2]}: {each}")
    if first.endswith("Failed to parse key-value pairs!"):
        option = first.split()[2].rstrip(":")
        if choices := re.search(r"\[STR (\{[\w,]+\}) \[", message):
            return _Refusal(
                f"{option}: a name lacks its value, or has none of these; give {option} NAME {choices[1]}"
            )
        return _Refusal(f"{option}: a name lacks its value; give {option} NAME VALUE NAME VALUE")
    # An error of ours, raised while tyro builds a dataclass, is complete without tyro's prefix.
    ours = re.sub(r"^Error parsing (settings|\w+Command)[^:]*: ", "", first)
    return _Refusal(re.sub(rf"^Error parsing (\S+): {VALUE}", rf"\1 {VALUE}", ours))


def _missing(shown: str, help_text: str, kind: type) -> BadInput:
    """Return the error for the first required word or option that is missing."""
    words = [option for option in options_of(kind) if not option.names]
    name = shown.split()[0] if shown.startswith("-") or not words else words[0].field.upper()
    choices = words[0].choices if words else ()
    text = must_be_one_of("", choices) if choices else help_text.removesuffix("(required)").strip()
    return _Refusal(f"{name}: is missing; {text}")


def _no_choice(value: str, name: str, kind: type) -> BadInput:
    choices = next((each.choices for each in options_of(kind) if name in (*each.names, each.field)), ())
    return BadInput(name, value, must_be_one_of(value, choices))


def _unknown_word(words: str, kind: type, arguments: list[str], name: str) -> BadInput:
    """Return the error for words that no option takes, of which tyro lists all with commas between them."""
    word = words.split(", ")[0]
    if not word.startswith("-"):
        if found := [each for each in arguments if re.fullmatch(rf"--[^=]+={re.escape(word)}", each)]:
            option = found[0].partition("=")[0]
            return BadInput(
                option, word, f"takes no value; give {option} alone, or its opposite with no- in it"
            )
        return BadInput("word", word, f"belongs to no option; distributed-maddpg {name} --help lists them")
    option = word.partition("=")[0]
    known = option_names(kind)
    nearest = difflib.get_close_matches(option.replace("_", "-"), known, n=1, cutoff=0.6)
    hint = f"did you mean {nearest[0]}?" if nearest else f"distributed-maddpg {name} --help lists all"
    return _Refusal(f"{option}: no such option; {hint}")
